"""Where shards are: beside their index, or on a server and for a while in a local cache."""

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from jitlab.datasets import remote
from jitlab.datasets.cache import RemoteShard, ShardCache
from jitlab.datasets.damage import DamagedShardError
from jitlab.datasets.index import INDEX_FILE, SAMPLES_FILE, Index, open_index
from jitlab.datasets.remote import WrongFileError
from jitlab.datasets.shards import Rows, Shard, key_of
from jitlab.errors import RunError, UserError
from jitlab.files import write_bytes

# Of a tar file: its header before each member, and the room for a name in it.
TAR_BLOCK, NAME_BYTES = 512, 100
# No fault of the shard.
TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard, and how many of its samples cannot be there."""

    text: str
    lost: int


class Store(Protocol):
    """The shards of a data set, to be read from."""

    @property
    def remedy(self) -> str:
        """Return what to do about a shard that is missing or of another size, for error messages."""
        ...

    @property
    def contents_remedy(self) -> str:
        """Return what to do about a shard with other contents."""
        ...

    def place(self, shard: Shard) -> str:
        """Return where a shard is, for messages."""
        ...

    def open(self, shard: Shard) -> int:
        """Return a file descriptor of a shard; raises DamagedShardError where it cannot be had."""
        ...

    def faults(self, shards: Sequence[tuple[Shard, Rows]]) -> list[Fault | None]:
        """Say of each shard, without reading it, what is wrong with it."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """Shards beside their index."""

    folder: Path
    remedy: str
    contents_remedy: str

    def place(self, shard: Shard) -> str:
        """Return a shard's path."""
        return str(self.folder / shard.file)

    def open(self, shard: Shard) -> int:
        """Return a file descriptor of a shard.

        Raises:
            DamagedShardError: where it cannot be opened.
            RunError: where this process may open no more files.
        """
        try:
            return os.open(self.folder / shard.file, os.O_RDONLY)
        except OSError as error:
            if error.errno in TOO_MANY_FILES:
                raise RunError(f"{self.place(shard)}: {error.strerror}; allow more of them: ulimit -n") from error
            raise DamagedShardError(f"{self.place(shard)}: {error.strerror}; {self.remedy}") from error

    def faults(self, shards: Sequence[tuple[Shard, Rows]]) -> list[Fault | None]:
        """Compare each shard's size, and the names of its first and last sample, with the index."""
        return [local_fault(self.folder / shard.file, shard, rows) for shard, rows in shards]


@dataclass(frozen=True)
class RemoteStore:
    """Shards on a server, copied into a cache whole before they are read."""

    url: str
    cache: ShardCache
    remedy: str

    @property
    def contents_remedy(self) -> str:
        """Return what to do about other contents than those that were verified when they arrived."""
        return f"empty {self.cache.folder / 'shards'}, whose disk has changed it; where it comes again, {self.remedy}"

    def place(self, shard: Shard) -> str:
        """Return a shard's URL."""
        return f"{self.url.rstrip('/')}/{shard.file}"

    def open(self, shard: Shard) -> int:
        """Return a file descriptor of the local copy.

        Raises:
            DamagedShardError: where the server has no such shard, or another one.
            UserError: where the cache cannot hold it.
            RunError: where the server stays away or silent.
        """
        try:
            return self.cache.open(self.remote(shard))
        except WrongFileError as error:
            raise DamagedShardError(str(error)) from error

    def faults(self, shards: Sequence[tuple[Shard, Rows]]) -> list[Fault | None]:
        """Compare the size that the server tells with the index."""
        found = remote.sizes([self.place(shard) for shard, _ in shards])
        return [_size_fault(found[self.place(shard)], shard, rows) for shard, rows in shards]

    def remote(self, shard: Shard) -> RemoteShard:
        """Return a shard as the cache knows it."""
        return RemoteShard(self.place(shard), shard.bytes, shard.sha256)


def open_store(path: str, remedy: str, cache: ShardCache) -> tuple[Index, Store]:
    """Read the index of shards in a folder or at a URL, and return it with where the shards are.

    Args:
        path: of the folder that has the index; the shards may lie elsewhere, as the index says.
        remedy: what to do where there is no usable index, for error messages.
        cache: keeps what is copied from a server.

    Raises:
        UserError: for an index that is missing or damaged.
        RunError: where a server stays away or silent.
    """
    url = path if remote.is_remote(path) else None
    folder = _copied_index(path, cache) if url else Path(path)
    index = open_index(folder, remedy)
    location = index.facts.location or url
    if location:
        mend = f"copy it to the server again, or write the index anew: {index.facts.command}"
        return index, RemoteStore(location, cache, mend)
    return index, local_store(folder, index)


