"""Training batches, the held-out batch and the reference images, all from one folder of shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from jitlab.datasets.shards import Index, open_index
from jitlab.datasets.stream import PositionSampler, Reference, ShardImages
from jitlab.errors import UserError


class ShardDataModule(LightningDataModule):
    """Streams shards; its state is a position, from which the samples that follow are known."""

    def __init__(
        self,
        folder: Path,
        build_command: str,
        image_size: int,
        num_classes: int,
        batch_size: int,
        seed: int,
        flip: bool,
        workers: int,
    ) -> None:
        """Open the index.

        Args:
            folder: where the shards are.
            build_command: how to build them, for error messages.
            image_size: pixels; must be the shards' own.
            num_classes: must be the shards' own.
            batch_size: images of an optimizer step, over all processes.
            seed: of the order and the flips.
            flip: whether to mirror images at random.
            workers: loader processes.

        Raises:
            UserError: for missing or damaged shards, or shards that do not fit these settings.
        """
        super().__init__()
        self.folder = folder
        self.index = open_index(folder, build_command)
        self.batch_size = batch_size
        self.workers = workers
        self._check_fit(image_size, num_classes)
        self.images = ShardImages(folder, self.index.splits["train"], seed, flip, self.index.build_command)
        self.seed = seed
        if batch_size > len(self.images):
            raise UserError(
                f"train.batch_size = {batch_size}: is more than the {len(self.images)} training images of {folder}; "
                f"use at most {len(self.images)}"
            )
        self._restored = (0, 0)

    @property
    def batches_per_epoch(self) -> int:
        """Return the whole batches of an epoch; the rest of the images sit out, other ones every epoch."""
        return len(self.images) // self.batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's part of every batch, from the restored position on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise UserError(
                f"train.batch_size = {self.batch_size}: cannot be shared by {world_size} processes; use a multiple"
            )
        sizes = [len(shard.keys) for shard in self.images.shards]
        sampler = PositionSampler(sizes, self.batch_size, self.seed, rank, world_size, self._position)
        return DataLoader(
            self.images,
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches that were trained on, and which shards it is a position in."""
        epoch, batch = self._position()
        return {"epoch": epoch, "batch": batch, "fingerprint": self.index.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a position; Lightning does so before it asks for the loader.

        Raises UserError where the shards are not those of the checkpoint.
        """
        if state_dict["fingerprint"] != self.index.fingerprint:
            raise UserError(
                f"{self.folder}: these are not the shards that the checkpoint was trained on (fingerprint "
                f"{self.index.fingerprint[:12]}, expected {state_dict['fingerprint'][:12]}); restore them, or --fresh"
            )
        self._restored = (state_dict["epoch"], state_dict["batch"])

    def _position(self) -> tuple[int, int]:
        # One batch a step: the loader may have read ahead, the optimizer has not.
        steps = self.trainer.global_step if self.trainer else 0
        epoch, batch = divmod(steps, self.batches_per_epoch)
        return max((epoch, batch), self._restored)

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out images (count, 3, H, W) uint8 and their labels (count,)."""
        shards = self.index.splits["held_out"]
        images = ShardImages(self.folder, shards, self.seed, False, self.index.build_command)
        if count > len(images):
            raise UserError(
                f"evaluation.held_out_images = {count}: {self.folder} holds out {len(images)}; use at most that"
            )
        rows = [images[Reference(0, index)] for index in range(count)]
        return torch.stack([image for image, _, _ in rows]), torch.tensor([label for _, label, _ in rows])

    def reference_images(self, batch_size: int = 256) -> Iterator[Tensor]:
        """Yield all training images in batches (B, 3, H, W) uint8, unflipped, in the order of the shards."""
        shards = self.index.splits["train"]
        images = ShardImages(self.folder, shards, self.seed, False, self.index.build_command)
        for start in range(0, len(images), batch_size):
            indices = range(start, min(start + batch_size, len(images)))
            yield torch.stack([images[Reference(0, index)][0] for index in indices])

    def _check_fit(self, image_size: int, num_classes: int) -> None:
        index: Index = self.index
        wrong = {
            "data.image_size": (image_size, index.image_size),
            "data.num_classes": (num_classes, index.num_classes),
        }
        for key, (given, found) in wrong.items():
            if given != found:
                raise UserError(
                    f"{self.folder}: {key} = {given}: the shards have {found}; set {key}={found}, or data.path to "
                    "another folder"
                )
