"""A repository of one tiny scale, in which the real commands run."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from jitlab.callbacks.mlflow_run import DATABASE, Tracking

TINY = """
data: {source: digits, path: data/digits16, image_size: 16, num_classes: 10}
model: {patch_size: 8, hidden_size: 32, depth: 2, num_heads: 2, bottleneck_dim: 16,
        in_context_tokens: 2, in_context_start: 1}
sampler: {solver: heun, steps: 3}
train: {steps: 60, batch_size: 64, learning_rate: 2.0e-3, warmup_steps: 5, ema_decays: [0.9, 0.5],
        log_every_steps: 10, checkpoint_every_steps: 7}
evaluation: {every_steps: 30, images: 20, held_out_every_steps: 20, held_out_images: 16,
             grid_every_steps: 30, grid_images: 16}
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Networks this small are slower on two threads, and the tests run in as many processes as there are cores.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start


@cache
def empty_database() -> bytes:
    """Return MLflow's database before anything is logged: making one takes longer than most runs here."""
    with tempfile.TemporaryDirectory() as folder:
        Tracking(Path(folder))
        return (Path(folder) / DATABASE).read_bytes()


def make_repository(root: Path) -> Path:
    experiments = Path(__file__).parents[1] / "experiments"
    (root / "experiments").mkdir(parents=True)
    shutil.copy(experiments / "noise_vs_x.yaml", root / "experiments")
    shutil.copytree(experiments / "scales", root / "experiments" / "scales")
    shutil.copytree(experiments / "published", root / "experiments" / "published")
    (root / "experiments" / "scales" / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (root / DATABASE).write_bytes(empty_database())
    return root


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a fresh repository that the commands of this process work in."""
    monkeypatch.setenv("JITLAB_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_repository(tmp_path)
