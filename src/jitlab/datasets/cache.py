"""A folder of remote shards on the local disk: whole, verified, bounded, and shared by any number of processes.

    shards/NAME         whole and verified; the least recently opened goes first
    partial/NAME.SIZE   arriving, or left by a process that died; counts with its full size
    locks/NAME.lock     held by whoever fetches NAME
    locks/room.lock     held while room is made and while a shard becomes whole

Nothing but the folder is shared, so that an object can be sent to any process. A lock ends with the process that holds
it, whatever ends that.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import BaseFileLock, FileLock, Timeout

from jitlab.datasets import remote
from jitlab.datasets.remote import Patience, WrongFileError
from jitlab.errors import UserError
from jitlab.files import DISK_FULL

GIGABYTE = 10**9
POLL_SECONDS = 0.05
# Held for a listing of the folder.
ROOM_POLL_SECONDS = 0.01
READ_BYTES = 2**20


@dataclass(frozen=True)
class RemoteShard:
    """A shard as its index describes it: size in bytes, and the SHA-256 of its contents in hexadecimal digits."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Return a file name that tells a reader which shard it is, and is no other shard's."""
        path = Path(urlsplit(self.url).path)
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)[:100]
        return f"{stem}-{hashlib.sha256(f'{self.url} {self.sha256}'.encode()).hexdigest()[:16]}.tar"


@dataclass(frozen=True)
class ShardCache:
    """Local copies of remote shards, in `folder`, of at most `max_bytes` together with those that are arriving.

    A shard that is open stays readable when it goes, and its bytes stay on the disk until it is closed.
    """

    folder: Path
    max_bytes: int
    patience: Patience = remote.THROUGHOUT

    def open(self, shard: RemoteShard) -> int:
        """Return a descriptor of a shard, whole and verified, to read from and to close; fetches it where it must.

        Raises:
            WrongFileError: where the server has no such shard, or another one.
            UserError: where the cache is too small for it, the disk is full, or the server refuses it.
            RunError: where the server stays away or silent.
        """
        if shard.size > self.max_bytes:
            raise UserError(
                f"{self.folder}: the cache may hold {self.max_bytes:,} bytes and {shard.url} has {shard.size:,}; raise "
                "data.cache_gb"
            )
        with self._faults_explained(shard):
            if (found := self._find(shard)) is not None:
                return found
            for part in ("shards", "partial", "locks"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            with self._lock(shard.name):
                # Another process may have fetched it while this one waited.
                found = self._find(shard)
                return self._fetch(shard) if found is None else found

    def _find(self, shard: RemoteShard) -> int | None:
        try:
            descriptor = os.open(self._whole(shard), os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != shard.size:
            # Nothing here writes such a file; a disk that lost power may.
            os.close(descriptor)
            return None
        _touch(descriptor)
        return descriptor

    def _fetch(self, shard: RemoteShard) -> int:
        partial = self._reserve(shard)
        found = self._complete(shard, partial)
        if found != shard.sha256:
            partial.write_bytes(b"")
            found = self._complete(shard, partial)
        if found != shard.sha256:
            partial.unlink()
            raise WrongFileError(
                f"{shard.url}: has SHA-256 {found}, its index says {shard.sha256}, and the same again when fetched "
                "once more; it is damaged or of another build: copy it to the server again, or write the index anew"
            )
        descriptor = os.open(partial, os.O_RDONLY)
        # With the room's lock: nobody who lists the folder sees both, or neither.
        with self._lock("room", ROOM_POLL_SECONDS):
            partial.replace(self._whole(shard))
        _touch(descriptor)
        return descriptor

    def _complete(self, shard: RemoteShard, partial: Path) -> str:
        """Fetch what a partial file lacks and return the SHA-256 of the whole."""
        digest = hashlib.sha256()
        with partial.open("r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > shard.size:
                file.truncate(0)
            while block := file.read(READ_BYTES):
                digest.update(block)
            with closing(remote.read(shard.url, file.tell(), shard.size, self.patience)) as chunks:
                for chunk in chunks:
                    _write(file.fileno(), chunk)
                    digest.update(chunk)
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _reserve(self, shard: RemoteShard) -> Path:
        """Wait until there is room, and return the partial file, whose name keeps it."""
        partial = self.folder / "partial" / f"{shard.name}.{shard.size}"
        while True:
            with self._lock("room", ROOM_POLL_SECONDS):
                if self._make_room(self.max_bytes - shard.size, partial):
                    partial.touch()
                    return partial
                # What others are fetching fills the cache. Two that wait must not keep room from each other.
                partial.unlink(missing_ok=True)
            time.sleep(POLL_SECONDS)

    def _make_room(self, limit: int, kept: Path) -> bool:
        """Remove the least recently used files but `kept` until at most `limit` bytes are in use, if that can be."""
        files = sorted(self._files(kept))
        used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used <= limit:
                break
            if self._remove(path):
                used -= size
        return used <= limit

    def _files(self, kept: Path) -> Iterator[tuple[int, int, Path]]:
        """Yield (last use in ns, bytes, path) of everything that takes up room, or will."""
        for path in (self.folder / "shards").glob("*.tar"):
            with suppress(FileNotFoundError):
                yield path.stat().st_mtime_ns, path.stat().st_size, path
        for path in (self.folder / "partial").glob("*.tar.*"):
            with suppress(FileNotFoundError):
                if path != kept:
                    yield path.stat().st_mtime_ns, int(path.suffix[1:]), path

    def _remove(self, path: Path) -> bool:
        """Remove a shard, or a partial one that nobody is fetching; return whether it is gone."""
        if path.parent.name == "shards":
            path.unlink(missing_ok=True)
            return True
        try:
            with self._lock(path.stem, blocking=False):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _whole(self, shard: RemoteShard) -> Path:
        return self.folder / "shards" / shard.name

    def _lock(self, name: str, poll_seconds: float = POLL_SECONDS, blocking: bool = True) -> BaseFileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock", poll_interval=poll_seconds, blocking=blocking)

    @contextmanager
    def _faults_explained(self, shard: RemoteShard) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise UserError(
                    f"{self.folder}: the cache cannot be used ({error}); set data.cache to a folder that can be written"
                ) from error
            # What arrived helps nobody while the disk is full.
            with suppress(OSError):
                (self.folder / "partial" / f"{shard.name}.{shard.size}").unlink()
            raise UserError(
                f"{self.folder}: the disk is full ({error.strerror}): {shard.url} needs {shard.size:,} bytes, "
                f"{shutil.disk_usage(self.folder).free:,} are free; make room, lower data.cache_gb, or set data.cache "
                "to another disk"
            ) from error


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _touch(file: int) -> None:
    # The kernel's own "now" is the same for some milliseconds.
    now = time.time_ns()
    os.utime(file, ns=(now, now))
