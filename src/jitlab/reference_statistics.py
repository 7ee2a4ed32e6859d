"""Reference statistics of a data set: what generated images are compared with, computed once and kept in a file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from jitlab.datasets.images import ShardImages
from jitlab.datasets.index import TRAIN, Index
from jitlab.datasets.order import Reference as Place
from jitlab.datasets.remote import is_remote
from jitlab.datasets.store import Store, check_store
from jitlab.errors import UserError
from jitlab.files import DISK_FULL
from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.features import Extractor, build_extractor
from jitlab.metrics.frechet import RunningMoments
from jitlab.metrics.reference import Provenance, Reference, write_reference

CROP = "adm"
BATCH_SIZE = 64
# Images whose features are kept: neighbours and kernels compare vectors one by one, for which all are too many.
MOST_FEATURES = 10_000


@dataclass(frozen=True)
class Request:
    """What to compute.

    Args:
        data: folder or URL of the shards' index.
        features: name of the extractor.
        weights: its file of weights; None for the published ones.
        image_size: pixels to crop to; None for the size of the stored crops.
        images: how many of the training images, the first of the shards; None for all.
        out: the file; None for one beside the index.
        workers: processes that decode.
    """

    data: str
    features: str
    weights: Path | None
    image_size: int | None
    images: int | None
    out: Path | None
    workers: int


@dataclass(frozen=True)
class Written:
    """The file, how many images it is of, and the dimensions of their features."""

    path: Path
    images: int
    dimensions: int


def write_statistics(request: Request, index: Index, store: Store, console: Console) -> Written:
    """Write what the features of training images are like, and what they are of.

    Raises:
        UserError: for weights, sizes or numbers that do not fit, shards that are damaged, and a disk that is full.
        RunError: where a server stays away or silent.
    """
    size = _image_size(request, index)
    out = _out(request, size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = build_extractor(request.features, device, request.weights)
    images = training_images(index, store, size)
    count = _count(request, len(images))
    write_reference_of(images, count, extractor, device, out, request.workers, console)
    return Written(out, count, extractor.dimensions)


def default_path(folder: Path, features: str, image_size: int) -> Path:
    """Return where the statistics of all training images of an index's folder go, cropped to so many pixels."""
    return folder / f"reference-{features.replace(':', '-').replace('/', '-')}-{image_size}.npz"


def training_images(index: Index, store: Store, image_size: int) -> ShardImages:
    """Return the training images as statistics are taken of them; raises UserError for missing or damaged shards."""
    check_store(index, store)
    return ShardImages(index, store, TRAIN, image_size, "exact", seed=0, flip=False)


def write_reference_of(
    images: ShardImages,
    count: int,
    extractor: Extractor,
    device: torch.device,
    out: Path,
    workers: int,
    console: Console,
) -> None:
    """Write the statistics of the first `count` images, two or more.

    Args:
        images: `training_images`.
        count: how many.
        extractor: of their features, built for `device`.
        device: where features are computed.
        out: the file.
        workers: processes that decode.
        console: shows how far it is.

    Raises:
        UserError: for shards that are damaged, and a disk that is full.
        RunError: where a server stays away or silent.
    """
    moments = RunningMoments(extractor.dimensions, sync_on_compute=False).to(device)
    structure = ClassStructure(extractor.dimensions, images.index.facts.num_classes, sync_on_compute=False).to(device)
    kept = torch.empty(min(count, MOST_FEATURES), extractor.dimensions)
    places = torch.arange(len(kept)) * count // len(kept)
    done = 0
    with Progress(console=console) as progress:
        task = progress.add_task(f"{extractor.name} of {count} images", total=count)
        for batch, labels in _batches(images, count, workers):
            vectors = extractor(batch.to(device)).vectors
            moments.update(vectors)
            structure.update(vectors, labels)
            here = (places >= done) & (places < done + len(batch))
            kept[here] = vectors.cpu()[places[here] - done]
            done += len(batch)
            progress.advance(task, len(batch))
    fingerprint = images.index.fingerprint
    provenance = Provenance(extractor.name, extractor.weights_sha256, images.image_size, CROP, fingerprint)
    share = structure.compute()
    _write(out, Reference(moments.compute(), provenance, kept, share if math.isfinite(share) else None))


def _batches(images: ShardImages, count: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    places = [Place(0, number) for number in range(count)]
    # The sampler gives places and not numbers: ShardImages takes nothing else.
    for batch, labels, _ in DataLoader(images, BATCH_SIZE, sampler=places, num_workers=workers):
        yield batch, labels


def _write(out: Path, reference: Reference) -> None:
    try:
        write_reference(out, reference)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"{out}: {error.strerror}; make room and type the same command again") from error
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another file with --out") from error


def _image_size(request: Request, index: Index) -> int:
    stored = index.facts.image_size
    if request.image_size is None and stored is None:
        raise UserError(f"--image-size: missing; {request.data} has images as they came: say what they are cropped to")
    if stored and request.image_size not in (None, stored):
        raise UserError(f"--image-size {request.image_size}: {request.data} has crops of {stored} px; leave it out")
    return request.image_size or stored or 0


def _count(request: Request, there: int) -> int:
    count = there if request.images is None else request.images
    if not 2 <= count <= there:
        raise UserError(f"--images {count}: {request.data} has {there} training images; use 2 to {there}")
    return count


def _out(request: Request, image_size: int) -> Path:
    if request.out:
        return request.out
    if is_remote(request.data):
        raise UserError(f"{request.data}: is on a server; name the file of the statistics with --out")
    return default_path(Path(request.data), request.features, image_size)
