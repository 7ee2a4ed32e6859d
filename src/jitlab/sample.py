"""Images from a checkpoint: PNGs or one grid, and on request how they came out of the noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torchvision.utils import make_grid

from jitlab import build
from jitlab.checkpoint_files import open_checkpoint
from jitlab.config import load
from jitlab.errors import UserError
from jitlab.training.module import JiTModule
from jitlab.training.signal import to_images

COLUMNS = 8
TRAJECTORY_TIMES = (0.0, 0.2, 0.4, 0.6, 0.8)
# Of times that the network sees in float32.
ROUNDING = 1e-6


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


class Trajectory:
    """Looks on while a network is sampled from; keeps z_t and the predicted x at the first t from each chosen one on.

    A solver may ask twice at the same t; the later answer is the one that it goes on from.
    """

    def __init__(self, module: JiTModule, images: int) -> None:
        self._module = module
        self._images = images
        self._kept: dict[float, tuple[float, Tensor, Tensor]] = {}

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Take a call of the network in, guided (both branches in one batch) or not."""
        z, t = inputs[:2]
        now = t[0].item()
        chosen = max(time for time in TRAJECTORY_TIMES if time <= now + ROUNDING)
        if chosen in self._kept and self._kept[chosen][0] != now:
            return
        objective = self._module.objective
        v = objective.velocity(output.float(), z, t)
        if len(z) > self._images:
            conditional, unconditional = v.chunk(2)
            v = unconditional + self._module.sampler.guidance_scale * (conditional - unconditional)
            z = z[: self._images]
        self._kept[chosen] = now, to_images(z).cpu(), to_images(z + (1 - now) * v).cpu()

    @property
    def times(self) -> list[float]:
        """Return the times that were kept, in order."""
        return [self._kept[chosen][0] for chosen in sorted(self._kept)]

    def rows(self, final: Tensor) -> Tensor:
        """Return (B, 2, T + 1, C, H, W): each image's z_t, then its predicted x, over t; `final` is at t = 1."""
        kept = [self._kept[chosen] for chosen in sorted(self._kept)]
        noisy = torch.stack([z for _, z, _ in kept] + [final], dim=1)
        predicted = torch.stack([x for _, _, x in kept] + [final], dim=1)
        return torch.stack([noisy, predicted], dim=1)


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
            trajectory = Trajectory(module, len(numbers))
            hook = module.network.register_forward_hook(trajectory) if request.trajectory else None
            images.append(module.generate(numbers.tolist(), labels[numbers]).cpu())
            if hook:
                hook.remove()
                strips.append(trajectory.rows(images[-1]))
                times = trajectory.times
            progress.advance(task, len(numbers))
    files = _write_images(out, torch.cat(images), labels, request)
    if request.trajectory:
        files.append(_write(out / "trajectory.png", _strip(torch.cat(strips))))
        console.print(f"trajectory: z and predicted x at t = {', '.join(f'{t:.2f}' for t in times)}, 1.00")
    return files


def _write_images(out: Path, images: Tensor, labels: Tensor, request: Request) -> list[Path]:
    if request.grid:
        columns = request.count if request.count > 1 else min(COLUMNS, len(images))
        return [_write(out / "grid.png", make_grid(images, nrow=columns, padding=0))]
    named = zip(images, labels.tolist(), strict=True)
    return [_write(out / f"{index:05d}-class{label}.png", image) for index, (image, label) in enumerate(named)]


def _strip(rows: Tensor) -> Tensor:
    strip: Tensor = make_grid(rows.flatten(0, 2), nrow=rows.shape[2], padding=0)
    return strip


def _write(path: Path, image: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path
