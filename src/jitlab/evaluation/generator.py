"""Generating the images of an evaluation, in this process or in several, one for each device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from jitlab import build
from jitlab.build_measure import process_device
from jitlab.callbacks.drawing import draw_images, write_png
from jitlab.callbacks.stop import StopRequest
from jitlab.checkpoint_files import open_checkpoint
from jitlab.config.schema import Config
from jitlab.console import console as terminal
from jitlab.datasets.parallel import cores
from jitlab.errors import UserError
from jitlab.evaluation.generation import RAW, Round, fill
from jitlab.evaluation.observation import Observer
from jitlab.evaluation.progress import ImageProgress
from jitlab.evaluation.subject import FileState
from jitlab.files import DISK_FULL
from jitlab.metrics.features import Extractor, build_extractor
from jitlab.metrics.patches import RealPatches
from jitlab.processes import run_together
from jitlab.training.ema import Averages


@dataclass(frozen=True)
class Job:
    """What every process is to know.

    Args:
        checkpoint: a file of jitlab's.
        state: of that file.
        config: that it is sampled with.
        decays: of the averages that are wanted.
        features: name of the extractor.
        weights: its file of weights; None where it finds them itself.
        patches: of real images, None where there are none.
        samples: folder of the images that are saved.
        devices: processes.
    """

    checkpoint: Path
    state: FileState
    config: Config
    decays: Sequence[float]
    features: str
    weights: Path | None
    patches: RealPatches | None
    samples: Path
    devices: int


class Generator:
    """A checkpoint's network and averages on this process's device, and what observes the images."""

    def __init__(self, job: Job, extractor: Extractor | None = None) -> None:
        """Load; without an extractor, also that. Raises UserError for what cannot be used."""
        self._job = job
        device = process_device()
        checkpoint = open_checkpoint(job.checkpoint)
        job.state.check(job.checkpoint)
        self._module = checkpoint.module(RAW, job.config).eval().to(device)
        self._averages = Averages(self._module.network, job.decays)
        self._averages.load_state_dict(checkpoint.averages)
        extractor = extractor or build_extractor(job.features, device, job.weights)
        self._observer = Observer(extractor, job.patches.to(device) if job.patches else None)

    def generate(self, rounds: Sequence[Round], rank: int, stop: StopRequest, progress: ImageProgress) -> None:
        """Generate this process's share of the rows that the tables lack.

        Raises:
            UserError: where the disk is full, or the device's memory is; what was generated stays.
            StoppedError: where a stop was asked for; so does it then.
        """

        def observe(images: Tensor) -> Tensor:
            stop.raise_if_requested()
            # The run's precision is the network's; features are defined in float32.
            with torch.autocast(images.device.type, enabled=False):
                return self._observer(images)

        try:
            with progress, build.precision_context(self._job.config):
                for wanted in rounds:
                    tables = wanted.tables(self._observer.columns.size)
                    keep = partial(_save, self._job.samples, wanted.images.num_classes)
                    share = rank, self._job.devices
                    fill(self._module, self._averages, wanted, tables, observe, keep, *share, progress)
        except torch.OutOfMemoryError as error:
            size = rounds[0].images.batch_size
            raise UserError(
                f"--batch-size {size}: the device has too little memory for so many images at a time; use fewer"
            ) from error
        except OSError as error:
            if error.errno in DISK_FULL:
                place, why = self._job.samples.parent, error.strerror
                raise UserError(
                    f"{place}: the disk is full ({why}); make room, and the same command goes on from here"
                ) from error
            raise


def take_part(job: Job, rounds: Sequence[Round], what: str, rank: int, stop: StopRequest) -> None:
    """Generate as one of several processes; the first one shows how far all of them are."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, cores() // job.devices))
    console = terminal() if rank == 0 else Console(quiet=True)
    progress = ImageProgress(console, what, _total(rounds), job.devices)
    Generator(job).generate(rounds, rank, stop, progress)


class Pool:
    """Generates in this process on one device, else in one process for each."""

    def __init__(self, job: Job, extractor: Extractor, console: Console, stop: StopRequest) -> None:
        """Prepare; the network is loaded when the first images are asked for."""
        self._job = job
        self._extractor = extractor
        self._console = console
        self._stop = stop
        self._generator: Generator | None = None

    def generate(self, rounds: Sequence[Round], what: str) -> None:
        """Fill the tables of rounds; raises what `Generator.generate` does."""
        if self._job.devices > 1:
            run_together(partial(take_part, self._job, rounds, what), self._job.devices, self._stop)
            return
        self._generator = self._generator or Generator(self._job, self._extractor)
        self._generator.generate(rounds, 0, self._stop, ImageProgress(self._console, what, _total(rounds)))


def _total(rounds: Sequence[Round]) -> int:
    return sum(wanted.total for wanted in rounds)


def _save(folder: Path, num_classes: int, numbers: range, images: Tensor) -> None:
    for number, image in zip(numbers, images.cpu().split(1), strict=True):
        write_png(folder / f"{number:05d}-class{number % num_classes}.png", draw_images(image))
