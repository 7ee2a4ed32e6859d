"""A data module whose state is a position, from which the samples that follow are known."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jitlab.datasets.stream import PositionSampler
from jitlab.errors import UserError


class PositionedDataModule(LightningDataModule):
    """Serves a data set of samples, labels and keys in the order that belongs to a seed."""

    def __init__(
        self, what: Path | str, sizes: list[int], fingerprint: str, batch_size: int, seed: int, workers: int
    ) -> None:
        """Prepare an order.

        Args:
            what: the data in words, or where it is, for error messages.
            sizes: training samples of each of its parts.
            fingerprint: tells it from other data.
            batch_size: samples of an optimizer step, over all processes.
            seed: of the order.
            workers: loader processes.

        Raises:
            UserError: for a batch of more samples than there are.
        """
        super().__init__()
        self.what = what
        self.sizes = sizes
        self.fingerprint = fingerprint
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        if batch_size > sum(sizes):
            raise UserError(
                f"train.batch_size = {batch_size}: is more than the {sum(sizes)} training images of {what}; "
                f"use at most {sum(sizes)}"
            )
        self._restored = (0, 0)

    @property
    def batches_per_epoch(self) -> int:
        """Return the whole batches of an epoch; the rest of the samples sit out, other ones every epoch."""
        return sum(self.sizes) // self.batch_size

    def train_set(self) -> Dataset[Any]:
        """Return the training samples: (sample, label, key) of a `Reference`."""
        raise NotImplementedError

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out samples (count, ...) as stored, and their labels (count,)."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's part of every batch, from the restored position on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise UserError(
                f"train.batch_size = {self.batch_size}: cannot be shared by {world_size} processes; use a multiple"
            )
        sampler = PositionSampler(self.sizes, self.batch_size, self.seed, rank, world_size, self._position)
        return DataLoader(
            self.train_set(),
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches that were trained on, and which data it is a position in."""
        epoch, batch = self._position()
        return {"epoch": epoch, "batch": batch, "fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a position; Lightning does so before it asks for the loader.

        Raises UserError where the data are not those of the checkpoint.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.what}: these are not the data that the checkpoint was trained on (fingerprint "
                f"{self.fingerprint[:12]}, expected {state_dict['fingerprint'][:12]}); restore them, or --fresh"
            )
        self._restored = (state_dict["epoch"], state_dict["batch"])

    def _position(self) -> tuple[int, int]:
        # One batch a step: the loader may have read ahead, the optimizer has not.
        steps = self.trainer.global_step if self.trainer else 0
        epoch, batch = divmod(steps, self.batches_per_epoch)
        return max((epoch, batch), self._restored)
