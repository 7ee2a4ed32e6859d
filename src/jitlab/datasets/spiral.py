"""A spiral in a plane of a space of many dimensions: the paper's claim where it can be seen (Fig. 2)."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jitlab.datasets.order import Order, Reference
from jitlab.datasets.positioned import PositionedDataModule
from jitlab.errors import UserError
from jitlab.randomness import numpy_generator

NAME = "spiral"
NUM_CLASSES = 1
TURNS = 1.5
SPLITS = {"train": 65536, "held_out": 4096, "true": 4096}


def spiral(u: np.ndarray) -> np.ndarray:
    """Map u in [0, 1] to the spiral from its centre to radius 1, (n, 2); a uniform u gives nearly uniform points."""
    # The arc of r = angle / (2 pi turns) grows as the square of the radius, but for the innermost turn.
    radius = np.sqrt(u)
    angle = 2 * np.pi * TURNS * radius
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def curve(count: int = 400) -> Tensor:
    """Return points of the whole spiral in their order, (count, 2) float32."""
    return torch.from_numpy(spiral(np.linspace(0, 1, count) ** 2)).float()


def points(split: str, count: int) -> Tensor:
    """Return the first `count` random points of a split of the spiral, (count, 2) float32, always the same."""
    return torch.from_numpy(spiral(numpy_generator("spiral", split).random(SPLITS[split]))[:count]).float()


def projection(dimensions: int) -> Tensor:
    """Return the fixed random P, (dimensions, 2) float32 with orthonormal columns: x = P p, p = P^T x (Sec. 3.3)."""
    first, second = numpy_generator("spiral projection", dimensions).standard_normal((2, dimensions))
    first = first / np.linalg.norm(first)
    second = second - first * (first @ second)
    return torch.from_numpy(np.stack([first, second / np.linalg.norm(second)], axis=1)).float()


def fingerprint(dimensions: int) -> str:
    """Return a hash of what the points are made from; hashed numbers would differ in rounding between machines."""
    return hashlib.sha256(repr((NAME, TURNS, SPLITS, dimensions)).encode()).hexdigest()


class SpiralPoints(Dataset[tuple[Tensor, int, str]]):
    """The training points, placed in `projection`'s (D, 2) space when they are asked for."""

    def __init__(self, projection: Tensor) -> None:
        self.points = points("train", SPLITS["train"])
        self.projection = projection

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, reference: Reference) -> tuple[Tensor, int, str]:
        """Return point (D,), label 0 and key."""
        return self.__getitems__([reference])[0]

    def __getitems__(self, references: list[Reference]) -> list[tuple[Tensor, int, str]]:
        """Return the batch in one multiplication."""
        places = [reference.index for reference in references]
        placed = self.points[places] @ self.projection.T
        return [(x, 0, f"{place:05d}") for x, place in zip(placed, places, strict=True)]


class SpiralDataModule(PositionedDataModule):
    """Serves the spiral, placed in D dimensions."""

    def __init__(
        self, dimensions: int, batch_size: int, seed: int, workers: int, allow_batch_change: bool = False
    ) -> None:
        """Place the spiral in `dimensions`; the rest is as for any data.

        Raises:
            UserError: for a batch of more points than there are.
        """
        order = Order([SPLITS["train"]], batch_size, seed, window=1)
        super().__init__("the spiral", order, fingerprint(dimensions), workers, allow_batch_change)
        self.projection = projection(dimensions)

    def train_set(self) -> Dataset[Any]:
        """Return the training points."""
        return SpiralPoints(self.projection)

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out points (count, D) and their labels (count,), all 0."""
        return self._first("evaluation.held_out_images", "held_out", count) @ self.projection.T, torch.zeros(
            count, dtype=torch.long
        )

    def true_points(self, count: int) -> Tensor:
        """Return `count` true points in the plane, (count, 2), which are not those that are trained on."""
        return self._first("evaluation.images", "true", count)

    def _first(self, key: str, split: str, count: int) -> Tensor:
        if count > SPLITS[split]:
            raise UserError(f"{key} = {count}: the spiral has {SPLITS[split]} for that; use at most that")
        return points(split, count)
