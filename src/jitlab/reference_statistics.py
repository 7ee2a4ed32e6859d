"""Reference statistics of a data set: what generated images are compared with, computed once and kept in a file."""

import math
from dataclasses import dataclass, replace
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
from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.features import Extractor, build_extractor
from jitlab.metrics.frechet import RunningMoments
from jitlab.metrics.reference import Provenance, Reference, write_reference

CROP = "adm"
BATCH_SIZE = 64
# What precision and recall are commonly taken over.
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


def write_statistics(
    request: Request, index: Index, store: Store, console: Console, extractor: Extractor | None = None
) -> Written:
    """Write mean and covariance of the features of training images, some of the features, and what they are of.

    Without an `extractor` the one that is asked for is built.

    Raises:
        UserError: for weights, sizes or numbers that do not fit, and for shards that are damaged.
        RunError: where a server stays away or silent.
    """
    size, out = _image_size(request, index), _out(request, index)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = extractor or build_extractor(request.features, device, request.weights)
    check_store(index, store)
    images = ShardImages(index, store, TRAIN, size, "exact", seed=0, flip=False)
    count = _count(request, len(images))
    provenance = Provenance(extractor.name, extractor.weights_sha256, size, CROP, index.fingerprint)
    found = _statistics(images, count, extractor, index.facts.num_classes, device, request.workers, console)
    write_reference(out, replace(found, provenance=provenance))
    return Written(out, count, extractor.dimensions)


def _statistics(
    images: ShardImages,
    count: int,
    extractor: Extractor,
    classes: int,
    device: torch.device,
    workers: int,
    console: Console,
) -> Reference:
    moments = RunningMoments(extractor.dimensions, sync_on_compute=False).to(device)
    structure = ClassStructure(extractor.dimensions, classes, sync_on_compute=False).to(device)
    # Evenly over all images: shards of other codebases may hold one class after another.
    kept = {number * count // min(count, MOST_FEATURES) for number in range(min(count, MOST_FEATURES))}
    features = list[Tensor]()
    places = [Place(0, number) for number in range(count)]
    # The sampler gives places and not numbers: ShardImages takes nothing else.
    loader = DataLoader(images, BATCH_SIZE, sampler=places, num_workers=workers)
    with Progress(console=console) as progress:
        task = progress.add_task(f"{extractor.name} of {count} images", total=count)
        for first, (batch, labels, _) in zip(range(0, count, BATCH_SIZE), loader, strict=True):
            vectors = extractor(batch.to(device)).vectors
            moments.update(vectors)
            structure.update(vectors, labels)
            features.append(vectors[[first + place in kept for place in range(len(vectors))]].float().cpu())
            progress.advance(task, len(batch))
    share = structure.compute()
    return Reference(moments.compute(), None, torch.cat(features), share if math.isfinite(share) else None)


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


def _out(request: Request, index: Index) -> Path:
    if request.out:
        return request.out
    if is_remote(request.data):
        raise UserError(f"{request.data}: is on a server; name the file of the statistics with --out")
    return default_path(request.data, request.features, _image_size(request, index))


def default_path(data: str, features: str, image_size: int) -> Path:
    """Return where the statistics of a folder of shards lie if nobody says otherwise."""
    return Path(data) / f"reference-{features.replace(':', '-').replace('/', '-')}-{image_size}.npz"
