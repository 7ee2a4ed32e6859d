"""What a folder of shards holds: an index that is written last, read in a moment, and checked before it is used.

`index.json` says what the shards are and `samples.npy` where every sample is, in the order of the shards. The table is
mapped into memory, so that all processes of a machine share one copy of a million rows.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jitlab.datasets.shards import Rows, Shard, join
from jitlab.errors import UserError
from jitlab.files import write_bytes, write_json

INDEX_FILE = "index.json"
SAMPLES_FILE = "samples.npy"
FORMAT = "jitlab-shards/2"
TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class Facts:
    """What is known of a set of shards beside their contents.

    Args:
        source: the data set's name.
        image_size: pixels of every stored image; None where they are as they came, to be cropped when they are read.
        num_classes: one more than the highest label.
        classes: the classes' names in the order of labels; empty where nobody knows.
        command: what makes these shards, or this index of them.
        unreadable: images of the source that are not in the shards, and why.
        location: the URL of the shards; None where they lie beside the index.
        recipe: what determines every byte of the shards; empty where they were not built by jitlab.
    """

    source: str
    image_size: int | None
    num_classes: int
    classes: list[str]
    command: str
    unreadable: list[str] = field(default_factory=list)
    location: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """The shards of each split, and a table of their samples, split after split and shard after shard."""

    facts: Facts
    splits: dict[str, list[Shard]]
    rows: Rows = field(compare=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash that changes with any byte of a shard and with any sample's key, label or place."""
        splits = {split: [asdict(shard) for shard in shards] for split, shards in self.splits.items()}
        return hashlib.sha256(json.dumps([splits, _digest(self.rows)], sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> tuple[list[Shard], Rows]:
        """Return the shards of a split and the rows of their samples; both empty where there is no such split."""
        start = 0
        for split, shards in self.splits.items():
            count = sum(shard.samples for shard in shards)
            if split == name:
                return shards, self.rows[start : start + count]
            start += count
        return [], self.rows[:0]

    def each_shard(self) -> Iterator[tuple[Shard, Rows]]:
        """Yield each shard of every split with its own rows."""
        start = 0
        for shard in chain(*self.splits.values()):
            yield shard, self.rows[start : start + shard.samples]
            start += shard.samples


def write_index(folder: Path, facts: Facts, splits: dict[str, list[tuple[Shard, Rows]]]) -> Index:
    """Write the index of shards that are there already; from now on the folder is complete."""
    shards = {split: [shard for shard, _ in parts] for split, parts in splits.items()}
    index = Index(facts, shards, join(rows for parts in splits.values() for _, rows in parts))
    encoded = io.BytesIO()
    np.save(encoded, index.rows)
    write_bytes(folder / SAMPLES_FILE, encoded.getvalue())
    content = {
        "format": FORMAT,
        "fingerprint": index.fingerprint,
        **asdict(facts),
        "splits": {split: [asdict(shard) for shard in found] for split, found in shards.items()},
    }
    write_json(folder / INDEX_FILE, content)
    return index


def open_index(folder: Path, remedy: str) -> Index:
    """Read a folder's index.

    Args:
        folder: where the index is.
        remedy: what to do where there is no usable one, for error messages.

    Raises:
        UserError: naming the file that is missing or damaged and what to do about it.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such index of shards; {remedy}")
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        fingerprint = content.pop("fingerprint")
        splits = {split: [Shard(**shard) for shard in shards] for split, shards in content.pop("splits").items()}
        facts = Facts(**content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: is damaged ({error}); {remedy}") from error
    index = Index(facts, splits, _open_rows(folder / SAMPLES_FILE, remedy))
    if index.fingerprint != fingerprint:
        raise UserError(f"{path}: does not match its own fingerprint, or {SAMPLES_FILE} is of another build; {remedy}")
    return index


def _open_rows(path: Path, remedy: str) -> Rows:
    try:
        rows: Rows = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: is missing or damaged ({error}); {remedy}") from error
    return rows


def _digest(rows: Rows) -> str:
    digest = hashlib.sha256(repr(rows.dtype.descr).encode())
    digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return digest.hexdigest()
