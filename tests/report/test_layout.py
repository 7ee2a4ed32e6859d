"""Results laid out by the question's axes: every figure in its place, and the paper's beside it."""

import json
import re
from html import unescape
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from jitlab.report.collect import collect
from jitlab.report.figures import OrderedLine, Point, ordered_panel
from jitlab.report.heat_map import shades
from jitlab.report.layout import along, by_axes, ticks
from jitlab.report.style import CSS
from tests.report.conftest import entry, write_experiment, write_run

SPACES = ("x", "eps", "v")
CROSSED = {"rows": "objective.loss_space", "columns": "objective.prediction"}
KEY = "eval/fd_pixels"


def write_laid_out(folder: Path, axes: dict[str, str], places: dict[str, dict[str, Any]], **changes: Any) -> Path:
    facts: dict[str, Any] = {"arms": list(places), "axes": axes, "places": places, "differs": {}}
    return write_experiment(folder, **(facts | {"summary_metrics": [KEY, "val/v_mse"]} | changes))


def end(folder: Path, name: str, value: float, **changes: Any) -> None:
    write_run(folder, name, [entry(600, **{KEY: value})], grid=False, **changes)


def crossed(folder: Path, **changes: Any) -> Path:
    places = {f"{row}_loss_{column}": {"rows": row, "columns": column} for row in SPACES for column in SPACES}
    write_laid_out(folder, CROSSED, places, **changes)
    for number, arm in enumerate(places, start=1):
        end(folder, arm, 10.0 * number)
    return folder


def maps(text: str) -> dict[str, list[list[str]]]:
    """Return each table's rows of visible texts by caption."""
    found = {}
    for figure in re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL):
        caption = unescape(re.sub(r"<[^>]*>", "", re.findall(r"<figcaption>(.*?)</figcaption>", figure)[0]))
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", figure)]
        found[caption] = [[unescape(re.sub(r"<[^>]*>", " ", cell)).strip() for cell in row] for row in rows]
    return found


def test_every_figure_of_a_crossed_question_stands_in_its_row_and_column(tmp_path):
    values = {"x_loss_x": 10.14, "v_loss_eps": 372.38}
    figures = {"metric": "eval/fid", "table": "Table 2 (a)", "values": values}
    folder = crossed(tmp_path, published=None, published_elsewhere={"imagenet256": figures})
    text = by_axes(collect(folder))
    found = maps(text)
    assert list(found) == [KEY, "published fid, Table 2 (a), imagenet256"]
    assert found[KEY] == [
        ["loss_space ↓ prediction →", *SPACES],
        ["x", "10.00", "20.00", "30.00"],
        ["eps", "40.00", "50.00", "60.00"],
        ["v", "70.00", "80.00", "90.00"],
    ]
    assert found["published fid, Table 2 (a), imagenet256"][1:] == [
        ["x", "10.14", "–", "–"],
        ["eps", "–", "–", "–"],
        ["v", "–", "372.38", "–"],
    ]
    assert "none at digits; its figures at imagenet256" in text


def test_figures_of_the_scale_that_was_run_come_first(tmp_path):
    here = {"metric": "eval/fid", "table": "Table 2 (a)", "values": {"x_loss_x": 10.14}}
    there = here | {"table": "Table 9"}
    found = maps(by_axes(collect(crossed(tmp_path, published=here, published_elsewhere={"imagenet64": there}))))
    assert list(found) == [KEY, "published fid, Table 2 (a), digits"]


def test_a_missing_or_failed_arm_says_so_in_its_cell(tmp_path):
    folder = crossed(tmp_path)
    (folder / "eps_loss_v" / "status.json").unlink()
    end(folder, "x_loss_eps", 3.0, status="failed", reason="non-finite loss")
    end(folder, "v_loss_v", float("nan"))
    rows = maps(by_axes(collect(folder)))[KEY]
    assert rows[1][2] == "failed"
    assert rows[2][3] == "missing"
    assert rows[3][3] == "not finite"
    assert rows[1][1] == "10.00"


def test_a_combination_without_an_arm_is_empty(tmp_path):
    folder = crossed(tmp_path)
    facts = json.loads((folder / "experiment.json").read_text())
    del facts["places"]["eps_loss_eps"]
    (folder / "experiment.json").write_text(json.dumps(facts))
    assert maps(by_axes(collect(folder)))[KEY][2] == ["eps", "40.00", "", "60.00"]


def test_several_seeds_show_their_spread(tmp_path):
    folder = crossed(tmp_path, seeds=2)
    end(folder, "x_loss_x-s1", 12.0)
    assert maps(by_axes(collect(folder)))[KEY][1][1] == "11.00 ± 1.41"


