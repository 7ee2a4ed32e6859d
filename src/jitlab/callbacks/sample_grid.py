"""Sample grids on fixed noise and fixed labels, from the raw weights and from every average."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from lightning import Trainer
from PIL.Image import Image
from torch import Tensor

from jitlab.callbacks.drawing import Draw
from jitlab.callbacks.ema import Ema
from jitlab.callbacks.run_log import image_is_missing, log_image
from jitlab.callbacks.schedule import AfterCheckpoint, due
from jitlab.training.module import JiTModule


def grid_labels(count: int, num_classes: int) -> Tensor:
    """Spread the classes evenly over `count` images, in order, (count,): rows of equal classes where they fit."""
    return torch.arange(count) * num_classes // count


class SampleGrid(AfterCheckpoint):
    """Logs `raw` and `ema<decay>` grids; image i has the same noise and label at every step and in every arm."""

    def __init__(
        self,
        ema: Ema,
        every_steps: int,
        images: int,
        batch_size: int,
        num_classes: int,
        draw: Draw,
        pause: Callable[[], AbstractContextManager[None]],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.ema = ema
        self.every_steps = every_steps
        self.batch_size = batch_size
        self.labels = grid_labels(images, num_classes)
        self.draw = draw
        self.pause = pause
        self.progress = progress

    def missing(self, trainer: Trainer) -> bool:
        """Say whether a grid is due and not in the run folder."""
        return due(trainer, self.every_steps) and any(image_is_missing(trainer, key) for key in self._keys())

    def look(self, trainer: Trainer, module: JiTModule) -> None:
        """Draw the grids; on one process, since they are few images."""
        if not trainer.is_global_zero:
            return
        with self.pause():
            for key, decay in self._keys().items():
                with self.ema.applied(decay):
                    log_image(trainer, key, self._grid(module, key))

    def _keys(self) -> dict[str, float | None]:
        return {"raw": None, **{f"ema{decay:g}": decay for decay in self.ema.decays}}

    def _grid(self, module: JiTModule, key: str) -> Image:
        parts = []
        for numbers in torch.arange(len(self.labels)).split(self.batch_size):
            parts.append(module.generate(numbers.tolist(), self.labels[numbers]).cpu())
            self.progress(f"drawing {key}", int(numbers[-1]) + 1, len(self.labels))
        return self.draw(torch.cat(parts))
