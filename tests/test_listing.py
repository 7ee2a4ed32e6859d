"""`jitlab list`, through the command line."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from jitlab import build, listing, speed
from jitlab.budget import run_budget
from jitlab.cli import main
from jitlab.config import load

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")
ROOT = Path(__file__).parents[1]
USER_ERROR = 2
RATE = speed.Speed(20e9, 64, 4)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(listing, "MEASUREMENT_SECONDS", 0.4)


@pytest.fixture
def unmeasured(monkeypatch):
    def fail(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(speed, "measure", fail)


def printed(capsys, *words: str) -> str:
    assert main(["list", *words]) == 0
    return str(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert main(["list", *words]) == USER_ERROR
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return str(said.err)


def test_a_question_is_listed_with_what_it_costs_and_what_was_measured(repository, quick, capsys):
    output = printed(capsys, "--scale", "tiny")
    question = load.load_question(repository, "noise_vs_x")
    told = run_budget(load.resolve(repository, question, "tiny", "x", []))
    words = " ".join(output.split())
    assert "arXiv:2511.13720, Table 2 (a), v-loss row" in words
    assert "3 arms at tiny: x, v, eps" in words
    assert f"{3 * 60 * 64:,}" in output
    assert listing._scaled(3 * told.training_flops) in output
    assert listing._scaled(3 * told.evaluation_flops) in output
    assert re.search(r"\d min$", output, re.MULTILINE)
    assert "The time is an estimate" in words
    assert re.search(rf"{re.escape(build.hardware())}: [\d.]+ [kMGTP]FLOP/s at tiny[ .]", words)


@pytest.mark.parametrize("words", [[], ["experiments"]])
def test_without_a_measurement_there_is_no_time(repository, unmeasured, capsys, words):
    output = printed(capsys, *words, "--scale", "tiny", "--no-measurement")
    assert f"{3 * 60 * 64:,}" in output
    assert "time" not in output
    assert "FLOP/s" not in output


def test_time_is_operations_over_the_scale_s_speed(repository, monkeypatch, capsys):
    question = load.load_question(repository, "noise_vs_x")
    total = sum(run_budget(load.resolve(repository, question, "tiny", arm, [])).flops for arm in question.arms)
    seconds = []

    def measure(config, share):
        seconds.append(share)
        return speed.Speed(total / (5 * 3600), 64, 2)

    monkeypatch.setattr(speed, "measure", measure)
    assert "5.0 h\n" in printed(capsys, "--scale", "tiny")
    assert seconds == [listing.MEASUREMENT_SECONDS]


@pytest.mark.parametrize(
    ("images", "blocks", "said"),
    [
        (64, 2, "5.00 GFLOP/s at tiny. "),
        (3, 2, "at tiny (with batches of 3). "),
        (1, 1, "at tiny (with batches of 1 and 1 of 2 blocks). "),
    ],
)
def test_what_was_measured_in_part_is_said(repository, monkeypatch, capsys, images, blocks, said):
    monkeypatch.setattr(speed, "measure", lambda *_: speed.Speed(5e9, images, blocks))
    assert said in " ".join(printed(capsys, "--scale", "tiny").split())


def test_a_question_that_does_not_fit_the_scale_says_why_and_the_others_are_listed(monkeypatch, capsys):
    monkeypatch.setenv("JITLAB_ROOT", str(ROOT))
    words = " ".join(printed(capsys, "--scale", "spiral", "--no-measurement").split())
    assert "does not fit this scale: experiments/bottleneck.yaml (arm width_8): model.bottleneck_dim = 8" in words
    assert "4,608,000" in words


@pytest.mark.parametrize("words", [["--scale", "tinny"], ["experiments", "--scale", "tinny", "--no-measurement"]])
def test_an_unknown_scale_is_refused(repository, unmeasured, capsys, words):
    assert "experiments/scales/tinny.yaml: no such scale; did you mean 'tiny'?" in refused(capsys, *words)


@pytest.mark.parametrize("words", [["models", "--scale", "tiny"], ["settings", "--no-measurement"]])
def test_what_other_lists_would_not_read_is_refused(repository, capsys, words):
    assert f"{words[1]}: belongs to jitlab list experiments" in refused(capsys, *words)


@pytest.mark.parametrize(("width", "scale"), [(80, None), (120, "digits")])
def test_every_fact_of_every_question_is_readable(monkeypatch, width, scale):
    monkeypatch.setenv("JITLAB_ROOT", str(ROOT))
    monkeypatch.setattr(speed, "measure", lambda *_: RATE)
    file = io.StringIO()
    monkeypatch.setattr(listing, "console", lambda: Console(file=file, width=width))
    listing.experiments(scale, True)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert "…" not in file.getvalue()
    assert max(map(len, lines)) <= width
    for name in load.question_names(ROOT):
        question = load.load_question(ROOT, name)
        begin = next(number for number, line in enumerate(lines) if line.startswith(f"{name} "))
        row = " ".join(" ".join(lines[begin : lines.index("", begin)]).split())
        facts = re.search(r" [\d,]+ [\d.]+ T [\d.]+ T [\d.]+ min", row)
        at = scale or question.scale
        told = f"{name} {question.question} {question.source} {len(question.arms)} arms at {at}: "
        told += ", ".join(question.arms)
        if facts is None:
            assert row.startswith(f"{told} does not fit this scale: ")
            assert (name, scale) == ("toy_manifold", "digits")
        else:
            assert row.replace(facts[0], "", 1) == told


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0.00 "), (7, "7.00 "), (999.4, "999 "), (999.6, "1.00 k"), (45.6e12, "45.6 T"), (1e30, "1,000,000 Y")],
)
def test_large_numbers_have_three_digits_and_a_prefix(value, written):
    assert listing._scaled(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (6, "0.1 min"),
        (90, "1.5 min"),
        (45 * 60, "45 min"),
        (2 * 3600, "2.0 h"),
        (71 * 3600, "71 h"),
        (3 * 86_400, "3.0 days"),
        (5000 * 365 * 86_400, "5,000 years"),
    ],
)
def test_times_have_the_unit_that_people_would_use(seconds, written):
    assert listing._duration(seconds) == written


def test_sizes_and_settings_are_listed(repository, monkeypatch, capsys):
    monkeypatch.setattr(listing, "published_names", lambda: ["jit_b_16"])
    assert re.search(r"jit_b_16 +256 px +[\d,]+ +[\d.]+ +131 +25", printed(capsys, "models"))
    assert re.search(r"train.batch_size +from the scale +\[1, inf\)", printed(capsys, "settings"))
