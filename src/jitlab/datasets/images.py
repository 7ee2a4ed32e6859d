"""The images of a split, each read by its place in a shard."""

import os
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jitlab.datasets.decode import Decoder, decode
from jitlab.datasets.index import Index
from jitlab.datasets.order import Reference
from jitlab.datasets.shards import key_of
from jitlab.errors import UserError
from jitlab.randomness import seed_of

# A process may have some thousand files open, an epoch as many shards.
MOST_OPEN_FILES = 128


class ShardImages(Dataset[tuple[Tensor, int, str]]):
    """The images of a split, cropped and flipped as they are read."""

    def __init__(
        self, folder: Path, index: Index, split: str, image_size: int, decoder: Decoder, seed: int, flip: bool
    ) -> None:
        """Prepare to read.

        Args:
            folder: where the shards are.
            index: says where in them the images are.
            split: which of them.
            image_size: pixels to crop to.
            decoder: how.
            seed: of the flips.
            flip: whether to mirror images at random.
        """
        self.folder = folder
        self.index = index
        self.shards, self.rows = index.split(split)
        self.image_size = image_size
        self.decoder = decoder
        self.seed = seed
        self.flip = flip
        self.starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, reference: Reference) -> tuple[Tensor, int, str]:
        """Return image (3, H, W) uint8, label and key; raises UserError where it cannot be read."""
        row = self.rows[reference.index]
        key = key_of(row)
        image = self._image(reference.index, row, key)
        if self.flip and seed_of("flip", self.seed, reference.epoch, key) % 2:
            image = image.flip(-1)
        return image, int(row["label"]), key

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _image(self, place: int, row: np.void, key: str) -> Tensor:
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        path = self.folder / self.shards[number].file
        encoded = os.pread(self._file(number, path), int(row["size"]), int(row["offset"]))
        try:
            # Pillow decodes some damaged images without a word.
            if zlib.crc32(encoded) != row["crc32"]:
                raise ValueError("its checksum is not the index's")
            return decode(encoded, self.image_size, self.decoder)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path}: sample {key}: image is damaged ({error}); build it again: {self.index.facts.command}"
            ) from error

    def _file(self, number: int, path: Path) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        try:
            opened = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; build it again: {self.index.facts.command}") from error
        if len(self._files) >= MOST_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = opened
        return opened

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)
