"""Making a folder of shards: on all cores, in bounded memory, the same bytes however often it is stopped."""

import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from jitlab import signals
from jitlab.datasets.build_progress import shown
from jitlab.datasets.index import INDEX_FILE, Facts, Index, open_index, write_index
from jitlab.datasets.shards import Sample, write_shard
from jitlab.datasets.store import local_fault
from jitlab.datasets.workspace import (
    RECIPE_FILE,
    Record,
    check_recipe,
    read_recipe,
    read_record,
    workspace,
    write_record,
)
from jitlab.errors import RunError, UserError
from jitlab.files import DISK_FULL, write_json


@dataclass
class ShardLog:
    """What is told of a shard's samples beside them: images that could not be read, and how many are enlarged."""

    unreadable: list[str] = field(default_factory=list)
    small: int = 0


class Contents(Protocol):
    """What goes into the shards; a value that can be sent to another process."""

    def samples(self, split: str, number: int, log: ShardLog) -> Iterator[Sample]:
        """Yield the samples of a shard: always the same ones."""


@dataclass(frozen=True)
class Plan:
    """A set of shards that is to be.

    Args:
        facts: of the set; its recipe determines every byte.
        counts: images of each split.
        samples_per_shard: images of every shard but each split's last.
        contents: what goes into them.
        bytes_per_image: what an image takes, roughly.
    """

    facts: Facts
    counts: dict[str, int]
    samples_per_shard: int
    contents: Contents
    bytes_per_image: float

    def shards(self) -> Iterator[tuple[str, int, int]]:
        """Yield split, number and images of every shard."""
        for split, count in self.counts.items():
            for number, start in enumerate(range(0, count, self.samples_per_shard)):
                yield split, number, min(self.samples_per_shard, count - start)


@dataclass(frozen=True)
class Built:
    """A finished set of shards: its index, how many images are enlarged where they are cropped, and what was done.

    `small` is None where the set was there already: nobody counted.
    """

    index: Index
    small: int | None


def shard_file(split: str, number: int) -> str:
    """Return the name of a shard."""
    return f"{split}-{number:05d}.tar"


def build(folder: Path, plan: Plan) -> Index:
    """Write a few shards in this process, whatever the folder holds of the same recipe, then the index."""
    with workspace(folder) as place:
        _check_folder(folder, place, plan)
        for split in plan.counts:
            for record in place.glob(f"{split}-*.json"):
                record.unlink()
        return _build(folder, place, plan, {}, {}, workers=1, console=None).index


def go_on_building(
    folder: Path, place: Path, plan: Plan, tables: Mapping[str, np.ndarray], workers: int, console: Console | None
) -> Built:
    """Write the shards that are missing in as many processes as `workers`, then the index.

    The index is written last: a folder with an index was complete. Where it is there, shards that are missing or have
    lost their size are made again.

    Args:
        folder: of the shards.
        place: its `workspace`.
        plan: what to write.
        tables: what `plan.contents` is to find in `place`, as NAME.npy.
        workers: processes.
        console: where progress is shown.

    Raises:
        UserError: where the folder holds something else, or its disk is full; the same call goes on.
        RunError: where a process was killed; the same call goes on.
    """
    finished = _check_folder(folder, place, plan)
    if finished is None:
        files = [shard_file(split, number) for split, number, _ in plan.shards()]
        kept = {file: record for file in files if (record := read_record(place, file))}
        return _build(folder, place, plan, kept, tables, workers, console)
    kept = dict(_sound(folder, finished))
    if len(kept) == sum(map(len, finished.splits.values())):
        (place / RECIPE_FILE).unlink(missing_ok=True)
        return Built(finished, None)
    mended = _build(folder, place, plan, kept, tables, workers, console, finished.facts)
    return replace(mended, small=None)


def _check_folder(folder: Path, place: Path, plan: Plan) -> Index | None:
    """Return the index that the folder has already; raises UserError where what it holds is not of this plan."""
    finished: Index | None = None
    with suppress(UserError):
        finished = open_index(folder, "")
    if finished is not None:
        check_recipe(folder, finished.facts.recipe, plan.facts.recipe)
    elif (unfinished := read_recipe(place)) is not None:
        check_recipe(folder, unfinished, plan.facts.recipe)
    # Where nothing says that a build wrote them, shards of the same names are somebody else's.
    built = (folder / INDEX_FILE).is_file() or (place / RECIPE_FILE).is_file()
    ours = {shard_file(split, number) for split, number, _ in plan.shards()} if built else set()
    strange = sorted(path.name for path in folder.glob("*.tar") if path.name not in ours)
    if strange:
        raise UserError(
            f"{folder / strange[0]}: is no shard of this build; choose another folder with --out, or delete it"
        )
    return finished


def _sound(folder: Path, index: Index) -> Iterator[tuple[str, Record]]:
    for shard, rows in index.each_shard():
        if not local_fault(folder / shard.file, shard, rows):
            yield shard.file, Record(shard, rows, [], 0)


