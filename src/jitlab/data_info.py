"""What a folder of shards holds, in figures and in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from jitlab.callbacks.drawing import write_png
from jitlab.datasets.images import ShardImages
from jitlab.datasets.index import TRAIN, Index
from jitlab.datasets.mixing import mixing
from jitlab.datasets.order import Order, Reference
from jitlab.datasets.store import RemoteStore
from jitlab.errors import UserError

SHOWN, COLUMNS, SIDE, GAP, CAPTION = 48, 8, 144, 6, 20
FEWEST_TOLD = 3


@dataclass(frozen=True)
class Serving:
    """How the training images would be served: what `train.batch_size` and `data` say."""

    batch_size: int
    window: int
    partitions: int


def describe(path: str, index: Index, serving: Serving, console: Console) -> None:
    """Print counts, classes, sizes and how well the order mixes.

    Raises:
        UserError: where a batch does not fit the training images.
    """
    facts = index.facts
    tell = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    size = f"{facts.image_size} x {facts.image_size} px" if facts.image_size else "as they came, cropped when read"
    tell(f"{path}: {facts.source}, {size}, {facts.num_classes} classes")
    tell(f"made by    {facts.command}")
    tell(f"fingerprint {index.fingerprint}")
    console.print(_splits(index))
    for line in _class_lines(index):
        tell(line)
    if facts.unreadable:
        tell(f"{len(facts.unreadable)} images of the source could not be read:")
        for line in facts.unreadable:
            tell(f"  {line}")
    for line in _mixing_lines(index, serving):
        tell(line)


def contact_sheet(images: ShardImages, names: Sequence[str], path: Path) -> int:
    """Write one picture of training images, their classes below them; return how many.

    They are spread over the whole split, or over its first shard where every other one would have to be fetched.
    """
    among = int(images.starts[1]) if isinstance(images.store, RemoteStore) else len(images)
    count = min(SHOWN, among)
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place in range(count):
        image, label, _ = images[Reference(0, place * among // count)]
        left, top = GAP + place % COLUMNS * (SIDE + GAP), GAP + place // COLUMNS * (SIDE + CAPTION)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        caption = names[label] if label < len(names) else str(label)
        draw.text((left, top + SIDE + 2), caption[:20], fill="black", font=font)
    write_png(path, sheet)
    return count


def _splits(index: Index) -> Table:
    table = Table()
    for name in ("split", "images", "shards", "bytes", "bytes an image"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split in index.splits:
        shards, rows = index.split(split)
        stored = int(rows["size"].sum())
        table.add_row(
            split,
            f"{len(rows):,}",
            f"{len(shards):,}",
            f"{sum(shard.bytes for shard in shards):,}",
            f"{stored // max(len(rows), 1):,}",
        )
    return table


def _class_lines(index: Index) -> list[str]:
    names, labels = index.facts.classes, index.split(TRAIN)[1]["label"]
    counts = np.bincount(labels, minlength=index.facts.num_classes)
    order = np.argsort(counts, kind="stable")

    def told(label: int) -> str:
        name = f" {names[label]}" if label < len(names) else ""
        return f"{label}{name} ({counts[label]})"

    lines = [f"training images a class: {counts.min()} to {counts.max()}, {counts.mean():.1f} on average"]
    if counts.min() < counts.max():
        lines.append(f"fewest: {', '.join(map(told, order[:FEWEST_TOLD]))}")
    return lines


def _mixing_lines(index: Index, serving: Serving) -> list[str]:
    shards, rows = index.split(TRAIN)
    sizes = [shard.samples for shard in shards]
    order = Order(sizes, serving.batch_size, 0, serving.window, serving.partitions)
    if serving.partitions > len(shards) or serving.batch_size % serving.partitions or not order.batches_per_epoch:
        raise UserError(
            f"--batch-size {serving.batch_size} --partitions {serving.partitions}: does not fit {len(rows)} images in "
            f"{len(shards)} shards; use a smaller batch, a multiple of the partitions"
        )
    found = mixing(order, rows["label"])
    return [
        f"mixing     batches of {serving.batch_size}, windows of {serving.window} shards, {serving.partitions} "
        f"partition{'s' if serving.partitions > 1 else ''}: {order.batches_per_epoch} steps an epoch",
        f"  classes in a batch: {found.classes:.1f}; of a perfect shuffle {found.classes_at_best:.1f}",
        f"  two images of a batch meet in the next epoch's, too: {found.again:.3%}; of a perfect shuffle "
        f"{found.again_at_best:.3%}",
    ]
