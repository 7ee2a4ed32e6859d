"""Curves in the figures are the curves in the files."""

import math
import re
from typing import Any

import numpy as np
import pytest

from jitlab.report.collect import collect
from jitlab.report.figures import (
    Line,
    metric_lines,
    noise_level_lines,
    panel,
    svg,
    thin,
    wants_log,
)
from jitlab.report.records import Curve
from tests.report.conftest import ARMS, lines_of, write_run


def drawn(text: str, curve_id: str) -> Any:
    """The points (N, 2) of one curve's path, in the figure's units."""
    path = re.search(rf'<g id="{re.escape(curve_id)}">\s*<path d="([^"]*)"', text)
    assert path is not None
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path[1]), dtype=float)


@pytest.mark.parametrize("log", [False, True])
def test_the_svg_draws_the_values(log):
    values = (0.5, 3.0, 1.0, 7.0)
    steps = (100, 200, 400, 600)
    text = svg(panel([Line("x", "#2a6fdb", steps, values)], "step", log=log), "figure", "alt")
    points = drawn(text, "figure x")
    for axis, wanted in ((0, np.array(steps)), (1, np.log(values) if log else np.array(values))):
        slope, offset = np.polyfit(wanted, points[:, axis], 1)
        np.testing.assert_allclose(slope * wanted + offset, points[:, axis], atol=0.02)
    assert (np.diff(points[:, 0]) > 0).all()
    assert points[1, 1] < points[0, 1], "larger values stand higher"


def test_every_run_has_its_line_and_color(folder):
    write_run(folder, "x-s1", lines_of(0.07))
    experiment = collect(folder)
    lines = metric_lines(experiment, "eval/fd_pixels")
    assert [line.run for line in lines] == ["x", "x-s1", "v", "eps"]
    assert lines[0].color == lines[1].color != lines[2].color
    assert list(lines[2].x) == [100, 200, 300, 400, 500, 600]
    assert lines[2].y[-1] == pytest.approx(ARMS["v"])


def test_errors_over_t_are_the_last_ones_in_order_of_t(folder):
    lines = noise_level_lines(collect(folder), "val/x_mse")
    assert [line.run for line in lines] == list(ARMS)
    assert lines[2].x == (0.1, 0.5, 0.9)
    assert lines[2].y == pytest.approx([8.4 * 0.9, 8.4 * 0.5, 8.4 * 0.1])


def test_thinning_keeps_ends_spikes_and_order():
    values = [1.0] * 100_000
    values[54_321] = 99.0
    values[77_777] = math.nan
    curve = thin(Curve(tuple(range(100_000)), tuple(values)), most=500)
    assert len(curve.steps) <= 500
    assert (curve.steps[0], curve.steps[-1]) == (0, 99_999)
    assert dict(zip(curve.steps, curve.values, strict=True))[54_321] == 99.0
    assert list(curve.steps) == sorted(set(curve.steps))


def test_a_short_curve_is_left_alone():
    curve = Curve((1, 2), (3.0, 4.0))
    assert thin(curve) is curve


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ((1.0, 9.0), False),
        ((1.0, 11.0), True),
        ((0.0, 100.0), False),
        ((2e-16, 0.5), False),
        ((math.nan, 1.0, 100.0), True),
        ((), False),
    ],
)
def test_logarithmic_where_values_span_more_than_a_decade(values, log):
    assert wants_log([Line("x", "#000", tuple(range(len(values))), values)]) is log


@pytest.mark.parametrize("values", [(math.nan, math.inf), (0.0, -1.0), (1.0,), (), (1.0, 1.0)])
@pytest.mark.parametrize("log", [None, True])
def test_degenerate_curves_draw_without_a_warning(values, log):
    line = Line("x", "#000", tuple(range(len(values))), values)
    assert svg(panel([line], "step", log=log), "figure", "alt").startswith("<svg")


def test_figures_do_not_share_ids():
    lines = [Line("x", "#2a6fdb", (1, 2), (1.0, 2.0))]
    first, second = (set(re.findall(r'id="([^"]+)"', svg(panel(lines, "step"), name, ""))) for name in "ab")
    assert first
    assert not first & second


def test_small_tick_labels_survive_the_shortening():
    text = svg(panel([Line("x", "#000", (1, 2), (0.00213, 0.00297))], "step"), "figure", "")
    assert re.search(r">0\.002[0-9]+<", text)