def local_store(folder: Path, index: Index) -> LocalStore:
    """Return the store of shards beside their index."""
    if not index.facts.recipe:
        mend = f"put it there again, or write the index anew: {index.facts.command}"
        return LocalStore(folder, mend, mend)
    # Building takes a shard of the right size for whole.
    again = f"build it again: {index.facts.command}"
    return LocalStore(folder, again, f"delete it and {again}")


def check_store(index: Index, store: Store, tolerated: int = 0) -> None:
    """Check, before anything is read, that every shard is there, of the size and the build that the index says.

    Args:
        index: of the shards.
        store: where they are.
        tolerated: samples that may be missing.

    Raises:
        DamagedShardError: naming the first shard that is not, and how many others.
        RunError: where a server stays away or silent.
    """
    shards = list(index.each_shard())
    found = zip(shards, store.faults(shards), strict=True)
    faults = [(shard, fault) for (shard, _), fault in found if fault]
    lost = sum(fault.lost for _, fault in faults)
    if not faults or (tolerated > 0 and lost <= tolerated):
        return
    shard, fault = faults[0]
    others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    limit = f"; {lost} samples are lost, data.skip_damaged = {tolerated} are tolerated" if tolerated else ""
    raise DamagedShardError(f"{store.place(shard)}: {fault.text}{others}{limit}; {store.remedy}")


def local_fault(path: Path, shard: Shard, rows: Rows) -> Fault | None:
    """Say what is wrong with a local shard, as far as its size and its first and last sample tell."""
    try:
        if fault := _size_fault(path.stat().st_size, shard, rows):
            return fault
        with path.open("rb") as file:
            strange = [key_of(row) for row in rows[[0, -1]] if not _is_at(file.fileno(), row)] if len(rows) else []
    except FileNotFoundError:
        return _size_fault(None, shard, rows)
    except OSError as error:
        return Fault(f"shard cannot be read ({error.strerror})", len(rows))
    if not strange:
        return None
    return Fault(f"shard has no sample {strange[0]} where its index says: it is of another build", len(rows))


def _size_fault(size: int | None, shard: Shard, rows: Rows) -> Fault | None:
    if size is None:
        return Fault("shard is missing", len(rows))
    if size == shard.bytes:
        return None
    lost = int(np.count_nonzero(rows["offset"] + rows["size"] > size))
    return Fault(f"shard has {size} bytes, its index says {shard.bytes}", lost)


def _is_at(file: int, row: np.void) -> bool:
    # The header before an image begins with its name, or with as much of it as there is room for.
    name = (bytes(row["key"]) + b".")[:NAME_BYTES]
    if not name.isascii():
        # Another header, before this one, has it; here it may be written in any way.
        return True
    return os.pread(file, len(name), int(row["offset"]) - TAR_BLOCK) == name


def _copied_index(url: str, cache: ShardCache) -> Path:
    """Copy a remote index beside the cache where it is not there yet, and return the folder."""
    url = url.rstrip("/")
    folder = cache.folder / "indexes" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"data.cache = {cache.folder}: {error.strerror}; set it to a folder that can be written"
        ) from error
    content = _index_of(url)
    with FileLock(folder / "lock"):
        path = folder / INDEX_FILE
        if not path.exists() or path.read_bytes() != content:
            path.unlink(missing_ok=True)
            write_bytes(folder / SAMPLES_FILE, remote.read_small(f"{url}/{SAMPLES_FILE}"))
            write_bytes(path, content)
    return folder


def _index_of(url: str) -> bytes:
    try:
        content = remote.read_small(f"{url}/{INDEX_FILE}")
        json.loads(content)
    except WrongFileError as error:
        raise UserError(
            f"{url}/{INDEX_FILE}: the server has no such index; write one: jitlab data index {url} --out FOLDER, and "
            "set data.path=FOLDER"
        ) from error
    except ValueError as error:
        raise UserError(f"{url}/{INDEX_FILE}: is no index ({error}); check data.path") from error
    return content
