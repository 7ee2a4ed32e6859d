"""The two stages of an evaluation, each of which goes on from what is done: the search, and the winner in full."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.evaluation.folder import EvaluationFolder, Scores
from jitlab.evaluation.generation import Images, Round
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
            self._score_searched(cells)
            return [self._known("search", cell)[self.truth.metric] for cell in cells]

        cells = list(search.cells)
        found = dict(zip(cells, values(cells), strict=True)) if full else coarse_to_fine(search, values)
        return {cell: self._known("search", cell) for cell in cells if cell in found}

    def final(self, cell: Cell, saved: int) -> list[Scores]:
        """Return the scores of a cell at every seed; of the first one, so many images are saved."""
        rounds = {}
        for place, seed in enumerate(self.amounts.seeds):
            if self.folder.scores(_name(f"seed{seed}", cell)) is None:
                rounds[f"seed{seed}"] = self._round(
                    f"seed{seed}", seed, [cell], self.amounts.final, 0 if place else saved
                )
        if rounds:
            self.pool.generate(list(rounds.values()), f"final {cell.name}")
        for stage, wanted in rounds.items():
            self._score(stage, wanted, self._all_scores)
        return [self._known(f"seed{seed}", cell) for seed in self.amounts.seeds]

    def _score_searched(self, cells: Sequence[Cell]) -> None:
        left = [cell for cell in cells if self.folder.scores(_name("search", cell)) is None]
        if left:
            wanted = self._round("search", self.amounts.search_seed, left, self.amounts.images)
            self.pool.generate([wanted], f"search, {len(left)} cell{'s' if len(left) > 1 else ''}")
            self._score("search", wanted, lambda rows: quick_scores(rows, self.columns, self.truth))

    def _score(self, stage: str, wanted: Round, scores: Callable[[Tensor], Scores]) -> None:
        for cell, table in wanted.tables(self.columns.size).items():
            self.folder.keep(_name(stage, cell), scores(table.read()))
            wanted.path(cell).unlink()

    def _all_scores(self, rows: Tensor) -> Scores:
        return quick_scores(rows, self.columns, self.truth) | slow_scores(rows, self.columns, self.truth, self.device)

    def _round(self, stage: str, seed: int, cells: Sequence[Cell], count: int, saved: int = 0) -> Round:
        images = Images(count, min(self.batch_size, count), self.truth.num_classes)
        return Round(self.folder.work / stage, seed, cells, images, saved)

    def _known(self, stage: str, cell: Cell) -> Scores:
        scores = self.folder.scores(_name(stage, cell))
        assert scores is not None
        return scores


def _name(stage: str, cell: Cell) -> str:
    return f"{stage}/{cell.name}"
