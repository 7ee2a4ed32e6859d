"""Tables as the terminal shows them, of the report's own rows: of an experiment, and of an evaluation."""

import math
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from jitlab.report.certificate import Certificate
from jitlab.report.closing import NOTHING, closing_rows, figure_text
from jitlab.report.collect import collect
from jitlab.report.records import Experiment
from jitlab.report.searched import UNGUIDED, Found, found, metrics, value_text
from jitlab.report.verdict import arm_verdicts

MOST_COLUMNS = 9
BEST_CELLS = 5


def closing_table(folder: Path) -> Group:
    """Return the table of an experiment's folder, one row an arm, and the verdicts."""
    experiment = collect(folder)
    return Group(_results(experiment), _verdicts(experiment))


def _verdicts(experiment: Experiment) -> Table:
    lines = Table.grid("", "", padding=(0, 2))
    for arm, verdict in arm_verdicts(experiment).items():
        lines.add_row(Text(arm), Text(verdict.line))
    return lines


def _results(experiment: Experiment) -> Table:
    rows = closing_rows(experiment)
    table = Table(title=experiment.name, title_justify="left", title_style="bold")
    table.add_column("arm", style="bold")
    table.add_column("seeds", justify="right")
    for key in experiment.summary_metrics:
        table.add_column(key, justify="right")
    if experiment.published:
        table.add_column(f"{experiment.published.metric} in {experiment.published.table}", justify="right")
    table.add_column("minutes", justify="right")
    table.add_column("status")
    for row in rows:
        metrics = [row.metrics[key] for key in experiment.summary_metrics]
        published = [row.published] if experiment.published else []
        table.add_row(row.arm, row.seeds, *metrics, *published, row.minutes, row.status)
    return table


def certificate_table(certificate: Certificate) -> Table:
    """Return what was evaluated in full and its metrics, mean ± sample standard deviation over the seeds."""
    seeds = len(certificate.values.get(certificate.metric, ()))
    table = _table(certificate.name)
    table.add_column("metric", style="bold")
    table.add_column("mean ± spread" if seeds > 1 else "value", justify="right")
    for name in metrics(certificate):
        table.add_row(Text(name), value_text(certificate, name))
    table.add_section()
    table.add_row("weights", Text(certificate.weights))
    table.add_row("guidance scale", f"{certificate.guidance_scale:g}")
    table.add_row("seeds", str(seeds))
    return table


def search_table(certificate: Certificate) -> Table | None:
    """Return the figures of a search, the winner in bold: a grid where it is narrow, else the best cells.

    None where nothing was searched.
    """
    cells = found(certificate)
    if cells is None:
        return None
    return _grid(cells, certificate.metric) if len(cells.scales) <= MOST_COLUMNS else _best(cells, certificate.metric)


def _grid(cells: Found, metric: str) -> Table:
    table = _table(f"search: {metric} by guidance scale")
    table.add_column("weights", style="bold")
    for scale in cells.scales:
        table.add_column(_scale_text(scale), justify="right")
    for weights in cells.weights:
        table.add_row(Text(weights), *(_figure(cells, (weights, scale)) for scale in cells.scales))
    return table


def _best(cells: Found, metric: str) -> Table:
    """Return the best cells, and the winner's weights without guidance where these are not among them."""
    ranked = sorted(cells.figures, key=lambda place: (not math.isfinite(cells.figures[place]), cells.figures[place]))
    shown = ranked[:BEST_CELLS]
    unguided = (cells.winner[0], UNGUIDED)
    shown += [unguided] if unguided in cells.figures and unguided not in shown else []
    table = _table(f"search: best {metric} of {len(ranked)} cells")
    table.add_column("weights", style="bold")
    table.add_column("guidance scale", justify="right")
    table.add_column("figure", justify="right")
    for weights, scale in shown:
        table.add_row(Text(weights), _scale_text(scale), _figure(cells, (weights, scale)))
    return table


def _table(title: str) -> Table:
    # Text is shown as it is: a plain string would be taken for rich's markup.
    return Table(title=Text(title), title_justify="left", title_style="bold")


def _scale_text(scale: float) -> str:
    return f"{scale:g} (unguided)" if scale == UNGUIDED else f"{scale:g}"


def _figure(cells: Found, place: tuple[str, float]) -> Text:
    text = figure_text(cells.figures[place]) if place in cells.figures else NOTHING
    return Text(text, style="bold" if place == cells.winner else "")
