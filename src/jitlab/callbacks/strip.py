"""The denoising strip: how a few samples came out of the noise, drawn at the end of the run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from lightning import Trainer

from jitlab.callbacks.drawing import Draw, draw_strip
from jitlab.callbacks.ema import Ema
from jitlab.callbacks.run_log import image_is_missing, log_image
from jitlab.callbacks.sample_grid import grid_labels
from jitlab.callbacks.schedule import AfterCheckpoint
from jitlab.training.module import JiTModule
from jitlab.training.trajectory import Trajectory

STRIP_KEY = "strip"
STRIP_IMAGES = 3


def strip_numbers(grid_images: int) -> list[int]:
    """Return the numbers of a few samples that are spread over a grid of so many, ascending and none twice."""
    return sorted({place * grid_images // STRIP_IMAGES for place in range(STRIP_IMAGES)})


class DenoisingStrip(AfterCheckpoint):
    """Logs `strip` after the last step: z_t and predicted x of samples of the grid, from the first average.

    Sample i has the same noise and label as in the grids, and so in every arm. The picture carries its times under
    `t` in its `info`.
    """

    def __init__(
        self,
        ema: Ema,
        groups: Sequence[Sequence[int]],
        grid_images: int,
        batch_size: int,
        num_classes: int,
        draw: Draw,
        pause: Callable[[], AbstractContextManager[None]],
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Prepare the strip; `groups` are numbers of grid samples, each group in two rows of its own."""
        self.ema = ema
        self.groups = groups
        self.numbers = torch.tensor([number for group in groups for number in group])
        self.labels = grid_labels(grid_images, num_classes)[self.numbers]
        self.batch_size = batch_size
        self.draw = draw
        self.pause = pause
        self.progress = progress

    def missing(self, trainer: Trainer) -> bool:
        """Say whether the run is at its end without a strip in its folder."""
        return trainer.global_step == trainer.max_steps and image_is_missing(trainer, STRIP_KEY)

    def look(self, trainer: Trainer, module: JiTModule) -> None:
        """Draw the strip; on one process, since it is few images."""
        if not trainer.is_global_zero:
            return
        rows, times = [], list[float]()
        with self.pause(), self.ema.applied(self.ema.decays[0]):
            for places in torch.arange(len(self.numbers)).split(self.batch_size):
                trajectory = Trajectory(module.signal)
                final = module.generate(self.numbers[places].tolist(), self.labels[places], trajectory).cpu()
                rows.append(trajectory.rows(final))
                times = trajectory.times
                self.progress("drawing strip", int(places[-1]) + 1, len(self.numbers))
            strip = draw_strip(torch.cat(rows).split([len(group) for group in self.groups]), self.draw)
            strip.info["t"] = " ".join(f"{t:g}" for t in times)
            log_image(trainer, STRIP_KEY, strip)