def test_a_figure_of_fewer_seeds_than_asked_for_says_so(tmp_path):
    folder = crossed(tmp_path, seeds=3)
    end(folder, "x_loss_x-s1", 12.0)
    end(folder, "x_loss_x-s2", 11.0)
    end(folder, "x_loss_eps-s1", 20.0)
    end(folder, "x_loss_eps-s2", 20.0, status="failed")
    rows = maps(by_axes(collect(folder)))[KEY]
    assert rows[1][1:] == ["11.00 ± 1.00", "20.00 ± 0.00  2 of 3 seeds", "30.00 1 of 3 seeds"]


def test_seeds_of_which_one_is_not_finite_have_no_colour(tmp_path):
    folder = crossed(tmp_path, seeds=3)
    end(folder, "x_loss_x-s1", float("inf"))
    end(folder, "x_loss_x-s2", float("-inf"))
    text = by_axes(collect(folder))
    assert maps(text)[KEY][1][1] == "not finite"
    assert '<td class="open">not finite' in text


def test_a_crossed_question_without_published_figures_stands_alone(tmp_path):
    text = by_axes(collect(crossed(tmp_path)))
    assert list(maps(text)) == [KEY]
    assert "gives no figures" in text


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(*colors: str) -> float:
    dark, light = sorted(map(luminance, colors))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("selector", [".maps td", ".maps td.open"])
def test_text_without_a_figure_is_readable_on_its_cell(selector):
    variables = dict(re.findall(r"--(\w+): (#\w+)", CSS))
    rules = {**declared(".maps td"), **declared(selector)}
    colors = [re.sub(r"var\(--(\w+)\)", lambda m: variables[m[1]], rules[name]) for name in ("background", "color")]
    assert contrast(*colors) >= 4.5


def declared(selector: str) -> dict[str, str]:
    (block,) = re.findall(rf"(?m)^{re.escape(selector)} {{(.*?)}}", CSS, re.DOTALL)
    return dict(re.findall(r"([\w-]+):\s*([^;]+?)\s*(?:;|$)", block))


def test_colors_rise_with_the_logarithm_and_text_is_readable():
    backgrounds = [luminance(back) for back, _ in shades([1.0, 3.0, 10.0, 30.0, 100.0])]
    assert backgrounds == sorted(backgrounds, reverse=True)
    for back, text in shades([1.01**power for power in range(600)]):
        assert contrast(back, text) >= 4.5
    assert shades([0.0, 0.0]) == [shades([1.0])[0]] * 2
    assert shades([]) == []


def test_values_close_to_each_other_look_alike():
    near, far = shades([3.5, 4.0])[1][0], shades([3.5, 400.0])[1][0]
    assert near != far == shades([1.0, 1000.0])[1][0]


def test_numbers_on_an_axis_ascend_and_none_comes_last(tmp_path):
    places = {f"a{value}": {"x": value} for value in (0, 64, 8, 128)}
    folder = write_laid_out(tmp_path, {"x": "model.bottleneck_dim"}, places)
    assert along(collect(folder), "x") == [8, 64, 128, "none"]


def test_a_number_of_0_elsewhere_is_a_number(tmp_path):
    places = {f"a{value}": {"x": value} for value in (0.0, -0.4, -0.8)}
    assert along(collect(write_laid_out(tmp_path, {"x": "objective.time_mu"}, places)), "x") == [-0.8, -0.4, 0.0]


def test_words_on_an_axis_keep_the_order_of_the_arms(tmp_path):
    places = {arm: {"x": arm} for arm in ("plain", "all", "none_of_it")}
    assert along(collect(write_laid_out(tmp_path, {"x": "arm"}, places)), "x") == list(places)


@pytest.mark.parametrize("axes", [CROSSED, {"x": "arm"}])
def test_without_a_figure_there_is_no_section(tmp_path, axes):
    places = {"a": dict.fromkeys(axes, "a")}
    assert by_axes(collect(write_laid_out(tmp_path, axes, places))) == ""


def test_a_folder_from_before_axes_has_no_section(folder):
    assert by_axes(collect(folder)) == ""


def test_texts_of_a_heat_map_are_escaped(tmp_path):
    hostile = '"><script>$\\frac{&amp;'
    places = {hostile: {"rows": hostile, "columns": hostile}}
    figures = {"metric": hostile, "table": hostile, "values": {hostile: 1.0}}
    axes = {"rows": hostile, "columns": hostile}
    folder = write_laid_out(tmp_path, axes, places, summary_metrics=[hostile], published_elsewhere={hostile: figures})
    write_run(folder, "a", [entry(1, **{hostile: 1.0})], grid=False, arm=hostile)
    text = by_axes(collect(folder))
    assert "<script" not in text
    assert maps(text)[hostile][1] == [hostile, "1.000 1 of 2 seeds"]


