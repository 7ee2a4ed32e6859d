"""The verb `jitlab data build`: what may be asked for each data set, and what is told of it at the end."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jitlab.datasets import digits
from jitlab.datasets.building import Built
from jitlab.datasets.imagenet import Options
from jitlab.datasets.imagenet import build_imagenet as build_shards
from jitlab.datasets.index import TRAIN, Index
from jitlab.datasets.parallel import cores
from jitlab.errors import UserError

OF_ALL = {"verb", "data", "image_size", "out"}
SCALES = (64, 256, 512, 1024)
# Beyond it an image fills the memory, and neither WebP nor Pillow's guard against such images would take it.
LARGEST = 4096


def build_digits(given: Mapping[str, Any]) -> int:
    """Build the digits; raises UserError for options that they do not have."""
    if strange := sorted(given.keys() - OF_ALL):
        raise UserError(f"{_option(strange[0])}: belongs to jitlab data build imagenet; leave it out for digits")
    size, folder = given["image_size"], given["out"]
    if not digits.SIGNAL_SIZE <= size <= LARGEST:
        raise UserError(f"--image-size {size}: expected {digits.SIGNAL_SIZE} to {LARGEST} pixels")
    index = digits.build_digits(folder, size)
    print(f"{folder}: {_counts(index)} images of {size} px, fingerprint {index.fingerprint[:12]}")
    return 0


def build_imagenet(given: Mapping[str, Any], console: Console) -> int:
    """Build ImageNet and return the exit code; raises UserError for options that do not go together."""
    if "source" not in given:
        raise UserError(
            "--source: missing; name ILSVRC2012_img_train.tar, a folder of class folders or of one tar for each class, "
            "or WebDataset shards"
        )
    if "format" in given and given.get("store") != "crop":
        raise UserError("--format: belongs to --store crop; originals keep their own format")
    if "devkit" in given and not isinstance(given.get("held_out"), Path):
        raise UserError("--devkit: has the labels of --held-out ILSVRC2012_img_val.tar; name that, too")
    if given["image_size"] > LARGEST:
        raise UserError(f"--image-size {given['image_size']}: expected at most {LARGEST} pixels")
    options = Options(**{field.name: given[field.name] for field in fields(Options) if field.name in given})
    try:
        built = build_shards(options, given.get("workers") or cores(), console)
    except KeyboardInterrupt:
        print(f"{options.out}: stopped; the same command goes on with the shards that are missing", file=sys.stderr)
        raise
    _tell(options, built)
    unreadable = built.index.facts.unreadable
    for line in unreadable:
        print(line, file=sys.stderr)
    allowed = given.get("allow_errors", 0)
    if unreadable:
        verdict = f"--allow-errors {allowed} tolerates as many" if len(unreadable) <= allowed else "they are left out"
        print(f"{options.out}: {len(unreadable)} images cannot be read: {verdict}", file=sys.stderr)
    return 1 if len(unreadable) > allowed else 0


def _tell(options: Options, built: Built) -> None:
    index, folder, size = built.index, options.out, options.image_size
    total = sum(shard.bytes for shards in index.splits.values() for shard in shards)
    what = f"crops of {size} px" if index.facts.image_size else "images as they came"
    print(
        f"{folder}: {_counts(index)} {what}, {index.facts.num_classes} classes, {total / 1e9:,.3g} GB, "
        f"fingerprint {index.fingerprint[:12]}"
    )
    if built.small is None:
        print(f"{folder}: was built already; jitlab data verify {folder} reads all of it")
    elif built.small:
        print(f"{built.small} images are smaller than {size} px and will be enlarged")
    counts = np.bincount(index.split(TRAIN)[1]["label"], minlength=index.facts.num_classes)
    if without := int((counts == 0).sum()):
        print(f"{without} of {len(counts)} classes have no training image: set fewer aside with --held-out")
    scale = f"imagenet{size}" if size in SCALES else "imagenet256"
    # A run looks from the repository, wherever this was typed.
    found = folder if Path("experiments", "scales").is_dir() else folder.resolve()
    words = [f"data.path={found}", *([] if size in SCALES else [f"data.image_size={size}"])]
    words += [f"data.num_classes={index.facts.num_classes}"] if index.facts.num_classes != 1000 else []
    print(f'train on it: make experiment EXP=noise_vs_x SCALE={scale} ARGS="{shlex.join(words)}"')


def _counts(index: Index) -> str:
    return ", ".join(f"{sum(s.samples for s in shards)} {split}" for split, shards in index.splits.items())


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
