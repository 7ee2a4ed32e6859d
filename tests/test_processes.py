"""Processes that train one run together: how they meet, stop, fail and end."""

import os
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.errors import RunError, UserError
from jitlab.processes import run_together, torchrun


def add_up(folder: Path, rank: int, stop: StopRequest) -> None:
    total = torch.tensor(float(rank + 1))
    torch.distributed.all_reduce(total)
    (folder / str(rank)).write_text(f"{total.item():g} {torch.distributed.get_world_size()} {os.getpid()}")


def fail_alone(how: str, rank: int, stop: StopRequest) -> None:
    if rank == 1:
        if how == "dies":
            os._exit(7)
        raise UserError("the sample is damaged") if how == "user" else ZeroDivisionError("of rank 1")
    # What a process does whose peer is gone: it waits for it.
    torch.distributed.barrier()
    time.sleep(100)


def wait_for_stop(folder: Path, rank: int, stop: StopRequest) -> None:
    (folder / str(rank)).write_text(str(os.getpid()))
    while not stop.requested:
        time.sleep(0.01)
    raise StoppedError


class StopWhen(StopRequest):
    """A stop that is asked for once all processes are at work."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__()
        self.folder = folder
        self.count = count

    @property
    def requested(self) -> bool:
        return len(list(self.folder.iterdir())) == self.count


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_form_a_group_and_are_gone_afterwards(tmp_path):
    for _ in range(2):
        run_together(partial(add_up, tmp_path), 2, StopRequest())
        results = [(tmp_path / str(rank)).read_text().split() for rank in range(2)]
        assert [result[:2] for result in results] == [["3", "2"], ["3", "2"]]
        assert not any(is_alive(int(pid)) for _, _, pid in results)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("user", UserError, "the sample is damaged"),
        ("fault", ZeroDivisionError, "of rank 1"),
        ("dies", RunError, r"process 1 of 2 .*exit code 7"),
    ],
)
def test_a_process_that_fails_ends_the_others_and_gives_the_reason(how, error, says):
    started = time.monotonic()
    with pytest.raises(error, match=says) as caught:
        run_together(partial(fail_alone, how), 2, StopRequest())
    assert time.monotonic() - started < 60
    if how == "fault":
        assert "in process 1" in caught.value.__notes__[0]
        assert "fail_alone" in caught.value.__notes__[0]


def test_a_stop_is_passed_on(tmp_path):
    with pytest.raises(StoppedError):
        run_together(partial(wait_for_stop, tmp_path), 2, StopWhen(tmp_path, 2))
    assert not any(is_alive(int((tmp_path / str(rank)).read_text())) for rank in range(2))


def test_torchrun_is_recognised_and_kept_to_one_machine(monkeypatch):
    assert torchrun() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun() == (1, 4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UserError, match="--nnodes 1"):
        torchrun()
