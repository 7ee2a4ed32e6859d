"""The closing table: one row an arm, every cell as text, for the terminal and for the report alike."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jitlab.report.records import Experiment, Run

THROUGHPUT = "throughput/images_per_second"
NOTHING = "–"


@dataclass(frozen=True)
class ClosingRow:
    """One arm in the closing table, every cell as text; `metrics` follows `summary_metrics`."""

    arm: str
    differs: str
    seeds: str
    metrics: Mapping[str, str]
    published: str
    minutes: str
    images_per_second: str
    status: str


def closing_rows(experiment: Experiment) -> tuple[ClosingRow, ...]:
    """Return one row an arm.

    Metrics are means over the complete seeds, with their sample standard deviation where there is more than
    one. An arm without a complete seed shows how far it came, each figure with its step.
    """
    return tuple(_row(experiment, arm) for arm in experiment.arms)


def figure_text(value: float) -> str:
    """Return one figure as in a paper's table: `0.063`, `96.53`, `372.4`."""
    return f"{value:.{_decimals(value)}f}" if 1e-6 < abs(value) < 1e6 or value == 0 else _extreme(value)


def spread_text(values: Sequence[float]) -> str:
    """Return `0.063` for one value, `0.063 ± 0.004` (mean, sample standard deviation) for several."""
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    if len(values) == 1 or not math.isfinite(mean):
        return figure_text(mean if len(values) > 1 else values[0])
    spread = statistics.stdev(values)
    if mean != 0 and not 1e-6 < abs(mean) < 1e6:
        return f"{mean:.3g} ± {spread:.2g}"
    decimals = _decimals(mean)
    if spread > 0:
        decimals = max(decimals, min(8, -math.floor(math.log10(spread))))
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def duration_text(seconds: float) -> str:
    """Return a duration in its natural unit: `36 s`, `12.3 min`, `5.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def problem(run: Run) -> str | None:
    """Return why the run is not complete, in words, or None where it is."""
    reached = f"step {run.step} of {run.steps}" if run.steps else f"step {run.step}"
    why = f": {run.reason}" if run.reason else ""
    return {
        "complete": None,
        "missing": "has not started",
        "failed": f"failed at {reached}{why}",
        "killed": f"killed at {reached}{why}",
        "running": f"at {reached}, still running or cut off without notice",
    }.get(run.status, f"{run.status} at {reached}{why}")


def gaps(experiment: Experiment, run: Run) -> tuple[str, ...]:
    """Return the metrics of the table that a complete run has not logged."""
    return tuple(key for key in experiment.summary_metrics if run.complete and key not in run.curves)


def differs_text(experiment: Experiment, arm: str) -> str:
    """Return what sets an arm apart, as `objective.prediction = x`."""
    return ", ".join(f"{key} = {value}" for key, value in experiment.differs.get(arm, {}).items())


def _row(experiment: Experiment, arm: str) -> ClosingRow:
    runs = experiment.of_arm(arm)
    complete = [run for run in runs if run.complete]
    published = experiment.published.values.get(arm) if experiment.published else None
    timed = [run.seconds for run in complete or runs if run.seconds > 0]
    rates = [value for run in runs for value in _finite(run, THROUGHPUT)]
    open_runs = [run for run in runs if not run.complete]
    return ClosingRow(
        arm=arm,
        differs=differs_text(experiment, arm),
        seeds=str(len(runs)) if len(complete) == len(runs) else f"{len(complete)} of {len(runs)}",
        metrics={key: _metric_text(key, complete, runs) for key in experiment.summary_metrics},
        published="" if published is None else f"{published:g}",
        minutes=f"{statistics.mean(timed) / 60:.1f}" if timed else NOTHING,
        images_per_second=f"{statistics.median(rates):.0f}" if rates else NOTHING,
        status="; ".join(_status(run, alone=len(runs) == 1) for run in open_runs) or "complete",
    )


def _metric_text(key: str, complete: Sequence[Run], runs: Sequence[Run]) -> str:
    finished = [run.curves[key].values[-1] for run in complete if key in run.curves]
    if finished:
        return spread_text(finished)
    partial = [run.curves[key] for run in runs if key in run.curves]
    if complete or not partial:
        return NOTHING
    step = max(curve.steps[-1] for curve in partial)
    return f"{spread_text([curve.values[-1] for curve in partial if curve.steps[-1] == step])} (step {step})"


def _status(run: Run, alone: bool) -> str:
    return problem(run) or run.status if alone else f"seed {run.seed} {problem(run)}"


def _finite(run: Run, key: str) -> list[float]:
    return [value for value in run.curves[key].values if math.isfinite(value)] if key in run.curves else []


def _decimals(value: float) -> int:
    size = abs(value)
    if size >= 100:
        return 1
    if size >= 10:
        return 2
    return 3 if size >= 0.01 or size == 0 else 1 - math.floor(math.log10(size))


def _extreme(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
