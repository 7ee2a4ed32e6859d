"""What is known of a run while and after it runs: `status.json` in its folder."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jitlab.errors import UserError
from jitlab.files import write_json

STATUS_FILE = "status.json"
COMPLETE, RUNNING, FAILED, KILLED = "complete", "running", "failed", "killed"


@dataclass(frozen=True)
class RunRecord:
    """A run's status, how far it is, and where its MLflow mirror is; `seconds` sums over all attempts."""

    arm: str
    seed: int
    steps: int
    status: str = RUNNING
    reason: str | None = None
    seconds: float = 0.0
    step: int = 0
    parameters: int = 0
    hardware: str = ""
    mlflow_run_id: str | None = None
    data_fingerprint: str | None = None

    def written(self, folder: Path, **changes: Any) -> "RunRecord":
        """Return this record with some fields changed, after writing it to the run's folder."""
        record = replace(self, **changes)
        write_json(folder / STATUS_FILE, asdict(record))
        return record


def read_record(folder: Path) -> RunRecord | None:
    """Read a run's record, or return None where the run has not started; raises UserError where it is damaged."""
    path = folder / STATUS_FILE
    if not path.exists():
        return None
    try:
        return RunRecord(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); --fresh starts the run over") from error
