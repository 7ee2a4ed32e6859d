"""A process that fetches into the cache what will be read next.

A process and no threads: loader workers are forked from the main process, and a fork in the middle of another thread's
work leaves the worker that thread's locks, taken for ever, and its connections.
"""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from jitlab.datasets.cache import RemoteShard, ShardCache
from jitlab.datasets.remote import Patience
from jitlab.errors import RunError, UserError

PARALLEL = 4
PARENT_POLL_SECONDS = 1.0


class Prefetcher:
    """Fetches shards into a cache in the background, in a process that ends with this one.

    What fails there is left to whoever opens the shard, who meets the same fault and tells it.
    """

    def __init__(self, cache: ShardCache) -> None:
        """Prepare; the process starts with the first shards."""
        self.cache = cache
        self._process: subprocess.Popen[bytes] | None = None

    def prefetch(self, shards: Sequence[RemoteShard]) -> None:
        """Fetch these shards in this order, as many as the cache can hold; forget earlier ones not yet begun.

        What is being read belongs to them, first of all: it is there or arriving, and must not make room for the rest.
        """
        room, wanted = self.cache.max_bytes, []
        for shard in shards:
            room -= shard.size
            if room < 0:
                break
            wanted.append(asdict(shard))
        line = json.dumps(wanted).encode() + b"\n"
        # A process that was killed is started again.
        with suppress(BrokenPipeError):
            pipe = self._running().stdin
            assert pipe
            pipe.write(line)
            pipe.flush()

    def close(self) -> None:
        """End the process; what it was fetching is gone on with by whoever needs it."""
        if self._process:
            _end(self._process)
            self._process = None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            settings = {
                "folder": str(self.cache.folder.absolute()),
                "max_bytes": self.cache.max_bytes,
                "patience": asdict(self.cache.patience),
                "parent": os.getpid(),
            }
            # Nothing in the folder of the run is to be taken for a module of that name.
            command = [sys.executable, "-P", "-m", "jitlab.datasets.prefetch", json.dumps(settings)]
            # In a session of its own: Ctrl-C is for the run, which then ends this process.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: "subprocess.Popen[bytes]") -> None:
    # In a forked process, which has this object, too, subprocess finds no child of its own and kills nothing.
    process.kill()
    process.wait()
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()


class _Wanted:
    """Shards that are wanted next, first first."""

    def __init__(self) -> None:
        self.shards: deque[RemoteShard] = deque()
        self.changed = threading.Condition()

    def replace(self, shards: Iterable[RemoteShard]) -> None:
        with self.changed:
            self.shards = deque(shards)
            self.changed.notify_all()

    def next(self) -> RemoteShard:
        with self.changed:
            self.changed.wait_for(lambda: self.shards)
            return self.shards.popleft()


def _fetch_all(cache: ShardCache, wanted: _Wanted) -> None:
    while True:
        shard = wanted.next()
        try:
            os.close(cache.open(shard))
        except (UserError, RunError):
            # Whoever opens it will meet this.
            continue
        except Exception:
            traceback.print_exc()


def _end_with(parent: int) -> None:
    # The pipe alone does not tell: forked workers may hold its other end, too.
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(0)


def main() -> None:
    """Fetch what the lines of stdin name, each in place of the last, until the parent process ends."""
    settings = json.loads(sys.argv[1])
    cache = ShardCache(Path(settings["folder"]), settings["max_bytes"], Patience(**settings["patience"]))
    wanted = _Wanted()
    threading.Thread(target=_end_with, args=(settings["parent"],), daemon=True).start()
    for _ in range(PARALLEL):
        threading.Thread(target=_fetch_all, args=(cache, wanted), daemon=True).start()
    for line in sys.stdin:
        wanted.replace(RemoteShard(**shard) for shard in json.loads(line))
    # At once: what is arriving stays as it is.
    os._exit(0)


if __name__ == "__main__":
    main()
