"""Features of many images in one file, written by all processes of a machine and read without filling its memory."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

WRITTEN = 1.0


class FeatureTable:
    """Holds a feature vector per image number, float32, in a raw file that may be left and taken up again.

    A row belongs to its image's number alone: any split over batches, processes and restarts gives the same file.
    Before each vector stands a mark that it was written.
    """

    def __init__(self, path: Path, images: int, dimensions: int) -> None:
        """Create the file at its full length, or open the one that is there; raises ValueError for one of another size.

        The length is not yet disk space: a disk that fills raises OSError when rows are written.
        """
        self.path = path
        self.shape = (images, 1 + dimensions)
        size = images * self._row_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            found = os.fstat(file.fileno()).st_size
            # Zero where this or another process has just created it; to the same length twice does no harm.
            if found not in (0, size):
                raise ValueError(f"{path}: {found} bytes, expected {size}: features of other images or network")
            file.truncate(size)

    def write(self, numbers: list[int], rows: Tensor) -> None:
        """Store features (B, D) of images of these numbers, and see them to the disk."""
        vectors = rows.float().cpu().contiguous().numpy()
        mark = np.float32(WRITTEN).tobytes()
        with self.path.open("r+b") as file:
            for number, vector in zip(numbers, vectors, strict=True):
                file.seek(number * self._row_bytes + len(mark))
                file.write(vector.tobytes())
            _to_disk(file)
            # Only now: a kill, a full disk or a loss of power in the middle of a row must not leave it marked.
            for number in numbers:
                file.seek(number * self._row_bytes)
                file.write(mark)
            _to_disk(file)

    def has(self, numbers: range) -> bool:
        """Say whether the features of all of these images were written."""
        return bool((self._table()[numbers.start : numbers.stop, 0] == WRITTEN).all())

    def read(self) -> Tensor:
        """Return all features (images, D), mapped from the file; raises ValueError where some were not written."""
        table = self._table()
        missing = int((table[:, 0] != WRITTEN).sum())
        if missing:
            raise ValueError(f"{self.path}: {missing} of {len(table)} images have no features yet")
        return table[:, 1:]

    def _table(self) -> Tensor:
        return torch.from_numpy(np.memmap(self.path, np.float32, mode="c", shape=self.shape))

    @property
    def _row_bytes(self) -> int:
        return 4 * self.shape[1]


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
