"""A search as a reader sees it: a heat map, curves over the guidance scale, and every figure in a table."""

import math
from html import escape

from jitlab.report.certificate import Certificate
from jitlab.report.closing import NOTHING, figure_text
from jitlab.report.figures import LINE_COLORS, Line, panel, svg
from jitlab.report.heat_map import GRADIENT, Cell, Scale, heat_map, scale_of
from jitlab.report.searched import UNGUIDED, Found, found

MOST_FIGURES = 10
"""Columns of a heat map up to which there is room for a figure in every cell."""
LEAST_SPAN, MOST_SPAN = 1.5, 4.0
"""What the figures at the two ends of the colours are to one another; curves end at the larger one."""
NEAR = 1.3
"""As `MOST_SPAN`, of a second panel: near the least figure differences are small against those to unguided images."""
_LABELS = 8
_BEST, _UNGUIDED = "★", "○"
_INK, _SOFT = "#1d2330", "#8a929c"


def search_text(certificate: Certificate) -> str:
    """Return how many cells were looked at, with how many images each."""
    search, cells = certificate.search, found(certificate)
    if search is None or cells is None:
        return "Nothing was searched: weights and guidance scale were given."
    grid = len(cells.weights) * len(cells.scales)
    way = f"all {grid} cells of the grid"
    if len(search.cells) < grid:
        way = f"{len(search.cells)} of {grid} cells, coarse to fine: those that were not looked at are empty"
    return f"{search.images:,} images each (seed {search.seed:,}); {way}."


def search_map(certificate: Certificate, caption: str) -> str:
    """Return the figures of a search by weights and guidance scale; empty where there are none.

    With many scales colours alone, whose figures show where the pointer rests.
    """
    cells = found(certificate)
    finite = _finite(cells)
    if cells is None or not finite:
        return ""
    scale = scale_of(finite, LEAST_SPAN, MOST_SPAN)
    fine = len(cells.scales) > MOST_FIGURES
    places = {
        (row, column): _cell(cells, (weights, at), fine)
        for row, weights in enumerate(cells.weights)
        for column, at in enumerate(cells.scales)
        if (weights, at) in cells.figures
    }
    labels = [f"{at:g}" for at in cells.scales]
    if fine:
        stride = math.ceil(len(labels) / _LABELS)
        labels = [label if place % stride == 0 else "" for place, label in enumerate(labels)]
    table = heat_map(caption, "weights ↓ guidance →", cells.weights, labels, places, scale)
    kind = "maps search fine" if fine else "maps search"
    return f'<div class="{kind}" style="--columns: {len(labels)}">{table}</div>{_key(cells, scale, max(finite))}'


def search_curves(certificate: Certificate) -> str:
    """Return the figures over the guidance scale, a line for every weights: on the whole, and near the least."""
    cells = found(certificate)
    finite = _finite(cells)
    if cells is None or len(cells.scales) < 2 or not finite:
        return ""
    lines = [_line(cells, weights, number) for number, weights in enumerate(cells.weights)]
    marks = (f'<span><span class="dot" style="--arm: {line.color}"></span>{escape(line.run)}</span>' for line in lines)
    drawn = _curves(certificate, cells, lines, MOST_SPAN, "")
    if min(finite) > 0 and max(finite) > NEAR * min(finite):
        drawn += _curves(certificate, cells, lines, NEAR, "Near the least figure. ")
    return f'<div class="curves legend">{"".join(marks)}</div><div class="curves panels">{drawn}</div>'


def every_cell(certificate: Certificate) -> str:
    """Return every cell of a search with all its metrics, best first, folded."""
    if certificate.search is None or not certificate.search.cells:
        return ""
    metric, cells = certificate.metric, certificate.search.cells
    names = sorted({name for cell in cells for name in cell.metrics}, key=lambda name: (name != metric, name))
    head = "".join(f'<th scope="col" class="number">{escape(name).replace("_", "_<wbr>")}</th>' for name in names)
    body = "".join(
        f'<tr><td>{escape(cell.weights)}</td><td class="number">{cell.guidance_scale:g}</td>'
        + "".join(f'<td class="number">{_figure(cell.metrics.get(name))}</td>' for name in names)
        + "</tr>"
        for cell in sorted(cells, key=lambda cell: _rank(cell.metrics.get(metric)))
    )
    return (
        f'<details><summary>Every cell with all its metrics <span class="soft">{len(cells)}</span></summary>'
        f'<div class="wide"><table class="cells"><thead><tr><th scope="col">weights</th>'
        f'<th scope="col" class="number">guidance scale</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</details>"
    )


