"""The real commands on two devices, here two processes: the same runs as on one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jitlab import build, cli
from jitlab.callbacks.ledger import ledger_entry
from jitlab.config.schema import Config, Evaluation, Train
from jitlab.errors import UserError
from tests.conftest import make_repository
from tests.test_end_to_end import INTERRUPTED, command, finish, metrics, mlflow_runs, run, wait_for_step

# Every run here starts processes that import everything anew, which a busy machine does slowly.
pytestmark = pytest.mark.timeout(900)
SHORT = (
    *("train.steps=20", "train.log_every_steps=5", "evaluation.every_steps=10", "evaluation.grid_every_steps=10"),
    *("data.ledger=true", "data.flip=true"),
)
QUESTION = """
question: What if one of two explodes?
source: none
scale: tiny
arms:
  wild: {train: {learning_rate: 1.0e+30, warmup_steps: 1}}
  x: {objective: {prediction: x}}
"""


def repository(root: Path) -> Path:
    make_repository(root)
    (root / "experiments" / "noise_vs_x.yaml").write_text(QUESTION)
    return root


def runs(root: Path) -> Path:
    return root / "runs" / "noise_vs_x-tiny"


def assert_close_runs(ours: Path, theirs: Path) -> None:
    """The same batches, points and pictures; numbers and weights to the rounding of sums in another order."""
    batches = [ledger_entry(ours, step) for step in range(1, 21)]
    assert None not in batches
    assert batches == [ledger_entry(theirs, step) for step in range(1, 21)]
    first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (ours, theirs))
    for tensors, expected in (
        (first["state_dict"], second["state_dict"]),
        *((first["ema"][decay], second["ema"][decay]) for decay in second["ema"]),
    ):
        for name, tensor in expected.items():
            torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-5)
    assert metrics(ours) == pytest.approx(metrics(theirs), rel=1e-3, abs=1e-6)
    assert [p.name for p in sorted((ours / "samples").iterdir())] == [
        p.name for p in sorted((theirs / "samples").iterdir())
    ]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes outlived the one that started them"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    root = repository(tmp_path_factory.mktemp("one"))
    code, output = run(root, *SHORT)
    assert code == 1, output
    return root, output


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = repository(tmp_path_factory.mktemp("two"))
    code, output = run(root, *SHORT, "train.devices=2", "train.device_batch_size=16")
    assert code == 1, output
    return root, output


def test_two_devices_give_what_one_gives(one, two):
    columns = {"eval/fd_pixels", "eval/off_manifold", "eval/seams", "eval/class_structure_ema0.5"}
    assert {(key, 20) for key in columns} <= metrics(runs(one[0]) / "x").keys()
    assert_close_runs(runs(two[0]) / "x", runs(one[0]) / "x")


def test_the_terminal_shows_a_run_once_and_the_same_failure(one, two):
    def told(output: str) -> list[str]:
        # Without rates, times and folders.
        return [" ".join(line.split()[:3]) for line in output.splitlines() if line.startswith(("x", "wild", "failed"))]

    assert told(two[1]) == told(one[1])
    assert "Traceback" not in two[1]
    failed = [next(line for line in output.splitlines() if line.startswith("failed")) for _, output in (one, two)]
    assert failed[0] == failed[1]


def test_there_is_one_folder_and_one_mlflow_run_of_each_arm(two):
    root, _ = two
    client, found = mlflow_runs(root)
    assert {name: run.info.status for name, run in found.items()} == {"wild": "FAILED", "x": "FINISHED"}
    assert sorted(path.name for path in runs(root).iterdir() if path.is_dir()) == ["wild", "x"]
    status = json.loads((runs(root) / "x" / "status.json").read_text())
    assert (status["status"], status["step"]) == ("complete", 20)
    assert status["hardware"].startswith("2 x CPU")
    assert status["parameters"] > 0
    mirrored = found["x"]
    history = {
        (key, point.step): point.value
        for key in mirrored.data.metrics
        if not key.startswith("throughput/")
        for point in client.get_metric_history(mirrored.info.run_id, key)
    }
    assert history == metrics(runs(root) / "x")


def test_stopped_on_two_devices_a_run_goes_on_with_one(one, tmp_path):
    root = repository(tmp_path)
    stopped = command(root, "run", "noise_vs_x", "--scale", "tiny", "--arms", "x", *SHORT, "train.devices=2")
    wait_for_step(runs(root) / "x", 15)
    workers = children(stopped.pid)
    assert len(workers) >= 2
    stopped.send_signal(signal.SIGTERM)
    code, output = finish(stopped)
    assert code == INTERRUPTED, output
    assert "Traceback" not in output
    assert "the same command goes on from there" in output
    wait_until_gone(workers)
    status = json.loads((runs(root) / "x" / "status.json").read_text())
    assert status["status"] == "killed"
    assert torch.load(runs(root) / "x" / "last.ckpt", weights_only=True)["global_step"] == status["step"] >= 15
    assert mlflow_runs(root)[1]["x"].info.status == "KILLED"

    code, output = run(root, "--arms", "x", *SHORT)
    assert code == 0, output
    assert_close_runs(runs(root) / "x", runs(one[0]) / "x")
    assert [run.info.status for run in mlflow_runs(root)[1].values()] == ["FINISHED"]


@pytest.mark.slow
def test_a_killed_command_takes_its_processes_along_and_the_run_goes_on(one, tmp_path):
    root = repository(tmp_path)
    words = ("run", "noise_vs_x", "--scale", "tiny", "--arms", "x", *SHORT, "train.devices=2")
    killed = command(root, *words)
    wait_for_step(runs(root) / "x", 5)
    workers = children(killed.pid)
    killed.kill()
    killed.communicate()
    wait_until_gone(workers)
    code, output = finish(command(root, *words))
    assert code == 0, output
    assert_close_runs(runs(root) / "x", runs(one[0]) / "x")


@pytest.mark.slow
def test_torchrun_does_the_same(one, tmp_path):
    root = repository(tmp_path)
    environment = {**os.environ, "JITLAB_ROOT": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    words = ["run", "noise_vs_x", "--scale", "tiny", "--arms", "x", *SHORT]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "jitlab.cli", *words], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x  step 20/20") == 1
    assert "2 x CPU" in (runs(root) / "x" / "status.json").read_text()
    assert_close_runs(runs(root) / "x", runs(one[0]) / "x")


def config(batch_size: int, devices: int, device_batch_size: int = 0) -> Config:
    train = Train(steps=1, batch_size=batch_size, devices=devices, device_batch_size=device_batch_size)
    return Config(train=train, evaluation=Evaluation(images=1000))


@pytest.mark.parametrize(("gpus", "has"), [(6, "6 GPUs"), (0, "6 CPU cores and no GPU")])
def test_more_devices_than_the_machine_has_are_refused_with_a_number_that_works(monkeypatch, gpus, has):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    build.check_machine(config(1024, 4, 128))
    with pytest.raises(UserError, match=f"^train.devices = 8: this machine has {has}; use train.devices=4,") as caught:
        build.check_machine(config(1024, 8, 128))
    assert len(str(caught.value).splitlines()) == 1


def test_a_complete_run_is_shown_on_a_machine_of_fewer_devices(one, monkeypatch, capsys):
    monkeypatch.setenv("JITLAB_ROOT", str(one[0]))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    words = ["run", "noise_vs_x", *SHORT, "train.devices=16"]
    assert cli.main([*words, "--arms", "x"]) == 0
    assert "x: complete, 20 steps" in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "train.devices = 16: this machine has 8 CPU cores" in capsys.readouterr().err


def test_processes_of_torchrun_other_than_the_first_leave_everything_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("JITLAB_ROOT", str(make_repository(tmp_path)))
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["run", "noise_vs_x", "--scale", "tiny"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
