"""Batches drawn again, and runs that go on with other batches, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from jitlab import cli
from jitlab.callbacks.ledger import ledger_entry
from jitlab.callbacks.training_log import TrainingLog
from jitlab.config import load

USER_ERROR = 2
SHORT = ("train.steps=12", "train.checkpoint_every_steps=6", "evaluation.every_steps=100")
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def run(*words):
    return cli.main(["run", "noise_vs_x", "--scale", "tiny", "--arms", "x", *SHORT, *words])


@pytest.fixture
def folder(repository):
    return repository / "runs" / "noise_vs_x-tiny" / "x"


def show(folder, step, *words):
    return cli.main(["data", "show", "--run", str(folder), "--step", str(step), *words])


def keys(output):
    return [line.split()[1] for line in output.splitlines()[:-1]]


def test_a_batch_is_drawn_from_the_ledger_and_found_again_without_it(folder, capsys):
    assert run("data.ledger=true", "data.flip=true") == 0
    capsys.readouterr()
    assert show(folder, 11) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == f"{folder}/batch000011.png: 64 images of step 11, epoch 0, from the ledger"
    assert ledger_entry(folder, 11) == (0, keys(told))
    first = np.asarray(Image.open(folder / "batch000011.png"))
    assert first.shape == (8 * 16, 8 * 16, 3)
    (folder / "ledger-0.jsonl").unlink()
    out = folder.parent / "again.png"
    assert show(folder, 11, "--out", str(out)) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[-1].endswith("found again from the seed")
    assert again.splitlines()[:-1] == told.splitlines()[:-1]
    np.testing.assert_array_equal(np.asarray(Image.open(out)), first)


@pytest.mark.parametrize("step", [0, 13, -1])
def test_a_step_that_the_run_has_not_is_refused(folder, capsys, step):
    assert run() == 0
    assert show(folder, step) == USER_ERROR
    assert capsys.readouterr().err == f"jitlab: --step {step}: {folder} has steps 1 to 12\n"


def test_what_is_no_run_is_refused(repository, capsys):
    assert show(repository, 1) == USER_ERROR
    assert "name the folder of a run, such as runs/noise_vs_x-digits/x" in capsys.readouterr().err


def test_a_ledger_of_other_data_is_refused(folder, capsys):
    assert run() == 0
    (folder / "ledger-0.jsonl").write_text(json.dumps({"step": 1, "epoch": 0, "keys": ["elsewhere"]}) + "\n")
    assert show(folder, 1) == USER_ERROR
    assert "the ledger has sample elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [32, 128])
def test_a_run_goes_on_with_other_batches_where_that_is_allowed(folder, capsys, monkeypatch, batch_size):
    # Cut off in the middle of the first epoch of 25 batches, after the checkpoint of step 6.
    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 9:
            raise RuntimeError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLog, "on_train_batch_end", killed)
        assert run("data.ledger=true", "train.steps=40") == 1
    words = ["data.ledger=true", "train.steps=40", f"train.batch_size={batch_size}"]
    assert run(*words) == USER_ERROR
    told = capsys.readouterr().err
    assert "train.batch_size = 64: the run has this value" in told
    assert "--allow-batch-change goes on with it, --fresh starts over" in told
    assert run(*words, "--allow-batch-change") == 0
    seen = [entry for step in range(1, 41) if (entry := ledger_entry(folder, step))]
    assert [len(entry[1]) for entry in seen] == [64] * 6 + [batch_size] * 34
    first = [key for epoch, batch in seen if epoch == 0 for key in batch]
    assert len(set(first)) == len(first)
    assert len(first) > 1600 - batch_size or batch_size * 34 + 6 * 64 < 1600
    rows = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("train/images", 0) for row in rows) == 6 * 64 + 34 * batch_size
    assert load.from_yaml(folder / "config.yaml").train.batch_size == batch_size
    # Without the flag it is now a run like any other.
    assert run(*words) == 0
