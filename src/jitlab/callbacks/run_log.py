"""Where a run's numbers and pictures go: its folder first, then everything that mirrors it."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning import Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jitlab.errors import UserError
from jitlab.files import write_bytes

METRICS_FILE = "metrics.jsonl"
SAMPLES_FOLDER = "samples"


@runtime_checkable
class ImageLogger(Protocol):
    """A logger that takes pictures."""

    def log_image(self, key: str, image: Image.Image, step: int) -> None:
        """Keep a picture of a step."""


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Give metrics of the present optimizer step to every logger of the trainer."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def log_image(trainer: Trainer, key: str, image: Image.Image) -> None:
    """Give a picture of the present optimizer step to every logger of the trainer that takes pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, ImageLogger):
            logger.log_image(key, image, trainer.global_step)


def metric_is_missing(trainer: Trainer, key: str) -> bool:
    """Say, in every process alike, whether the run folder lacks a metric of the present step."""
    folders = [logger for logger in trainer.loggers if isinstance(logger, RunFolder)]
    return bool(trainer.strategy.broadcast(not any(f.has_metric(key, trainer.global_step) for f in folders)))


def image_is_missing(trainer: Trainer, key: str) -> bool:
    """Say, in every process alike, whether the run folder lacks a picture of the present step."""
    folders = [logger for logger in trainer.loggers if isinstance(logger, RunFolder)]
    return bool(trainer.strategy.broadcast(not any(f.has_image(key, trainer.global_step) for f in folders)))


class RunFolder(Logger):
    """Appends metrics to `metrics.jsonl` and writes pictures below `samples/`.

    A step that is trained again after a crash is not logged again: the same step gives the same numbers.
    """

    def __init__(self, folder: Path) -> None:
        """Continue the log of a run folder.

        Raises:
            UserError: where a line of it, other than a last one that a kill tore, is damaged.
        """
        super().__init__()
        self.folder = folder
        self._path = folder / METRICS_FILE
        self._last_step: dict[str, int] = {}
        self._drop_torn_line()
        for row in self.rows():
            self._last_step |= dict.fromkeys(row["metrics"], row["step"])

    @property
    def name(self) -> str:
        """Return the run's name."""
        return self.folder.name

    @property
    def version(self) -> str:
        """Return nothing: a run has one folder."""
        return ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what was logged: {"step", "time" (seconds since 1970), "metrics"}, in the order of logging."""
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                yield {"step": int(row["step"]), "time": float(row["time"]), "metrics": dict(row["metrics"])}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._path}:{number}: damaged line; --fresh starts the run over") from error

    def pictures(self) -> Iterator[tuple[str, int, Path]]:
        """Yield key, step and file of every picture, in the order of steps."""
        for path in sorted((self.folder / SAMPLES_FOLDER).glob("step*.png")):
            step, _, key = path.stem.removeprefix("step").partition("-")
            yield key, int(step), path

    def has_metric(self, key: str, step: int) -> bool:
        """Say whether a metric was logged at this step or a later one."""
        return self._last_step.get(key, -1) >= step

    def has_image(self, key: str, step: int) -> bool:
        """Say whether a picture of this step was written."""
        return self._picture(key, step).exists()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the metrics of an optimizer step."""
        assert step is not None
        fresh = {key: float(value) for key, value in metrics.items() if step > self._last_step.get(key, -1)}
        if not fresh:
            return
        self._last_step |= dict.fromkeys(fresh, step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "time": time.time(), "metrics": fresh}) + "\n")

    @rank_zero_only
    def log_image(self, key: str, image: Image.Image, step: int) -> None:
        """Write a picture as `samples/stepNNNNNN-KEY.png`, with the texts in its `info` as PNG texts."""
        texts = PngInfo()
        for name, text in image.info.items():
            texts.add_text(str(name), str(text))
        encoded = io.BytesIO()
        image.save(encoded, "PNG", pnginfo=texts)
        write_bytes(self._picture(key, step), encoded.getvalue())

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder has the whole configuration in config.yaml."""

    def _picture(self, key: str, step: int) -> Path:
        return self.folder / SAMPLES_FOLDER / f"step{step:06d}-{key}.png"

    def _drop_torn_line(self) -> None:
        if self._path.exists():
            content = self._path.read_bytes()
            if content and not content.endswith(b"\n"):
                write_bytes(self._path, content[: content.rfind(b"\n") + 1])
