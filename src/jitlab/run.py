"""One run: an arm at a seed, from its folder's state to a new one, mirrored to MLflow."""

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from jitlab import build
from jitlab.callbacks.mlflow_run import MlflowRun, Tracking
from jitlab.callbacks.run_log import RunFolder
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.errors import RunError, UserError
from jitlab.files import write_text
from jitlab.run_record import COMPLETE, FAILED, KILLED, RUNNING, RunRecord, read_record

CONFIG_FILE = "config.yaml"
CHECKPOINT_FILE = "last.ckpt"
TRACEBACK_FILE = "traceback.txt"
MLFLOW_STATUS = {COMPLETE: "FINISHED", FAILED: "FAILED", KILLED: "KILLED"}


class RunKey(NamedTuple):
    """An arm and a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the run, its folder and its MLflow run; the first seed goes unmentioned."""
        return self.arm if self.seed == 0 else f"{self.arm}-s{self.seed}"


@dataclass(frozen=True)
class Mirror:
    """Where in MLflow a run goes, and what is said of it there."""

    tracking: Tracking
    experiment_id: str
    params: Mapping[str, Any]
    tags: Mapping[str, Any]


def execute_run(
    key: RunKey, config: Config, root: Path, folder: Path, mirror: Mirror, console: Console, stop: StopRequest
) -> RunRecord:
    """Train a run to its end, from its checkpoint where there is one, and return how it ended.

    Whatever ends it, its record and its MLflow run say so.

    Raises:
        UserError: for data or a checkpoint that cannot be used; the run is marked as failed.
    """
    write_text(folder / CONFIG_FILE, load.to_yaml(config))
    (folder / TRACEBACK_FILE).unlink(missing_ok=True)
    record = read_record(folder) or RunRecord(key.arm, key.seed, config.train.steps)
    log = RunFolder(folder)
    mlflow = MlflowRun(
        mirror.tracking, mirror.experiment_id, key.name, record.mlflow_run_id, mirror.params, mirror.tags
    )
    record = record.written(folder, status=RUNNING, reason=None, hardware=build.hardware(), mlflow_run_id=mlflow.id)
    earlier, started = record.seconds, time.monotonic()

    def saved(step: int) -> None:
        nonlocal record
        record = record.written(folder, step=step, seconds=earlier + time.monotonic() - started)

    checkpoint = folder / CHECKPOINT_FILE
    status: str = KILLED
    reason: str | None = "interrupted"
    try:
        mlflow.catch_up(log.rows(), log.pictures())
        mlflow.log_text(load.to_yaml(config), CONFIG_FILE)
        datamodule, module = build.build_datamodule(config, root), build.build_module(config)
        record = record.written(
            folder,
            parameters=sum(p.numel() for p in module.network.parameters()),
            data_fingerprint=datamodule.fingerprint,
        )
        context = build.RunContext(key.name, checkpoint, [mlflow, log], console, stop, saved)
        trainer = build.build_trainer(config, module, datamodule, context)
        resumed = str(checkpoint) if checkpoint.exists() else None
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)
        status, reason = COMPLETE, None
    except (Exception, SIGTERMException) as error:
        status, reason = _why(error, folder)
        if isinstance(error, UserError):
            raise
    finally:
        # MLflow first: a record that says complete is not looked at again.
        mlflow.end(MLFLOW_STATUS[status], {"jitlab.status": reason or status})
        seconds = earlier + time.monotonic() - started
        record = record.written(folder, status=status, reason=reason, seconds=seconds)
    return record


def _why(error: BaseException, folder: Path) -> tuple[str, str]:
    if isinstance(error, StoppedError | SIGTERMException):
        return KILLED, "stopped by the user"
    if isinstance(error, UserError | RunError):
        return FAILED, str(error)
    # A fault of jitlab or of the machine: kept in full beside the run and told on one line; the other arms go on.
    write_text(folder / TRACEBACK_FILE, "".join(traceback.format_exception(error)))
    summary = (str(error).splitlines() or [""])[0]
    return FAILED, f"{type(error).__name__}: {summary} (see {folder / TRACEBACK_FILE})"