def _finite(cells: Found | None) -> list[float]:
    return [value for value in cells.figures.values() if math.isfinite(value)] if cells else []


def _cell(cells: Found, place: tuple[str, float], fine: bool) -> Cell:
    weights, at = place
    value, text = cells.figures[place], figure_text(cells.figures[place])
    marks = (_BEST if place == cells.winner else "") + (_UNGUIDED if at == UNGUIDED else "")
    finite = math.isfinite(value)
    return Cell(
        text=text if not fine else marks if finite else "!",
        value=value if finite else None,
        failed=not finite,
        mark="" if fine else marks,
        tip=f"{weights}, guidance scale {at:g}: {text}",
    )


def _key(cells: Found, scale: Scale, highest: float) -> str:
    """Return what colours and marks mean."""
    middle = math.sqrt(scale.low * scale.high) if scale.logarithmic else (scale.low + scale.high) / 2
    most = ("≥ " if highest > scale.high else "") + figure_text(scale.high)
    marks = [f"{_BEST} evaluated in full: {cells.winner[0]} at {cells.winner[1]:g}"]
    marks += [f"{_UNGUIDED} unguided (scale 1)"] if UNGUIDED in cells.scales else []
    return (
        f'<div class="scale"><span class="bar" style="background: linear-gradient(to right, {GRADIENT})"></span>'
        f"<span>{figure_text(scale.low)}</span><span>{figure_text(middle)}</span><span>{most}</span></div>"
        f'<div class="legend">{"".join(f"<span>{escape(mark)}</span>" for mark in marks)}</div>'
    )


def _line(cells: Found, weights: str, number: int) -> Line:
    visited = [at for at in cells.scales if (weights, at) in cells.figures]
    values = [cells.figures[weights, at] for at in visited]
    return Line(weights, LINE_COLORS[number % len(LINE_COLORS)], tuple(visited), tuple(values))


def _curves(certificate: Certificate, cells: Found, lines: list[Line], most: float, what: str) -> str:
    """Return a panel of the figures up to `most` times the least."""
    finite = _finite(cells)
    above = sum(value > most * min(finite) for value in finite) if min(finite) > 0 else 0
    note = (
        f"{what}The axis ends at {most:g} times the least figure; {above} of {len(finite)} lie above." if above else ""
    )
    figure = panel(lines, "guidance scale", log=False)
    axes = figure.axes[0]
    for line in lines:
        axes.scatter(line.x, line.y, s=12, color=line.color, zorder=3)
    if cells.best is not None:
        axes.scatter([cells.winner[1]], [cells.best], marker="*", s=130, color=_INK, zorder=4)
    shown = {at for (_, at), value in cells.figures.items() if not above or value <= most * min(finite)}
    if UNGUIDED in shown:
        axes.axvline(UNGUIDED, color=_SOFT, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
        axes.text(UNGUIDED, 0.02, " unguided", transform=axes.get_xaxis_transform(), fontsize=9, color=_SOFT)
    if above:
        low, room = min(finite), 0.06 * (most - 1) * min(finite)
        axes.set_ylim(low - room, most * low + room)
        wide = 0.05 * (max(shown) - min(shown)) or 0.5
        axes.set_xlim(min(shown) - wide, max(shown) + wide)
    least = [f"{line.run} {figure_text(min(line.y))}" for line in lines if line.y]
    alt = f"{certificate.metric} over guidance scale; least of {', '.join(least)}"
    caption = f"{escape(certificate.metric)}<small>{escape(note)}</small>"
    return f"<figure><figcaption>{caption}</figcaption>{svg(figure, f'search{most:g}', alt)}</figure>"


def _figure(value: float | None) -> str:
    return NOTHING if value is None else figure_text(value)


def _rank(value: float | None) -> tuple[bool, float]:
    known = value is not None and math.isfinite(value)
    return not known, value if known and value is not None else 0.0
