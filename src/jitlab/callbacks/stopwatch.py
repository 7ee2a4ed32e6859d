"""Trains for a given time and says how fast."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

WARM_UP = 2


class Stopwatch(Callback):
    """Times batches, and stops the fit before one that would end too late, after one at the least.

    The first ones, which are slower, do not count where there are others.
    """

    def __init__(self, ends: float) -> None:
        """Take the time, of time.perf_counter, at which the fit should have ended."""
        self._ends = ends
        self._marks: list[float] = []

    @property
    def batches_per_second(self) -> float:
        """Return the mean speed of the batches that count."""
        first = min(WARM_UP, len(self._marks) - 2)
        return (len(self._marks) - 1 - first) / (self._marks[-1] - self._marks[first])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._marks = [time.perf_counter()]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Take the time once the device, too, is done with the batch."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._marks.append(time.perf_counter())
        trainer.should_stop = 2 * self._marks[-1] - self._marks[-2] > self._ends
