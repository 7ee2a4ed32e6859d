"""Processes that train one run together: started for it, watched, and ended with it, one for each device."""

import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from jitlab import signals
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.errors import RunError, UserError

Work = Callable[[int, StopRequest], None]
"""(rank, stop): what a process does. A function of a module, so that it can be sent to another process."""

POLL_SECONDS = 0.2
# For the others to end by themselves, once one has failed or stopped.
GRACE_SECONDS = 15.0


def run_together(work: Work, count: int, stop: StopRequest) -> None:
    """Call `work(rank, stop)` in `count` new processes, which form a process group, and wait for all of them.

    None of them outlives this call or this process, whatever ends it. Signals to them are ignored: they are told when
    `stop` is requested.

    Raises what the first of them to fail raised, its traceback as a note; RunError where one was killed.
    """
    with tempfile.TemporaryDirectory(prefix="jitlab-") as folder:
        workers: list[Worker] = []
        try:
            with signals.held_back():
                for rank in range(count):
                    workers.append(Worker(work, rank, count, Path(folder) / "group"))
            faults = _wait(workers, stop)
        finally:
            for worker in workers:
                worker.end()
    if faults:
        raise _cause(faults)


def torchrun() -> tuple[int, int] | None:
    """Return the rank of this process and how many there are, where torchrun started it.

    Raises UserError where it did so on several machines.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if os.environ["WORLD_SIZE"] != os.environ["LOCAL_WORLD_SIZE"]:
        raise UserError("torchrun --nnodes: a run uses the devices of one machine; start it there, with --nnodes 1")
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


class Worker:
    """A process of the group, seen from the one that started it."""

    def __init__(self, work: Work, rank: int, count: int, meeting_point: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = f"process {rank} of {count}"
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_take_part, args=(work, rank, count, meeting_point, theirs))
        self.process.start()
        # Now the connection ends with the process.
        theirs.close()
        self.succeeded = False

    def result(self) -> BaseException | None:
        """Return what the process raised, None where it succeeded; waits until it has done either."""
        try:
            fault: BaseException | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return RunError(f"{self.name} was killed or crashed (exit code {self.process.exitcode})")
        self.succeeded = fault is None
        return fault

    def request_stop(self) -> None:
        """Ask the process to stop where its run can be resumed from; one that has ended is no error."""
        with suppress(OSError):
            self.connection.send("stop")

    def end(self) -> None:
        """Let a process that succeeded leave, and kill any other."""
        if self.succeeded:
            self.process.join(GRACE_SECONDS)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _wait(workers: Sequence[Worker], stop: StopRequest) -> list[BaseException]:
    """Return what the workers raised, in the order of time; of those that do not end after a fault, nothing."""
    working = {worker.connection: worker for worker in workers}
    faults: list[BaseException] = []
    deadline, told = math.inf, False
    while working and time.monotonic() < deadline:
        if stop.requested and not told:
            for worker in working.values():
                worker.request_stop()
            told = True
        for connection in multiprocessing.connection.wait(list(working), POLL_SECONDS):
            assert isinstance(connection, Connection)
            if fault := working.pop(connection).result():
                faults.append(fault)
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if workers[0].connection not in working and any(map(_explains, faults)):
            # The first process keeps what there is to be kept, and the reason is known.
            break
    return faults


def _cause(faults: Sequence[BaseException]) -> BaseException:
    return next(filter(_explains, faults), faults[0])


def _explains(fault: BaseException) -> bool:
    # A process whose peer is gone fails, too, with a word about connections that does not.
    return isinstance(fault, UserError | RunError | StoppedError)


def _take_part(work: Work, rank: int, count: int, meeting_point: Path, connection: Connection) -> None:
    signals.leave_to_parent()
    stop = StopRequest()
    threading.Thread(target=_obey, args=(connection, stop), daemon=True).start()
    fault: BaseException | None = None
    try:
        _join_group(rank, count, meeting_point)
        work(rank, stop)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        fault = _portable(error, rank)
    sys.stdout.flush()
    # Last: the process may be killed from here on.
    connection.send(fault)


def _obey(connection: Connection, stop: StopRequest) -> None:
    """Pass a stop on; end the process at once where the one that started it is gone, and its lock with it."""
    try:
        connection.recv()
        stop.request()
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)


def _join_group(rank: int, count: int, meeting_point: Path) -> None:
    # What Lightning's environment asks for; it takes a group that is there as it is.
    os.environ["LOCAL_RANK"] = str(rank)
    # A file and no port: one that is free now may be taken a moment later.
    join = partial(
        torch.distributed.init_process_group, init_method=f"file://{meeting_point}", rank=rank, world_size=count
    )
    if torch.cuda.is_available():
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        join("nccl", device_id=device)
    else:
        join("gloo")


def _portable(error: BaseException, rank: int) -> BaseException:
    """Return an error that can be sent to another process, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in process {rank}:\n{text}")
    return error
