import io
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console

from jitlab import build
from jitlab.callbacks.run_log import RunFolder
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.training.module import JiTModule

ROOT = Path(__file__).parents[2]
TINY = {
    "data.image_size": 16,
    "model.patch_size": 8,
    "model.hidden_size": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.bottleneck_dim": 8,
    "model.in_context_tokens": 2,
    "model.in_context_start": 1,
    "sampler.steps": 2,
    "train.steps": 6,
    "train.batch_size": 400,
    "train.learning_rate": 0.01,
    "train.warmup_steps": 3,
    "train.ema_decays": [0.5, 0.9],
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 100,
    "evaluation.every_steps": 100,
    "evaluation.images": 20,
    "evaluation.batch_size": 20,
    "evaluation.held_out_every_steps": 100,
    "evaluation.held_out_images": 20,
    "evaluation.grid_every_steps": 100,
    "evaluation.grid_images": 10,
}
BATCHES_PER_EPOCH = 4


def tiny_config(shards: Path, arm: str = "x", seed: int = 0, **changes: Any) -> Config:
    """Resolve noise_vs_x at a tiny size; `changes` are settings with __ for the dot."""
    settings = {**TINY, "data.path": shards, **{key.replace("__", "."): value for key, value in changes.items()}}
    question = load.load_question(ROOT, "noise_vs_x")
    return load.resolve(ROOT, question, "digits", arm, [f"{key}={value}" for key, value in settings.items()], seed)


class StopAfter(Callback):
    """Asks a run to stop after a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.request: StopRequest | None = None

    def on_train_batch_end(self, trainer, pl_module, *args: Any) -> None:
        assert self.request is not None
        if trainer.global_step == self.step:
            self.request.handle(signal.SIGINT, None)


class BatchKeys(Callback):
    """Keeps the keys of every step's batch."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []

    def on_train_batch_start(self, trainer, pl_module, batch: Any, *args: Any) -> None:
        self.keys.append(list(batch[2]))


@dataclass
class Run:
    folder: Path
    module: JiTModule
    trainer: Trainer
    stopped: bool
    saved: list[int]
    initial: dict[str, torch.Tensor]
    output: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.module.network.state_dict()

    @property
    def checkpoint(self) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.folder / "last.ckpt", weights_only=True)
        return content

    def logged(self, prefix: str = "") -> dict[tuple[int, str], float]:
        """Return what was logged by (step, key); a point that is there twice is an error."""
        points: dict[tuple[int, str], float] = {}
        for row in self.rows:
            for key, value in row["metrics"].items():
                assert (row["step"], key) not in points
                if key.startswith(prefix):
                    points[row["step"], key] = value
        return points


def train(
    config: Config,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    loggers: Iterable[Logger] = (),
    stop_after: int | None = None,
) -> Run:
    """Train as the experiment does, from the folder's checkpoint where there is one."""
    output = io.StringIO()
    stop, saved, stopped = StopRequest(), list[int](), False
    datamodule, module = build.build_datamodule(config, ROOT), build.build_module(config)
    initial = {name: tensor.clone() for name, tensor in module.network.state_dict().items()}
    checkpoint = folder / "last.ckpt"
    log = RunFolder(folder)
    context = build.RunContext(
        "x", ROOT, checkpoint, [log, *loggers], Console(file=output, width=200), stop, saved.append
    )
    trainer = build.build_trainer(config, module, datamodule, context)
    first = list(callbacks)  # before all others, so that a stop is seen in the same step
    if stop_after is not None:
        stopper = StopAfter(stop_after)
        stopper.request = stop
        first.append(stopper)
    trainer.callbacks[:0] = first  # type: ignore[attr-defined]
    try:
        resumed = str(checkpoint) if checkpoint.exists() else None
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)
    except StoppedError:
        stopped = True
    return Run(folder, module, trainer, stopped, saved, initial, output.getvalue(), list(log.rows()))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
