"""The results laid out as the question's arms are, in heat maps or curves, beside the paper's own figures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jitlab.report.closing import NOTHING, spread_text
from jitlab.report.figures import LINE_COLORS, OrderedLine, Point, ordered_panel, svg
from jitlab.report.heat_map import Cell, heat_map
from jitlab.report.records import Experiment, Published

NONE_AT_ZERO = ("model.bottleneck_dim",)  # settings of which 0 means that there is none

Panel = tuple[str, Mapping[str, Cell]]
"""A caption, and what is known of each arm."""


def by_axes(experiment: Experiment) -> str:
    """Return the summary metrics over the question's axes; empty without axes, or before there is a figure."""
    keys = [key for key in experiment.summary_metrics if any(finals(experiment, arm, key) for arm in experiment.arms)]
    if not keys or not experiment.axes:
        return ""
    panels: list[Panel] = [(key, {arm: _measured(experiment, arm, key) for arm in experiment.arms}) for key in keys]
    if found := experiment.nearest_published():
        scale, published = found
        reported = {arm: _reported(published, arm) for arm in experiment.arms}
        # Second, so that it stands beside the first metric: that one is the distance it compares with.
        panels.insert(1, (paper_caption(scale, published), reported))
    if set(experiment.axes) == {"rows", "columns"}:
        return _heat_maps(experiment, panels)
    return _curves(experiment, panels) if "x" in experiment.axes else ""


def finals(experiment: Experiment, arm: str, key: str) -> list[float]:
    """Return a metric's last values in the complete runs of an arm, one per seed."""
    return [run.curves[key].values[-1] for run in experiment.of_arm(arm) if run.complete and key in run.curves]


def along(experiment: Experiment, axis: str) -> list[Any]:
    """Return the distinct values on an axis: numbers ascending with `none` last, others in the order of the arms."""
    values: list[Any] = []
    for arm in experiment.arms:
        value = place(experiment, arm, axis)
        if value is not None and value not in values:
            values.append(value)
    if all(is_number(value) or value == "none" for value in values):
        values.sort(key=lambda value: math.inf if value == "none" else value)
    return values


def place(experiment: Experiment, arm: str, axis: str) -> Any:
    """Return where an arm stands on an axis, `none` for a 0 that means that; None where it does not stand there."""
    value = experiment.places.get(arm, {}).get(axis)
    return "none" if value == 0 and experiment.axes[axis] in NONE_AT_ZERO else value


def is_number(value: Any) -> bool:
    """Return whether a place is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def paper_caption(scale: str, published: Published) -> str:
    """Return what the paper's figures are, as `published fid, Table 2 (a), imagenet256`."""
    return f"{published.heading}, {scale}"


def beside_text(experiment: Experiment) -> str:
    """Return where the paper's figures come from when they are of another scale than the one that was run."""
    found = experiment.nearest_published()
    if found is None:
        return "The paper gives no figures."
    if experiment.published:
        return "The paper’s figures are of the same scale."
    return f"The paper gives none at {experiment.scale}; its figures at {found[0]} stand beside."


def field_name(field: str) -> str:
    """Return a setting's name without its group, as `time_mu`."""
    return field.rpartition(".")[2]


def _heat_maps(experiment: Experiment, panels: Sequence[Panel]) -> str:
    figures = "".join(_heat_map(experiment, caption, of_arm) for caption, of_arm in panels)
    rows, columns = (experiment.axes[axis] for axis in ("rows", "columns"))
    text = (
        f"Rows: {rows}. Columns: {columns}. Colours are logarithmic, from each map’s lowest figure (pale) to its "
        f"highest (dark), over at least a decade. {beside_text(experiment)}"
    )
    heading = f"Result by {field_name(rows)} and {field_name(columns)}"
    return (
        f'<section><h2>{escape(heading)}</h2><p class="soft">{escape(text)}</p>'
        f'<div class="maps">{figures}</div></section>'
    )


def ticks(experiment: Experiment) -> tuple[list[tuple[float, str]], bool]:
    """Return where each value of x stands and its text, and whether the axis is logarithmic."""
    values = along(experiment, "x")
    numbers = [value for value in values if is_number(value)]
    if not numbers or any(not is_number(value) and value != "none" for value in values):
        return [(float(at), str(value)) for at, value in enumerate(values)], False
    log = numbers[0] > 0 and numbers[-1] > 10 * numbers[0]
    last, before = numbers[-1], numbers[-2] if len(numbers) > 1 else numbers[-1] - 1
    behind = last * last / before if log else 2 * last - before
    return [(behind if value == "none" else value, str(value)) for value in values], log


