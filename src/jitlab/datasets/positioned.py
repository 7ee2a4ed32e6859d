"""A data module whose state is a position, from which the samples that follow are known."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jitlab.datasets.order import Order, Position, PositionSampler
from jitlab.errors import UserError


class PositionedDataModule(LightningDataModule):
    """Serves a data set of samples, labels and keys in the order that belongs to a seed."""

    def __init__(
        self, what: Path | str, order: Order, fingerprint: str, workers: int, allow_batch_change: bool = False
    ) -> None:
        """Prepare to serve an order.

        Args:
            what: the data in words, or where it is, for error messages.
            order: of the training samples.
            fingerprint: tells these data from others.
            workers: loader processes.
            allow_batch_change: whether to go on from a state with another batch size.

        Raises:
            UserError: for a batch of more samples than there are, or one that partitions cannot share.
        """
        super().__init__()
        self.what = what
        self.order = order
        self.fingerprint = fingerprint
        self.workers = workers
        self.allow_batch_change = allow_batch_change
        self._check_order()
        self._start, self._start_step = Position(0, 0), 0

    @property
    def batches_per_epoch(self) -> int:
        """Return the whole batches of an epoch."""
        return self.order.batches_per_epoch

    def train_set(self) -> Dataset[Any]:
        """Return the training samples: (sample, label, key) of a `Reference`."""
        raise NotImplementedError

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out samples (count, ...) as stored, and their labels (count,)."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's part of every batch, from the restored position on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.order.batch_size % world_size:
            raise UserError(
                f"train.batch_size = {self.order.batch_size}: cannot be shared by {world_size} processes; use a "
                "multiple"
            )
        sampler = PositionSampler(self.order, rank, world_size, self.position)
        return DataLoader(
            self.train_set(),
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )

    def position(self) -> Position:
        """Return what was trained on."""
        # One batch a step: the loader may have read ahead, the optimizer has not.
        step = self.trainer.global_step if self.trainer else 0
        return self.order.after(self._start, max(step - self._start_step, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches that were trained on, and in which data and batches it is one."""
        position = self.position()
        return {
            "epoch": position.epoch,
            "taken": position.taken,
            "step": self.trainer.global_step if self.trainer else 0,
            "batch_size": self.order.batch_size,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a position; Lightning does so before it asks for the loader.

        Raises UserError where the data are not those of the checkpoint, or its batches were of another size.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.what}: these are not the data that the checkpoint was trained on (fingerprint "
                f"{self.fingerprint[:12]}, expected {state_dict['fingerprint'][:12]}); restore them, or --fresh"
            )
        if state_dict["batch_size"] != self.order.batch_size and not self.allow_batch_change:
            raise UserError(
                f"train.batch_size = {self.order.batch_size}: the checkpoint was trained with batches of "
                f"{state_dict['batch_size']}; use that, or --allow-batch-change to go on with the samples that are "
                "left of the epoch in other batches"
            )
        self._start, self._start_step = Position(state_dict["epoch"], state_dict["taken"]), state_dict["step"]

    def _check_order(self) -> None:
        order, samples = self.order, sum(self.order.shard_sizes)
        if order.batch_size > samples:
            raise UserError(
                f"train.batch_size = {order.batch_size}: is more than the {samples} training images of {self.what}; "
                f"use at most {samples}"
            )
        if order.partitions > len(order.shard_sizes):
            raise UserError(
                f"data.partitions = {order.partitions}: {self.what} has {len(order.shard_sizes)} training shards; use "
                "at most that"
            )
        if not order.batches_per_epoch:
            raise UserError(
                f"train.batch_size = {order.batch_size}: is more than the shards of a partition hold for its share of "
                f"it; use a smaller batch, or data.partitions=1"
            )
