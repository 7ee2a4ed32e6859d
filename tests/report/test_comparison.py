"""`jitlab compare`, as it is typed, on small made-up runs and certificates."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jitlab.cli import main
from jitlab.report.certificate import Certificate, Searched, SearchedCell, write_certificate
from tests.report.conftest import entry, write_experiment, write_run

CELLS = (
    SearchedCell("ema0.9", 1.0, {"fid": 9.0}),
    SearchedCell("ema0.5", 1.0, {"fid": 8.0}),
    SearchedCell("ema0.9", 2.0, {"fid": 7.0}),
)
CERTIFICATE = Certificate(
    name="x",
    checkpoint={"file": "runs/a/x/last.ckpt", "sha256": "ab" * 32, "step": 600},
    metric="fid",
    weights="ema0.9",
    guidance_scale=2.0,
    values={
        "fid": (5.0, 5.2),
        "kid": (0.01, 0.012),
        "off_manifold": (0.003, 0.004),
        "seams": (1.1, 1.0),
        "class_structure": (0.9, 1.0),
        "precision": (0.7, 0.7),
    },
    search=Searched(1000, 1_000_000, False, CELLS),
    protocol={"solver": "heun", "steps": 25, "images": 5000, "seeds": [0, 1], "image_size": 32},
    warnings=(),
    versions={"torch": "2"},
    hardware="CPU",
)
WORSE = replace(
    CERTIFICATE,
    name="v",
    checkpoint={"file": "runs/a/v/last.ckpt", "sha256": "cd" * 32, "step": 600},
    values={**CERTIFICATE.values, "fid": (6.0, 6.1), "off_manifold": (0.6, 0.5)},
)
CONFIG = "data: {source: digits, image_size: 32}\nsampler: {steps: 25}\nevaluation: {images: 1000}\n"
HEALTHY = {"eval/fd_pixels": 0.07, "eval/off_manifold": 0.003, "eval/seams": 2.0, "eval/class_structure": 0.9}
NOISY = {"eval/fd_pixels": 1.3, "eval/off_manifold": 0.6, "eval/seams": 0.7, "eval/class_structure": 0.9}


def compare(capsys, *paths: Path) -> tuple[int, str, str]:
    code = main(["compare", *map(str, paths)])
    told = capsys.readouterr()
    return code, told.out, told.err


def told(capsys, *paths: Path) -> str:
    code, out, err = compare(capsys, *paths)
    assert (code, err) == (0, "")
    return out


def refused(capsys, *paths: Path) -> str:
    code, out, err = compare(capsys, *paths)
    assert (code, out) == (2, "")
    assert err.startswith("jitlab: ")
    assert err.count("\n") == 1
    return err


def arm(folder: Path, name: str, figures: dict[str, float], config: str = CONFIG, **status) -> Path:
    run = write_run(folder, name, [entry(600, **figures)], grid=False, **status)
    (run / "config.yaml").write_text(config)
    return run


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = write_experiment(tmp_path / "question-digits", arms=["x", "v"])
    arm(folder, "x", HEALTHY | {"eval/fd_pixels_ema0.5": 0.001})
    arm(folder, "v", NOISY)
    return folder


@pytest.fixture
def certified(experiment: Path) -> Path:
    for certificate in (CERTIFICATE, WORSE):
        write_certificate(experiment / certificate.name / "evaluation" / "evaluation.json", certificate)
    return experiment


def rows(out: str) -> list[list[str]]:
    """Return the cells of every row of every table, without heads."""
    lines = [line for line in out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_what_training_logged_is_ranked_with_a_verdict_on_each_arm(experiment, capsys):
    out = told(capsys, experiment)
    assert rows(out)[:2] == [["1", "x", "1", "0.070"], ["2", "v", "1", "1.300"]]
    assert "as logged in training" in out
    assert "x has the lowest fd_pixels, 0.070: 1.230 below v" in out
    assert "one seed each: --seeds 3" in out
    assert "\nx  healthy: " in out
    assert "\nv  noise left in the samples: 60% of" in out
    assert "warning" not in out
    assert "fd_pixels_ema" not in out


def test_one_run_gets_a_verdict_and_no_rival(experiment, capsys):
    out = told(capsys, experiment / "v")
    assert "\nv  noise left in the samples: " in out
    assert "lowest" not in out
    assert "x" not in [row[1] for row in rows(out)]


@pytest.mark.parametrize("again", [lambda folder: folder / "x", lambda folder: folder / "v" / ".." / "x"])
def test_what_is_named_twice_is_compared_once(experiment, capsys, again):
    assert told(capsys, experiment, again(experiment), experiment) == told(capsys, experiment)


def test_the_seeds_of_an_arm_are_one_line_and_the_worst_gives_the_verdict(tmp_path, capsys):
    folder = write_experiment(tmp_path / "seeds-digits", arms=["x", "y"], seeds=3)
    for seed, distance in enumerate((0.07, 0.08, 0.09)):
        end = f"-s{seed}" if seed else ""
        arm(folder, f"x{end}", HEALTHY | {"eval/fd_pixels": distance})
        arm(folder, f"y{end}", (NOISY if seed == 2 else HEALTHY) | {"eval/fd_pixels": distance + 0.005})
    out = told(capsys, folder)
    assert rows(out)[:2] == [["1", "x", "3", "0.080 ± 0.010"], ["1", "y", "3", "0.085 ± 0.010"]]
    assert "neither is better" in out
    assert "has the lowest" not in out
    assert "one seed" not in out
    assert "\nx  healthy" in out
    assert "\ny  noise left in the samples: 60%" in out


def test_a_seed_that_is_not_done_is_no_part_of_a_mean(tmp_path, capsys):
    folder = write_experiment(tmp_path / "seeds-digits", arms=["x"], seeds=3)
    arm(folder, "x", HEALTHY)
    arm(folder, "x-s1", HEALTHY | {"eval/fd_pixels": 0.09})
    arm(folder, "x-s2", NOISY, status="killed", step=200)
    out = told(capsys, folder)
    assert rows(out)[0] == ["1", "x", "2", "0.080 ± 0.014"]
    assert "\nx  healthy" in out
    assert "warning: x: seed 2 killed at step 200 of 600" in out


def test_of_seeds_that_are_all_on_the_way_the_furthest_are_told(tmp_path, capsys):
    folder = write_experiment(tmp_path / "seeds-digits", arms=["x"], seeds=3)
    for seed, (name, step) in enumerate({"x": 400, "x-s1": 400, "x-s2": 200}.items()):
        figures = HEALTHY | {"eval/fd_pixels": 0.1 * (seed + 1)}
        run = write_run(folder, name, [entry(step, **figures)], grid=False, status="killed", step=step)
        (run / "config.yaml").write_text(CONFIG)
    assert rows(told(capsys, folder))[0] == ["1", "x", "2", "0.150 ± 0.071"]


def test_runs_of_other_settings_stand_side_by_side_unranked(experiment, tmp_path, capsys):
    other = write_experiment(tmp_path / "other-digits")
    arm(other, "y", HEALTHY, config=CONFIG.replace("images: 1000", "images: 500"))
    out = told(capsys, experiment, other)
    assert [row[0] for row in rows(out)[:3]] == ["–"] * 3
    assert "not ranked: x and y have evaluation.images = 1000 and 500\n" in out
    assert "has the lowest" not in out
    assert "\ny  healthy" in out


def test_a_setting_that_came_later_is_what_older_runs_did(experiment, capsys):
    later = CONFIG.replace("images: 1000", "images: 1000, features: pixels").replace(
        "steps: 25", "steps: 25, times: []"
    )
    (experiment / "v" / "config.yaml").write_text(later)
    assert "x has the lowest fd_pixels" in told(capsys, experiment)


def test_arms_of_the_same_name_are_told_apart_by_their_experiment(experiment, tmp_path, capsys):
    other = write_experiment(tmp_path / "other-digits")
    arm(other, "x", HEALTHY | {"eval/fd_pixels": 0.05})
    names = [row[1] for row in rows(told(capsys, experiment, other))[:3]]
    assert names == ["other-digits/x", "question-digits/x", "v"]


def test_runs_that_are_not_done_are_told(experiment, capsys):
    arm(experiment, "v", NOISY, status="killed", step=200)
    write_run(experiment, "eps", [], grid=False, status="failed", step=3, reason="out of memory")
    out = told(capsys, experiment)
    assert "warning: v: killed at step 200 of 600" in out
    assert "warning: eps: failed at step 3 of 600: out of memory" in out
    assert ["–", "eps", "0", "–"] in rows(out)
    assert "\neps  no verdict" in out


def test_certificates_are_laid_side_by_side(certified, capsys):
    out = told(capsys, certified)
    assert rows(out)[:2] == [
        ["1", "x", "ema0.9", "2", "3 x 1,000", "9.000 (guided 7.000)", "5.100 ± 0.141"],
        ["2", "v", "ema0.9", "2", "3 x 1,000", "9.000 (guided 7.000)", "6.050 ± 0.071"],
    ]
    assert f"protocol {CERTIFICATE.protocol_hash[:8]}: images = 5000; seeds = 0, 1; solver = heun; steps = 25" in out
    assert "x has the lowest fid, 5.100 ± 0.141: 0.950 below v" in out
    assert "precision" in out
    assert "\nx  healthy" in out
    assert "\nv  noise left in the samples: 60%" in out
    assert "fd_pixels" not in out, "a figure of training is mixed with those of certificates"


@pytest.mark.parametrize("name", ["x", "x/evaluation", "x/evaluation/evaluation.json"])
def test_a_certificate_is_the_same_however_it_is_named(certified, capsys, name):
    assert told(capsys, certified / name, certified / "x") == told(capsys, certified / "x")


def test_a_certificate_lies_anywhere_and_needs_no_search(certified, tmp_path, capsys):
    write_certificate(tmp_path / "sent.json", replace(CERTIFICATE, search=None, warnings=("few images",)))
    out = told(capsys, tmp_path / "sent.json")
    assert rows(out)[0] == ["1", "x", "ema0.9", "2", "–", "–", "5.100 ± 0.141"]
    write_certificate(tmp_path / "unguided.json", replace(CERTIFICATE, guidance_scale=1.0))
    assert rows(told(capsys, tmp_path / "unguided.json"))[0][5] == "the same"
    assert "warning: x: few images\n" in out


def test_certificates_of_other_protocols_are_not_ranked(certified, capsys):
    path = certified / "v" / "evaluation" / "evaluation.json"
    write_certificate(path, replace(WORSE, protocol={**WORSE.protocol, "steps": 50, "images": 1000}))
    err = refused(capsys, certified)
    assert "steps = 50 and 25; images = 1000 and 5000" in err
    assert "evaluate one of them again, with --fresh and the other's sampler.steps, --final" in err
    write_certificate(path, replace(WORSE, protocol={**WORSE.protocol, "image_size": 64}))
    err = refused(capsys, certified)
    assert "image_size = 64 and 32" in err
    assert "different image_size cannot be ranked" in err
    assert "again" not in err


@pytest.mark.parametrize(("sha256", "why"), [("ab" * 32, "the same checkpoint"), ("ef" * 32, "a copy")])
def test_figures_that_agree_to_the_last_digit_are_warned_of(certified, capsys, sha256, why):
    twin = replace(CERTIFICATE, name="v", checkpoint={"sha256": sha256})
    write_certificate(certified / "v" / "evaluation" / "evaluation.json", twin)
    out = told(capsys, certified)
    assert "warning: v and x agree to the last digit: " in out
    assert why in out
    assert "neither is better" in out


def test_where_some_have_no_certificate_what_training_logged_is_compared(certified, capsys):
    shutil.rmtree(certified / "v" / "evaluation")
    out = told(capsys, certified)
    assert rows(out)[:2] == [["1", "x", "1", "0.070"], ["2", "v", "1", "1.300"]]
    assert f"warning: x: its certificate is left out: {certified / 'v'} has none; jitlab evaluate" in out
    assert "warning: v" not in out


def test_a_certificate_of_no_run_is_not_compared_with_a_run_without_one(experiment, tmp_path, capsys):
    write_certificate(tmp_path / "sent.json", CERTIFICATE)
    err = refused(capsys, experiment, tmp_path / "sent.json")
    assert f"{experiment / 'v'}, {experiment / 'x'}: no certificate, as {tmp_path / 'sent.json'} is" in err
    assert f"jitlab evaluate {experiment / 'v'} writes one" in err


def test_a_narrow_terminal_shows_names_and_figures_in_full(certified, capsys, monkeypatch):
    monkeypatch.setattr("jitlab.console.PLAIN_WIDTH", 60)
    out = told(capsys, certified)
    assert "…" not in out
    assert max(map(len, (line for line in out.splitlines() if line.startswith("│")))) <= 60


def test_what_is_no_run_is_refused(experiment, tmp_path, capsys):
    assert "no such file or folder" in refused(capsys, tmp_path / "none")
    assert "expected an experiment's folder" in refused(capsys, experiment, tmp_path / "none")
    assert f"such as {experiment}" in refused(capsys, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected an experiment's folder" in refused(capsys, empty)
    assert "none of its runs has started" in refused(capsys, write_experiment(tmp_path / "fresh-digits"))
    (experiment / "x" / "last.ckpt").write_bytes(b"PK\x03\x04")
    assert "is no certificate" in refused(capsys, experiment / "x" / "last.ckpt")


def test_damaged_files_are_refused_by_name(certified, capsys):
    path = certified / "v" / "evaluation" / "evaluation.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    assert f"{path}: damaged" in refused(capsys, certified)
    path.write_text(json.dumps({**json.loads(whole), "metric": "fd_pixels"}))
    assert f"{path}: damaged: no figure of its metric fd_pixels" in refused(capsys, certified)
    shutil.rmtree(certified / "v" / "evaluation")
    (certified / "v" / "status.json").write_text("{")
    assert "status.json: damaged" in refused(capsys, certified / "v")


@pytest.mark.parametrize("config", ["- 1", "data: [", "data: 3"])
def test_settings_that_cannot_be_read_are_refused(experiment, capsys, config):
    (experiment / "x" / "config.yaml").write_text(config)
    assert f"{experiment / 'x' / 'config.yaml'}: damaged" in refused(capsys, experiment)


def test_a_run_without_settings_is_refused(experiment, capsys):
    (experiment / "x" / "config.yaml").unlink()
    assert f"{experiment / 'x' / 'config.yaml'}: no such file" in refused(capsys, experiment)


@pytest.mark.parametrize("change", [{"status": []}, {"step": "b"}, {"arm": 3}, {"seed": "x"}, {"seconds": {}}])
def test_a_status_of_other_kinds_is_refused(experiment, capsys, change):
    path = experiment / "x" / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert f"{path}: damaged: {next(iter(change))} = " in refused(capsys, experiment)


def test_names_are_shown_as_they_are(certified, capsys):
    odd = replace(WORSE, name="[red]v[/red]", values={**WORSE.values, "[b]kid": (), "seams": ()})
    write_certificate(certified / "v" / "evaluation" / "evaluation.json", odd)
    out = told(capsys, certified)
    assert "[red]v[/red]" in [row[1] for row in rows(out)]
    assert "[b]kid" in out


def test_comparing_is_quick_as_it_imports_nothing_heavy(experiment):
    code = (
        "import sys, jitlab.cli; jitlab.cli.main(['compare', sys.argv[1]]); print({'torch', 'numpy'} & {*sys.modules})"
    )
    words = [sys.executable, "-c", code, str(experiment)]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "set()"


def test_nothing_to_compare_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare"])
    assert caught.value.code == 2
    assert "PATH" in capsys.readouterr().err
