"""ImageNet as shards: which images, in which order, and what is stored of them."""

import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console

from jitlab.datasets.building import Built, Plan, ShardLog, go_on_building
from jitlab.datasets.crop import center_crop
from jitlab.datasets.decode import DamagedImageError, rgb_image
from jitlab.datasets.encode import CropFormat, encode_crop
from jitlab.datasets.index import HELD_OUT, TRAIN, Facts
from jitlab.datasets.shards import Sample
from jitlab.datasets.sources import Source, Table, find_images, read_image
from jitlab.datasets.validation import flat_validation
from jitlab.datasets.workspace import Recipe, workspace
from jitlab.errors import UserError, nearest
from jitlab.randomness import numpy_generator

NAME = "imagenet"
Store = Literal["original", "crop"]
HELD_OUT_IMAGES, SAMPLES_PER_SHARD = 1000, 1000
# What a sample takes beside its image: three tar headers, label, facts, and what fills them up.
BYTES_BESIDE = 3072


@dataclass(frozen=True)
class Options:
    """What to build.

    Args:
        source: the training images: the official tar, a folder, or WebDataset shards.
        out: folder of the shards.
        image_size: pixels that the images are cropped to, now or when they are read.
        store: the images as they are, or their centre crops.
        format: of crops.
        held_out: how many training images to set aside, or other images with classes among the training classes.
        devkit: ILSVRC2012_devkit_t12.tar.gz, which has the labels of ILSVRC2012_img_val.tar.
        seed: of the order.
        samples_per_shard: images of a shard.
    """

    source: Path
    out: Path
    image_size: int
    store: Store = "original"
    format: CropFormat = "webp"
    held_out: int | Path = HELD_OUT_IMAGES
    devkit: Path | None = None
    seed: int = 0
    samples_per_shard: int = SAMPLES_PER_SHARD

    @property
    def command(self) -> str:
        """Return the command that builds these shards; how many processes do it changes nothing."""
        words = ["jitlab", "data", "build", NAME, "--source", str(self.source), "--image-size", str(self.image_size)]
        words += ["--out", str(self.out)]
        for option, value, usual in (
            ("--store", self.store, "original"),
            ("--format", self.format, "webp"),
            ("--held-out", self.held_out, HELD_OUT_IMAGES),
            ("--devkit", self.devkit, None),
            ("--seed", self.seed, 0),
            ("--samples-per-shard", self.samples_per_shard, SAMPLES_PER_SHARD),
        ):
            words += [option, str(value)] if value != usual else []
        return shlex.join(words)


def remedy(folder: str, image_size: int) -> str:
    """Say what to do where these shards are missing or damaged."""
    command = f"jitlab data build {NAME} --source ILSVRC2012_img_train.tar --image-size {image_size} --out"
    return f"build it from your ImageNet (data/README.md): {command} {shlex.quote(folder)}, or set data.path"


def build_imagenet(options: Options, workers: int, console: Console | None) -> Built:
    """Build shards of ImageNet, or go on with it.

    Raises:
        UserError: for a source that is none, shards that would lie within it, other shards in the folder, or a full
            disk.
        RunError: where a process was killed.
    """
    _check_apart(options)
    with workspace(options.out) as place:
        if console:
            console.print(f"{options.source}: looking for images", soft_wrap=True, highlight=False, markup=False)
        training = find_images(options.source)
        held_out = _held_out_source(options, training)
        if console:
            for source in [training] if held_out is training else [training, held_out]:
                if told := _passed_over(source):
                    console.print(told, soft_wrap=True, highlight=False, markup=False)
        tables = _tables(options, training, held_out)
        contents = Images(
            place,
            {TRAIN: _Place(training.path, training.archives), HELD_OUT: _Place(held_out.path, held_out.archives)},
            training.classes,
            options.image_size,
            options.store,
            options.format,
            options.samples_per_shard,
        )
        facts = Facts(
            source=NAME,
            image_size=options.image_size if options.store == "crop" else None,
            num_classes=training.num_classes,
            classes=training.classes,
            command=options.command,
            recipe=_recipe(options, training, held_out),
        )
        counts = {split: len(table) for split, table in tables.items()}
        plan = Plan(facts, counts, options.samples_per_shard, contents, _bytes_per_image(options, training))
        return go_on_building(options.out, place, plan, tables, workers, console)


def _check_apart(options: Options) -> None:
    """Raise UserError where the shards would become a part of their own source."""
    for source in (options.source, options.held_out):
        if isinstance(source, Path) and source.is_dir() and options.out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"--out {options.out}: lies in {source}, where images are read from; name another folder")


@dataclass(frozen=True)
class _Place:
    """Where the images of a split lie."""

    path: Path
    archives: list[str]


