"""MLflow: one experiment per question and scale, one flat run per arm and seed, a mirror of the run folder."""

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from PIL import Image

from jitlab.errors import UserError

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
FOLDER_TAG = "jitlab.folder"
IMAGE_WIDTH = 256
FLUSH_SECONDS = 2.0
MOST_PATIENCE_SECONDS = 300.0
# How `log_image` names its files; the separator depends on MLflow's version.
PICTURE_NAME = re.compile(r"(?P<key>.+?)[+%]step[+%](?P<step>\d+)[+%]")
# What a request may cost before the run goes on without it; MLflow's own defaults wait for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
LOG = logging.getLogger("jitlab.mlflow")
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)


def tracking_uri(root: Path) -> str:
    """Return where MLflow keeps its runs: $MLFLOW_TRACKING_URI, or `mlflow.db` in the repository's folder."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{root / DATABASE}"


class Tracking:
    """A connection to the tracking server that was tried before anything is trained."""

    def __init__(self, root: Path) -> None:
        """Connect; raises UserError where the server cannot be reached or refuses."""
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        self.root = root
        self.uri = tracking_uri(root)
        try:
            if not os.environ.get(URI_VARIABLE):
                _create_database(root / DATABASE)
            self.client = MlflowClient(self.uri)
            self.client.search_experiments(max_results=1)
        except Exception as error:
            if os.environ.get(URI_VARIABLE):
                fix = f"start it, correct the address, or unset {URI_VARIABLE} to log to {DATABASE}"
                raise UserError(
                    f"{URI_VARIABLE} = {self.uri}: tracking server cannot be used ({_first_line(error)}); {fix}"
                ) from error
            raise UserError(
                f"{root / DATABASE}: MLflow cannot open its database ({_first_line(error)}); move it away to start anew"
            ) from error

    def experiment(self, name: str, description: str) -> str:
        """Return the id of the experiment with this name, created where it is missing, restored where deleted."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # A local store would otherwise put its files below whatever folder the process runs in.
            local = (self.root / ARTIFACTS / name).as_uri() if self.uri.startswith("sqlite") else None
            return str(self.client.create_experiment(name, local, tags={"mlflow.note.content": description}))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def left_running(self, experiment_id: str, folder: Path) -> list[tuple[str, Path]]:
        """Return id and folder of the runs below `folder` that MLflow takes for running.

        The caller holds the lock on the folder, so nobody is running them: something cut them off.
        """
        running = self.client.search_runs(
            [experiment_id], "attributes.status = 'RUNNING'", run_view_type=ViewType.ACTIVE_ONLY
        )
        folders = [(run.info.run_id, Path(run.data.tags.get(FOLDER_TAG, ""))) for run in running]
        return [(run_id, path) for run_id, path in folders if path.parent == folder]

    def mark_killed(self, run_id: str) -> None:
        """Close a run as KILLED."""
        self.client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))

    def delete(self, run_id: str) -> None:
        """Delete a run that is started over; one that is not there any more is no error."""
        try:
            self.client.delete_run(run_id)
        except MlflowException:
            return


