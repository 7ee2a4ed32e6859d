import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.metrics.frechet import Moments, RunningMoments
from jitlab.metrics.manifold import Manifold, patches
from jitlab.models.jit import JiT

few = settings(deadline=None, max_examples=15)


def moments_of(vectors) -> Moments:
    running = RunningMoments(vectors.shape[1])
    running.update(vectors)
    return running.compute()


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(n, seed=0) -> torch.Tensor:
    """Return vectors in a plane of a space of 6 dimensions, away from its origin."""
    return torch.cat([random(n, 2, seed=seed), torch.zeros(n, 4, dtype=torch.float64)], 1) + 0.5


# The manifold.


@few
@given(keep=st.floats(0.05, 0.999), seed=st.integers(0, 999), dimensions=st.integers(2, 8))
def test_what_was_fitted_is_off_by_at_most_what_was_not_kept(keep, seed, dimensions):
    real = moments_of(random(50, dimensions, seed=seed) * torch.arange(1, dimensions + 1))
    manifold = Manifold.fit(real, keep)
    assert -1e-9 <= manifold.off_share(real) <= 1 - keep + 1e-9
    # One direction fewer would hold too little.
    fewer = Manifold(manifold.mean, manifold.basis[:, :-1])
    assert fewer.off_share(real) > 1 - keep - 1e-9


@few
@given(keep=st.floats(0.05, 0.999), seed=st.integers(0, 999))
def test_the_basis_is_orthonormal(keep, seed):
    basis = Manifold.fit(moments_of(random(50, 5, seed=seed)), keep).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))


def test_vectors_of_a_plane_span_two_directions():
    manifold = Manifold.fit(moments_of(plane(200)))
    assert manifold.basis.shape == (6, 2)
    assert manifold.off_share(moments_of(plane(100, seed=1))) == pytest.approx(0, abs=1e-12)


def test_keeping_everything_never_asks_for_more_directions_than_there_are():
    real = moments_of(random(50, 5))
    assert Manifold.fit(real, keep=1.0).basis.shape[1] <= 5
    assert Manifold.fit(real, keep=1.0).off_share(real) == pytest.approx(0, abs=1e-12)


def test_what_varies_only_off_the_subspace_is_off_entirely():
    manifold = Manifold.fit(moments_of(plane(200)))
    off = torch.cat([torch.zeros(100, 2, dtype=torch.float64), random(100, 4)], 1) + manifold.mean
    assert manifold.off_share(moments_of(off)) == pytest.approx(1, abs=1e-9)


@few
@given(shift=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_a_constant_shift_off_the_subspace_counts(shift, seed):
    manifold = Manifold.fit(moments_of(plane(200)))
    vectors = plane(300, seed=seed)
    energy = (vectors - manifold.mean).square().sum(1).mean().item()
    vectors[:, 5] += shift
    expected = shift**2 / (energy + shift**2)
    assert manifold.off_share(moments_of(vectors)) == pytest.approx(expected, rel=1e-6)


def test_a_shift_within_the_subspace_does_not_count():
    manifold = Manifold.fit(moments_of(plane(200)))
    assert manifold.off_share(moments_of(plane(100) + torch.tensor([5.0, -3, 0, 0, 0, 0]))) == pytest.approx(
        0, abs=1e-9
    )


@few
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_share_is_that_of_the_projection_residue(scale, seed):
    manifold = Manifold.fit(moments_of(plane(200)), keep=0.9)
    vectors = scale * random(40, 6, seed=seed) + 1
    centred = vectors - manifold.mean
    residue = centred - centred @ manifold.basis @ manifold.basis.T
    expected = (residue.square().sum() / centred.square().sum()).item()
    assert manifold.off_share(moments_of(vectors)) == pytest.approx(expected, rel=1e-9)


def test_a_network_that_always_gives_the_real_mean_has_a_share():
    manifold = Manifold.fit(moments_of(plane(200)))
    collapsed = Moments(10, manifold.mean, torch.zeros(6, 6, dtype=torch.float64))
    assert not math.isnan(manifold.off_share(collapsed))


# Patches.


def test_values_span_minus_one_to_one():
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    cut = patches(images, 4)
    assert cut.shape == (8, 48)
    assert cut[:4].unique().tolist() == [-1.0]
    assert cut[4:].unique().tolist() == [1.0]


@pytest.mark.parametrize(("size", "patch_size"), [(8, 4), (12, 4), (8, 8), (6, 1)])
def test_patches_are_the_networks_own_in_its_order(size, patch_size):
    net = JiT(size, patch_size, 8, 1, 1, 2, 4, 0, 0)
    grid = size // patch_size
    # The network's tokens hold (row, column, channel), a patch here (channel, row, column).
    tokens = torch.randint(256, (2, grid**2, patch_size, patch_size, 3), generator=torch.Generator().manual_seed(0))
    images = net._unpatchify(tokens.float().flatten(2))
    cut = patches(images.to(torch.uint8), patch_size)
    expected = tokens.permute(0, 1, 4, 2, 3).flatten(2).flatten(0, 1)
    torch.testing.assert_close((cut + 1) * 127.5, expected.float(), rtol=0, atol=1e-3)
