"""Serves MLflow's UI over the local database, lightly, and prints the link that opens an experiment's charts."""

import os
import subprocess
import sys
from pathlib import Path

from jitlab.callbacks.mlflow_run import URI_VARIABLE, Tracking, chart_link, tracking_uri
from jitlab.config.load import load_question
from jitlab.errors import UserError
from jitlab.report.folders import experiment_name


def serve(root: Path, question: str | None, scale: str | None, label: str | None, port: int) -> int:
    """Print the link and serve until interrupted; a server named by $MLFLOW_TRACKING_URI is linked, not started.

    Raises UserError where the experiment has no runs there.
    """
    uri = tracking_uri(root)
    base = uri if uri.startswith("http") else f"http://127.0.0.1:{port}"
    print(_link(root, question, scale, label, base), flush=True)
    if uri.startswith("http"):
        print(f"{URI_VARIABLE} names a server that is already running; nothing to start")
        return 0
    # One worker and no job execution: MLflow's defaults take five times the memory.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _link(root: Path, question: str | None, scale: str | None, label: str | None, base: str) -> str:
    tracking = Tracking(root)
    if question is None:
        return base
    name = experiment_name(load_question(root, question), scale, label)
    found = tracking.client.get_experiment_by_name(name)
    if found is None:
        raise UserError(f"{tracking.uri}: no experiment {name} yet; make experiment EXP={question}")
    return chart_link(base, found.experiment_id)
