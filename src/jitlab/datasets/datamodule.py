"""Training batches, the held-out batch and the reference images, all from one folder of shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jitlab.datasets.decode import Decoder
from jitlab.datasets.images import ShardImages
from jitlab.datasets.index import HELD_OUT, TRAIN, check_shards, open_index
from jitlab.datasets.order import Order, Reference
from jitlab.datasets.positioned import PositionedDataModule
from jitlab.errors import UserError


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        image_size: pixels; the shards' own, where they are cropped.
        num_classes: the shards' own.
        decoder: of the training images; those that are compared with generated ones are decoded exactly.
        flip: whether to mirror training images at random.
        seed: of the order and the flips.
        window: shards whose samples are mixed.
        partitions: groups of shards, each with an order of its own.
    """

    image_size: int
    num_classes: int
    decoder: Decoder
    flip: bool
    seed: int
    window: int
    partitions: int


class ShardDataModule(PositionedDataModule):
    """Streams shards."""

    def __init__(
        self,
        folder: Path,
        remedy: str,
        reading: Reading,
        batch_size: int,
        workers: int,
        reference_count: int = 0,
        allow_batch_change: bool = False,
    ) -> None:
        """Open the index and check the shards.

        Args:
            folder: where the shards are.
            remedy: how to come by them, for error messages.
            reading: how images are read, and in which order.
            batch_size: images of an optimizer step, over all processes.
            workers: loader processes.
            reference_count: training images that generated ones are compared with; 0 for all.
            allow_batch_change: whether to go on from a state with another batch size.

        Raises:
            UserError: for missing or damaged shards, or shards that do not fit these settings.
        """
        self.folder = folder
        self.reading = reading
        self.index = open_index(folder, remedy)
        self._check_fit()
        check_shards(folder, self.index)
        sizes = [shard.samples for shard in self.index.split(TRAIN)[0]]
        order = Order(sizes, batch_size, reading.seed, reading.window, reading.partitions)
        super().__init__(folder, order, self.index.fingerprint, workers, allow_batch_change)
        self.images = self._images(TRAIN, reading.decoder, reading.flip)
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
        images = self._images(HELD_OUT)
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
        images = self._images(TRAIN)
        for start in range(0, self.reference_count, batch_size):
            indices = range(start, min(start + batch_size, self.reference_count))
            yield torch.stack([images[Reference(0, index)][0] for index in indices])

    def _images(self, split: str, decoder: Decoder = "exact", flip: bool = False) -> ShardImages:
        reading = self.reading
        return ShardImages(self.folder, self.index, split, reading.image_size, decoder, reading.seed, flip)

    def _check_fit(self) -> None:
        facts, asked = self.index.facts, self.reading
        if facts.image_size not in (None, asked.image_size):
            self._refuse("data.image_size", asked.image_size, facts.image_size)
        if facts.num_classes != asked.num_classes:
            self._refuse("data.num_classes", asked.num_classes, facts.num_classes)

    def _refuse(self, key: str, given: int, found: int | None) -> None:
        raise UserError(
            f"{self.folder}: {key} = {given}: the shards have {found}; set {key}={found}, or data.path to another "
            "folder"
        )
