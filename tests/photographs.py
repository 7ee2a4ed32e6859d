"""Archives in ImageNet's layout, made from the photographs that scikit-learn and scikit-image carry.

ImageNet itself is not to be had on a build machine. What is made here has its names, nesting, image sizes and bytes
per image, so that what reads it does the work that it will do on the real one.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from jitlab.randomness import numpy_generator

Entry = tuple[str, str, bytes]  # WordNet id, file name, JPEG

SOURCES = (
    *(f"sklearn/datasets/images/{name}" for name in ("china.jpg", "flower.jpg")),
    *(f"skimage/data/{name}" for name in ("hubble_deep_field.jpg", "retina.jpg", "rocket.jpg")),
    *(f"skimage/data/{name}.png" for name in ("astronaut", "chelsea", "coffee", "ihc")),
    *(f"skimage/data/{name}.png" for name in ("motorcycle_left", "motorcycle_right")),
    *(f"skimage/data/{name}.png" for name in ("brick", "camera", "grass", "gravel")),  # grey
)
FIRST_GREY = 11
GREY_SHARE = 0.02
# Width, height and share, roughly ImageNet's own: most of it was 500 pixels long on Flickr.
SIZES = (
    ((500, 375), 0.40),
    ((375, 500), 0.16),
    ((500, 333), 0.14),
    ((333, 500), 0.06),
    ((400, 300), 0.08),
    ((300, 300), 0.04),
    ((640, 480), 0.08),
    ((1024, 768), 0.04),
)
QUALITIES = (97, 98, 98)  # give ImageNet's 107 KB on average
SMALL_SIZES = (((48, 40), 0.7), ((40, 48), 0.3))


def synset(label: int) -> str:
    """Return a WordNet id that sorts as its label does."""
    return f"n{1440764 + 9973 * label:08d}"


def photographs(count: int, seed: int, classes: int = 10, small: bool = False) -> Iterator[Entry]:
    """Yield `count` JPEGs, each class in its turn, as (WordNet id, file name, bytes).

    Image k is a function of (seed, k) alone. They are about 500 x 375 pixels and 107 KB, or, where `small`, 48 x 40
    pixels and made ten times as fast.
    """
    sizes = SMALL_SIZES if small else SIZES
    for number in range(count):
        generator = numpy_generator("photographs", seed, number)
        name = synset(number % classes)
        yield name, f"{name}_{number}.JPEG", _jpeg(_photograph(generator, sizes, 0.1 if small else 1.0), generator)


def write_official_tar(path: Path, entries: Iterable[Entry]) -> None:
    """Write a tar of one tar for each class, as ILSVRC2012_img_train.tar is."""
    with tarfile.open(path, "w") as archive:
        for name, members in _by_class(entries).items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as per_class:
                for file, encoded in members:
                    _add(per_class, file, encoded)
            _add(archive, f"{name}.tar", inner.getvalue())


def write_image_folder(folder: Path, entries: Iterable[Entry]) -> None:
    """Write a folder for each class, as torchvision's ImageFolder reads them."""
    for name, file, encoded in entries:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_bytes(encoded)


def _by_class(entries: Iterable[Entry]) -> dict[str, list[tuple[str, bytes]]]:
    classes: dict[str, list[tuple[str, bytes]]] = {}
    for name, file, encoded in entries:
        classes.setdefault(name, []).append((file, encoded))
    return dict(sorted(classes.items()))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@lru_cache
def _source(number: int, scale: float) -> Image.Image:
    package, _, rest = SOURCES[number].partition("/")
    with (files(package) / rest).open("rb") as file:
        image = Image.open(file)
        image.load()
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _photograph(
    generator: np.random.Generator, sizes: tuple[tuple[tuple[int, int], float], ...], scale: float
) -> Image.Image:
    """Return a random part of a random photograph, at one of the `sizes`."""
    grey = generator.random() < GREY_SHARE
    numbers = range(FIRST_GREY, len(SOURCES)) if grey else range(FIRST_GREY)
    source = _source(int(generator.choice(numbers)), scale)
    width, height = sizes[generator.choice(len(sizes), p=[share for _, share in sizes])][0]
    part = min(source.width / width, source.height / height) * generator.uniform(0.6, 1.0)
    left = generator.uniform(0, source.width - part * width)
    top = generator.uniform(0, source.height - part * height)
    box = (left, top, left + part * width, top + part * height)
    return source.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _jpeg(image: Image.Image, generator: np.random.Generator) -> bytes:
    subsampling = "4:2:0" if generator.random() < 0.8 else "4:4:4"
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=int(generator.choice(QUALITIES)), subsampling=subsampling)
    return encoded.getvalue()
