"""What an experiment refuses, keeps and repairs; through the command line, in this process."""

import json

import pytest
import yaml
from mlflow import MlflowClient

from jitlab.cli import main

TWO_STEPS = ["train.steps=2", "evaluation.images=10", "evaluation.grid_images=8", "sampler.steps=1"]
USER_ERROR = 2
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def run(*words: str) -> int:
    return main(["run", "noise_vs_x", "--scale", "tiny", *TWO_STEPS, *words])


def test_a_run_that_never_trained_does_not_hold_on_to_its_settings(repository, capsys):
    assert run("--arms", "x", "evaluation.held_out_images=500") == USER_ERROR
    assert "use at most that" in capsys.readouterr().err
    assert run("--arms", "x") == 0


def mistake(capsys, *words: str) -> str:
    """Run a command that is the user's mistake; return the one line that it prints."""
    assert main(list(words)) == USER_ERROR
    line = str(capsys.readouterr().err)
    assert line.count("\n") == 1
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["noise_vs_y"], "experiments/noise_vs_y.yaml: no such experiment; did you mean 'noise_vs_x'?"),
        (["noise_vs_x", "--scale", "tinny"], "experiments/scales/tinny.yaml: no such scale; did you mean 'tiny'?"),
        (["noise_vs_x", "--scale", "tiny", "--arms", "x,epsilon"], "arms.epsilon: no such arm; did you mean 'eps'?"),
        (["noise_vs_x", "--scale", "tiny", "train.stepz=3"], "did you mean 'train.steps'?"),
        (
            ["noise_vs_x", "--scale", "tiny", "model.patch_size=5"],
            "command line: model.patch_size = 5: does not divide",
        ),
        (["noise_vs_x", "--scale", "tiny", "train.batch_size=0"], "command line: train.batch_size = 0: expected"),
        (["noise_vs_x", "--scale", "tiny", "train.batch_size=5000"], "use at most 1600"),
        (["noise_vs_x", "--scale", "tiny", "evaluation.held_out_images=500"], "use at most"),
    ],
)
def test_a_mistake_is_told_on_one_line(repository, capsys, words, expected):
    assert expected in mistake(capsys, "run", *words)


def test_an_unusable_folder_is_told_on_one_line(repository, capsys):
    line = mistake(capsys, "data", "build", "digits", "--image-size", "16", "--out", "/proc/nope")
    assert "/proc/nope" in line


def test_a_missing_and_a_damaged_shard_are_named_with_the_command_that_builds_them(repository, capsys):
    assert main(["data", "build", "digits", "--image-size", "16", "--out", str(repository / "data/digits16")]) == 0
    shard = repository / "data" / "digits16" / "train-00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    for _ in range(2):
        line = mistake(capsys, "run", "noise_vs_x", "--scale", "tiny")
        assert "train-00001.tar" in line
        assert "jitlab data build digits --image-size 16" in line
        shard.unlink(missing_ok=True)


def test_one_table_never_mixes_configurations(repository, capsys):
    assert run("--arms", "x") == 0
    capsys.readouterr()
    line = mistake(capsys, "run", "noise_vs_x", "--scale", "tiny", *TWO_STEPS, "--arms", "v", "train.learning_rate=1")
    assert "noise_vs_x-tiny/x/config.yaml: train.learning_rate = 0.002" in line
    assert "--fresh" in line
    assert "train.learning_rate" in mistake(
        capsys, "run", "noise_vs_x", "--scale", "tiny", *TWO_STEPS, "--arms", "v", "--fresh", "train.learning_rate=1"
    )
    assert run("--arms", "x", "--name", "other") == 0
    report = repository / "runs" / "noise_vs_x-tiny-other" / "report.html"
    assert "make experiment EXP=noise_vs_x SCALE=tiny ARGS=" in report.read_text()


def test_mlflow_is_told_of_what_a_kill_cut_off(repository):
    assert run("--arms", "x") == 0
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    folder = repository / "runs" / "noise_vs_x-tiny" / "x"
    run_id = json.loads((folder / "status.json").read_text())["mlflow_run_id"]
    experiment = client.get_run(run_id).info.experiment_id
    client.update_run(run_id, status="RUNNING")
    orphan = client.create_run(experiment, run_name="x", tags={"jitlab.folder": str(folder)})
    assert run("--arms", "x") == 0
    assert {r.info.run_id: r.info.status for r in client.search_runs([experiment])} == {run_id: "FINISHED"}
    assert client.get_run(orphan.info.run_id).info.lifecycle_stage == "deleted"


def test_fresh_starts_a_damaged_run_over(repository, capsys):
    assert run("--arms", "x") == 0
    status = repository / "runs" / "noise_vs_x-tiny" / "x" / "status.json"
    status.write_text("{")
    capsys.readouterr()
    assert "--fresh" in mistake(capsys, "run", "noise_vs_x", "--scale", "tiny", *TWO_STEPS, "--arms", "x")
    assert run("--arms", "x", "--fresh") == 0
    assert json.loads(status.read_text())["status"] == "complete"


def test_shards_that_changed_under_a_run_are_refused(repository, capsys):
    assert run("--arms", "x") == 0
    index = repository / "data" / "digits16" / "index.json"
    status = repository / "runs" / "noise_vs_x-tiny" / "x" / "status.json"
    status.write_text(status.read_text().replace(json.loads(index.read_text())["fingerprint"], "0" * 64))
    capsys.readouterr()
    line = mistake(capsys, "run", "noise_vs_x", "--scale", "tiny", *TWO_STEPS, "--arms", "x")
    assert "the data are not those of run x" in line


def test_a_server_that_cannot_be_reached_is_told_before_anything_is_built(repository, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "MLFLOW_TRACKING_URI = http://127.0.0.1:9" in mistake(capsys, "run", "noise_vs_x", "--scale", "tiny")
    assert not (repository / "data").exists()


def test_the_models_are_listed_with_their_cost_and_the_paper_s(repository, capsys, monkeypatch):
    monkeypatch.setattr("jitlab.models.jit.published_names", lambda: ["jit_b_16", "jit_b_4"])
    assert main(["list", "models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["jit_b_16", "256", "px", "131,123,712", "50.4", "131", "25"] in lines
    assert ["jit_b_4", "64", "px", "130,477,872", "50.1"] in lines


def test_published_figures_stand_beside_runs_of_their_own_settings_alone(repository):
    question = (repository / "experiments" / "noise_vs_x.yaml").read_text()
    (repository / "experiments" / "noise_vs_x.yaml").write_text(question.replace("{imagenet256: pred", "{short: pred"))
    tiny = yaml.safe_load((repository / "experiments" / "scales" / "tiny.yaml").read_text())
    tiny["train"]["steps"], tiny["evaluation"]["images"] = 2, 10
    (repository / "experiments" / "scales" / "short.yaml").write_text(yaml.safe_dump(tiny))
    for words, at_scale in (["evaluation.batch_size=5"], True), (["train.batch_size=32", "--name", "other"], False):
        assert main(["run", "noise_vs_x", "--scale", "short", "--arms", "x", *words]) == 0
        name = "noise_vs_x-short" + ("" if at_scale else "-other")
        facts = json.loads((repository / "runs" / name / "experiment.json").read_text())
        assert (facts["published"] is not None) == at_scale
        assert ("short" in facts["published_elsewhere"]) != at_scale