def test_an_ordered_question_is_a_curve_with_none_behind_and_the_papers_beside(tmp_path):
    places = {f"a{value}": {"x": value} for value in (0, 64, 8, 128)}
    figures = {"metric": "eval/fid", "table": "Figure 4", "values": {"a128": 7.48, "a0": 8.62}}
    folder = write_laid_out(
        tmp_path, {"x": "model.bottleneck_dim"}, places, published_elsewhere={"imagenet256": figures}
    )
    end(folder, "a8", 3.0)
    end(folder, "a0", 4.0)
    experiment = collect(folder)
    assert ticks(experiment) == ([(8, "8"), (64, "64"), (128, "128"), (256.0, "none")], True)
    text = by_axes(experiment)
    assert text.count("<svg") == 2
    assert "over model.bottleneck_dim: a0 4.000, a8 3.000" in text or "a8 3.000, a0 4.000" in text
    assert "No point: a64 (missing), a128 (missing)." in text
    assert "published fid, Figure 4, imagenet256" in text
    assert ">none<" in text


def test_an_ordered_question_with_lines_and_hostile_texts_is_escaped(tmp_path):
    hostile = '"><script>$\\frac{&amp;'
    places = {arm: {"x": arm, "lines": hostile} for arm in ("plain", hostile)}
    folder = write_laid_out(tmp_path, {"x": "arm", "lines": hostile}, places)
    end(folder, "plain", 3.0)
    text = by_axes(collect(folder))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def drawn_segments(lines, ticks, log):
    """Return the polylines of a panel, each as its x values."""
    figure = ordered_panel(lines, ticks, log)
    segments = []
    for line in figure.axes[0].lines:
        if (line.get_gid() or "").startswith("curve "):
            x, y = line.get_xdata(), line.get_ydata()
            runs = "".join(" " if isnan(value) else "x" for value in y).split()
            places = iter([at for at, value in zip(x, y, strict=True) if not isnan(value)])
            segments += [[next(places) for _ in run] for run in runs]
    return segments


def test_none_is_drawn_apart_and_numbers_are_joined(tmp_path):
    points = [Point(float(x), 1.0, 0.0, hollow=False) for x in (8, 16, 32)]
    apart = Point(64.0, 2.0, 0.1, hollow=False)
    marks = [(8.0, "8"), (16.0, "16"), (32.0, "32"), (64.0, "none")]
    line = OrderedLine("a", "#0072b2", tuple(points), (apart,))
    assert drawn_segments([line], marks, True) == [[8.0, 16.0, 32.0], [64.0]]


def test_a_curve_through_numbers_stops_before_none(tmp_path):
    places = {f"a{value}": {"x": value} for value in (8, 16, 0)}
    folder = write_laid_out(tmp_path, {"x": "model.bottleneck_dim"}, places)
    for number, arm in enumerate(places, start=1):
        end(folder, arm, float(number))
    (path,) = re.findall(r'<g id="layout0 None"> *<path d="([^"]*)"', by_axes(collect(folder)))
    assert path.count("L") == 1


def test_words_are_joined_in_the_order_of_the_arms(tmp_path):
    places = {arm: {"x": arm} for arm in ("plain", "none", "all")}
    folder = write_laid_out(tmp_path, {"x": "arm"}, places)
    for number, arm in enumerate(places, start=1):
        end(folder, arm, float(number))
    (path,) = re.findall(r'<g id="layout0 None"> *<path d="([^"]*)"', by_axes(collect(folder)))
    assert path.count("L") == 2


def test_a_curve_says_which_points_are_missing_and_which_are_of_fewer_seeds(tmp_path):
    places = {f"a{value}": {"x": value} for value in (8, 16, 32, 64, 128)}
    folder = write_laid_out(tmp_path, {"x": "model.bottleneck_dim"}, places, seeds=2)
    for name, value in {"a8": 1.0, "a8-s1": 2.0, "a16": 3.0, "a64": float("nan"), "a64-s1": 1.0}.items():
        end(folder, name, value)
    end(folder, "a32", 1.0, status="failed")
    write_run(folder, "a128", [entry(600, other=1.0)], grid=False)
    text = by_axes(collect(folder))
    assert "No point: a32 (failed, missing), a64 (not finite), a128 (not logged, missing)." in text
    assert "Hollow: a16 1 of 2 seeds." in text


def test_hollow_points_are_drawn_over_their_line():
    points = (Point(1.0, 1.0, 0.0, hollow=False), Point(2.0, 2.0, 0.0, hollow=True))
    figure = ordered_panel([OrderedLine("a", "#0072b2", points, ())], [(1.0, "1"), (2.0, "2")], False)
    (hollow,) = [found for found in figure.axes[0].collections if len(found.get_offsets()) and found.get_zorder() == 3]
    assert hollow.get_offsets().tolist() == [[2.0, 2.0]]
    assert hollow.get_facecolor().tolist() == [[1.0, 1.0, 1.0, 1.0]]
