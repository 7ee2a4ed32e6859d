import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jitlab.callbacks.run_log import RunFolder
from jitlab.errors import UserError


def points(folder):
    return [(row["step"], row["metrics"]) for row in RunFolder(folder).rows()]


def logged(folder, steps, **values):
    log = RunFolder(folder)
    for step in steps:
        log.log_metrics({"a": step / 2, **values}, step)
    return folder / "metrics.jsonl"


def test_rows_come_back_in_the_order_of_logging(tmp_path):
    logged(tmp_path, [1, 2, 5])
    assert points(tmp_path) == [(1, {"a": 0.5}), (2, {"a": 1.0}), (5, {"a": 2.5})]


def test_a_folder_without_a_log_has_no_rows(tmp_path):
    assert points(tmp_path / "new") == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
@settings(deadline=None, max_examples=25)
def test_no_step_of_a_key_is_logged_twice_by_however_many_attempts(tmp_path_factory, attempts):
    folder, last = tmp_path_factory.mktemp("run"), 0
    for reached in attempts:
        # Every attempt trains the last few steps again, as after a crash behind a checkpoint.
        last = max(last, reached)
        logged(folder, range(max(1, reached - 3), reached + 1))
    steps = [step for step, _ in points(folder)]
    assert len(steps) == len(set(steps))
    assert steps == sorted(steps)
    assert steps[-1] == last


def test_a_key_that_is_new_at_a_logged_step_is_logged(tmp_path):
    logged(tmp_path, [1, 2])
    logged(tmp_path, [2], b=7)
    assert points(tmp_path)[-1] == (2, {"b": 7.0})


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=25)
def test_a_torn_last_line_is_dropped_and_logged_again(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("torn")
    path = logged(folder, [1, 2, 3])
    content = path.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    path.write_bytes(content[: len(content) - max(1, int(share * len(last)))])
    logged(folder, [3, 4])
    assert points(folder) == [(step, {"a": step / 2}) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b'{"step": 2, "metr',
        b"\x00\x00\x00",
        b"\xff\xfe",
        b"5",
        b"{}",
        b'{"step": 2, "time": 0.0}',
    ],
)
def test_a_damaged_middle_line_is_a_user_error_that_names_file_and_line(tmp_path, damage):
    path = logged(tmp_path, [1, 2, 3])
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
    with pytest.raises(UserError, match=f"{path}:2: .*--fresh") as caught:
        RunFolder(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_that_are_not_finite_come_back(tmp_path):
    logged(tmp_path, [1], b=float("inf"), c=float("nan"))
    metrics = points(tmp_path)[0][1]
    assert metrics["b"] == float("inf")
    assert metrics["c"] != metrics["c"]


def test_every_line_is_one_json_object(tmp_path):
    for line in logged(tmp_path, [1, 2]).read_text().splitlines():
        assert json.loads(line).keys() == {"step", "time", "metrics"}


def test_picture_is_written_as_it_is_with_its_texts(tmp_path):
    picture = Image.effect_noise((300, 20), 50)
    picture.info["t"] = "0 0.5 1"
    RunFolder(tmp_path).log_image("ema0.99", picture, 40)
    written = Image.open(tmp_path / "samples" / "step000040-ema0.99.png")
    assert written.tobytes() == picture.tobytes()
    assert written.info == {"t": "0 0.5 1"}
