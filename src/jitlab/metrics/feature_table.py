"""Features of many images in one file, written by all processes of a machine and read without filling its memory."""

import os
from pathlib import Path

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
        marked = torch.nn.functional.pad(rows.float().cpu(), (1, 0), value=WRITTEN).contiguous().numpy()
        with self.path.open("r+b") as file:
            for number, row in zip(numbers, marked, strict=True):
                file.seek(number * self._row_bytes)
                file.write(row.tobytes())
            file.flush()
            os.fsync(file.fileno())

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
