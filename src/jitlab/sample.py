"""Images from a checkpoint: PNGs or one grid, and on request how they came out of the noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torchvision.utils import make_grid

from jitlab import build
from jitlab.callbacks.drawing import draw_images, draw_strip
from jitlab.checkpoint_files import open_checkpoint
from jitlab.config import load
from jitlab.errors import UserError
from jitlab.training.trajectory import Trajectory

COLUMNS = 8


@dataclass(frozen=True)
class Request:
    """What to draw: `count` images of each of `classes`, numbered in this order from 0."""

    classes: Sequence[int]
    count: int
    seed: int
    batch_size: int
    overrides: Sequence[str]
    weights: str | None
    grid: bool
    trajectory: bool


def sample(path: Path, out: Path, request: Request, console: Console) -> list[Path]:
    """Draw images into the folder `out` and return the files; image i depends on seed and i alone.

    Raises UserError for a checkpoint that cannot be used, and for classes and settings that there are not.
    """
    checkpoint = open_checkpoint(path)
    overrides = [*request.overrides, f"seed={request.seed}", "train.compile=false"]
    config = load.assemble(load.flat(checkpoint.config), str(path), overrides)
    if not config.data.num_classes:
        raise UserError(f"{path}: data.source = {config.data.source}: samples are points, not images; use its grids")
    for label in request.classes:
        if label >= config.data.num_classes:
            raise UserError(f"--classes {label}: no such class; {path} knows 0 to {config.data.num_classes - 1}")
    module = checkpoint.module(request.weights, config).eval()
    module.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    labels = torch.tensor(request.classes).repeat_interleave(request.count)
    images, strips, times = [], [], list[float]()
    with Progress(console=console) as progress, build.precision_context(config):
        task = progress.add_task(f"drawing {len(labels)} images", total=len(labels))
        for numbers in torch.arange(len(labels)).split(request.batch_size):
            trajectory = Trajectory(module.signal) if request.trajectory else None
            images.append(module.generate(numbers.tolist(), labels[numbers], trajectory).cpu())
            if trajectory:
                strips.append(trajectory.rows(images[-1]))
                times = trajectory.times
            progress.advance(task, len(numbers))
    files = _write_images(out, torch.cat(images), labels, request)
    if request.trajectory:
        strip = draw_strip(torch.cat(strips).split(1), draw_images)
        files.append(_write(out / "trajectory.png", strip))
        console.print(f"trajectory: z and predicted x at t = {', '.join(f'{t:.2f}' for t in times)}")
    return files


def _write_images(out: Path, images: Tensor, labels: Tensor, request: Request) -> list[Path]:
    if request.grid:
        columns = request.count if request.count > 1 else min(COLUMNS, len(images))
        grid = make_grid(images, nrow=columns, padding=0)
        return [_write(out / "grid.png", Image.fromarray(grid.permute(1, 2, 0).numpy()))]
    named = zip(images.split(1), labels.tolist(), strict=True)
    return [
        _write(out / f"{index:05d}-class{label}.png", draw_images(image)) for index, (image, label) in enumerate(named)
    ]


def _write(path: Path, picture: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path