class MlflowRun(MLFlowLogger):
    """Lightning's MLflow logger on an explicit server, batched, resumable, and with pictures.

    Only the settings in which arms differ become parameters, since the UI prints every parameter on every picture;
    all others are tags. A server that goes away does not end the run: the folder has everything, metrics are sent
    later, and what is still missing at the end is sent when the experiment is started again.
    """

    def __init__(
        self,
        tracking: Tracking,
        experiment_id: str,
        name: str,
        run_id: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
    ) -> None:
        """Open the run `run_id` again, or create one; its status is RUNNING from here on."""
        self._client = tracking.client
        self._is_new = run_id is None or not self._exists(run_id)
        try:
            self.id = self._create(experiment_id, name, params, tags) if self._is_new else str(run_id)
            self._client.update_run(self.id, status=RunStatus.to_string(RunStatus.RUNNING))
        except MlflowException as error:
            raise UserError(f"{tracking.uri}: tracking server takes no run {name}: {_first_line(error)}") from error
        self._pending: list[Metric] = []
        self._last_step: dict[str, int] = {}
        self._unseen: list[dict[str, Any]] | None = None
        self._flushed = time.monotonic()
        self._patience = FLUSH_SECONDS
        self._pictures: set[tuple[str, int]] = set()
        super().__init__(tracking_uri=tracking.uri, run_id=self.id, synchronous=True)

    def catch_up(self, rows: Iterable[dict[str, Any]], pictures: Iterable[tuple[str, int, Path]] = ()) -> None:
        """Send the rows of the run folder's log, and its pictures (key, step, file), that the server does not have."""
        self._unseen = list(rows)
        if self._flush():
            for key, step, path in pictures:
                with Image.open(path) as image:
                    self.log_image(key, image, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue the metrics of an optimizer step; they are sent at most every few seconds, in one request."""
        assert step is not None
        self._queue(metrics, step, time.time())
        if time.monotonic() - self._flushed > self._patience:
            self._flush()

    @rank_zero_only
    def log_image(self, key: str, image: Image.Image, step: int) -> None:
        """Send a picture, shrunk to a width that the UI shows side by side; once per key and step."""
        if (key, step) in self._pictures:
            return
        if image.width > IMAGE_WIDTH:
            image = image.resize((IMAGE_WIDTH, round(image.height * IMAGE_WIDTH / image.width)), Image.Resampling.BOX)
        with tolerant(f"did not take the picture {key} of step {step}"):
            self._client.log_image(self.id, image, key=key, step=step, synchronous=True)
            self._pictures.add((key, step))

    @rank_zero_only
    def log_text(self, text: str, file: str) -> None:
        """Send a text file, such as the resolved configuration."""
        with tolerant(f"did not take {file}"):
            self._client.log_text(self.id, text, file)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: parameters and tags were set when the run was created."""

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Send what is queued; the experiment, which knows how the run ended, calls `end`."""
        self._flush()

    def end(self, status: str, tags: Mapping[str, Any]) -> None:
        """Send what is queued, set tags and close the run as FINISHED, FAILED or KILLED."""
        self._flush()
        with tolerant("was not told that the run ended"):
            self._client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
            self._client.set_terminated(self.id, status)

    def _create(self, experiment_id: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        run = self._client.create_run(experiment_id, run_name=name, tags={k: str(v) for k, v in tags.items()})
        run_id = str(run.info.run_id)
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        return run_id

    def _queue(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        fresh = {key: float(value) for key, value in metrics.items() if step > self._last_step.get(key, -1)}
        self._last_step |= dict.fromkeys(fresh, step)
        self._pending += [Metric(key, value, int(when * 1000), step) for key, value in fresh.items()]

    def _flush(self) -> bool:
        with tolerant("took no metrics; they are sent later"):
            if self._unseen is not None:
                self._see_what_the_server_has(self._unseen)
                self._unseen = None
            while self._pending:
                # A thousand is what the server takes at a time.
                self._client.log_batch(self.id, metrics=self._pending[:1000], synchronous=True)
                del self._pending[:1000]
        # A server that is away is asked more and more rarely: every try costs seconds.
        away = bool(self._pending or self._unseen is not None)
        self._patience = min(2 * self._patience, MOST_PATIENCE_SECONDS) if away else FLUSH_SECONDS
        self._flushed = time.monotonic()
        return not away

    def _see_what_the_server_has(self, rows: list[dict[str, Any]]) -> None:
        if not self._is_new:
            keys = self._client.get_run(self.id).data.metrics
            self._last_step = {key: max(m.step for m in self._client.get_metric_history(self.id, key)) for key in keys}
            names = [Path(artifact.path).name for artifact in self._client.list_artifacts(self.id, "images")]
            self._pictures |= {(m["key"], int(m["step"])) for m in map(PICTURE_NAME.match, names) if m}
        # Rows that came while the server was away stand behind those of the log.
        later, self._pending = self._pending, []
        for row in rows:
            self._queue(row["metrics"], row["step"], row["time"])
        for metric in later:
            self._queue({metric.key: metric.value}, metric.step, metric.timestamp / 1000)

    def _exists(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False


def chart_link(base: str, experiment_id: str) -> str:
    """Return the address of the UI's chart view of an experiment, at the server `base`."""
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


@contextmanager
def tolerant(consequence: str) -> Iterator[None]:
    """Log a fault of a block: a tracking server that goes away must not end what has everything in its folder."""
    try:
        yield
    except Exception as error:
        LOG.warning("MLflow %s (%s)", consequence, _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _create_database(path: Path) -> None:
    # Made aside and renamed: a kill in the middle of MLflow's migrations would leave one that never opens again.
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{partial}", (path.parent / ARTIFACTS).as_uri())
    store.engine.dispose()
    # Linked, not renamed: of two first starts at once the later one must not replace the earlier one's runs.
    with suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
