"""Reading shards whole, and comparing them with their index."""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jitlab.datasets.damage import DamagedShardError
from jitlab.datasets.decode import DamagedImageError, exact_crop
from jitlab.datasets.index import Index
from jitlab.datasets.parallel import in_processes
from jitlab.datasets.shards import Rows, Shard, key_of
from jitlab.datasets.store import Store

READ_BYTES = 2**20
# Decoding is the same work at any size; cropping to few pixels adds little to it.
CROP_PIXELS = 8


@dataclass(frozen=True)
class _Job:
    store: Store
    shard: Shard
    rows: Rows


def verify(index: Index, store: Store, workers: int, progress: Callable[[int, int], None]) -> Iterator[str]:
    """Read and decode everything, and yield a line for each damaged shard and, after it, for each damaged sample.

    Args:
        index: of the shards.
        store: where they are.
        workers: processes, each of which reads a shard at a time.
        progress: told how many of how many shards were read.

    Raises:
        UserError: where the local cache cannot hold a shard.
        RunError: where a server stays away or silent.
    """
    jobs = [_Job(store, shard, rows) for shard, rows in index.each_shard()]
    for done, faults in enumerate(in_processes(_faults, jobs, workers), start=1):
        yield from faults
        progress(done, len(jobs))


def _faults(job: _Job) -> list[str]:
    place = job.store.place(job.shard)
    try:
        file = job.store.open(job.shard)
    except DamagedShardError as error:
        return [str(error)]
    try:
        digest = hashlib.sha256()
        for start in range(0, os.fstat(file).st_size, READ_BYTES):
            digest.update(os.pread(file, READ_BYTES, start))
        found = [f"{place}: sample {key_of(row)}: {fault}" for row in job.rows if (fault := _sample_fault(file, row))]
    finally:
        os.close(file)
    if digest.hexdigest() == job.shard.sha256:
        return found
    damaged = f"{len(found)} of {len(job.rows)} samples" if found else "none of its samples"
    return [f"{place}: contents differ from the index, {damaged} damaged; {job.store.contents_remedy}", *found]


def _sample_fault(file: int, row: Rows) -> str | None:
    encoded = os.pread(file, int(row["size"]), int(row["offset"]))
    if len(encoded) < row["size"]:
        return "lies beyond the end of the shard"
    if zlib.crc32(encoded) != row["crc32"]:
        return "its checksum is not the index's"
    try:
        exact_crop(encoded, CROP_PIXELS)
    except DamagedImageError as error:
        return f"image is damaged ({error})"
    return None
