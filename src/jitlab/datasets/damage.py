"""Damaged samples: met, counted, and tolerated up to a number."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jitlab.errors import UserError

DAMAGE_FILE = "damaged.jsonl"


class DamagedError(UserError):
    """A shard or a sample whose contents are not what the index says."""


class DamagedShardError(DamagedError):
    """A shard of which no sample can be read."""


@dataclass(frozen=True)
class Damage:
    """The damaged samples that a run met, one line of `path` each, kept over interruptions; `limit` are tolerated.

    All processes of a run write to the same file.
    """

    path: Path
    limit: int

    def tolerate(self, key: str, error: DamagedError) -> None:
        """Count a sample, once however often it is met.

        Raises:
            DamagedError: where it is one too many.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+") as file:
            # Given back when the file is closed, whatever closes it.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            known = set(_keys(text))
            if key in known:
                return
            if len(known) >= self.limit:
                raise DamagedError(
                    f"data.skip_damaged = {self.limit}: {len(known) + 1} samples are damaged (see {self.path}); the "
                    f"last one: {error}"
                )
            if text and not text.endswith("\n"):
                file.write("\n")
            file.write(json.dumps({"key": key, "error": str(error)}) + "\n")


def damaged_samples(path: Path) -> int:
    """Return how many damaged samples a run has met."""
    return len(set(_keys(path.read_text()))) if path.exists() else 0


def _keys(text: str) -> Iterator[str]:
    for line in text.splitlines():
        # A line that a power cut tore counts no sample: it is met, and written, again.
        with suppress(ValueError):
            yield json.loads(line)["key"]
