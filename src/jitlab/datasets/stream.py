"""The order in which samples are seen, and how they are read: a function of (seed, epoch) and a position in it."""

import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from jitlab.datasets.shards import Shard
from jitlab.errors import UserError
from jitlab.randomness import numpy_generator, seed_of

SHARDS_IN_WINDOW = 4


@dataclass(frozen=True)
class Reference:
    """A sample to read: its place in the split, and the epoch, which decides its flip."""

    epoch: int
    index: int


class ShardImages(Dataset[tuple[Tensor, int, str]]):
    """The images of a split, each read by byte offset from its shard."""

    def __init__(self, folder: Path, shards: list[Shard], seed: int, flip: bool, build_command: str) -> None:
        self.folder = folder
        self.shards = shards
        self.seed = seed
        self.flip = flip
        self.build_command = build_command
        self.starts = np.cumsum([0, *(len(shard.keys) for shard in shards)])
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, reference: Reference) -> tuple[Tensor, int, str]:
        """Return image (3, H, W) uint8, label and key; raises UserError where it cannot be read."""
        number = int(np.searchsorted(self.starts, reference.index, side="right")) - 1
        shard, row = self.shards[number], reference.index - int(self.starts[number])
        key = shard.keys[row]
        encoded = os.pread(self._file(number), shard.sizes[row], shard.offsets[row])
        try:
            # Pillow decodes some damaged images without a word.
            if zlib.crc32(encoded) != shard.checksums[row]:
                raise ValueError("its checksum is not the index's")
            # np.array copies: torch wants memory that it may write.
            pixels = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{self.folder / shard.file}: sample {key}: image is damaged ({error}); "
                f"build it again: {self.build_command}"
            ) from error
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if self.flip and seed_of("flip", self.seed, reference.epoch, key) % 2:
            image = image.flip(-1)
        return image, shard.labels[row], key

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}}

    def _file(self, number: int) -> int:
        if number not in self._files:
            path = self.folder / self.shards[number].file
            try:
                self._files[number] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; build it again: {self.build_command}") from error
        return self._files[number]

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


def epoch_order(shard_sizes: list[int], seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of all samples: shards shuffled, then samples within windows of several shards."""
    generator = numpy_generator("order", seed, epoch)
    starts = np.cumsum([0, *shard_sizes])
    shuffled = generator.permutation(len(shard_sizes))
    windows = [shuffled[at : at + SHARDS_IN_WINDOW] for at in range(0, len(shuffled), SHARDS_IN_WINDOW)]
    return np.concatenate(
        [
            generator.permutation(np.concatenate([np.arange(starts[s], starts[s + 1]) for s in window]))
            for window in windows
        ]
    )


class PositionSampler(Sampler[list[Reference]]):
    """Yields this process's part of each global batch, from the present position to the end of its epoch.

    It lives in the main process, so that the order does not depend on the number of loader workers. Whoever
    iterates may stop anywhere, even before the last batch is asked for: the next pass starts where `position`
    says. The length is always that of a whole epoch: a loader without one loses a batch at every resume.
    """

    def __init__(
        self,
        shard_sizes: list[int],
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        position: Callable[[], tuple[int, int]],
    ) -> None:
        """Prepare an order; `position` returns (epoch, batches of it that were trained on)."""
        self.shard_sizes = shard_sizes
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position

    def __len__(self) -> int:
        return sum(self.shard_sizes) // self.batch_size

    def __iter__(self) -> Iterator[list[Reference]]:
        epoch, first = self.position()
        order = epoch_order(self.shard_sizes, self.seed, epoch)
        local = self.batch_size // self.world_size
        for batch in range(first, len(self)):
            start = batch * self.batch_size + self.rank * local
            yield [Reference(epoch, int(index)) for index in order[start : start + local]]
