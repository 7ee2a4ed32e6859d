"""Runs that start from a checkpoint: an imported one, or another run's."""

import json

import pytest
import torch
from mlflow import MlflowClient

from jitlab import build, cli
from jitlab.config import load
from tests.test_checkpoint_files import official_content, refusal, save

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")
SHORT = ("evaluation.images=10", "evaluation.grid_images=8", "sampler.steps=1", "train.log_every_steps=1")
IMPORTED_STEP = 3


def command(*words):
    return ["run", "noise_vs_x", "--scale", "tiny", *SHORT, *map(str, words)]


def run(*words):
    assert cli.main(command(*words)) == 0


def imported(root, *words):
    config = load.resolve(root, load.load_question(root, "noise_vs_x"), "tiny", "x", [])
    content = official_content(build.build_network(config).state_dict())
    out = root / "imported.ckpt"
    source = save(content, root / "official.pth")
    options = ("--scale", "tiny", "--in-context-start", "1", "--ema-decays", "0.9,0.5", *words)
    assert cli.main(["checkpoint", "import", str(source), "--out", str(out), *options]) == 0
    return content, out


def loaded(root, run="x"):
    return torch.load(root / "runs" / "noise_vs_x-tiny" / run / "last.ckpt", weights_only=True)


def test_a_run_starts_from_an_imported_checkpoint_and_trains_on(repository, capsys):
    content, start = imported(repository)
    run("--arms", "x", "--from", start, "train.steps=6")
    said, folder = capsys.readouterr().out, repository / "runs" / "noise_vs_x-tiny" / "x"
    assert f"x: starts from {start} at step {IMPORTED_STEP}" in said
    steps = {json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert steps == {4, 5, 6}
    saved = loaded(repository)
    assert saved["global_step"] == 6
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {6}
    # The run's own rate, not that of the official file.
    assert {group["lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {2e-3}
    name, most = "final_layer.linear.weight", 3 * 2e-3  # what three steps of AdamW move a weight by
    first, moved = content["model"][f"net.{name}"], saved["state_dict"][f"network.{name}"]
    assert 0 < (moved - first).abs().max() < 2 * most
    for decay, key in ((0.9, "model_ema1"), (0.5, "model_ema2")):
        expected = decay**3 * content[key][f"net.{name}"] + (1 - decay**3) * first
        assert 0 < (saved["ema"][str(decay)][name] - expected).abs().max() < 2 * most
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    (mirrored,) = client.search_runs([client.get_experiment_by_name("noise_vs_x-tiny").experiment_id])
    assert mirrored.data.tags["jitlab.start"] == f"{start} at step {IMPORTED_STEP}"
    assert f"--from {start}" in mirrored.data.tags["mlflow.source.name"]
    assert [point.step for point in client.get_metric_history(mirrored.info.run_id, "train/loss")] == [4, 5, 6]
    record = json.loads((folder / "status.json").read_text())
    assert (record["status"], record["step"], record["steps"]) == ("complete", 6, 6)


def test_a_run_with_a_checkpoint_goes_on_from_its_own(repository, capsys):
    _, start = imported(repository)
    run("--arms", "x", "train.steps=2")
    before = loaded(repository)["state_dict"]
    capsys.readouterr()
    run("--arms", "x", "--from", start, "train.steps=2")
    assert "x: has a checkpoint of its own, and goes on from that" in capsys.readouterr().out
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded(repository)["state_dict"].items())
    run("--arms", "x", "--from", start, "train.steps=4", "--fresh")
    assert loaded(repository)["global_step"] == 4
    assert (repository / "runs" / "noise_vs_x-tiny" / "x" / "start.json").exists()


def test_a_run_starts_from_another_run_where_that_would_have_gone_on(repository):
    run("--arms", "x", "train.steps=5")
    first = repository / "runs" / "noise_vs_x-tiny" / "x" / "last.ckpt"
    run("--arms", "x", "--name", "on", "--from", first, "train.steps=8")
    run("--arms", "x", "--name", "whole", "train.steps=8")
    on, whole = (
        torch.load(repository / "runs" / f"noise_vs_x-tiny-{name}" / "x" / "last.ckpt", weights_only=True)
        for name in ("on", "whole")
    )
    assert on["global_step"] == whole["global_step"] == 8
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(on["state_dict"][name], tensor)
    for decay, average in whole["ema"].items():
        assert all(torch.equal(on["ema"][decay][name], tensor) for name, tensor in average.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "x", "model.depth=3"], "model.depth = 2: run x has 3; add model.depth=2"),
        (["--arms", "x", "train.ema_decays=[0.9]"], "train.ema_decays = (0.9, 0.5): run x has (0.9,); add train.ema_"),
        (["--arms", "x,v"], "objective.prediction = x: run v has v; add objective.prediction=x, or leave the run out"),
        (["--arms", "x", "train.steps=3"], "is at step 3: run x ends at train.steps = 3; use more"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_any_starts(repository, capsys, words, said):
    _, start = imported(repository)
    capsys.readouterr()
    line = refusal(capsys, *command("--from", start, *words))
    assert f"--from {start}: {said}" in line
    assert not list((repository / "runs").glob("*/*/config.yaml"))
