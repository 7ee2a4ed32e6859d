import pytest
import torch

from tests.callbacks.runs import BATCHES_PER_EPOCH, BatchKeys, equal, tiny_config, train

STEPS = 9


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    keys = BatchKeys()
    run = train(tiny_config(shards, train__steps=STEPS), tmp_path_factory.mktemp("undisturbed"), [keys])
    return run, keys.keys


def test_every_epoch_has_an_order_of_its_own(undisturbed):
    _, keys = undisturbed
    epochs = [keys[start : start + BATCHES_PER_EPOCH] for start in range(0, STEPS, BATCHES_PER_EPOCH)]
    assert epochs[0] != epochs[1]
    assert epochs[1][0] != epochs[2][0]


@pytest.mark.parametrize("step", [1, 4, 5])
def test_interrupted_run_ends_bit_equal_to_an_undisturbed_one(shards, tmp_path, undisturbed, step):
    run, undisturbed_keys = undisturbed
    config, keys = tiny_config(shards, train__steps=STEPS), BatchKeys()
    assert train(config, tmp_path, [keys], stop_after=step).stopped
    resumed = train(config, tmp_path, [keys])
    assert not resumed.stopped
    assert keys.keys == undisturbed_keys
    assert equal(resumed.weights, run.weights)
    assert equal(resumed.checkpoint["ema"]["0.9"], run.checkpoint["ema"]["0.9"])
    assert resumed.logged("train/") == run.logged("train/")
    assert resumed.logged("eval/") == run.logged("eval/")
    assert resumed.logged("val/") == run.logged("val/")


def test_workers_change_neither_batches_nor_weights_over_epoch_ends_and_a_resume(shards, tmp_path, undisturbed):
    run, undisturbed_keys = undisturbed
    config, keys = tiny_config(shards, train__steps=STEPS, data__workers=2), BatchKeys()
    train(config, tmp_path, [keys], stop_after=5)
    helped = train(config, tmp_path, [keys])
    assert keys.keys == undisturbed_keys
    assert equal(helped.weights, run.weights)


def test_resumed_optimizer_is_that_of_the_undisturbed_run(shards, tmp_path, undisturbed):
    config = tiny_config(shards, train__steps=STEPS)
    train(config, tmp_path, stop_after=6)
    resumed = train(config, tmp_path)
    first, second = (r.trainer.optimizers[0].state_dict()["state"] for r in (undisturbed[0], resumed))
    for place, state in first.items():
        assert equal(state, second[place])
    assert torch.equal(first[0]["step"], torch.tensor(float(STEPS)))
