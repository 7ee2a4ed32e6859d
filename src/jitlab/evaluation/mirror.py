"""An evaluation in MLflow: every cell of the search as a run with its parameters, so that the UI can plot them."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jitlab.callbacks.mlflow_run import FOLDER_TAG, MlflowRun, Tracking, tolerant
from jitlab.evaluation.subject import Subject
from jitlab.report.certificate import Certificate

EXPERIMENT = "evaluations"
CERTIFICATE_TAG, STAGE = "jitlab.certificate", "stage"


class Row(NamedTuple):
    """A run in MLflow: its name, parameters and metrics."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]


class Mirror:
    """Shows certificates in an MLflow experiment beside that of the run's."""

    def __init__(self, root: Path, subject: Subject) -> None:
        """Connect; raises UserError where the server cannot be reached or refuses."""
        self._tracking = Tracking(root)
        run = subject.run
        self._experiment = f"{run.resolve().parent.name}-evaluation" if run else EXPERIMENT

    def show(self, certificate: Certificate, path: Path) -> None:
        """Log what MLflow does not have yet of a certificate, which lies in `path`.

        A server that went away since is no error: the same command sends what is missing.
        """
        with tolerant("took no evaluation; the same command sends it later"):
            self._show(certificate, path)

    def _show(self, certificate: Certificate, path: Path) -> None:
        experiment = self._tracking.experiment(self._experiment, "Evaluations: guidance scale and weights searched")
        key = f"{certificate.checkpoint['sha256'][:16]}-{certificate.protocol_hash[:16]}"
        client = self._tracking.client
        there = client.search_runs([experiment], f"tags.`{CERTIFICATE_TAG}` = '{key}'", max_results=5000)
        names = {run.info.run_name for run in there if run.info.status == "FINISHED"}
        for run in there:
            if run.info.status != "FINISHED" and run.data.tags.get(FOLDER_TAG) == str(path.parent):
                # Something cut it off; whoever shows certificates of this folder holds its lock.
                self._tracking.delete(run.info.run_id)
        for row in rows(certificate):
            if row.name in names:
                continue
            tags = {CERTIFICATE_TAG: key, FOLDER_TAG: path.parent, "arm": certificate.name}
            run = MlflowRun(self._tracking, experiment, row.name, None, row.params, tags)
            run.log_metrics(row.metrics, step=int(certificate.checkpoint["step"]))
            if row.params[STAGE] == "final":
                run.log_text(path.read_text(), path.name)
            run.end("FINISHED", {})


def rows(certificate: Certificate) -> Iterator[Row]:
    """Yield the cells of the search, then the final evaluation, with means over its seeds."""
    protocol = certificate.protocol
    for cell in certificate.search.cells if certificate.search else ():
        yield _row(certificate, "search", cell.weights, cell.guidance_scale, protocol["search_images"], cell.metrics)
    means = {name: statistics.fmean(values) for name, values in certificate.values.items()}
    yield _row(certificate, "final", certificate.weights, certificate.guidance_scale, protocol["images"], means)


def _row(
    certificate: Certificate, stage: str, weights: str, scale: float, images: int, metrics: Mapping[str, float]
) -> Row:
    params = {STAGE: stage, "weights": weights, "guidance_scale": scale, "images": images}
    name = f"{certificate.name} {weights} cfg {scale}" + (" final" if stage == "final" else "")
    return Row(name, params, {f"eval/{metric}": value for metric, value in metrics.items()})
