"""Ways to read the same photographs: jitlab, torchvision's ImageFolder, webdataset, and the decoder alone."""

import multiprocessing
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from jitlab.datasets.crop import center_crop
from jitlab.datasets.datamodule import Reading, ShardDataModule
from jitlab.datasets.decode import Decoder, decode
from jitlab.datasets.index import TRAIN, Facts, open_index, write_index
from jitlab.datasets.shards import Rows, Sample, Shard, write_shard
from jitlab.datasets.store import local_store

Batches = Iterable[Sequence[Any]]  # (B, 3, H, W) uint8 comes first


def write_shards(folder: Path, images: Iterable[tuple[int, bytes]], classes: int, samples_per_shard: int) -> None:
    """Write (label, JPEG) as shards of originals, keyed by number."""
    samples = (Sample(f"{number:06d}", encoded, "jpg", label, {}) for number, (label, encoded) in enumerate(images))
    shards: list[tuple[Shard, Rows]] = []
    while group := list(islice(samples, samples_per_shard)):
        shards.append(write_shard(folder / f"train-{len(shards):05d}.tar", group))
    write_index(folder, Facts("photographs", None, classes, [], "make bench-data"), {TRAIN: shards})


def open_jitlab(folder: Path, decoder: Decoder, size: int, batch_size: int, workers: int) -> Batches:
    """Return jitlab's own loader of an epoch."""
    index = open_index(folder, "make bench-data")
    reading = Reading(size, index.facts.num_classes, decoder, flip=True, seed=0, window=4, partitions=1)
    store = local_store(folder, index)
    return ShardDataModule(str(folder), index, store, reading, batch_size, workers).train_dataloader()


def open_image_folder(folder: Path, size: int, batch_size: int, workers: int) -> Batches:
    """Return torchvision's and torch's loader of a folder for each class, with Pillow's ADM crop."""
    return DataLoader(
        ImageFolder(folder, _pillow_transform(size)),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
    )


def open_webdataset(folder: Path, size: int, batch_size: int, workers: int) -> Batches:
    """Return a plain webdataset pipeline over the same shards that jitlab reads, with Pillow's ADM crop."""
    dataset = (
        webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=100)
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(_pillow_transform(size), int)
        .batched(batch_size, partial=False)
    )
    loader: Batches = webdataset.WebLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
    )
    return loader


def loader_rate(batches: Batches, workers: int) -> float:
    """Return images/s of an epoch, from the moment when each worker has delivered a batch to the last batch.

    All workers begin together and deliver in turn, so that what is counted is their work after the start-up and
    nothing that they had ready before.
    """
    images, start, end = 0, 0.0, 0.0
    for number, batch in enumerate(batches):
        end = time.perf_counter()
        if number < workers:
            start = end
        else:
            images += len(batch[0])
    return images / (end - start)


def decoder_rate(images: Sequence[bytes], size: int, decoder: Decoder, processes: int) -> float:
    """Return images/s of plain processes that decode a share each of what they have in memory, start-up excluded."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    started = [
        context.Process(target=_decode_all, args=(images[number::processes], size, decoder, barrier, pipe[1]))
        for number, pipe in enumerate(pipes)
    ]
    for process in started:
        process.start()
    slowest: float = max(receiver.recv() for receiver, _ in pipes)
    for process in started:
        process.join()
    return len(images) / slowest


def single_rate(images: Sequence[bytes], size: int, decoder: Decoder) -> float:
    """Return images/s of this process, after one image that is not counted."""
    decode(images[0], size, decoder)
    start = time.perf_counter()
    for encoded in images:
        decode(encoded, size, decoder)
    return len(images) / (time.perf_counter() - start)


def _decode_all(images: Sequence[bytes], size: int, decoder: Decoder, barrier: Barrier, pipe: Connection) -> None:
    torch.set_num_threads(1)  # as in a loader's worker
    barrier.wait()
    pipe.send(len(images) / single_rate(images, size, decoder))


def _pillow_transform(size: int) -> v2.Compose:
    def crop(image: Image.Image) -> Image.Image:
        return center_crop(image, size)

    return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