def _build(
    folder: Path,
    place: Path,
    plan: Plan,
    kept: Mapping[str, Record],
    tables: Mapping[str, np.ndarray],
    workers: int,
    console: Console | None,
    facts: Facts | None = None,
) -> Built:
    for partial in folder.glob(".*.partial"):
        partial.unlink()
    with _told_when_full(folder, place, plan):
        write_json(place / RECIPE_FILE, plan.facts.recipe)
        if facts is None:
            (folder / INDEX_FILE).unlink(missing_ok=True)
        for name, table in tables.items():
            np.save(place / f"{name}.npy", table)
        _write_shards(folder, place, plan, set(kept), workers, console)
        records: dict[str, list[Record]] = {split: [] for split in plan.counts}
        for split, number, _ in plan.shards():
            file = shard_file(split, number)
            record = kept.get(file) or read_record(place, file)
            if record is None:
                raise RunError(f"{folder / file}: has gone while the others were built; the same command makes it")
            records[split].append(record)
        every = [record for found in records.values() for record in found]
        unreadable = [line for record in every for line in record.unreadable]
        parts = {split: [(record.shard, record.rows) for record in found] for split, found in records.items()}
        index = write_index(folder, facts or replace(plan.facts, unreadable=unreadable), parts)
    (place / RECIPE_FILE).unlink()
    return Built(index, sum(record.small for record in every))


@dataclass(frozen=True)
class _Job:
    number: int  # its place on the board
    split: str
    shard: int


@dataclass(frozen=True)
class _Board:
    """What the processes of a build share, without locks that one of them could die with."""

    done: Any  # images of every job
    stop: Any  # whether to stop


class _StoppedError(Exception):
    """The build was asked to stop."""


def _write_shards(folder: Path, place: Path, plan: Plan, kept: set[str], workers: int, console: Console | None) -> None:
    missing = [shard for shard in plan.shards() if shard_file(shard[0], shard[1]) not in kept]
    jobs = [_Job(number, split, shard) for number, (split, shard, _) in enumerate(missing)]
    total, left = sum(plan.counts.values()), sum(images for _, _, images in missing)
    board = _Board(multiprocessing.RawArray("q", max(1, len(jobs))), multiprocessing.RawValue("b", 0))
    with shown(console, str(folder), total, total - left, lambda: sum(board.done)):
        if workers == 1 or len(jobs) <= 1:
            for job in jobs:
                _write(folder, place, plan, board, job)
        else:
            _write_together(folder, place, plan, board, jobs, min(workers, len(jobs)))


def _write_together(folder: Path, place: Path, plan: Plan, board: _Board, jobs: Sequence[_Job], workers: int) -> None:
    # Not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (folder, place, plan, board))
    before, processes = multiprocessing.active_children(), []
    try:
        with signals.held_back():
            futures = [pool.submit(_write_job, job) for job in jobs]
            processes = [process for process in multiprocessing.active_children() if process not in before]
        for future in as_completed(futures):
            future.result()
    except BrokenProcessPool as error:
        # The pool's own SIGTERM does not end the others.
        for process in processes:
            process.kill()
        raise RunError(
            f"{folder}: a process of the build was killed, perhaps for want of memory; the same command goes on, "
            f"with less memory where --workers is below {workers}"
        ) from error
    finally:
        # Of no effect where all has gone well.
        board.stop.value = 1
        pool.shutdown(cancel_futures=True)


_at_work: tuple[Path, Path, Plan, _Board]


def _begin(folder: Path, place: Path, plan: Plan, board: _Board) -> None:
    """Prepare a process of the pool: it leaves signals to the one that started it, and ends with it."""
    global _at_work
    signals.leave_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _at_work = folder, place, plan, board


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _write_job(job: _Job) -> None:
    _write(*_at_work, job)


def _write(folder: Path, place: Path, plan: Plan, board: _Board, job: _Job) -> None:
    log = ShardLog()

    def watched() -> Iterator[Sample]:
        for sample in plan.contents.samples(job.split, job.shard, log):
            if board.stop.value:
                raise _StoppedError
            yield sample
            board.done[job.number] += 1

    shard, rows = write_shard(folder / shard_file(job.split, job.shard), watched())
    write_record(place, Record(shard, rows, log.unreadable, log.small))


@contextmanager
def _told_when_full(folder: Path, place: Path, plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free, needed = shutil.disk_usage(folder).free, _bytes_left(place, plan)
        raise UserError(
            f"{folder}: {error.strerror}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB more are needed; "
            "make room and type the same command again: it goes on with the shards that are missing"
        ) from error


def _bytes_left(place: Path, plan: Plan) -> float:
    """Estimate what the missing shards take, from those that are there."""
    images_left, images, written = 0, 0, 0
    for split, number, count in plan.shards():
        if record := read_record(place, shard_file(split, number)):
            images, written = images + record.shard.samples, written + record.shard.bytes
        else:
            images_left += count
    return images_left * (written / images if images else plan.bytes_per_image)
