"""The images of a split, each read by its place in a shard."""

import os
import zlib
from collections import OrderedDict

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from jitlab.datasets.damage import Damage, DamagedError, DamagedShardError
from jitlab.datasets.decode import DamagedImageError, Decoder, decode
from jitlab.datasets.index import Index
from jitlab.datasets.order import Reference
from jitlab.datasets.shards import key_of
from jitlab.datasets.store import Store
from jitlab.randomness import seed_of

# An epoch has more shards than a process may have open; and one that is open takes up its disk space even after the
# cache has let go of it.
MOST_OPEN_FILES = 32


class ShardImages(Dataset[tuple[Tensor, int, str]]):
    """The images of a split, cropped and flipped as they are read."""

    def __init__(
        self,
        index: Index,
        store: Store,
        split: str,
        image_size: int,
        decoder: Decoder,
        seed: int,
        flip: bool,
        damage: Damage | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            index: says where in the shards the images are.
            store: where the shards are.
            split: which of them.
            image_size: pixels to crop to.
            decoder: how.
            seed: of the flips.
            flip: whether to mirror images at random.
            damage: counts damaged samples, each of which is replaced by another one that is whole; None for none.
        """
        self.index = index
        self.store = store
        self.shards, self.rows = index.split(split)
        self.image_size = image_size
        self.decoder = decoder
        self.seed = seed
        self.flip = flip
        self.damage = damage
        self.starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lost: dict[int, DamagedShardError] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, reference: Reference) -> tuple[Tensor, int, str]:
        """Return image (3, H, W) uint8, label and key.

        Raises:
            DamagedError: where it cannot be read, or more samples than are tolerated could not.
            UserError: where the local cache cannot hold its shard.
            RunError: where a server stays away or silent.
        """
        place, passed = reference.index, set[int]()
        while True:
            try:
                return self._sample(place, reference.epoch)
            except DamagedError as error:
                if self.damage is None:
                    raise
                self.damage.tolerate(key_of(self.rows[place]), error)
                passed.add(place)
                if len(passed) == len(self.rows):
                    raise
                place = self._next(place, error, passed)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _sample(self, place: int, epoch: int) -> tuple[Tensor, int, str]:
        row, number = self.rows[place], self._shard(place)
        key = key_of(row)
        file = self._file(number)
        try:
            encoded = os.pread(file, int(row["size"]), int(row["offset"]))
            # Pillow decodes some damaged images without a word.
            if zlib.crc32(encoded) != row["crc32"]:
                raise DamagedImageError("its checksum is not the index's")
            image = decode(encoded, self.image_size, self.decoder)
        except (DamagedImageError, OSError) as error:
            where = self.store.place(self.shards[number])
            raise DamagedError(
                f"{where}: sample {key}: image is damaged ({error}); {self.store.contents_remedy}, or "
                "tolerate some with data.skip_damaged"
            ) from error
        if self.flip and seed_of("flip", self.seed, epoch, key) % 2:
            image = image.flip(-1)
        return image, int(row["label"]), key

    def _next(self, place: int, error: DamagedError, passed: set[int]) -> int:
        """Return what stands in for a damaged sample: for those of a lost shard, as many others."""
        step = self.shards[self._shard(place)].samples if isinstance(error, DamagedShardError) else 1
        place = (place + step) % len(self.rows)
        while place in passed:
            place = (place + 1) % len(self.rows)
        return place

    def _shard(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def _file(self, number: int) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if number in self._lost:
            # Without the frames of all earlier times.
            raise self._lost[number].with_traceback(None)
        try:
            opened = self.store.open(self.shards[number])
        except DamagedShardError as error:
            # Not to be fetched again for every one of its samples.
            self._lost[number] = error
            raise
        if len(self._files) >= MOST_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = opened
        return opened

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)
