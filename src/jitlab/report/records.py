"""The records that a report is made of: an experiment, its runs, their curves and grids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitlab.report.certificate import Certificate


@dataclass(frozen=True)
class Curve:
    """One metric over optimizer steps, ascending; a value may be non-finite."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """One picture of samples; `weights` is `raw` or the average it was drawn with, as `ema0.995`."""

    step: int
    weights: str
    path: Path


@dataclass(frozen=True)
class Run:
    """One arm with one seed; `status` is `missing` where it has not started."""

    name: str
    arm: str
    seed: int
    status: str
    reason: str | None
    seconds: float
    step: int
    steps: int | None
    parameters: int | None
    hardware: str | None
    config: str | None
    curves: Mapping[str, Curve]
    grids: tuple[Grid, ...]
    strip: Path | None  # the denoising strip; a run from before there were any, or not at its end, has none
    times: tuple[float, ...]  # first and last entry of metrics.jsonl, seconds since 1970; empty without one
    certificate: Certificate | None = None  # of its evaluation; None where it has none, or one that cannot be read
    certificate_problem: str | None = None  # why it cannot be read

    @property
    def complete(self) -> bool:
        """Whether the run came to its last step."""
        return self.status == "complete"

    def final(self) -> dict[str, float]:
        """Return the last logged value of every metric."""
        return {key: curve.values[-1] for key, curve in self.curves.items()}

    def evaluated(self) -> dict[str, float]:
        """Return the last figures of samples of the first average of the weights, by names without `eval/`."""
        return {key.removeprefix("eval/"): curve.values[-1] for key, curve in self._evaluations().items()}

    @property
    def evaluated_at(self) -> int:
        """Return the step of these figures, 0 where there are none."""
        return max((curve.steps[-1] for curve in self._evaluations().values()), default=0)

    def _evaluations(self) -> dict[str, Curve]:
        return {key: curve for key, curve in self.curves.items() if key.startswith("eval/") and "_ema" not in key}

    def last_grids(self) -> tuple[Grid, ...]:
        """Return the latest grid of each kind of weights: averages first, raw weights last."""
        latest = {grid.weights: grid for grid in sorted(self.grids, key=lambda grid: grid.step)}
        return tuple(sorted(latest.values(), key=lambda grid: (grid.weights == "raw", grid.weights)))


@dataclass(frozen=True)
class Published:
    """The paper's figure of each arm at one scale."""

    metric: str
    table: str
    values: Mapping[str, float]

    @property
    def heading(self) -> str:
        """Return the column's heading, as `published fid, Table 2 (a)`."""
        return f"published {self.metric.removeprefix('eval/')}, {self.table}"


@dataclass(frozen=True)
class Experiment:
    """One question at one scale with all its runs, in the order of arms and then seeds."""

    folder: Path
    experiment: str
    scale: str
    name: str
    question: str
    source: str
    arms: tuple[str, ...]
    differs: Mapping[str, Mapping[str, Any]]
    colors: Mapping[str, str]
    axes: Mapping[str, str]  # the setting along `rows` and `columns`, or along `x` and perhaps `lines`; may be empty
    places: Mapping[str, Mapping[str, Any]]  # each arm's value along every axis
    published: Published | None  # at the scale that was run
    published_elsewhere: Mapping[str, Published]  # by scale
    summary_metrics: tuple[str, ...]
    link: str | None
    command: str | None
    ui_command: str | None
    runs: tuple[Run, ...]

    def of_arm(self, arm: str) -> tuple[Run, ...]:
        """Return the runs of one arm, one per seed."""
        return tuple(run for run in self.runs if run.arm == arm)

    def nearest_published(self) -> tuple[str, Published] | None:
        """Return the scale and the figures of the paper to set beside one's own: of this scale where it has them."""
        if self.published:
            return self.scale, self.published
        return next(iter(self.published_elsewhere.items()), None)

    def metric_keys(self) -> tuple[str, ...]:
        """Return every metric key that any run logged, sorted."""
        return tuple(sorted({key for run in self.runs for key in run.curves}))


def common_seed(runs: Iterable[Run]) -> int | None:
    """Return the seed that most of the runs have, the lowest of several; None of no runs."""
    seeds = [run.seed for run in runs]
    return max(sorted(set(seeds)), key=seeds.count) if seeds else None
