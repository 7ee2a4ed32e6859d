"""The toy experiment through the command line: the same verbs, callbacks and report on points instead of images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jitlab.cli import main
from jitlab.config import load

ROOT = Path(__file__).parents[1]
TINY = """
data: {source: spiral}
model: {architecture: mlp, hidden_size: 16, depth: 3}
sampler: {steps: 3}
train: {steps: 12, batch_size: 8192, learning_rate: 2.0e-3, warmup_steps: 2, ema_decays: [0.5],
        log_every_steps: 4, checkpoint_every_steps: 4}
evaluation: {every_steps: 6, images: 40, batch_size: 16, held_out_every_steps: 6, held_out_images: 16,
             grid_every_steps: 6, grid_images: 32}
"""
USER_ERROR = 2
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


@pytest.fixture
def spiral(repository):
    (repository / "experiments" / "toy_manifold.yaml").write_bytes(
        (ROOT / "experiments" / "toy_manifold.yaml").read_bytes()
    )
    (repository / "experiments" / "scales" / "spiral.yaml").write_text(TINY)
    return repository


def points(folder: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        (key, row["step"]): value
        for row in rows
        for key, value in row["metrics"].items()
        if not key.startswith("throughput/")
    }


def test_an_experiment_ends_with_table_pictures_and_report(spiral, capsys):
    assert main(["run", "toy_manifold", "--arms", "x_d2,eps_d512"]) == 0
    assert "eval/spiral_distance" in capsys.readouterr().out
    folder = spiral / "runs" / "toy_manifold-spiral"
    logged = [points(folder / arm) for arm in ("x_d2", "eps_d512")]
    assert logged[0].keys() == logged[1].keys()
    assert {(f"eval/{name}", step) for name in ("spiral_distance", "off_plane") for step in (6, 12)} <= logged[0].keys()
    assert logged[0]["eval/off_plane", 12] < 1e-9
    picture = np.asarray(Image.open(folder / "x_d2" / "samples" / "step000012-ema0.5.png"))
    assert picture.ndim == 3
    assert len(np.unique(picture)) > 10
    with Image.open(folder / "eps_d512" / "samples" / "step000012-strip.png") as strip:
        assert strip.info["t"] == "0 0.333333 0.666667 1"
        assert strip.width == 2 * strip.height
    assert "eval/off_plane" in (folder / "report.html").read_text()


def test_a_run_that_was_stopped_ends_bit_equal(spiral, monkeypatch):
    from jitlab.callbacks.stop import StoppedError
    from jitlab.callbacks.training_log import TrainingLog

    assert main(["run", "toy_manifold", "--arms", "v_d8", "--name", "whole"]) == 0
    plain = TrainingLog.on_train_batch_end

    def stops(self, trainer, *args, **kwargs):
        plain(self, trainer, *args, **kwargs)
        if trainer.global_step == 10:
            raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLog, "on_train_batch_end", stops)
        assert main(["run", "toy_manifold", "--arms", "v_d8", "--name", "cut"]) == 130
    assert main(["run", "toy_manifold", "--arms", "v_d8", "--name", "cut"]) == 0
    whole, cut = (spiral / "runs" / f"toy_manifold-spiral-{name}" / "v_d8" for name in ("whole", "cut"))
    assert points(whole) == points(cut)
    ours, theirs = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, cut))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.patch_size=4"], "command line: model.patch_size = 4: has no effect with model.architecture = mlp"),
        (["data.image_size=32"], "command line: data.image_size = 32: has no effect with data.source = spiral"),
        (["data.num_classes=10"], "data.num_classes = 10: has no effect with data.source = spiral; remove it"),
        (["sampler.guidance_scale=2"], "sampler.guidance_scale = 2: has no effect with model.architecture = mlp"),
        (["objective.label_drop=0.2"], "objective.label_drop = 0.2: has no effect with model.architecture = mlp"),
        (["evaluation.images=5000"], "evaluation.images = 5000: the spiral has 4096"),
        (["--scale", "tiny"], "data.ambient_dim = 2: has no effect with data.source = digits"),
    ],
)
def test_a_setting_without_effect_is_refused(spiral, capsys, words, expected):
    assert main(["run", "toy_manifold", "--arms", "x_d2", *words]) == USER_ERROR
    assert expected in capsys.readouterr().err


def test_the_configuration_of_a_run_reads_back(tmp_path):
    config = load.resolve(ROOT, load.load_question(ROOT, "toy_manifold"), "spiral", "v_d16", [])
    (tmp_path / "config.yaml").write_text(load.to_yaml(config))
    assert load.from_yaml(tmp_path / "config.yaml") == config


def test_the_question_crosses_predictions_and_dimensions():
    question = load.load_question(ROOT, "toy_manifold")
    configs = [load.resolve(ROOT, question, "spiral", arm, []) for arm in question.arms]
    asked = {(config.objective.prediction, config.data.ambient_dim) for config in configs}
    assert asked == {(prediction, d) for prediction in ("x", "eps", "v") for d in (2, 8, 16, 512)}
    assert {config.objective.loss_space for config in configs} == {"v"}