@dataclass(frozen=True)
class Images:
    """The samples of the shards, read from where `tables` in `folder` say that they are."""

    folder: Path
    places: dict[str, _Place]
    classes: list[str]
    image_size: int
    store: Store
    format: CropFormat
    samples_per_shard: int

    def samples(self, split: str, number: int, log: ShardLog) -> Iterator[Sample]:
        """Yield the samples of a shard; what cannot be read is logged and left out."""
        place, start = self.places[split], number * self.samples_per_shard
        for row in self.tables[split][start : start + self.samples_per_shard]:
            name = bytes(row["name"]).decode(errors="replace")
            class_name = self.classes[int(row["label"])] if self.classes else ""
            try:
                encoded = read_image(place.archives, self.classes, place.path, row)
                image = _checked(encoded)
            except (OSError, DamagedImageError) as error:
                log.unreadable.append(f"{class_name}/{name}: {error}" if class_name else f"{name}: {error}")
                continue
            log.small += min(image.size) < self.image_size
            stored, extension = self._stored(encoded, name, image)
            facts: dict[str, str | int] = {"file": name, "width": image.width, "height": image.height}
            if class_name:
                facts["synset"] = class_name
            yield Sample(bytes(row["key"]).decode(), stored, extension, int(row["label"]), facts)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Return the tables, mapped into memory."""
        return {split: np.load(self.folder / f"{split}.npy", mmap_mode="r") for split in self.places}

    def _stored(self, encoded: bytes, name: str, image: Image.Image) -> tuple[bytes, str]:
        if self.store == "crop":
            return encode_crop(center_crop(image, self.image_size), self.format)
        return encoded, name.rpartition(".")[2].lower()


def _checked(encoded: bytes) -> Image.Image:
    """Decode an image whole; raises DamagedImageError."""
    with warnings.catch_warnings():
        # Pillow's, of metadata that nobody reads.
        warnings.simplefilter("ignore")
        return rgb_image(encoded)


def _passed_over(source: Source) -> str:
    """Say which files beside the images were left out, "" for none."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in source.passed_over.most_common())
    return f"{source.path}: passed over what has no image's extension: {kinds}" if kinds else ""


def _held_out_source(options: Options, training: Source) -> Source:
    """Return the source of the held-out images, labelled as the training images are."""
    if isinstance(options.held_out, int):
        if options.held_out >= len(training.table):
            raise UserError(
                f"--held-out {options.held_out}: {options.source} has {len(training.table)} images; set fewer aside"
            )
        return training
    path, devkit = options.held_out, options.devkit
    found = flat_validation(path, devkit) if devkit else find_images(path)
    if strange := [name for name in found.classes if name not in training.classes]:
        raise UserError(
            f"{options.held_out}: class {strange[0]} is none of the {len(training.classes)} of {options.source}; "
            f"{nearest(strange[0], training.classes)}"
        )
    if not found.classes:
        if found.num_classes > training.num_classes:
            raise UserError(
                f"{options.held_out}: has label {found.num_classes - 1}, {options.source} has {training.num_classes} "
                "classes; name images of the same classes"
            )
        return found
    rank = {name: label for label, name in enumerate(training.classes)}
    table = found.table.copy()
    table["label"] = np.array([rank[name] for name in found.classes], np.int32)[found.table["label"]]
    return replace(found, table=table)


def _tables(options: Options, training: Source, held_out: Source) -> dict[str, Table]:
    """Return the images of each split in the order of the shards."""
    order = numpy_generator("imagenet shards", options.seed).permutation(len(training.table))
    if isinstance(options.held_out, int):
        aside, kept = order[: options.held_out], order[options.held_out :]
        return {TRAIN: training.table[kept], HELD_OUT: training.table[aside]}
    held_out_order = numpy_generator("imagenet held-out shards", options.seed).permutation(len(held_out.table))
    return {TRAIN: training.table[order], HELD_OUT: held_out.table[held_out_order]}


def _recipe(options: Options, training: Source, held_out: Source) -> Recipe:
    crops = {"format": options.format, "image_size": options.image_size} if options.store == "crop" else {}
    return {
        "source": NAME,
        "images": training.identity,
        "held_out": options.held_out if isinstance(options.held_out, int) else held_out.identity,
        "store": options.store,
        **crops,
        "seed": options.seed,
        "samples_per_shard": options.samples_per_shard,
    }


def _bytes_per_image(options: Options, training: Source) -> float:
    if options.store == "original":
        return float(training.table["size"].mean()) + BYTES_BESIDE
    share = {"raw": 1.0, "webp": 0.5}[options.format]
    return share * 3 * options.image_size**2 + BYTES_BESIDE
