"""What a build keeps while it is unfinished: its recipe, and a record of every shard that is there."""

import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitlab.datasets.shards import Rows, Shard, key_of, table
from jitlab.datasets.store import local_fault
from jitlab.errors import UserError
from jitlab.files import write_json

FOLDER, RECIPE_FILE, LOCK_FILE = ".build", "recipe.json", "lock"
Recipe = dict[str, Any]
"""What determines every byte of a set of shards: JSON values."""


@dataclass(frozen=True)
class Record:
    """A finished shard.

    Args:
        shard: what it is.
        rows: of its samples.
        unreadable: images that are not in it, and why.
        small: images that are enlarged where they are cropped.
    """

    shard: Shard
    rows: Rows
    unreadable: list[str]
    small: int


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Yield the place for what an unfinished build in `folder` keeps, held by this build alone.

    SIGTERM raises KeyboardInterrupt meanwhile. The place stays for the next build where this one has left its recipe
    there. Raises UserError where another build is at work, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; name a folder for the shards")
    there = folder.exists()
    place = folder / FOLDER
    lock = _lock(place)
    try:
        with _sigterm_interrupts():
            yield place
    finally:
        if not (place / RECIPE_FILE).exists():
            shutil.rmtree(place, ignore_errors=True)
        if not there:
            with suppress(OSError):
                folder.rmdir()
        os.close(lock)


def check_recipe(folder: Path, found: Recipe, asked: Recipe) -> None:
    """Raise UserError, naming what differs, where a folder holds shards of another recipe."""
    if not found:
        raise UserError(f"{folder}: holds shards that this command did not build; choose another folder with --out")
    differences = [
        "other images" if key == "images" else f"{key} {found[key]!r}, not {asked[key]!r}"
        for key in sorted(found.keys() & asked.keys())
        if found[key] != asked[key]
    ]
    if found != asked:
        raise UserError(
            f"{folder}: holds a build with {'; '.join(differences)}; ask for the same, choose another folder with "
            "--out, or delete this one"
        )


def read_recipe(place: Path) -> Recipe | None:
    """Return the recipe of an unfinished build, None where there is none."""
    try:
        recipe: Recipe = json.loads((place / RECIPE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return recipe


def write_record(place: Path, record: Record) -> None:
    """Keep what is known of a shard that is on the disk."""
    rows = [[key_of(row), *(int(row[name]) for name in ("label", "offset", "size", "crc32"))] for row in record.rows]
    content = {**asdict(record), "shard": asdict(record.shard), "rows": rows}
    write_json(place / f"{record.shard.file}.json", content)


def read_record(place: Path, file: str) -> Record | None:
    """Return the record of a shard, None where there is none or the shard is not as it says."""
    try:
        content = json.loads((place / f"{file}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    record = Record(
        Shard(**content["shard"]), table(map(tuple, content["rows"])), content["unreadable"], content["small"]
    )
    return None if local_fault(place.parent / file, record.shard, record.rows) else record


def _lock(place: Path) -> int:
    while True:
        place.mkdir(parents=True, exist_ok=True)
        path = place / LOCK_FILE
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise UserError(f"{place.parent}: another build is at work here; wait until it ends") from error
        except OSError:
            # A file system without locks, as some clusters' are.
            return file
        # The build that held it may have removed it meanwhile.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do within a block what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
