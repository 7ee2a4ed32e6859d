"""What is evaluated: a run's last checkpoint, or a checkpoint file."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from jitlab.errors import UserError
from jitlab.report.certificate import EVALUATION_FOLDER
from jitlab.run import CHECKPOINT_FILE
from jitlab.run_record import COMPLETE, RunRecord, read_record


@dataclass(frozen=True)
class Subject:
    """A checkpoint, with the run that it belongs to where it does.

    Args:
        name: of the run or file.
        checkpoint: the file.
        record: of the run; None for a file of its own.
        out: where its evaluation goes if nobody says otherwise.
    """

    name: str
    checkpoint: Path
    record: RunRecord | None
    out: Path

    @property
    def run(self) -> Path | None:
        """Return the folder of the run."""
        return self.checkpoint.parent if self.record else None

    @property
    def unfinished(self) -> bool:
        """Say whether the run is still to go on."""
        return self.record is not None and self.record.status != COMPLETE

    def state(self) -> "FileState":
        """Return the hash of the file, and how to tell that it is replaced while it is evaluated."""
        with self.checkpoint.open("rb") as file:
            found = os.fstat(file.fileno())
            return FileState(hashlib.file_digest(file, "sha256").hexdigest(), found.st_ino, found.st_mtime_ns)


@dataclass(frozen=True)
class FileState:
    """What a file holds, by its SHA-256, and when it was written."""

    sha256: str
    inode: int
    mtime_ns: int

    def check(self, path: Path) -> None:
        """Raise UserError where another file is there now: a run that goes on replaces its checkpoint."""
        found = path.stat()
        if (found.st_ino, found.st_mtime_ns) != (self.inode, self.mtime_ns):
            raise UserError(f"{path}: was replaced while it is evaluated; wait for the run to end, or evaluate a copy")


def find_subject(path: Path) -> Subject:
    """Return what `path`, a run's folder or a checkpoint, names; raises UserError where it is neither."""
    if path.is_file():
        record = read_record(path.parent) if path.name == CHECKPOINT_FILE else None
        if record is None:
            return Subject(path.stem, path, None, path.with_name(f"{path.stem}-{EVALUATION_FOLDER}"))
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{path}: no such run or checkpoint; expected a run's folder, such as runs/noise_vs_x-digits/x")
    record = read_record(path)
    if record is None:
        runs = sorted(status.parent for status in path.glob(f"*/{CHECKPOINT_FILE}"))
        hint = f"name one of its runs, such as {runs[0]}" if runs else "expected one with status.json and last.ckpt"
        raise UserError(f"{path}: is no run's folder; {hint}")
    if not (path / CHECKPOINT_FILE).exists():
        raise UserError(f"{path}: has no {CHECKPOINT_FILE}: the run has not come to its first checkpoint yet")
    return Subject(path.resolve().name, path / CHECKPOINT_FILE, record, path / EVALUATION_FOLDER)
