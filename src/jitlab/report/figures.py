"""Curves as Matplotlib figures, and those as SVG that stands inside an HTML page.

Titles and legends are left to the page, which escapes and lays out text; a figure carries its axes alone.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from jitlab.report.records import Curve, Experiment, Run

MAX_POINTS = 2000
INCHES = (4.8, 3.0)
INK = "#5b6470"
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito, which colour-blind readers tell apart."""
_ROUNDING = 1e-9
_NOISE_LEVEL = re.compile(r"(.+)_t(\d*\.?\d+)")
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')
_SHORTER = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # a style of one figure would govern the whole page
        (r'<g id="(?!curve )[^"]*"', "<g"),
        (r"font-family: [^;\"]*;?\s*", ""),
        (r' transform="rotate\(-0 [^"]*"', ""),
        (r"(\d\.\d\d)\d+(?=[\s\"])", r"\1"),  # coordinates, never the text of a tick
        (r"\s*\n\s*", " "),
    )
)
STYLE = {
    "font.size": 11.0,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "text.parse_math": False,
    "axes.edgecolor": "#c3c8cf",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "xtick.color": "#c3c8cf",
    "ytick.color": "#c3c8cf",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Line:
    """One run in a panel."""

    run: str
    color: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """One place on an ordered axis: mean and standard deviation; hollow where it averages fewer seeds than asked."""

    x: float
    y: float
    spread: float
    hollow: bool


@dataclass(frozen=True)
class OrderedLine:
    """Points that a line joins, in order, and points that stand apart from it."""

    name: str
    color: str
    joined: tuple[Point, ...]
    apart: tuple[Point, ...]


def metric_lines(experiment: Experiment, key: str) -> tuple[Line, ...]:
    """Return one metric over optimizer steps, a line for every run that logged it."""
    lines = []
    for run in experiment.runs:
        if key in run.curves:
            curve = thin(run.curves[key])
            lines.append(Line(run.name, experiment.colors[run.arm], curve.steps, curve.values))
    return tuple(lines)


def noise_level_keys(run: Run, base: str) -> dict[float, str]:
    """Return the keys of a metric's bins (`val/x_mse_t0.1` of `val/x_mse`) by their centre t, ascending."""
    matches = ((key, _NOISE_LEVEL.fullmatch(key)) for key in run.curves)
    return dict(sorted((float(match[2]), key) for key, match in matches if match and match[1] == base))


def noise_level_base(key: str) -> str | None:
    """Return the metric of which a key names one bin of t, or None where it names none."""
    match = _NOISE_LEVEL.fullmatch(key)
    return match[1] if match else None


def noise_level_lines(experiment: Experiment, base: str) -> tuple[Line, ...]:
    """Return a metric's last values over the noise level t, a line for every run that logged its bins."""
    lines = []
    for run in experiment.runs:
        keys = noise_level_keys(run, base)
        if keys:
            values = tuple(run.curves[key].values[-1] for key in keys.values())
            lines.append(Line(run.name, experiment.colors[run.arm], tuple(keys), values))
    return tuple(lines)


def thin(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """Return at most `most` points: the ends and the extremes of equal stretches, so that spikes stay."""
    count = len(curve.steps)
    if count <= most:
        return curve
    keep = {0, count - 1}
    stretches = max(1, (most - 2) // 2)
    for stretch in range(stretches):
        places = range(stretch * count // stretches, (stretch + 1) * count // stretches)
        finite = [place for place in places if math.isfinite(curve.values[place])] or list(places)
        keep |= {min(finite, key=curve.values.__getitem__), max(finite, key=curve.values.__getitem__)}
    kept = sorted(keep)
    return Curve(tuple(curve.steps[place] for place in kept), tuple(curve.values[place] for place in kept))


def wants_log(lines: Sequence[Line]) -> bool:
    """Return whether the values are positive, beyond what rounding leaves of a 0, and span more than a decade."""
    values = [value for line in lines for value in line.y if math.isfinite(value)]
    return bool(values) and min(values) > _ROUNDING * max(values) and max(values) > 10 * min(values)


def panel(lines: Sequence[Line], x_label: str, log: bool | None = None) -> Any:
    """Return a Figure with one axes and one line a run, drawn by `draw_lines`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES, dpi=72, layout="constrained")
        draw_lines(figure.add_subplot(), lines, x_label, log)
    return figure


def draw_lines(axes: Any, lines: Sequence[Line], x_label: str, log: bool | None = None) -> None:
    """Draw one line a run into Matplotlib axes.

    `log` asks for a logarithmic y axis (kept linear where a value is not positive); None decides by the span.
    Non-finite values leave gaps.
    """
    values = [value for line in lines for value in line.y if math.isfinite(value)]
    log = wants_log(lines) if log is None else log and bool(values) and min(values) > 0
    several_seeds = len({line.color for line in lines}) < len(lines)
    for line in lines:
        y = [value if math.isfinite(value) else math.nan for value in line.y]
        (artist,) = axes.plot(
            line.x,
            y,
            color=line.color,
            linewidth=1.0 if several_seeds else 1.8,
            marker="o" if len(line.x) <= 12 else None,
            markersize=3 if several_seeds else 4,
        )
        artist.set_gid(f"curve {line.run}")
    axes.set_xlabel(x_label)
    if x_label == "step":
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_step_text))
        axes.set_xlim(left=0)
    if log:
        _log_axis(axes, min(values), max(values))


def ordered_panel(lines: Sequence[OrderedLine], ticks: Sequence[tuple[float, str]], log_x: bool) -> Any:
    """Return a panel of points over a varied setting, with error bars and with ticks at the setting's values."""
    figure = panel([_with_gaps(line) for line in lines], "")
    axes = figure.axes[0]
    for line in lines:
        points = (*line.joined, *line.apart)
        spread = [point for point in points if point.spread > 0]
        axes.errorbar(
            [point.x for point in spread],
            [point.y for point in spread],
            yerr=[point.spread for point in spread],
            fmt="none",
            ecolor=line.color,
            elinewidth=1.2,
            capsize=3,
        )
        hollow = [point for point in points if point.hollow]
        axes.scatter(
            [point.x for point in hollow],
            [point.y for point in hollow],
            s=22,
            facecolors="white",
            edgecolors=line.color,
            zorder=3,
        )
    if log_x:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    long = max(len(text) for _, text in ticks) > 8
    axes.set_xticks(
        [at for at, _ in ticks],
        [text for _, text in ticks],
        rotation=20 if long else 0,
        ha="right" if long else "center",
    )
    return figure


def _with_gaps(line: OrderedLine) -> Line:
    # A value that is not finite leaves a gap: nothing joins a point to one that stands apart.
    places = [(point.x, point.y) for point in line.joined]
    for point in line.apart:
        places += [(point.x, math.nan), (point.x, point.y)]
    return Line(line.name, line.color, tuple(x for x, _ in places), tuple(y for _, y in places))


def svg(figure: Any, name: str, alt: str) -> str:
    """Return a figure as an SVG element as wide as its container.

    `name` keeps its ids apart from those of the page's other figures.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    for pattern, replacement in _SHORTER:
        text = pattern.sub(replacement, text)
    text = text.replace('<g id="curve ', f'<g id="{escape(name)} ')
    head = f'<svg viewBox="{_VIEW_BOX.findall(text)[0]}" role="img" aria-label="{escape(alt)}">'
    return head + text[text.index(">") + 1 :]


def _log_axis(axes: Any, low: float, high: float) -> None:
    axes.set_yscale("log")
    decades = math.log10(high / low) if high > low else 0.0
    between = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=20 if len(between) > 1 else 7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _step_text(step: float, _: object) -> str:
    if abs(step) >= 1e6:
        return f"{step / 1e6:g}M"
    return f"{step / 1e3:g}k" if abs(step) >= 1e4 else f"{step:g}"
