from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.metrics import manifold as subject
from jitlab.metrics.manifold import Manifold, ManifoldFit, energies
from jitlab.metrics.patches import patches
from jitlab.models.jit import JiT

few = settings(deadline=None, max_examples=15)


def fitted(vectors, keep=0.99, batches=3) -> Manifold:
    fit = ManifoldFit(keep)
    for rows in vectors.tensor_split(batches):
        fit.add(rows)
    return fit.compute()


def off_share(manifold, vectors) -> float:
    total, outside = energies(manifold, vectors).sum(0).tolist()
    return outside / total if total else 0.0


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(n, seed=0) -> torch.Tensor:
    """Return vectors in a plane of a space of 6 dimensions, away from its origin."""
    return torch.cat([random(n, 2, seed=seed), torch.zeros(n, 4, dtype=torch.float64)], 1) + 0.5


# The manifold.

# More and fewer vectors than dimensions: from the covariance, and from the vectors themselves.
shapes = st.tuples(st.integers(3, 60), st.integers(2, 40))


@few
@given(keep=st.floats(0.05, 0.999), seed=st.integers(0, 999), shape=shapes)
def test_what_was_fitted_is_off_by_at_most_what_was_not_kept(keep, seed, shape):
    real = random(*shape, seed=seed) * torch.arange(1, shape[1] + 1)
    manifold = fitted(real, keep)
    assert -1e-9 <= off_share(manifold, real) <= 1 - keep + 1e-9
    # One direction fewer would hold too little.
    fewer = Manifold(manifold.mean, manifold.basis[:, :-1])
    assert off_share(fewer, real) > 1 - keep - 1e-9


@few
@given(keep=st.floats(0.05, 0.999), seed=st.integers(0, 999), shape=shapes)
def test_the_subspace_is_that_of_the_leading_eigenvectors(keep, seed, shape):
    real = random(*shape, seed=seed)
    basis = fitted(real, keep).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    leading = torch.linalg.eigh(real.T.cov()).eigenvectors.flip(1)[:, : basis.shape[1]]
    # Ends of the spectrum that lie close are told apart by neither.
    torch.testing.assert_close((leading.T @ basis).square().sum(), torch.tensor(float(basis.shape[1])).double())


@few
@given(seed=st.integers(0, 99), many=st.booleans())
def test_directions_are_looked_for_until_they_hold_enough(seed, many):
    real = random(90 if many else 30, 40, seed=seed) * torch.arange(1, 41)
    with patch.object(subject, "FIRST_RANK", 2):
        sparing = fitted(real, 0.9)
    full = fitted(real, 0.9)
    assert sparing.basis.shape == full.basis.shape
    assert off_share(sparing, real) == pytest.approx(off_share(full, real), abs=1e-3)


def test_fitting_leaves_the_global_generator_alone_and_gives_the_same_bits_again():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = fitted(random(50, 8)).basis
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(fitted(random(50, 8)).basis, first)


def test_vectors_of_a_plane_span_two_directions():
    manifold = fitted(plane(200))
    assert manifold.basis.shape == (6, 2)
    assert off_share(manifold, plane(100, seed=1)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("vectors", [50, 4])
def test_keeping_everything_never_asks_for_more_directions_than_there_are(vectors):
    real = random(vectors, 5)
    assert fitted(real, keep=1.0).basis.shape[1] <= 5
    assert off_share(fitted(real, keep=1.0), real) == pytest.approx(0, abs=1e-12)


def test_one_vector_has_no_subspace():
    with pytest.raises(ValueError, match="two patches or more, got 1"):
        fitted(random(1, 5), batches=1)


def test_what_varies_only_off_the_subspace_is_off_entirely():
    manifold = fitted(plane(200))
    off = torch.cat([torch.zeros(100, 2, dtype=torch.float64), random(100, 4)], 1) + manifold.mean
    assert off_share(manifold, off) == pytest.approx(1, abs=1e-9)


@few
@given(shift=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_a_constant_shift_off_the_subspace_counts(shift, seed):
    manifold = fitted(plane(200))
    vectors = plane(300, seed=seed)
    energy = (vectors - manifold.mean).square().sum(1).mean().item()
    vectors[:, 5] += shift
    expected = shift**2 / (energy + shift**2)
    assert off_share(manifold, vectors) == pytest.approx(expected, rel=1e-6)


def test_a_shift_within_the_subspace_does_not_count():
    manifold = fitted(plane(200))
    assert off_share(manifold, plane(100) + torch.tensor([5.0, -3, 0, 0, 0, 0])) == pytest.approx(0, abs=1e-9)


@few
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_share_is_that_of_the_projection_residue(scale, seed):
    manifold = fitted(plane(200), keep=0.9)
    vectors = scale * random(40, 6, seed=seed) + 1
    centred = vectors - manifold.mean
    residue = centred - centred @ manifold.basis @ manifold.basis.T
    expected = (residue.square().sum() / centred.square().sum()).item()
    assert off_share(manifold, vectors) == pytest.approx(expected, rel=1e-9)


def test_a_network_that_always_gives_the_real_mean_has_a_share():
    manifold = fitted(plane(200))
    assert off_share(manifold, manifold.mean.expand(10, 6)) == 0


# Patches.


def test_values_span_minus_one_to_one():
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    cut = patches(images, 4)
    assert cut.shape == (2, 4, 48)
    assert cut[0].unique().tolist() == [-1.0]
    assert cut[1].unique().tolist() == [1.0]


@pytest.mark.parametrize(("size", "patch_size"), [(8, 4), (12, 4), (8, 8), (6, 1)])
def test_patches_are_the_networks_own_in_its_order(size, patch_size):
    net = JiT(size, patch_size, 8, 1, 1, 2, 4, 0, 0)
    grid = size // patch_size
    # The network's tokens hold (row, column, channel), a patch here (channel, row, column).
    tokens = torch.randint(256, (2, grid**2, patch_size, patch_size, 3), generator=torch.Generator().manual_seed(0))
    images = net._unpatchify(tokens.float().flatten(2))
    cut = patches(images.to(torch.uint8), patch_size)
    expected = tokens.permute(0, 1, 4, 2, 3).flatten(2)
    torch.testing.assert_close((cut + 1) * 127.5, expected.float(), rtol=0, atol=1e-3)
