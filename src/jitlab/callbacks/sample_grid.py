"""Sample grids on fixed noise and fixed labels, from the raw weights and from every average."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from jitlab.callbacks.ema import Ema
from jitlab.callbacks.run_log import log_image
from jitlab.callbacks.schedule import due
from jitlab.training.module import JiTModule

COLUMNS = 8


def grid_labels(count: int, num_classes: int) -> Tensor:
    """Spread the classes evenly over `count` images, in order, (count,): rows of equal classes where they fit."""
    return torch.arange(count) * num_classes // count


class SampleGrid(Callback):
    """Logs `raw` and `ema<decay>` grids; image i has the same noise and label at every step and in every arm."""

    def __init__(
        self,
        ema: Ema,
        every_steps: int,
        images: int,
        batch_size: int,
        num_classes: int,
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.ema = ema
        self.every_steps = every_steps
        self.batch_size = batch_size
        self.labels = grid_labels(images, num_classes)
        self.pause = pause

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Draw the grids where they are due; on one process, since they are few images."""
        if not due(trainer, self.every_steps) or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, JiTModule)
        with self.pause():
            for decay in (None, *self.ema.decays):
                with self.ema.applied(decay):
                    log_image(trainer, "raw" if decay is None else f"ema{decay:g}", self._grid(pl_module))

    def _grid(self, module: JiTModule) -> Image.Image:
        parts = [
            module.generate(numbers.tolist(), self.labels[numbers]).cpu()
            for numbers in torch.arange(len(self.labels)).split(self.batch_size)
        ]
        grid = make_grid(torch.cat(parts), nrow=COLUMNS, padding=0)
        return Image.fromarray(grid.permute(1, 2, 0).numpy())
