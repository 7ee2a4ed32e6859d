from types import SimpleNamespace

import pytest
import torch

from jitlab.datasets import spiral
from jitlab.datasets.spiral import SpiralDataModule
from jitlab.errors import UserError

BATCH = 16384


def module(dimensions=16, batch_size=BATCH, seed=0, workers=0) -> SpiralDataModule:
    return SpiralDataModule(dimensions, batch_size, seed, workers)


@pytest.mark.parametrize("dimensions", [2, 8, 16, 512])
def test_columns_are_orthonormal_and_fixed(dimensions):
    p = spiral.projection(dimensions)
    assert p.shape == (dimensions, 2)
    torch.testing.assert_close(p.T @ p, torch.eye(2), atol=1e-6, rtol=0)
    assert torch.equal(p, spiral.projection(dimensions))


def test_points_are_always_the_same_lie_on_the_spiral_and_differ_between_splits():
    points = spiral.points("true", 500)
    assert torch.equal(points, spiral.points("true", 900)[:500])
    assert not torch.equal(points, spiral.points("held_out", 500))
    assert torch.cdist(points, spiral.curve(5000)).min(1).values.max() < 1e-2
    assert 0.9 < points.norm(dim=1).max() <= 1.0001


def test_samples_are_the_points_in_the_plane_of_the_projection():
    samples, labels = module().held_out(50)
    assert samples.shape == (50, 16)
    assert labels.tolist() == [0] * 50
    torch.testing.assert_close(samples @ module().projection, spiral.points("held_out", 50))


def test_dimensions_share_points_and_order():
    narrow, wide = (next(iter(module(dimensions).train_dataloader())) for dimensions in (2, 64))
    assert narrow[2] == wide[2]
    torch.testing.assert_close(narrow[0] @ spiral.projection(2), wide[0] @ spiral.projection(64), atol=1e-5, rtol=0)


def at_step(made, step):
    made.trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1)
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_position_gives_the_batches_that_were_left(workers):
    whole = list(module(workers=workers).train_dataloader())
    assert len(whole) == module().batches_per_epoch == 4
    assert sorted(key for _, _, keys in whole for key in keys) == [f"{i:05d}" for i in range(65536)]
    resumed = module(workers=workers)
    resumed.load_state_dict(at_step(module(), 2).state_dict())
    at_step(resumed, 2)
    for ours, theirs in zip(resumed.train_dataloader(), whole[2:], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert ours[2] == theirs[2]


def test_epochs_and_seeds_have_orders_of_their_own():
    later = at_step(module(), module().batches_per_epoch)
    first, second, other = (next(iter(m.train_dataloader()))[2] for m in (module(), later, module(seed=1)))
    assert first != second
    assert first != other


def test_a_position_in_another_space_is_refused():
    with pytest.raises(UserError, match="the spiral: these are not the data"):
        module(8).load_state_dict(module(16).state_dict())


@pytest.mark.parametrize(
    ("ask", "key"),
    [
        (lambda: module(batch_size=70000), "train.batch_size = 70000"),
        (lambda: module().held_out(5000), "evaluation.held_out_images = 5000"),
        (lambda: module().true_points(5000), "evaluation.images = 5000"),
    ],
)
def test_more_points_than_there_are_are_refused(ask, key):
    with pytest.raises(UserError, match=f"{key}: .*use at most"):
        ask()
