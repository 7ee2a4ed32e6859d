import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_kid import kid_features_to_metric

from jitlab.metrics.kernel import kernel_distance

few = settings(deadline=None, max_examples=15)


def features(n, dimensions=8, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + shift


def brute_force(x, y):
    """Return the estimate of arXiv:1801.01401, eq. 4, over all vectors, pair by pair."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]) for rows in (x, y)
    ]
    return sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])


@few
@given(
    n=st.integers(30, 60),
    m=st.integers(30, 60),
    subset_size=st.integers(2, 30),
    dimensions=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_it_is_torch_fidelitys_over_its_subsets(n, m, subset_size, dimensions, seed):
    ours, real = features(n, dimensions, seed), features(m, dimensions, seed + 1, shift=0.5)
    found = kernel_distance(ours, real, subsets=7, subset_size=subset_size)
    theirs = kid_features_to_metric(ours, real, kid_subsets=7, kid_subset_size=subset_size, verbose=False)
    assert found.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9, abs=1e-12)


def test_by_default_it_is_torch_fidelitys_from_1000_vectors_on():
    ours, real = features(1000, 3), features(1100, 3, seed=1, shift=0.5)
    found = kernel_distance(ours, real, subsets=2)
    theirs = kid_features_to_metric(ours, real, kid_subsets=2, verbose=False)
    assert (found.subsets, found.subset_size) == (2, 1000)
    assert found.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_of_whole_sets_it_is_the_papers_estimate():
    x, y = features(9, 3), features(9, 3, seed=1, shift=1)
    found = kernel_distance(x, y, subsets=2, subset_size=9)
    assert found.mean == pytest.approx(brute_force(x, y), rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_below_1000_vectors_subsets_are_half_of_the_smaller_set_and_vary():
    found = kernel_distance(features(90), features(60, seed=1, shift=0.5))
    assert (found.subsets, found.subset_size) == (100, 30)
    assert found.std > 0.01


def test_unbiased_between_sets_of_one_distribution_and_growing_with_a_shift():
    same = kernel_distance(features(400), features(400, seed=1))
    assert abs(same.mean) < 2 * same.std
    means = [kernel_distance(features(400), features(400, seed=1, shift=shift)).mean for shift in (0.2, 0.5, 1.0)]
    assert 0 < means[0] < means[1] < means[2]


@pytest.mark.parametrize(("n", "m", "subset_size"), [(3, 3, None), (20, 10, 11), (20, 10, 1), (0, 5, None)])
def test_subsets_that_cannot_be_drawn_are_refused(n, m, subset_size):
    with pytest.raises(ValueError, match=f"between {n} and {m}"):
        kernel_distance(features(n), features(m), subset_size=subset_size)
