"""What is read from a run folder, and the closing table made of it."""

import math
import statistics
from pathlib import Path

import pytest

from jitlab.errors import UserError
from jitlab.report.closing import duration_text, figure_text, spread_text
from jitlab.report.collect import closing_rows, collect, read_curves
from tests.report.conftest import ARMS, entry, lines_of, write_experiment, write_run


def test_a_folder_without_an_experiment_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"experiment\.json"):
        collect(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"experiment": "a"}'])
def test_a_damaged_experiment_file_is_named(tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(UserError, match=r"experiment\.json"):
        collect(tmp_path)


def test_a_damaged_status_file_is_named(folder):
    (folder / "v" / "status.json").write_text('{"arm": "v", "se')
    with pytest.raises(UserError, match=r"v/status\.json"):
        collect(folder)


@pytest.mark.parametrize("keep", range(1, len(entry(600, loss=0.25))))
def test_a_last_line_torn_anywhere_is_left_out(tmp_path, keep):
    path = tmp_path / "metrics.jsonl"
    path.write_text(entry(500, loss=0.5) + "\n" + entry(600, loss=0.25)[:keep])
    curves, _ = read_curves(path)
    assert curves["loss"].steps == (500,)


@pytest.mark.parametrize("torn", [entry(200, loss=1.0)[:-5], "", "17", '{"step": 200}'])
def test_a_torn_middle_line_is_named(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([entry(100, loss=1.0), torn, entry(300, loss=1.0)]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_curves(path)


def test_a_last_line_torn_inside_a_character_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(entry(100, loss=1.0).encode() + b'\n{"step": 200, "metrics": {"\xc3')
    assert read_curves(path)[0]["loss"].steps == (100,)


def test_steps_logged_again_after_a_resume_count_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(entry(step, loss=value) for step, value in [(1, 9.0), (2, 8.0), (3, 7.0), (2, 5.0)]))
    curves, times = read_curves(path)
    assert (curves["loss"].steps, curves["loss"].values) == ((1, 2, 3), (9.0, 5.0, 7.0))
    assert times == (1.76e9 + 1, 1.76e9 + 3)


def test_every_expected_arm_and_seed_is_there_started_or_not(tmp_path):
    root = write_experiment(tmp_path, seeds=2)
    write_run(root, "v-s1", lines_of(1.0))
    found = {run.name: run.status for run in collect(root).runs}
    assert found == {
        "x": "missing",
        "x-s1": "missing",
        "v": "missing",
        "v-s1": "complete",
        "eps": "missing",
        "eps-s1": "missing",
    }


def test_arms_keep_their_order_and_strangers_come_last(folder):
    write_run(folder, "another", lines_of(1.0))
    experiment = collect(folder)
    assert experiment.arms == (*ARMS, "another")
    assert len(set(experiment.colors.values())) == 4


def test_a_color_that_is_none_is_replaced(folder):
    write_experiment(folder, colors={"x": "red;} body{display:none"})
    assert collect(folder).colors["x"].startswith("#")


def test_the_last_grid_of_each_kind_averages_first(folder):
    samples = folder / "x" / "samples"
    for step in (200, 1000600):
        (samples / f"step{step:06d}-ema0.995.png").write_bytes(b"")
    grids = next(run for run in collect(folder).runs if run.name == "x").last_grids()
    assert [(grid.weights, grid.step) for grid in grids] == [("ema0.995", 1000600), ("raw", 600)]


def test_one_seed_shows_its_figure(folder):
    row = closing_rows(collect(folder))[0]
    assert (row.arm, row.seeds, row.metrics["eval/fd_pixels"], row.status) == ("x", "1", "0.060", "complete")
    assert (row.minutes, row.published, row.differs) == ("0.6", "", "objective.prediction = x")


def test_seeds_show_mean_and_sample_deviation(three_seeds):
    finals = [0.055, 0.063, 0.071]
    row = closing_rows(collect(three_seeds("x", finals)))[0]
    assert row.metrics["eval/fd_pixels"] == "0.063 ± 0.008"
    assert math.isclose(statistics.stdev(finals), 0.008)


def test_only_complete_seeds_enter_the_mean(three_seeds):
    root = three_seeds("x", [1.0, 3.0, 50.0])
    write_run(
        root,
        "x-s2",
        lines_of(50.0, last=200),
        status="failed",
        step=200,
        reason="non-finite loss at step 201",
    )
    row = closing_rows(collect(root))[0]
    assert row.metrics["eval/fd_pixels"] == "2.000 ± 1.414"
    assert row.seeds == "2 of 3"
    assert row.status == "seed 2 failed at step 200 of 600: non-finite loss at step 201"


def test_an_unfinished_arm_shows_figures_with_their_step(folder):
    write_run(folder, "v", lines_of(1.3, last=300), status="killed", step=340)
    row = closing_rows(collect(folder))[1]
    assert row.metrics["eval/fd_pixels"] == "2.600 (step 300)"
    assert row.status == "killed at step 340 of 600"


def test_published_figures_stand_as_printed(folder):
    values = {"x": 8.62, "v": 96.53}
    write_experiment(folder, published={"metric": "eval/fid", "table": "Table 2 (a)", "values": values})
    experiment = collect(folder)
    assert [row.published for row in closing_rows(experiment)] == ["8.62", "96.53", ""]
    assert experiment.published is not None
    assert experiment.published.heading == "published fid, Table 2 (a)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.063, "0.063"),
        (0.0, "0.000"),
        (-1.25, "-1.250"),
        (96.53, "96.53"),
        (372.38, "372.4"),
        (0.00042, "0.00042"),
        (1e-9, "1e-09"),
        (2.5e8, "2.5e+08"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
    ],
)
def test_figures_keep_their_meaningful_digits(value, text):
    assert figure_text(value) == text


def test_a_spread_is_never_rounded_away():
    assert spread_text([100.0, 100.002]) == "100.001 ± 0.001"
    assert spread_text([2.0, 2.0]) == "2.000 ± 0.000"
    assert spread_text([1.0, math.nan]) == "not finite"
    assert spread_text([0.0, 0.0]) == "0.000 ± 0.000"


def test_durations_have_their_natural_unit():
    assert [duration_text(seconds) for seconds in (36.1, 738.0, 18720.0)] == ["36 s", "12.3 min", "5.2 h"]


def test_nothing_started_is_a_table_of_nothing(tmp_path):
    rows = closing_rows(collect(write_experiment(tmp_path)))
    assert {row.status for row in rows} == {"has not started"}
    assert {text for row in rows for text in row.metrics.values()} == {"–"}
    assert Path(tmp_path / "report.html").exists() is False
