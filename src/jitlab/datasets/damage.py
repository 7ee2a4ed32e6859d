"""Damaged samples: met, counted, and tolerated up to a number."""

import fcntl
import json
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
            known = {json.loads(line)["key"] for line in file}
            if key in known:
                return
            if len(known) >= self.limit:
                raise DamagedError(
                    f"data.skip_damaged = {self.limit}: {len(known) + 1} samples are damaged (see {self.path}); the "
                    f"last one: {error}"
                )
            file.write(json.dumps({"key": key, "error": str(error)}) + "\n")


def damaged_samples(path: Path) -> int:
    """Return how many damaged samples a run has met."""
    return len(path.read_text().splitlines()) if path.exists() else 0
