"""A run folder made into report.html, one file for readers, and summary.json, the same table for programs."""

import math
from pathlib import Path
from typing import Any

from jitlab.files import write_json, write_text
from jitlab.report import layout, pictures, sections, strips
from jitlab.report.collect import collect
from jitlab.report.evaluations import evaluations
from jitlab.report.page import page
from jitlab.report.records import Experiment


def write_report(folder: Path) -> Path:
    """Write report.html and summary.json into a run folder, whatever state its runs are in.

    Returns the path of report.html. Raises UserError where experiment.json is absent or a file is damaged.
    """
    experiment = collect(folder)
    write_json(folder / "summary.json", summary(experiment))
    path = folder / "report.html"
    write_text(path, html(experiment))
    return path


def summary(experiment: Experiment) -> dict[str, Any]:
    """Return the table for programs as strict JSON holds it: a value that is not finite is None."""
    runs = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "status": run.status,
            "metrics": {key: _strict(value) for key, value in sorted(run.final().items())},
            "seconds": _strict(run.seconds),
        }
        for run in experiment.runs
    ]
    return {"experiment": experiment.experiment, "scale": experiment.scale, "runs": runs}


def html(experiment: Experiment) -> str:
    """Return the whole report as one page that needs no other file, network or script."""
    parts = (
        sections.header(experiment),
        sections.banner(experiment),
        sections.results(experiment),
        evaluations(experiment),
        layout.by_axes(experiment),
        pictures.samples(experiment),
        strips.strips(experiment),
        pictures.noise_levels(experiment),
        pictures.curves(experiment),
        sections.runs(experiment),
        sections.tracking(experiment),
    )
    return page(experiment.name, parts)


def _strict(value: float) -> float | None:
    return value if math.isfinite(value) else None
