"""Images from a checkpoint: PNGs or one grid, and on request how they came out of the noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from jitlab import build
from jitlab.callbacks.drawing import draw_images, draw_strip, write_png
from jitlab.checkpoint_files import open_checkpoint
from jitlab.config.schema import Config
from jitlab.errors import UserError
from jitlab.sampling_config import sampling_config
from jitlab.training.trajectory import Trajectory

COLUMNS = 8
# The five digits of a file's name keep folders in order; a picture of many images is held in memory whole.
MOST_IMAGES, MOST_IN_ONE_PICTURE = 100_000, 1024


@dataclass(frozen=True)
class Request:
    """What to draw: `count` images of each of `classes`, numbered in this order from 0.

    `options` are the texts given to options that are short for a setting, `words` the `sampler.KEY=VALUE`.
    """

    classes: Sequence[int]
    count: int
    options: Mapping[str, str]
    words: Sequence[str]
    batch_size: int
    weights: str | None
    grid: bool
    trajectory: bool

    @property
    def images(self) -> int:
        """Return how many images there will be."""
        return len(self.classes) * self.count

    def batches(self) -> Iterator[tuple[range, Tensor]]:
        """Yield the numbers and labels (B,) of a batch."""
        for first in range(0, self.images, self.batch_size):
            numbers = range(first, min(first + self.batch_size, self.images))
            yield numbers, torch.tensor([self.classes[number // self.count] for number in numbers])


def sample(path: Path, out: Path, request: Request, console: Console) -> list[Path]:
    """Draw images into the folder `out` and return the files; image i depends on seed and i alone.

    Each image is written as soon as its batch is done, so that an interruption leaves what was drawn; a grid and a
    trajectory are written at the end. Raises UserError for a checkpoint or folder that cannot be used, for classes and
    settings that there are not, and for too many images.
    """
    _check_count(request)
    checkpoint = open_checkpoint(path)
    config = sampling_config(checkpoint, request.words, request.options)
    _check_classes(path, config, request)
    module = checkpoint.module(request.weights, config).eval()
    module.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    _make_folder(out)
    files, images, strips, times = list[Path](), [], [], list[float]()
    with Progress(console=console) as progress, build.precision_context(config):
        task = progress.add_task(f"drawing {request.images} images", total=request.images)
        for numbers, labels in request.batches():
            trajectory = Trajectory(module.signal) if request.trajectory else None
            drawn = module.generate(numbers, labels, trajectory).cpu()
            if request.grid:
                images.append(drawn)
            else:
                files += _write_images(out, drawn, numbers, labels)
            if trajectory:
                strips.append(trajectory.rows(drawn))
                times = trajectory.times
            progress.advance(task, len(numbers))
    if request.grid:
        columns = request.count if request.count > 1 else min(COLUMNS, request.images)
        files.append(write_png(out / "grid.png", draw_images(torch.cat(images), columns)))
    if request.trajectory:
        files.append(write_png(out / "trajectory.png", draw_strip(torch.cat(strips).split(1), draw_images)))
        console.print(f"trajectory: z and predicted x at t = {', '.join(f'{t:.2f}' for t in times)}")
    return files


def _check_count(request: Request) -> None:
    if request.images > MOST_IMAGES:
        raise UserError(f"--count {request.count}: makes {request.images} images; expected {MOST_IMAGES} or fewer")
    for option, wanted in {"--grid": request.grid, "--trajectory": request.trajectory}.items():
        if wanted and request.images > MOST_IN_ONE_PICTURE:
            raise UserError(
                f"{option}: {request.images} images in one picture; expected at most {MOST_IN_ONE_PICTURE}: lower "
                f"--count or leave {option} out"
            )


def _check_classes(path: Path, config: Config, request: Request) -> None:
    if not config.data.num_classes:
        raise UserError(f"{path}: data.source = {config.data.source}: samples are points, not images; use its grids")
    for label in request.classes:
        if label >= config.data.num_classes:
            raise UserError(f"--classes {label}: no such class; {path} knows 0 to {config.data.num_classes - 1}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}; expected a folder, there already or to be made") from error


def _write_images(out: Path, images: Tensor, numbers: Sequence[int], labels: Tensor) -> list[Path]:
    named = zip(images.split(1), numbers, labels.tolist(), strict=True)
    return [write_png(out / f"{number:05d}-class{label}.png", draw_images(image)) for image, number, label in named]
