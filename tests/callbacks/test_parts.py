"""An optimizer step in several parts: the same step, in less memory."""

from typing import Any

import pytest
import torch

from jitlab.errors import RunError
from tests.callbacks.runs import BatchKeys, equal, tiny_config, train
from tests.callbacks.test_training import Spoil

STEPS = 5
CHANGES: dict[str, Any] = {
    "train__steps": STEPS,
    "train__checkpoint_every_steps": 2,
    "train__log_every_steps": 1,
    "evaluation__every_steps": 4,
    "evaluation__grid_every_steps": 4,
    "data__flip": True,
}


def run(shards, folder, parts, **more):
    keys = BatchKeys()
    config = tiny_config(shards, train__device_batch_size=400 // parts, **{**CHANGES, **more})
    return train(config, folder, [keys]), keys.keys


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    return run(shards, tmp_path_factory.mktemp("whole"), 1)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_change_neither_weights_nor_what_is_logged_counted_and_saved(shards, tmp_path, whole, parts):
    split, keys = run(shards, tmp_path, parts)
    assert split.module.parts == parts
    assert keys == whole[1]
    assert split.saved == whole[0].saved
    for name, weight in whole[0].weights.items():
        torch.testing.assert_close(split.weights[name], weight, rtol=1e-4, atol=1e-5)
    for name, average in whole[0].checkpoint["ema"]["0.9"].items():
        torch.testing.assert_close(split.checkpoint["ema"]["0.9"][name], average, rtol=1e-4, atol=1e-5)
    ours, theirs = split.logged("train/"), whole[0].logged("train/")
    assert ours.keys() == theirs.keys()
    assert all(ours[point] == pytest.approx(theirs[point], rel=1e-3) for point in theirs)
    assert split.logged("eval/").keys() == whole[0].logged("eval/").keys()


def test_a_run_goes_on_in_other_parts_with_the_same_samples(shards, tmp_path, whole):
    keys = BatchKeys()
    assert train(
        tiny_config(shards, **{**CHANGES, "train__device_batch_size": 100}), tmp_path, [keys], stop_after=3
    ).stopped
    resumed = train(tiny_config(shards, **{**CHANGES, "train__device_batch_size": 80}), tmp_path, [keys])
    assert (resumed.module.parts, resumed.trainer.global_step) == (5, STEPS)
    assert keys.keys == whole[1]
    for name, weight in whole[0].weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_a_limit_above_the_batch_is_no_limit(shards, tmp_path, whole):
    unsplit = train(tiny_config(shards, **{**CHANGES, "train__device_batch_size": 1000}), tmp_path)
    assert unsplit.module.parts == 1
    assert equal(unsplit.weights, whole[0].weights)


def test_dropout_in_parts_comes_back_after_a_resume(shards, tmp_path):
    changes = {**CHANGES, "model__dropout": 0.5, "model__depth": 4, "train__device_batch_size": 100}
    undisturbed = train(tiny_config(shards, **changes), tmp_path / "undisturbed")
    train(tiny_config(shards, **changes), tmp_path / "resumed", stop_after=3)
    resumed = train(tiny_config(shards, **changes), tmp_path / "resumed")
    assert equal(resumed.weights, undisturbed.weights)


def test_parts_agree_in_bf16_to_its_rounding(shards, tmp_path):
    losses = [
        run(shards, tmp_path / str(parts), parts, train__precision="bf16", train__steps=2)[0].logged("train/loss")
        for parts in (1, 4)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_non_finite_gradient_stops_a_run_in_parts_before_it_reaches_the_weights(shards, tmp_path):
    with pytest.raises(RunError, match="step 3"):
        train(tiny_config(shards, **{**CHANGES, "train__device_batch_size": 100}), tmp_path, [Spoil(3)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
