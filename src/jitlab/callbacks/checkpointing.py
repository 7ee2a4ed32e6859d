"""Saves the run every so many steps, at its end, and when it is asked to stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from jitlab.callbacks.schedule import due
from jitlab.callbacks.stop import StopRequest


class Checkpointing(Checkpoint):
    """Writes one checkpoint over and over; Lightning calls it after all other callbacks.

    So a checkpoint of a step is written after that step's metrics, grids and evaluation, and having it means
    having them.
    """

    def __init__(self, path: Path, every_steps: int, stop: StopRequest, on_saved: Callable[[int], None]) -> None:
        """Prepare; `on_saved` is told the step of every checkpoint."""
        self.path = path
        self.every_steps = every_steps
        self.stop = stop
        self.on_saved = on_saved

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save where it is due or the run is asked to stop; then stop."""
        if due(trainer, self.every_steps) or self.stop.requested:
            trainer.save_checkpoint(self.path)
            self.on_saved(trainer.global_step)
        if trainer.global_step < trainer.max_steps:
            self.stop.raise_if_requested()
