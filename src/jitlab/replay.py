"""The batch that a step of a run was trained on, drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jitlab import build
from jitlab.callbacks.drawing import draw_images, write_png
from jitlab.callbacks.ledger import ledger_entry
from jitlab.config import load
from jitlab.datasets.datamodule import ShardDataModule
from jitlab.datasets.order import Reference
from jitlab.errors import UserError
from jitlab.run import CHECKPOINT_FILE, CONFIG_FILE
from jitlab.training.checkpoints import mapped_checkpoint

WIDEST, SMALLEST = 2048, 48


@dataclass(frozen=True)
class Batch:
    """A global batch: its picture, where its keys are from, and epoch, keys and labels in order."""

    picture: Path
    origin: str
    epoch: int
    keys: Sequence[str]
    labels: Sequence[int]


def replay(root: Path, run: Path, step: int, out: Path | None) -> Batch:
    """Draw the images of a step's global batch, cropped and flipped as they were trained on, row after row.

    Which they are is read from the run's ledger, where it kept one, else found again from the seed.

    Raises:
        UserError: for a folder without a run, a run on points, or a step that the run has not.
    """
    datamodule, steps = _opened(root, run)
    if not 1 <= step <= steps:
        raise UserError(f"--step {step}: {run} has steps 1 to {steps}")
    references, origin = _references(datamodule, run, step)
    rows = [datamodule.images[reference] for reference in references]
    picture = write_png(out or run / f"batch{step:06d}.png", _grid([image for image, _, _ in rows]))
    return Batch(picture, origin, references[0].epoch, [key for _, _, key in rows], [label for _, label, _ in rows])


def _opened(root: Path, run: Path) -> tuple[ShardDataModule, int]:
    if not (run / CONFIG_FILE).exists():
        raise UserError(
            f"--run {run}: has no {CONFIG_FILE}; name the folder of a run, such as runs/noise_vs_x-digits/x"
        )
    config = load.from_yaml(run / CONFIG_FILE)
    datamodule = build.build_datamodule(config, root, run, allow_batch_change=True)
    if not isinstance(datamodule, ShardDataModule):
        raise UserError(f"--run {run}: was trained on points; only images can be shown")
    checkpoint = run / CHECKPOINT_FILE
    position = mapped_checkpoint(checkpoint).get(build.DATA_POSITION_KEY) if checkpoint.exists() else None
    if position:
        datamodule.load_state_dict(position)
    return datamodule, config.train.steps


def _references(datamodule: ShardDataModule, run: Path, step: int) -> tuple[list[Reference], str]:
    entry = ledger_entry(run, step)
    if entry is None:
        return datamodule.batch_at(step), "found again from the seed"
    epoch, keys = entry
    known = datamodule.images.rows["key"]
    order = np.argsort(known)
    wanted = np.array([key.encode() for key in keys])
    places = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    if missing := [key for key, place in zip(wanted, places, strict=True) if known[place] != key]:
        raise UserError(f"{run}: the ledger has sample {missing[0].decode()}; {datamodule.what} has no such sample")
    return [Reference(epoch, int(place)) for place in places], "from the ledger"


def _grid(images: Sequence[torch.Tensor]) -> Image.Image:
    """Lay out square images in a square, scaled down where the picture would be too wide."""
    columns = int(np.ceil(np.sqrt(len(images))))
    side = min(images[0].shape[-1], max(WIDEST // columns, SMALLEST))
    picture = draw_images(torch.stack(list(images)), columns)
    size = (columns * side, side * -(-len(images) // columns))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
