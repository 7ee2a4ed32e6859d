"""Generating the images of an evaluation, and keeping the features of each by its number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from jitlab.evaluation.search import Cell
from jitlab.metrics.feature_table import FeatureTable
from jitlab.training.ema import Averages
from jitlab.training.module import JiTModule

RAW = "raw"


class Progress(Protocol):
    """Is told how far the work is."""

    def found(self, images: int) -> None:
        """Take so many images for done that were there."""

    def made(self, images: int) -> None:
        """Take so many images for done that were just made."""


@dataclass(frozen=True)
class Images:
    """Which images are generated: `count` of them, image i of class i modulo `num_classes`, in batches of one size.

    Label and noise belong to the number, and so does the place in a batch: the last one is filled up with images that
    nobody asked for. So any number of processes and restarts gives the same bits. Other batch sizes give the same
    images but for the rounding of a network's kernels, which may be others for other sizes.
    """

    count: int
    batch_size: int
    num_classes: int

    def batches(self, rank: int, world_size: int) -> Iterator[range]:
        """Yield the numbers of the batches of one of several processes."""
        for start in range(0, self.count, self.batch_size)[rank::world_size]:
            yield range(start, start + self.batch_size)

    def wanted(self, batch: range) -> range:
        """Return those of a batch that were asked for."""
        return range(batch.start, min(batch.stop, self.count))

    def labels(self, numbers: range) -> Tensor:
        """Return the labels of images (B,)."""
        return torch.tensor(numbers) % self.num_classes


@dataclass(frozen=True)
class Round:
    """Images to be generated.

    Args:
        folder: of the tables of their rows.
        seed: of their noise.
        cells: those of the same weights beside each other.
        images: of every cell.
        saved: how many of the first ones of each cell are to be kept.
    """

    folder: Path
    seed: int
    cells: Sequence[Cell]
    images: Images
    saved: int = 0

    @property
    def total(self) -> int:
        """Return how many images there will be."""
        return self.images.count * len(self.cells)

    def tables(self, row_size: int) -> dict[Cell, FeatureTable]:
        """Return the table of every cell, as far as it was filled before."""
        return {cell: FeatureTable(self.path(cell), self.images.count, row_size) for cell in self.cells}

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell's table."""
        return self.folder / f"{cell.name}.features"


def fill(
    module: JiTModule,
    averages: Averages,
    wanted: Round,
    tables: Mapping[Cell, FeatureTable],
    observe: Callable[[Tensor], Tensor],
    keep: Callable[[range, Tensor], None],
    rank: int,
    world_size: int,
    progress: Progress,
) -> None:
    """Generate this process's share of the images of every cell that lacks them, and write their rows.

    Whatever stops it, what was written stays, and the same call goes on with the rest. Scales share the way to where
    guidance acts, and averages are put into the network one after another without a copy of it.

    Args:
        module: the network and its sampler.
        averages: of its weights.
        wanted: what is generated.
        tables: of its cells.
        observe: makes rows (B, D) of images (B, ...).
        keep: is given the numbers and images of those to be saved, before their rows are written.
        rank: of this process.
        world_size: how many there are.
        progress: is told of images of any cell.
    """
    decays = {f"ema{decay}": decay for decay in averages.decays}
    images = wanted.images
    for weights, group in groupby(tables, key=lambda cell: cell.weights):
        cells = {cell.scale: tables[cell] for cell in group}
        with nullcontext() if weights == RAW else averages.applied(decays[weights]):
            for batch in images.batches(rank, world_size):
                numbers = images.wanted(batch)
                left = [scale for scale, table in cells.items() if not table.has(numbers)]
                progress.found(len(numbers) * (len(cells) - len(left)))
                for scale, drawn in module.generate_at_scales(batch, images.labels(batch), left, wanted.seed):
                    shown = range(numbers.start, min(numbers.stop, wanted.saved))
                    if shown:
                        keep(shown, drawn[: len(shown)])
                    cells[scale].write(list(numbers), observe(drawn)[: len(numbers)])
                    progress.made(len(numbers))