def _curves(experiment: Experiment, panels: Sequence[Panel]) -> str:
    groups = along(experiment, "lines") if "lines" in experiment.axes else [None]
    colors = {str(group): LINE_COLORS[i % len(LINE_COLORS)] for i, group in enumerate(groups)}
    figures = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f"{_curve(experiment, caption, number, of_arm, colors)}{_open_points(of_arm)}</figure>"
        for number, (caption, of_arm) in enumerate(panels)
    )
    legend = "".join(
        f'<span><span class="dot" style="--arm: {color}"></span>{escape(group)}</span>'
        for group, color in colors.items()
    )
    field = experiment.axes["x"]
    text = (
        f"Over {field}; points are means of complete runs, bars their standard deviation over seeds. "
        f"{beside_text(experiment)}"
    )
    return (
        f'<section><h2>Result by {escape(field_name(field))}</h2><p class="soft">{escape(text)}</p>'
        + (f'<div class="legend">{legend}</div>' if groups != [None] else "")
        + f'<div class="panels ordered">{figures}</div></section>'
    )


def _curve(
    experiment: Experiment, caption: str, number: int, of_arm: Mapping[str, Cell], colors: Mapping[str, str]
) -> str:
    marks, log = ticks(experiment)
    values = along(experiment, "x")
    where = dict(zip(map(str, values), (at for at, _ in marks), strict=True))
    numeric = any(map(is_number, values))
    lines, said = [], []
    for group, color in colors.items():
        joined, apart = list[Point](), list[Point]()
        for arm, cell in of_arm.items():
            value = place(experiment, arm, "x")
            if value is None or cell.value is None:
                continue
            if "lines" in experiment.axes and str(place(experiment, arm, "lines")) != group:
                continue
            point = Point(where[str(value)], cell.value, cell.spread, hollow=bool(cell.seeds))
            (apart if numeric and value == "none" else joined).append(point)
            said.append(f"{arm} {cell.text}")
        if joined or apart:
            lines.append(OrderedLine(group, color, tuple(sorted(joined, key=lambda point: point.x)), tuple(apart)))
    if not lines:
        return "<p>No figure yet.</p>"
    alt = f"{caption} over {experiment.axes['x']}: {', '.join(said)}"
    return svg(ordered_panel(lines, marks, log), f"layout{number}", alt)


def _open_points(of_arm: Mapping[str, Cell]) -> str:
    """Return which arms have no point and why, and which points are of fewer seeds than asked for."""
    absent = [f"{arm} ({cell.text})" for arm, cell in of_arm.items() if cell.failed]
    fewer = [f"{arm} {cell.seeds}" for arm, cell in of_arm.items() if cell.seeds and cell.value is not None]
    notes = [f"No point: {', '.join(absent)}."] if absent else []
    notes += [f"Hollow: {', '.join(fewer)}."] if fewer else []
    return f'<p class="soft">{escape(" ".join(notes))}</p>' if notes else ""


def _heat_map(experiment: Experiment, caption: str, of_arm: Mapping[str, Cell]) -> str:
    rows, columns = along(experiment, "rows"), along(experiment, "columns")
    cells = {}
    for arm in experiment.arms:
        row, column = place(experiment, arm, "rows"), place(experiment, arm, "columns")
        if row is not None and column is not None:
            cells[rows.index(row), columns.index(column)] = of_arm[arm]
    corner = f"{field_name(experiment.axes['rows'])} ↓ {field_name(experiment.axes['columns'])} →"
    return heat_map(caption, corner, list(map(str, rows)), list(map(str, columns)), cells)


def _measured(experiment: Experiment, arm: str, key: str) -> Cell:
    values, runs = finals(experiment, arm, key), experiment.of_arm(arm)
    if not values:
        states = dict.fromkeys(run.status if not run.complete else "not logged" for run in runs)
        return Cell(", ".join(states) or NOTHING, failed=bool(states))
    seeds = f"{len(values)} of {len(runs)} seeds" if len(values) < len(runs) else ""
    if not all(map(math.isfinite, values)):
        return Cell(spread_text(values), failed=True, seeds=seeds)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return Cell(spread_text(values), statistics.fmean(values), spread, seeds=seeds)


def _reported(published: Published, arm: str) -> Cell:
    value = published.values.get(arm)
    return Cell(NOTHING) if value is None else Cell(f"{value:g}", value)
