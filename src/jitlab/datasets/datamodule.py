"""Training batches, the held-out batch and the reference images, all from one folder of shards."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.datasets.cache import GIGABYTE
from jitlab.datasets.damage import Damage
from jitlab.datasets.decode import Decoder
from jitlab.datasets.images import ShardImages
from jitlab.datasets.index import HELD_OUT, TRAIN, Index
from jitlab.datasets.order import Order, Position, Reference
from jitlab.datasets.positioned import PositionedDataModule
from jitlab.datasets.prefetch import Prefetcher
from jitlab.datasets.store import RemoteStore, Store, check_store
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
        what: str,
        index: Index,
        store: Store,
        reading: Reading,
        batch_size: int,
        workers: int,
        reference_count: int = 0,
        damage: Damage | None = None,
        allow_batch_change: bool = False,
    ) -> None:
        """Check the shards.

        Args:
            what: folder or URL of the index, for error messages.
            index: of the shards.
            store: where the shards are.
            reading: how images are read, and in which order.
            batch_size: images of an optimizer step, over all processes.
            workers: loader processes.
            reference_count: training images that generated ones are compared with; 0 for all.
            damage: counts the damaged samples that are tolerated; None where none is.
            allow_batch_change: whether to go on from a state with another batch size.

        Raises:
            UserError: for missing or damaged shards, or shards that do not fit these settings.
            RunError: where a server stays away or silent.
        """
        self.index = index
        self.store = store
        self.reading = reading
        self.damage = damage
        self._check_fit(what)
        check_store(index, store, damage.limit if damage else 0)
        shards = index.split(TRAIN)[0]
        order = Order([s.samples for s in shards], batch_size, reading.seed, reading.window, reading.partitions)
        super().__init__(what, order, index.fingerprint, workers, allow_batch_change)
        self.images = self._images(TRAIN, reading.decoder, reading.flip)
        if reference_count > len(self.images):
            raise UserError(
                f"evaluation.reference_images = {reference_count}: {what} has {len(self.images)} training images; "
                "use at most that, or 0 for all"
            )
        self.reference_count = reference_count or len(self.images)
        self._prefetcher: Prefetcher | None = None
        self._announced: list[int] = []
        if isinstance(store, RemoteStore):
            self._check_cache(store)

    def train_set(self) -> ShardImages:
        """Return the training images, flipped where they are to be."""
        return self.images

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out images (count, 3, H, W) uint8 and their labels (count,)."""
        images = self._images(HELD_OUT)
        if count > len(images):
            raise UserError(
                f"evaluation.held_out_images = {count}: {self.what} holds out {len(images)}; use at most that"
            )
        rows = [images[Reference(0, index)] for index in range(count)]
        return torch.stack([image for image, _, _ in rows]), torch.tensor([label for _, label, _ in rows])

    def reference_images(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first `reference_count` training images, unflipped, in batches (B, 3, H, W) uint8 with labels (B,).

        Shards are written in a shuffled order, so that the first are a random sample.
        """
        images = self._images(TRAIN)
        for start in range(0, self.reference_count, batch_size):
            indices = range(start, min(start + batch_size, self.reference_count))
            rows = [images[Reference(0, index)] for index in indices]
            yield torch.stack([image for image, _, _ in rows]), torch.tensor([label for _, label, _ in rows])

    def announce(self, position: Position) -> None:
        """Fetch the shards that come next, where they are not here, once for a machine and a window of shards."""
        if not isinstance(self.store, RemoteStore) or (self.trainer and self.trainer.local_rank):
            return
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self.store.cache)
        upcoming = self.order.upcoming(position)
        if upcoming != self._announced:
            self._announced = upcoming
            self._prefetcher.prefetch([self.store.remote(self.images.shards[number]) for number in upcoming])

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """End what was fetching."""
        if self._prefetcher:
            self._prefetcher.close()
            self._prefetcher = None

    def _images(self, split: str, decoder: Decoder = "exact", flip: bool = False) -> ShardImages:
        reading = self.reading
        return ShardImages(self.index, self.store, split, reading.image_size, decoder, reading.seed, flip, self.damage)

    def _check_fit(self, what: str) -> None:
        facts, asked = self.index.facts, self.reading
        if facts.image_size not in (None, asked.image_size):
            self._refuse(what, "data.image_size", asked.image_size, facts.image_size)
        if facts.num_classes != asked.num_classes:
            self._refuse(what, "data.num_classes", asked.num_classes, facts.num_classes)

    def _refuse(self, what: str, key: str, given: int, found: int | None) -> None:
        raise UserError(
            f"{what}: {key} = {given}: the shards have {found}; set {key}={found}, or data.path to another folder"
        )

    def _check_cache(self, store: RemoteStore) -> None:
        """Refuse a cache that cannot hold what is read while the next is fetched."""
        sizes = sorted((shard.bytes for shard in self.images.shards), reverse=True)
        held = min(2 * self.reading.window * self.reading.partitions, len(sizes))
        needed = sum(sizes[:held])
        if needed > store.cache.max_bytes:
            raise UserError(
                f"data.cache_gb = {store.cache.max_bytes / GIGABYTE:g}: {held} shards are in use at a time (two "
                f"windows of data.window_shards = {self.reading.window} in each partition) and have "
                f"{needed / GIGABYTE:.3g} GB; raise data.cache_gb or lower data.window_shards"
            )
