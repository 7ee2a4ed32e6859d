"""The measurement of a machine's speed: on what it is taken, and that it ends."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jitlab import build, speed
from jitlab.config.schema import Config
from jitlab.errors import RunError
from jitlab.training.module import JiTModule
from tests.callbacks.runs import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")
SECONDS = 0.3


def config(**changes) -> Config:
    return tiny_config(Path("nowhere"), **{"train__batch_size": 8, **changes})


def slow_machine(monkeypatch, parts: float, of: Config) -> None:
    """Make the probe say that so many parts of one image's training fit."""
    flops = parts * build.network_cost(of).training_flops * speed.LEAST / SECONDS / speed.EXPECTED_SHARE
    monkeypatch.setattr(speed, "_peak", lambda _: flops)


def spied_trainers(monkeypatch) -> list[Any]:
    trainers: list[Any] = []
    bare = build.build_bare_trainer

    def spy(*arguments):
        trainers.append(bare(*arguments))
        return trainers[-1]

    monkeypatch.setattr(build, "build_bare_trainer", spy)
    return trainers


def test_a_network_that_fits_is_measured_whole_in_whole_steps(monkeypatch):
    slow_machine(monkeypatch, 9, config())
    trainers = spied_trainers(monkeypatch)
    found = speed.measure(config(), SECONDS)
    assert (found.images, found.blocks) == (8, 2)
    assert found.flops_per_second > 0
    assert trainers[0].global_step == trainers[0].fit_loop.total_batch_idx + 1 >= 1


def test_speed_is_images_per_second_times_an_image_s_operations(monkeypatch):
    slow_machine(monkeypatch, 9, config())
    monkeypatch.setattr(speed, "_train", lambda *_: 7.0)
    assert speed.measure(config(), SECONDS).flops_per_second == 7 * build.network_cost(config()).training_flops


def test_a_step_that_takes_too_long_is_taken_in_parts_with_one_optimizer_step_for_all(monkeypatch):
    slow_machine(monkeypatch, 2.5, config())
    trainers = spied_trainers(monkeypatch)
    found = speed.measure(config(), SECONDS)
    assert (found.images, found.blocks) == (2, 2)
    parts = trainers[0].fit_loop.total_batch_idx + 1
    assert trainers[0].global_step == parts // 4


def test_where_one_image_takes_too_long_the_network_has_fewer_blocks(monkeypatch):
    deep = config(model__depth=8, model__in_context_start=4, model__class_head_block=3,
                  objective__class_loss_weight=1.0, model__dropout=0.1)  # fmt: skip
    slow_machine(monkeypatch, 0.5, deep)
    seen, train = [], speed._train

    def spy(made, *arguments):
        seen.append(made)
        return train(made, *arguments)

    monkeypatch.setattr(speed, "_train", spy)
    found = speed.measure(deep, SECONDS)
    assert (found.images, found.blocks) == (1, 4)
    assert (seen[0].model.depth, seen[0].model.in_context_start, seen[0].model.class_head_block) == (4, 2, 0)
    assert seen[0].model.hidden_size == deep.model.hidden_size


def test_points_and_their_mlp_are_measured_too(monkeypatch):
    points = replace(
        config(),
        data=replace(config().data, source="spiral", ambient_dim=3),
        model=replace(config().model, architecture="mlp"),
    )
    slow_machine(monkeypatch, 100, points)
    assert speed.measure(points, SECONDS).images == 8


def test_what_does_not_fit_into_a_gpu_s_memory_is_halved_until_it_does(monkeypatch):
    slow_machine(monkeypatch, 100, config())
    tried = []

    def train(made, images, ends):
        tried.append((made.model.depth, images))
        if len(tried) < 5:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(speed, "_train", train)
    found = speed.measure(config(), SECONDS)
    assert tried == [(2, 8), (2, 4), (2, 2), (2, 1), (1, 1)]
    assert (found.images, found.blocks) == (1, 1)


def test_a_memory_that_holds_nothing_is_told(monkeypatch):
    def train(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(speed, "_train", train)
    with pytest.raises(RunError, match="out of memory with one image and one block"):
        speed.measure(config(), SECONDS)


def test_ctrl_c_is_not_taken_for_an_end(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(JiTModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            speed.measure(config(), SECONDS)
    finally:
        signal.signal(signal.SIGINT, handler)
