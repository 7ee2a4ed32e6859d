import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from jitlab.metrics.frechet import Moments, RunningMoments, frechet_distance

few = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 10_000)


def vectors(n, dimensions, seed) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    offset = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) @ mixing + offset


def moments_of(*batches) -> Moments:
    running = RunningMoments(batches[0].shape[1])
    for batch in batches:
        running.update(batch)
    return running.compute()


def spd(dimensions, seed, rank=None) -> torch.Tensor:
    factor = np.random.default_rng(seed).normal(size=(dimensions, rank or 2 * dimensions))
    return torch.from_numpy(factor @ factor.T / factor.shape[1])


def gaussian(mean, covariance) -> Moments:
    return Moments(100, torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


def random_moments(dimensions, seed, rank=None) -> Moments:
    return gaussian(np.random.default_rng(seed + 1).normal(size=dimensions), spd(dimensions, seed, rank))


# Moments.


@few
@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=seeds)
def test_pooled_moments_are_those_of_one_pass_for_any_split(cuts, seed):
    whole = vectors(40, 3, seed)
    ends = [0, *sorted(cuts), 40]
    pooled = moments_of(*[whole[a:b] for a, b in pairwise(ends)])
    assert pooled.n == 40
    np.testing.assert_allclose(pooled.mean, np.mean(whole.numpy(), 0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(pooled.covariance, np.cov(whole.numpy(), rowvar=False), rtol=1e-10, atol=1e-10)


@few
@given(seed=seeds)
def test_the_order_of_batches_does_not_matter(seed):
    whole = vectors(40, 3, seed)
    ours, theirs = moments_of(whole[:13], whole[13:]), moments_of(whole[13:], whole[:13])
    torch.testing.assert_close(ours.covariance, theirs.covariance, rtol=1e-10, atol=1e-10)


def test_float32_vectors_are_accumulated_in_float64():
    whole = (vectors(20_000, 2, 0) * 0.01 + 10).float()
    pooled = moments_of(*whole.split(100))
    np.testing.assert_allclose(pooled.covariance, np.cov(whole.double().numpy(), rowvar=False), rtol=1e-6)
    assert pooled.covariance.dtype == torch.float64


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_vectors_have_no_covariance(n):
    running = RunningMoments(3)
    running.update(torch.ones(n, 3))
    with pytest.raises(ValueError, match=f"got {n}"):
        running.compute()


@few
@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=seeds, offset=st.sampled_from([1e3, 1e6]))
def test_a_mean_that_is_large_against_the_spread_costs_no_digits(cuts, seed, offset):
    # On a grid of 2^-16, so that the shifted vectors are exact, and so is the covariance that they should have.
    whole = (vectors(40, 3, seed) * 2**16).round() / 2**16
    ends = [0, *sorted(cuts), 40]
    pooled = moments_of(*[whole[a:b] + offset for a, b in pairwise(ends)])
    np.testing.assert_allclose(pooled.covariance, np.cov(whole.numpy(), rowvar=False), rtol=0, atol=offset * 1e-14)


@few
@given(cuts=st.lists(st.integers(0, 40), min_size=1, max_size=3), seed=seeds)
def test_parts_merge_to_one_pass(cuts, seed):
    whole = vectors(40, 3, seed)
    parts = []
    for rows in whole.tensor_split(sorted(cuts)):
        parts.append(RunningMoments(3))
        parts[-1].update(rows)
    for part in parts[1:]:
        parts[0].merge_state(part)
    pooled, expected = parts[0].compute(), moments_of(whole)
    assert pooled.n == 40
    torch.testing.assert_close(pooled.covariance, expected.covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pooled.mean, expected.mean, rtol=1e-12, atol=1e-12)


@few
@given(cut=st.integers(0, 40), seed=seeds)
def test_taken_up_from_a_saved_state_it_goes_on_to_the_bit(cut, seed, tmp_path_factory):
    whole = vectors(40, 3, seed)
    straight, first, second = RunningMoments(3), RunningMoments(3), RunningMoments(3)
    for running, rows in ((straight, whole[:cut]), (straight, whole[cut:]), (first, whole[:cut])):
        running.update(rows)
    path = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(first.state(), path)
    second.update(whole[:7])
    second.load(torch.load(path))
    first.update(whole)
    second.update(whole[cut:])
    assert torch.equal(second.state()["moments"], straight.state()["moments"])


def test_a_saved_state_alone_has_moments():
    first, second = RunningMoments(3), RunningMoments(3)
    first.update(vectors(9, 3, 0))
    second.load(first.state())
    first.update(vectors(9, 3, 1))
    assert second.compute().n == 9


def test_what_goes_on_leaves_a_saved_state_as_it_was():
    first, second = RunningMoments(3), RunningMoments(3)
    first.update(vectors(9, 3, 0))
    state = first.state()
    before = state["moments"].clone()
    second.load(state)
    for running in (first, second):
        running.update(vectors(5, 3, 1))
    assert torch.equal(state["moments"], before)


def test_a_state_of_other_features_is_refused():
    with pytest.raises(ValueError, match=r"RunningMoments: .*\(5, 5\).* expected .*\(4, 4\)"):
        RunningMoments(3).load(RunningMoments(4).state())


def test_moments_of_one_feature_keep_their_shape():
    pooled = moments_of(vectors(10, 1, 0))
    assert (pooled.mean.shape, pooled.covariance.shape) == ((1,), (1, 1))


def test_reset_forgets():
    running = RunningMoments(2)
    running.update(vectors(10, 2, 0))
    running.reset()
    running.update(vectors(5, 2, 1))
    torch.testing.assert_close(running.compute().covariance, moments_of(vectors(5, 2, 1)).covariance)


def test_copies_and_half_precision_leave_the_sums_exact():
    running = RunningMoments(2)
    running.update(vectors(10, 2, 0))
    for copied in (copy.deepcopy(running), pickle.loads(pickle.dumps(running)), copy.deepcopy(running).half()):
        assert copied.compute().covariance.dtype == torch.float64
        assert torch.equal(copied.compute().covariance, running.compute().covariance)


# The distance.


@few
@given(dimensions=st.integers(1, 8), seed=seeds, rank=st.sampled_from([None, 1, 2]))
def test_the_distance_to_itself_is_zero(dimensions, seed, rank):
    a = random_moments(dimensions, seed, rank)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@few
@given(
    dimensions=st.integers(1, 8), seed=seeds, ranks=st.tuples(st.sampled_from([None, 1]), st.sampled_from([None, 1]))
)
def test_the_distance_is_symmetric_and_never_negative(dimensions, seed, ranks):
    a, b = random_moments(dimensions, seed, ranks[0]), random_moments(dimensions, seed + 7, ranks[1])
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-6)
    assert frechet_distance(a, b) >= 0


