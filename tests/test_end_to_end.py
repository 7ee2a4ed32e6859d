"""The real commands on a tiny scale: from nothing to a report, through kills, interrupts and failures."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import make_repository

INTERRUPTED = 130


def command(root: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "JITLAB_ROOT": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "jitlab.cli", *words],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def run(root: Path, *words: str) -> tuple[int, str]:
    return finish(command(root, "run", "noise_vs_x", "--scale", "tiny", *words))


def wait_for_step(folder: Path, step: int) -> None:
    log = folder / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if log.exists() and any(f'"step": {step},' in line for line in log.read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError(f"{log} never got to step {step}")


def metrics(folder: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [
        ((key, row["step"]), value)
        for row in rows
        for key, value in row["metrics"].items()
        if not key.startswith("throughput/")
    ]
    assert len(points) == len(dict(points)), "a point was logged twice"
    return dict(points)


def assert_equal_tensors(ours: object, theirs: object) -> None:
    if isinstance(ours, torch.Tensor):
        assert isinstance(theirs, torch.Tensor)
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert isinstance(theirs, dict)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_equal_tensors(value, theirs[key])


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    for key in ("state_dict", "ema"):
        checkpoints = [torch.load(folder / "last.ckpt", weights_only=True)[key] for folder in (ours, theirs)]
        assert_equal_tensors(*checkpoints)
    assert metrics(ours) == metrics(theirs)


def mlflow_runs(root: Path, name: str = "noise_vs_x-tiny"):
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    return client, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """All arms, run once from nothing."""
    root = make_repository(tmp_path_factory.mktemp("undisturbed"))
    code, output = run(root)
    assert code == 0, output
    return root, output


def test_an_experiment_ends_with_table_report_and_link(undisturbed):
    root, output = undisturbed
    folder = root / "runs" / "noise_vs_x-tiny"
    summary = json.loads((folder / "summary.json").read_text())
    assert [(r["arm"], r["status"]) for r in summary["runs"]] == [(arm, "complete") for arm in ("x", "v", "eps")]
    assert all(
        {"eval/fd_pixels", "eval/off_manifold", "val/v_mse_t0.1"} <= r["metrics"].keys() for r in summary["runs"]
    )
    assert (folder / "report.html").exists()
    assert "eval/fd_pixels" in output
    assert "compareRunsMode=CHART" in output


def test_arms_log_the_same_keys_at_the_same_steps(undisturbed):
    folder = undisturbed[0] / "runs" / "noise_vs_x-tiny"
    x, v, eps = ({*metrics(folder / arm)} for arm in ("x", "v", "eps"))
    assert x == v == eps
    assert ("train/loss", 60) in x
    assert ("eval/fd_pixels_ema0.5", 30) in x


def test_mlflow_holds_flat_runs_with_the_varied_setting_as_only_parameter(undisturbed):
    root, _ = undisturbed
    client, runs = mlflow_runs(root)
    assert {name: run.data.params for name, run in runs.items()} == {
        arm: {"objective.prediction": arm} for arm in ("x", "v", "eps")
    }
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len({run.data.tags["mlflow.runColor"] for run in runs.values()}) == len(runs)
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs.values())
    for name, mirrored in runs.items():
        history = {
            (key, point.step): point.value
            for key in mirrored.data.metrics
            if not key.startswith("throughput/")
            for point in client.get_metric_history(mirrored.info.run_id, key)
        }
        assert history == metrics(root / "runs" / "noise_vs_x-tiny" / name)


def test_a_complete_experiment_is_not_run_again(undisturbed):
    root, _ = undisturbed
    checkpoints = [root / "runs" / "noise_vs_x-tiny" / arm / "last.ckpt" for arm in ("x", "v", "eps")]
    before = [path.stat().st_mtime_ns for path in checkpoints]
    code, output = run(root)
    assert code == 0
    assert output.count(": complete, 60 steps") == len(before)
    assert [path.stat().st_mtime_ns for path in checkpoints] == before


def test_a_killed_and_an_interrupted_run_end_bit_equal_to_an_undisturbed_one(undisturbed, tmp_path):
    root = make_repository(tmp_path)
    folder = root / "runs" / "noise_vs_x-tiny"
    killed = command(root, "run", "noise_vs_x", "--scale", "tiny", "--arms", "x,v")
    wait_for_step(folder / "x", 20)
    killed.kill()
    killed.communicate()
    assert mlflow_runs(root)[1]["x"].info.status == "RUNNING"

    terminated = command(root, "run", "noise_vs_x", "--scale", "tiny", "--arms", "x,v")
    wait_for_step(folder / "x", 50)
    terminated.send_signal(signal.SIGTERM)
    code, output = finish(terminated)
    assert code == INTERRUPTED, output
    assert "x was killed the last time" in output
    assert "Traceback" not in output

    interrupted = command(root, "run", "noise_vs_x", "--scale", "tiny", "--arms", "x,v")
    wait_for_step(folder / "v", 40)
    interrupted.send_signal(signal.SIGINT)
    code, output = finish(interrupted)
    assert code == INTERRUPTED, output
    assert "Traceback" not in output
    assert mlflow_runs(root)[1]["v"].info.status == "KILLED"
    assert json.loads((folder / "v" / "status.json").read_text())["status"] == "killed"

    code, output = run(root, "--arms", "x,v")
    assert code == 0, output
    for arm in ("x", "v"):
        assert_equal_runs(folder / arm, undisturbed[0] / "runs" / "noise_vs_x-tiny" / arm)
    assert {run.info.status for run in mlflow_runs(root)[1].values()} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_any_moment_end_bit_equal(undisturbed, tmp_path):
    root = make_repository(tmp_path)
    moments = random.Random(0)
    for _ in range(40):
        process = command(root, "run", "noise_vs_x", "--scale", "tiny", "--arms", "x")
        try:
            process.communicate(timeout=moments.uniform(0.5, 14))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    code, output = run(root, "--arms", "x")
    assert code == 0, output
    ours = root / "runs" / "noise_vs_x-tiny" / "x"
    assert_equal_runs(ours, undisturbed[0] / "runs" / "noise_vs_x-tiny" / "x")


def test_a_non_finite_loss_fails_its_arm_alone_and_keeps_the_last_good_checkpoint(tmp_path):
    root = make_repository(tmp_path)
    (root / "experiments" / "noise_vs_x.yaml").write_text(
        "question: What if it explodes?\nsource: none\nscale: tiny\n"
        "arms:\n  wild: {train: {learning_rate: 1.0e+30, warmup_steps: 1}}\n  x: {objective: {prediction: x}}\n"
    )
    code, output = run(root, "train.steps=14", "train.checkpoint_every_steps=1")
    assert code == 1
    assert "Traceback" not in output
    line = next(line for line in output.splitlines() if line.startswith("failed"))
    assert "wild" in line
    assert "non-finite loss or gradient at step" in line
    folder = root / "runs" / "noise_vs_x-tiny"
    good = torch.load(folder / "wild" / "last.ckpt", weights_only=True)
    assert f"at step {good['global_step'] + 1};" in line
    _, runs = mlflow_runs(root)
    assert {name: run.info.status for name, run in runs.items()} == {"wild": "FAILED", "x": "FINISHED"}
    summary = json.loads((folder / "summary.json").read_text())
    assert {r["arm"]: r["status"] for r in summary["runs"]} == {"wild": "failed", "x": "complete"}
    assert "non-finite loss" in (folder / "report.html").read_text()


def test_help_imports_nothing_heavy():
    code = "import sys, jitlab.cli; jitlab.cli._parser().format_help(); print([m for m in sys.modules if m in %r])"
    heavy = ("torch", "lightning", "mlflow", "omegaconf", "rich", "numpy")
    output = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
