"""Measures where the time of an evaluation goes: the network, the extractor of features, and all else.

The network has the weights that it starts from, and Inception those of its initialisation: neither's speed depends on
them. Every part is measured on its own, with the device waited for, so that the parts add up.

    python -m benchmarks.evaluation [--scale digits] [--images 500]
    python -m benchmarks.evaluation --memory [--images 10000]
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jitlab import build
from jitlab.config import load
from jitlab.evaluation.generation import RAW, Images, Round, fill
from jitlab.evaluation.observation import Observer
from jitlab.evaluation.progress import ImageProgress
from jitlab.evaluation.search import Cell
from jitlab.metrics.features import Extractor, Pixels, build_extractor
from jitlab.metrics.patches import PatchFit, RealPatches
from jitlab.training.ema import Averages
from jitlab.training.module import JiTModule
from tests.inception import write_inception

REPETITIONS = 3
FITTED_IMAGES = 500
GUIDED = 2.0
POLL_SECONDS = 0.02
console = Console(width=110)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", default="digits", help="whose network and sampler are measured")
    parser.add_argument("--images", type=int, help="500, or 1000 and this many with --memory, 10000")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of whole commands instead")
    parser.add_argument("--checkpoint", default="runs/noise_vs_x-digits/x", help="that --memory evaluates")
    arguments = parser.parse_args()
    if arguments.memory:
        _print_memory(arguments.checkpoint, (1000, arguments.images or 10_000))
    else:
        _print_shares(arguments.scale, arguments.images or 500, arguments.batch_size)


class Stopwatch:
    """Adds up the seconds of named parts; a part within another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block."""
        _wait()
        started = time.perf_counter()
        yield
        _wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return counted


def _print_shares(scale: str, images: int, batch_size: int) -> None:
    question = load.load_question(load.repository(), "noise_vs_x")
    config = load.resolve(load.repository(), question, scale, "x", ["train.compile=false"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = build.build_module(config).eval().to(device)
    patches = _fit(config.model.patch_size, module.signal.shape, device)
    table = Table(title=f"{scale}: {images} images, {config.sampler.steps} steps of {config.sampler.solver}")
    for head in ("features", "guidance"):
        table.add_column(head)
    for head in ("images/s", "generation alone", "features alone", "in the network", "in features", "in the rest"):
        table.add_column(head, justify="right")
    with tempfile.TemporaryDirectory() as folder, build.precision_context(config):
        inception = build_extractor("inception", device, write_inception(Path(folder) / "inception.pth"))
        for extractor in (Pixels(), inception):
            for guidance_scale in (1.0, GUIDED):
                measured = [
                    _seconds(module, extractor, patches, guidance_scale, images, batch_size) for _ in range(REPETITIONS)
                ]
                guided = "without" if guidance_scale == 1.0 else "with"
                table.add_row(extractor.name, guided, *_figures(measured, images))
    console.print(table)
    threads = torch.get_num_threads()
    console.print(f"{build.hardware()}, {platform.machine()}, torch {torch.__version__}, {threads} threads")


def _seconds(
    module: JiTModule, extractor: Extractor, patches: RealPatches, scale: float, images: int, batch_size: int
) -> dict[str, float]:
    """Return the seconds of the network, of all that generates, of features, and of the whole."""
    watch = Stopwatch()
    observer = Observer(extractor, patches)
    shown = Images(images, batch_size, module.objective.null_label)
    network = module.network.forward
    module.network.forward = watch.around("network", network)
    try:
        with tempfile.TemporaryDirectory() as folder:
            wanted = Round(Path(folder), 0, [Cell(RAW, scale)], shown)
            tables = wanted.tables(observer.columns.size)
            progress = ImageProgress(Console(quiet=True), "", images)
            observe: Callable[[Tensor], Tensor] = watch.around("features", observer)
            with watch.part("whole"):
                fill(module, Averages(module.network, []), wanted, tables, observe, _keep_nothing, 0, 1, progress)
    finally:
        module.network.forward = network
    return watch.seconds


def _figures(measured: list[dict[str, float]], images: int) -> list[str]:
    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, measured))

    return [
        f"{median(lambda m: images / m['whole']):.1f}",
        f"{median(lambda m: images / (m['whole'] - m['features'])):.1f}",
        f"{median(lambda m: images / m['features']):.1f}",
        f"{median(lambda m: m['network'] / m['whole']):.0%}",
        f"{median(lambda m: m['features'] / m['whole']):.0%}",
        f"{median(lambda m: 1 - (m['network'] + m['features']) / m['whole']):.0%}",
    ]


def _fit(patch_size: int, shape: tuple[int, ...], device: torch.device) -> RealPatches:
    generator = torch.Generator().manual_seed(0)
    fit = PatchFit(patch_size, device)
    fit.add(torch.randint(256, (FITTED_IMAGES, *shape), generator=generator, dtype=torch.uint8).to(device))
    return fit.compute().to(device)


def _print_memory(checkpoint: str, amounts: tuple[int, ...]) -> None:
    for images in amounts:
        with tempfile.TemporaryDirectory() as folder:
            command = ["evaluate", checkpoint, "--final", str(images), "--out", f"{folder}/out"]
            process = psutil.Popen([sys.executable, "-m", "jitlab.cli", *command], stdout=subprocess.DEVNULL)
            peak = 0
            while process.poll() is None:
                peak = max(peak, process.memory_info().rss)
                time.sleep(POLL_SECONDS)
            if process.returncode:
                raise SystemExit(process.returncode)
        console.print(f"{images:,} images: peak {peak / 1e6:,.0f} MB")


def _keep_nothing(numbers: range, images: Tensor) -> None:
    """Save no images."""


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
