"""Training batches, the held-out batch and the reference images, all from one folder of shards."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from jitlab.datasets.positioned import PositionedDataModule
from jitlab.datasets.shards import Index, open_index
from jitlab.datasets.stream import Reference, ShardImages
from jitlab.errors import UserError


class ShardDataModule(PositionedDataModule):
    """Streams shards."""

    def __init__(
        self,
        folder: Path,
        remedy: str,
        image_size: int,
        num_classes: int,
        batch_size: int,
        seed: int,
        flip: bool,
        workers: int,
        reference_count: int = 0,
    ) -> None:
        """Open the index.

        Args:
            folder: where the shards are.
            remedy: how to come by them, for error messages.
            image_size: pixels; must be the shards' own.
            num_classes: must be the shards' own.
            batch_size: images of an optimizer step, over all processes.
            seed: of the order and the flips.
            flip: whether to mirror images at random.
            workers: loader processes.
            reference_count: training images that generated ones are compared with; 0 for all.

        Raises:
            UserError: for missing or damaged shards, or shards that do not fit these settings.
        """
        self.folder = folder
        self.index = open_index(folder, remedy)
        self._check_fit(image_size, num_classes)
        shards = self.index.splits["train"]
        super().__init__(
            folder, [len(shard.keys) for shard in shards], self.index.fingerprint, batch_size, seed, workers
        )
        self.images = ShardImages(folder, shards, seed, flip, self.index.build_command)
        if reference_count > len(self.images):
            raise UserError(
                f"evaluation.reference_images = {reference_count}: {folder} has {len(self.images)} training images; "
                "use at most that, or 0 for all"
            )
        self.reference_count = reference_count or len(self.images)

    def train_set(self) -> ShardImages:
        """Return the training images, flipped where they are to be."""
        return self.images

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
        """Yield the first `reference_count` training images in batches (B, 3, H, W) uint8, unflipped.

        Shards are written in a shuffled order, so that the first are a random sample.
        """
        shards = self.index.splits["train"]
        images = ShardImages(self.folder, shards, self.seed, False, self.index.build_command)
        for start in range(0, self.reference_count, batch_size):
            indices = range(start, min(start + batch_size, self.reference_count))
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
