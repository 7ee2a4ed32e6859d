"""The two stages of an evaluation, each of which goes on from what is done: the search, and the winner in full."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from jitlab.evaluation.folder import EvaluationFolder, Scores
from jitlab.evaluation.generation import Images, Round, open_tables, table_path
from jitlab.evaluation.generator import Pool
from jitlab.evaluation.observation import Columns
from jitlab.evaluation.protocol import Amounts
from jitlab.evaluation.scores import Truth, quick_scores, slow_scores
from jitlab.evaluation.search import Cell, Search, coarse_to_fine


@dataclass(frozen=True)
class Stages:
    """Generates and scores cells.

    Args:
        folder: where scores are kept.
        pool: generates.
        columns: of the rows that it makes.
        truth: real images.
        amounts: how much is generated.
        batch_size: images at a time.
        device: computes what compares images one by one.
    """

    folder: EvaluationFolder
    pool: Pool
    columns: Columns
    truth: Truth
    amounts: Amounts
    batch_size: int
    device: torch.device

    def search(self, search: Search, full: bool) -> dict[Cell, Scores]:
        """Return the scores of all cells, or where not `full`, of those that lead to the best of each weights."""

        def values(cells: Sequence[Cell]) -> list[float]:
            for weights, group in groupby(cells, key=lambda cell: cell.weights):
                self._score_searched(weights, list(group))
            return [self._known("search", cell)[self.truth.metric] for cell in cells]

        cells = list(search.cells)
        found = dict.fromkeys(cells, 0.0) if full and values(cells) else coarse_to_fine(search, values)
        return {cell: self._known("search", cell) for cell in cells if cell in found}

    def final(self, cell: Cell, saved: int) -> list[Scores]:
        """Return the scores of a cell at every seed; of the first one, so many images are saved."""
        return [self._final(cell, seed, saved if place == 0 else 0) for place, seed in enumerate(self.amounts.seeds)]

    def _score_searched(self, weights: str, cells: list[Cell]) -> None:
        left = [cell for cell in cells if self.folder.scores(_name("search", cell)) is None]
        if not left:
            return
        wanted = Round(self.amounts.search_seed, left, self._images(self.amounts.images))
        place = self.folder.work / "search"
        self.pool.generate(wanted, place, f"search {weights}, {len(left)} scale{'s' if len(left) > 1 else ''}")
        for cell, table in open_tables(place, wanted, self.columns.size).items():
            self._keep("search", cell, quick_scores(table.read(), self.columns, self.truth))
            table_path(place, cell).unlink()

    def _final(self, cell: Cell, seed: int, saved: int) -> Scores:
        stage = f"seed{seed}"
        if self.folder.scores(_name(stage, cell)) is None:
            wanted = Round(seed, [cell], self._images(self.amounts.final), saved)
            place = self.folder.work / stage
            self.pool.generate(wanted, place, f"final {cell.name}, seed {seed}")
            rows = open_tables(place, wanted, self.columns.size)[cell].read()
            self._keep(stage, cell, self._all_scores(rows))
            table_path(place, cell).unlink()
        return self._known(stage, cell)

    def _all_scores(self, rows: Tensor) -> Scores:
        return quick_scores(rows, self.columns, self.truth) | slow_scores(rows, self.columns, self.truth, self.device)

    def _images(self, count: int) -> Images:
        return Images(count, min(self.batch_size, count), self.truth.num_classes)

    def _keep(self, stage: str, cell: Cell, scores: Scores) -> None:
        self.folder.keep(_name(stage, cell), scores)

    def _known(self, stage: str, cell: Cell) -> Scores:
        scores = self.folder.scores(_name(stage, cell))
        assert scores is not None
        return scores


def _name(stage: str, cell: Cell) -> str:
    return f"{stage}/{cell.name}"
