"""One run: an arm at a seed, from its folder's state to a new one, mirrored to MLflow."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lightning import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from jitlab import build
from jitlab.build_measure import DataModule
from jitlab.callbacks.mlflow_run import MlflowRun, Tracking
from jitlab.callbacks.run_log import RunFolder
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.console import console as terminal
from jitlab.errors import RunError, UserError
from jitlab.files import write_text
from jitlab.processes import run_together
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
    key: RunKey,
    config: Config,
    root: Path,
    folder: Path,
    mirror: Mirror,
    console: Console,
    stop: StopRequest,
    allow_batch_change: bool = False,
) -> RunRecord:
    """Train a run to its end, from its checkpoint where there is one, and return how it ended.

    Whatever ends it, its record and its MLflow run say so. On one device it is trained in this process, on several in
    processes of their own, which this one watches.

    Raises:
        UserError: for data or a checkpoint that cannot be used; the run is marked as failed.
    """
    write_text(folder / CONFIG_FILE, load.to_yaml(config))
    (folder / TRACEBACK_FILE).unlink(missing_ok=True)
    record = read_record(folder) or RunRecord(key.arm, key.seed, config.train.steps)
    mlflow = MlflowRun(
        mirror.tracking, mirror.experiment_id, key.name, record.mlflow_run_id, mirror.params, mirror.tags
    )
    hardware, earlier, started = build.hardware(config.train.devices), record.seconds, time.monotonic()
    record = record.written(folder, status=RUNNING, reason=None, hardware=hardware, mlflow_run_id=mlflow.id)
    status: str = KILLED
    reason: str | None = "interrupted"
    try:
        mlflow.log_text(load.to_yaml(config), CONFIG_FILE)
        if config.train.devices == 1:
            _train(config, root, folder, mlflow, console, stop, allow_batch_change)
        else:
            work = partial(_take_part, config, root, folder, mlflow.id, allow_batch_change)
            run_together(work, config.train.devices, stop)
        status, reason = COMPLETE, None
    except (Exception, SIGTERMException) as error:
        status, reason = _why(error, folder)
        if isinstance(error, UserError):
            raise
    finally:
        # MLflow first: a record that says complete is not looked at again.
        mlflow.end(MLFLOW_STATUS[status], {"jitlab.status": reason or status})
        seconds = earlier + time.monotonic() - started
        record = (read_record(folder) or record).written(folder, status=status, reason=reason, seconds=seconds)
    return record


def _take_part(
    config: Config,
    root: Path,
    folder: Path,
    mlflow_run_id: str,
    allow_batch_change: bool,
    rank: int,
    stop: StopRequest,
) -> None:
    """Train a run as one of several processes; the first one keeps and shows what there is to be kept and shown."""
    mlflow = MlflowRun(Tracking(root), "", folder.name, mlflow_run_id, {}, {}) if rank == 0 else None
    console = terminal() if rank == 0 else Console(quiet=True)
    _train(config, root, folder, mlflow, console, stop, allow_batch_change)


def _train(
    config: Config,
    root: Path,
    folder: Path,
    mlflow: MlflowRun | None,
    console: Console,
    stop: StopRequest,
    allow_batch_change: bool,
) -> None:
    """Train a run from its checkpoint, where there is one, to its end; without `mlflow`, keep nothing of it."""
    datamodule = build.build_datamodule(config, root, folder, allow_batch_change)
    module = build.build_module(config)
    loggers: list[Logger] = []
    keep: Callable[[int], None] | None = None
    if mlflow:
        log = RunFolder(folder)
        mlflow.catch_up(log.rows(), log.pictures())
        loggers, keep = [mlflow, log], _keep_record(folder, module, datamodule)
    checkpoint = folder / CHECKPOINT_FILE
    context = build.RunContext(folder.name, root, checkpoint, loggers, console, stop, keep)
    trainer = build.build_trainer(config, module, datamodule, context)
    resumed = str(checkpoint) if checkpoint.exists() else None
    trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)


def _keep_record(folder: Path, module: LightningModule, datamodule: DataModule) -> Callable[[int], None]:
    """Write into a run's record what is trained on what; return what writes into it the step of a checkpoint."""
    record = read_record(folder)
    assert record is not None
    parameters = sum(p.numel() for p in module.parameters())
    record = record.written(folder, parameters=parameters, data_fingerprint=datamodule.fingerprint)
    started = time.monotonic()

    def saved(step: int) -> None:
        record.written(folder, step=step, seconds=record.seconds + time.monotonic() - started)

    return saved


def _why(error: BaseException, folder: Path) -> tuple[str, str]:
    if isinstance(error, StoppedError | SIGTERMException):
        return KILLED, "stopped by the user"
    if isinstance(error, UserError | RunError):
        return FAILED, str(error)
    # A fault of jitlab or of the machine: kept in full beside the run and told on one line; the other arms go on.
    write_text(folder / TRACEBACK_FILE, "".join(traceback.format_exception(error)))
    summary = (str(error).splitlines() or [""])[0]
    return FAILED, f"{type(error).__name__}: {summary} (see {folder / TRACEBACK_FILE})"
