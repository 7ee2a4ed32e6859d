"""Saves the run every so many steps, at its end, and when it is asked to stop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.callbacks.schedule import due
from jitlab.callbacks.stop import StoppedError, StopRequest


class Checkpointing(Callback):
    """Writes one checkpoint over and over, after the step's training metrics and before what takes long."""

    def __init__(
        self, path: Path, every_steps: Sequence[int], stop: StopRequest, on_saved: Callable[[int], None] | None
    ) -> None:
        """Prepare; a step is saved where it is a multiple of any of `every_steps`; `on_saved` is told of it."""
        self.path = path
        self.every_steps = every_steps
        self.stop = stop
        self.on_saved = on_saved

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save where it is due or the run is asked to stop; then stop."""
        # All processes stop after the same step: the first one's word counts.
        stop = trainer.strategy.broadcast(self.stop.requested)
        if stop or any(due(trainer, every) for every in self.every_steps):
            trainer.save_checkpoint(self.path)
            if self.on_saved:
                self.on_saved(trainer.global_step)
        if stop:
            raise StoppedError
