"""Measures jitlab's data loading against torchvision's ImageFolder, webdataset, and its own decoder alone.

All read the same photographs, made to be like ImageNet's and in the page cache, in as many worker processes, and
deliver batches of uint8 (B, 3, H, W), flipped at random. The peers crop with Pillow, as ADM does. Repetitions are
interleaved and the median counts. The start of the workers is left out for all alike: the clock runs from the moment
when every worker has delivered its first batch (the plain processes: when all are ready).

    python -m benchmarks.data_loading [--images 1024] [--repetitions 5]
    python -m benchmarks.data_loading --memory [--images 100000]
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import (
    decoder_rate,
    loader_rate,
    open_image_folder,
    open_jitlab,
    open_webdataset,
    single_rate,
    write_shards,
)
from jitlab.datasets.decode import Decoder, exact_crop
from jitlab.datasets.encode import encode_crop
from tests.photographs import photographs, write_image_folder

CLASSES = 10
SHARDS = 8
SMALL_SIZE = 32
SMALL_PHOTOGRAPHS = 2000
DECODERS: tuple[Decoder, ...] = ("fast", "exact")
PACKAGES = ("torch", "torchvision", "pillow", "simplejpeg", "webdataset")
console = Console(width=110)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, help="1024, or 100000 with --memory")
    parser.add_argument("--size", type=int, default=256, help="pixels to crop to; --memory takes 32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure the workers' memory over an epoch instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console.print(f"{_machine()}; " + ", ".join(f"{package} {version(package)}" for package in PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            measure_memory(Path(folder), arguments.images or 100_000, arguments.batch_size, arguments.workers)
        else:
            measure_speed(Path(folder), arguments)


def measure_speed(folder: Path, arguments: argparse.Namespace) -> None:
    """Print images/s of all contenders, what was aimed at, and what each stored format costs."""
    count, size = arguments.images or 1024, arguments.size
    batch_size, workers = arguments.batch_size, arguments.workers
    if count < 2 * workers * batch_size + SHARDS * batch_size:
        raise SystemExit(f"--images {count}: too few for {workers} workers and batches of {batch_size}")
    entries = list(photographs(count, seed=0, classes=CLASSES))
    images = [encoded for _, _, encoded in entries]
    write_image_folder(folder / "folder", entries)
    synsets = sorted({name for name, _, _ in entries})
    labelled = ((synsets.index(name), encoded) for name, _, encoded in entries)
    write_shards(folder / "shards", labelled, CLASSES, -(-count // SHARDS))
    contenders: dict[str, Callable[[], float]] = {}
    for decoder in DECODERS:
        loader = open_jitlab(folder / "shards", decoder, size, batch_size, workers)
        contenders[f"jitlab, {decoder}"] = partial(loader_rate, loader, workers)
    image_folder = open_image_folder(folder / "folder", size, batch_size, workers)
    contenders["ImageFolder, Pillow"] = partial(loader_rate, image_folder, workers)
    plain = open_webdataset(folder / "shards", size, batch_size, workers)
    contenders["webdataset, Pillow"] = partial(loader_rate, plain, workers)
    for decoder in DECODERS:
        contenders[f"decoder alone, {decoder}"] = partial(decoder_rate, images, size, decoder, workers)
    rates = interleaved(contenders, arguments.repetitions)
    console.print(_rates_table(rates, count, size, workers, arguments.repetitions))
    console.print(_targets_table(rates, workers))
    console.print(_formats_table(images[: count // 4], size, arguments.repetitions))


def interleaved(contenders: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Return the median of each contender's rates, one of each in every round, after a round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + repetitions):
        for name, contender in contenders.items():
            found[name].append(contender())
    return {name: statistics.median(rates[1:]) for name, rates in found.items()}


def _rates_table(rates: Mapping[str, float], count: int, size: int, workers: int, repetitions: int) -> Table:
    columns = ("ImageFolder, Pillow", "webdataset, Pillow")
    table = Table(title=f"{count} photographs to {size} px, {workers} workers, median of {repetitions}")
    for column in ("", "images/s", *(f"x {name}" for name in columns)):
        table.add_column(column, justify="right" if column else "left")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.0f}", *(f"{rate / rates[column]:.2f}" for column in columns))
    return table


def _targets_table(rates: Mapping[str, float], workers: int) -> Table:
    peer = max(rates["ImageFolder, Pillow"], rates["webdataset, Pillow"])
    rows = [
        ("fast, times the faster peer", rates["jitlab, fast"] / peer, ">= 1.9", 1.9),
        ("exact, times the faster peer", rates["jitlab, exact"] / peer, ">= 1.0", 1.0),
    ]
    for decoder in DECODERS:
        jitlab, alone = rates[f"jitlab, {decoder}"], rates[f"decoder alone, {decoder}"]
        overhead = 1000 * workers * (1 / jitlab - 1 / alone)
        rows.append((f"{decoder}, times its decoder alone", jitlab / alone, ">= 0.8", 0.8))
        rows.append((f"{decoder}, a worker's overhead over the decoder, ms/sample", overhead, "<= 0.4", 0.4))
    table = Table("", "measured", "aim", "")
    for name, value, aim, bound in rows:
        met = value <= bound if aim.startswith("<") else value >= bound
        table.add_row(name, f"{value:.2f}", aim, "met" if met else "missed")
    return table


def _formats_table(originals: list[bytes], size: int, repetitions: int) -> Table:
    crops = [exact_crop(encoded, size) for encoded in originals]
    stored: dict[str, tuple[list[bytes], Decoder]] = {
        "original JPEG, exact": (originals, "exact"),
        "original JPEG, fast": (originals, "fast"),
        "crop, lossless WebP": ([encode_crop(crop, "webp")[0] for crop in crops], "fast"),
        "crop, raw (PPM)": ([encode_crop(crop, "raw")[0] for crop in crops], "fast"),
        "crop, PNG": ([_png(crop) for crop in crops], "fast"),
    }
    contenders = {name: partial(single_rate, images, size, decoder) for name, (images, decoder) in stored.items()}
    rates = interleaved(contenders, repetitions)
    table = Table("stored as", title=f"{len(originals)} photographs to {size} px, one process")
    table.add_column("KB/image", justify="right")
    table.add_column("images/s per core", justify="right")
    for name, (images, _) in stored.items():
        table.add_row(name, f"{sum(map(len, images)) / len(images) / 1000:.0f}", f"{rates[name]:.0f}")
    return table


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def measure_memory(folder: Path, count: int, batch_size: int, workers: int) -> None:
    """Print the memory of the loader's workers at each tenth of an epoch of small JPEGs."""
    distinct = [encoded for _, _, encoded in photographs(SMALL_PHOTOGRAPHS, seed=0, small=True)]
    write_shards(folder, _repeated(distinct, count), CLASSES, count // 100)
    loader = open_jitlab(folder, "fast", SMALL_SIZE, batch_size, workers)
    steps = count // batch_size
    tenths = {max(1, steps * tenth // 10): tenth for tenth in range(1, 11)}
    table = Table(title=f"an epoch of {count} samples, {workers} workers")
    for column in ("tenth", "largest worker's resident MB", "its own MB"):
        table.add_column(column, justify="right")
    resident: list[float] = []
    for step, _ in enumerate(loader, start=1):
        if step in tenths:
            memory = [child.memory_full_info() for child in psutil.Process().children()]
            resident.append(max(info.rss for info in memory) / 1e6)
            table.add_row(str(tenths[step]), f"{resident[-1]:.0f}", f"{max(info.uss for info in memory) / 1e6:.0f}")
    console.print(table)
    console.print(
        f"last tenth / first tenth: {resident[-1] / resident[0]:.3f}; peak {max(resident):.0f} MB resident, shared "
        "pages of the libraries included"
    )


def _repeated(distinct: list[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    for number in range(count):
        yield number % CLASSES, distinct[number % len(distinct)]


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