@few
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=6)
)
def test_diagonal_covariances_have_the_closed_form(axes):
    mean_a, mean_b, std_a, std_b = np.array(axes).T
    a, b = gaussian(mean_a, np.diag(std_a**2)), gaussian(mean_b, np.diag(std_b**2))
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dimensions", [2, 16, 64])
@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_that_of_the_matrix_square_root(dimensions, seed):
    a, b = random_moments(dimensions, seed), random_moments(dimensions, seed + 100)
    cross = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(cross)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-8)


@few
@given(seed=seeds, shift=st.floats(-3, 3))
def test_rank_deficient_covariances_keep_the_shift_exact(seed, shift):
    a = random_moments(10, seed, rank=2)
    assert frechet_distance(a, Moments(a.n, a.mean + shift, a.covariance)) == pytest.approx(10 * shift**2, abs=1e-5)


@pytest.mark.parametrize(("n", "m"), [(300, 500), (40, 500), (500, 40), (40, 30)])
@pytest.mark.parametrize("dead", [0, 9])
def test_the_distance_is_torch_fidelitys_with_more_and_with_fewer_vectors_than_dimensions(n, m, dead):
    ours, theirs = vectors(n, 64, 0), vectors(m, 64, 1)
    # Features that never vary, as an untrained or a saturated network has them.
    ours[:, :dead] = theirs[:, :dead] = 1
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, (ours, theirs)), verbose=False)
    tolerance = 1e-6 if min(n, m) > 64 else 1e-4
    found = frechet_distance(moments_of(ours), moments_of(theirs))
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=tolerance)


@few
@given(n=st.integers(2, 9), m=st.integers(2, 9), seed=seeds)
def test_fewer_vectors_than_dimensions_cost_no_digits(n, m, seed):
    # The distance is that within the subspace that all vectors span, where covariances are far smaller.
    ours, theirs = vectors(n, 40, seed), vectors(m, 40, seed + 1)
    span = torch.linalg.qr(torch.cat([ours, theirs]).T).Q
    inside = frechet_distance(moments_of(ours @ span), moments_of(theirs @ span))
    assert frechet_distance(moments_of(ours), moments_of(theirs)) == pytest.approx(inside, rel=1e-9)
    assert frechet_distance(moments_of(ours), moments_of(ours)) == pytest.approx(0, abs=1e-9)


@few
@given(dimensions=st.integers(3, 30), seed=seeds)
def test_a_direction_without_spread_is_not_taken_for_rounding(dimensions, seed):
    # Cholesky's factorisation may pass here, with a last pivot that is rounding and whose root is not small.
    factor = torch.from_numpy(np.random.default_rng(seed).normal(size=(dimensions, dimensions - 1)))
    mean = torch.zeros(dimensions, dtype=torch.float64)
    flat, full = gaussian(mean, factor @ factor.T), gaussian(mean, spd(dimensions, seed + 1))
    overlap = torch.linalg.eigvalsh(factor.T @ full.covariance @ factor).clamp(min=0).sqrt().sum()
    expected = float((flat.covariance + full.covariance).trace() - 2 * overlap)
    assert frechet_distance(flat, full) == pytest.approx(expected, rel=1e-10)


def test_a_number_of_vectors_that_is_not_known_does_not_matter():
    a, b = moments_of(vectors(20, 8, 0)), moments_of(vectors(5, 8, 1))
    unknown = Moments(None, b.mean, b.covariance)
    assert frechet_distance(a, unknown) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(unknown, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_constant_vectors_have_a_distance():
    a = gaussian([0.0, 0.0], np.zeros((2, 2)))
    b = gaussian([3.0, 4.0], np.diag([4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 4)


@few
@given(seed=seeds)
def test_a_rotation_of_the_features_changes_nothing(seed):
    a, b = random_moments(6, seed), random_moments(6, seed + 1)
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0])
    turned = [Moments(m.n, turn @ m.mean, turn @ m.covariance @ turn.T) for m in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(a, b), rel=1e-8, abs=1e-8)
