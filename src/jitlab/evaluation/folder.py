"""The folder of an evaluation: what was asked of it, and what is done so far."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jitlab.errors import UserError
from jitlab.files import write_json
from jitlab.report.certificate import CERTIFICATE_FILE
from jitlab.report.evaluation_page import PAGE_FILE

ASKED_FILE, SCORES_FILE, LOCK_FILE = "asked.json", "scores.json", ".lock"
WORK_FOLDER, SAMPLES_FOLDER = "unfinished", "samples"
# What an evaluation writes; nothing else in its folder is ever deleted.
OWN = (WORK_FOLDER, SAMPLES_FOLDER, SCORES_FILE, CERTIFICATE_FILE, PAGE_FILE)
SHOWN = 60
Scores = dict[str, float]


class EvaluationFolder:
    """Remembers the scores of every cell as soon as they are known; started again, an evaluation goes on from there."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `held` makes it."""
        self.path = path
        self.work = path / WORK_FOLDER
        self.samples = path / SAMPLES_FOLDER
        self._scores: dict[str, Scores] = {}

    @contextmanager
    def held(self, asked: Mapping[str, Any], fresh: bool) -> Iterator[None]:
        """Hold the folder for an evaluation of which `asked`, JSON values, says all that its figures depend on.

        Args:
            asked: of this evaluation.
            fresh: whether to delete what another one left, instead of refusing.

        Raises:
            UserError: where the folder holds another evaluation, is damaged, or is in use.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path}: is a file; name a folder for the evaluation")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Appended to, that is: the folder may be another's, and so its file of this name.
            opened = (self.path / LOCK_FILE).open("a")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written to ({error.strerror}); name another folder with --out"
            ) from error
        with opened as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.path}: another process is evaluating into it; wait for it, or choose another --out"
                ) from error
            if fresh and (self.path / ASKED_FILE).exists():
                self._clear()
            else:
                self._check(asked)
            write_json(self.path / ASKED_FILE, asked)
            self._scores = self._read(SCORES_FILE) or {}
            yield

    def scores(self, name: str) -> Scores | None:
        """Return the scores of so named images; None where they are not known yet."""
        return self._scores.get(name)

    def keep(self, name: str, scores: Scores) -> None:
        """Remember scores."""
        self._scores[name] = scores
        write_json(self.path / SCORES_FILE, self._scores)

    def finish(self) -> None:
        """Delete what only an unfinished evaluation needs."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _check(self, asked: Mapping[str, Any]) -> None:
        found = self._read(ASKED_FILE)
        if found is None:
            if any(path.name not in (LOCK_FILE, f".{ASKED_FILE}.partial") for path in self.path.iterdir()):
                raise UserError(f"{self.path}: holds something else than an evaluation; choose another --out")
            return
        # As the file has them: tuples are lists there.
        wanted = json.loads(json.dumps(asked))
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise UserError(
                    f"{self.path}: holds an evaluation with {key} = {_shown(found.get(key))}, and "
                    f"{_shown(wanted.get(key))} was asked for; --out FOLDER keeps both, --fresh starts over"
                )

    def _clear(self) -> None:
        for name in OWN:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged; --fresh starts the evaluation over") from error


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
