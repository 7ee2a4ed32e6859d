import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jitlab.callbacks.throughput import Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class Log:
    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("jitlab.callbacks.throughput.time", clock)
    return clock


def run(throughput, clock, steps, first=0, pause_at=None):
    log = Log()
    trainer = cast(Any, SimpleNamespace(global_step=first, loggers=[log]))
    throughput.on_train_start(trainer, cast(Any, None))
    for _ in range(steps):
        clock.now += 0.25
        trainer.global_step += 1
        throughput.on_train_batch_end(trainer)
        if trainer.global_step == pause_at:
            with throughput.paused():
                clock.now += 1000
    return log.rows


def test_rate_is_images_over_seconds_at_every_point(clock):
    rows = run(Throughput(4, 50), clock, 12)
    assert [step for step, _ in rows] == [4, 8, 12]
    for _, metrics in rows:
        assert metrics == {"throughput/images_per_second": 200.0, "throughput/step_ms": 250.0}


@pytest.mark.parametrize("pause_at", [1, 4, 6])
def test_a_pause_is_not_measured(clock, pause_at):
    rows = run(Throughput(4, 50), clock, 8, pause_at=pause_at)
    assert [metrics["throughput/step_ms"] for _, metrics in rows] == [250.0, 250.0]


def test_a_pause_that_raises_is_not_measured_either(clock):
    throughput = Throughput(4, 50)
    run(throughput, clock, 0)
    with contextlib.suppress(ZeroDivisionError), throughput.paused():
        clock.now += 1000
        raise ZeroDivisionError
    assert throughput._since == clock.now


def test_a_run_resumed_in_a_window_counts_its_own_steps_alone(clock):
    rows = run(Throughput(4, 50), clock, 6, first=3)
    assert [(step, metrics["throughput/step_ms"]) for step, metrics in rows] == [(4, 250.0), (8, 250.0)]
