from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from jitlab.callbacks.stopwatch import Stopwatch
from tests.callbacks.test_throughput import Clock

MODULE = cast(Any, SimpleNamespace(device=torch.device("cpu")))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("jitlab.callbacks.stopwatch.time", clock)
    return clock


def watch(clock, ends, durations):
    """Let batches of these durations pass until the stopwatch stops them; return it and how many there were."""
    stopwatch, trainer = Stopwatch(clock.now + ends), cast(Any, SimpleNamespace(should_stop=False))
    stopwatch.on_train_start(trainer, MODULE)
    for number, duration in enumerate(durations, 1):
        clock.now += duration
        stopwatch.on_train_batch_end(trainer, MODULE)
        if trainer.should_stop:
            return stopwatch, number
    raise AssertionError("never stopped")


def test_it_stops_before_a_batch_that_would_end_too_late(clock):
    stopwatch, batches = watch(clock, 2.1, [0.5] * 9)
    assert batches == 4
    assert stopwatch.batches_per_second == 2


def test_the_first_batches_do_not_count_where_there_are_others(clock):
    assert watch(clock, 10, [4, 3, 1, 1, 1, 1])[0].batches_per_second == 1
    assert watch(clock, 5, [2, 1, 2])[0].batches_per_second == 0.5


def test_one_batch_counts_where_the_time_was_too_short_for_more(clock):
    stopwatch, batches = watch(clock, 1, [5, 5])
    assert batches == 1
    assert stopwatch.batches_per_second == 0.2
