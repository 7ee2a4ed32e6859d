"""How fast training goes, evaluations and grids not counted."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning import Callback, LightningModule, Trainer

from jitlab.callbacks.run_log import log_metrics


class Throughput(Callback):
    """Logs images per second and the time of a step, data loading included, over the steps since the last point."""

    def __init__(self, every_steps: int, images_per_step: int) -> None:
        self.every_steps = every_steps
        self.images_per_step = images_per_step
        self.images_per_second = 0.0
        self._steps = 0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._steps, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Count a step; log where a point is due."""
        self._steps += 1
        if trainer.global_step % self.every_steps:
            return
        now = time.perf_counter()
        step_seconds = (now - self._since) / self._steps
        self.images_per_second = self.images_per_step / step_seconds
        log_metrics(
            trainer,
            {
                "throughput/images_per_second": self.images_per_second,
                "throughput/step_ms": 1000 * step_seconds,
            },
        )
        self._steps, self._since = 0, now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep a block, such as an evaluation, out of the measurement."""
        paused = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - paused
