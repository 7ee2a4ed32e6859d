"""Handwritten digits enlarged: the paper's setting in small, a low-dimensional signal in many pixels."""

import io
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jitlab.datasets.building import Plan, ShardLog, build
from jitlab.datasets.crop import center_crop
from jitlab.datasets.index import HELD_OUT, TRAIN, Facts, Index
from jitlab.datasets.shards import Sample
from jitlab.randomness import numpy_generator

NAME = "digits"
NUM_CLASSES = 10
SIGNAL_SIZE = 8
IMAGES = 1797
HELD_OUT_IMAGES = 197
SAMPLES_PER_SHARD = 400


def build_command(folder: str, image_size: int) -> str:
    """Return the command that builds these shards."""
    return f"jitlab data build {NAME} --image-size {image_size} --out {shlex.quote(folder)}"


def remedy(folder: str, image_size: int) -> str:
    """Say what to do where these shards are missing or damaged."""
    return f"build it: {build_command(folder, image_size)}"


def build_digits(folder: Path, image_size: int) -> Index:
    """Write scikit-learn's 1,797 real 8 x 8 digits as shards of RGB images.

    They are enlarged to `image_size` (bicubic, antialiased) and split, in a fixed shuffled order, into `train` and
    `held_out`. Raises UserError where the folder holds other shards.
    """
    facts = Facts(
        source=NAME,
        image_size=image_size,
        num_classes=NUM_CLASSES,
        classes=[str(digit) for digit in range(NUM_CLASSES)],
        command=build_command(str(folder), image_size),
        recipe={"source": NAME, "image_size": image_size},
    )
    counts = {TRAIN: IMAGES - HELD_OUT_IMAGES, HELD_OUT: HELD_OUT_IMAGES}
    plan = Plan(facts, counts, SAMPLES_PER_SHARD, Digits(image_size), bytes_per_image=image_size**2)
    return build(folder, plan)


@dataclass(frozen=True)
class Digits:
    """The samples of the shards."""

    image_size: int

    def samples(self, split: str, number: int, log: ShardLog) -> Iterator[Sample]:  # noqa: ARG002
        """Yield the samples of a shard; all can be read."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = numpy_generator("digits split").permutation(len(digits.target))
        places = order[:HELD_OUT_IMAGES] if split == HELD_OUT else order[HELD_OUT_IMAGES:]
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for place in places[number * SAMPLES_PER_SHARD :][:SAMPLES_PER_SHARD]:
            image = center_crop(Image.fromarray(pixels[place]), self.image_size)
            encoded = io.BytesIO()
            image.convert("RGB").save(encoded, "PNG")
            label = int(digits.target[place])
            yield Sample(f"{place:05d}", encoded.getvalue(), "png", label, {"row": int(place), "label": label})
