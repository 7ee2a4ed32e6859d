import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import prc_features_to_metric

from jitlab.metrics.neighbours import neighbours

few = settings(deadline=None, max_examples=20)
CPU = torch.device("cpu")


def features(n, dimensions=4, seed=0, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + shift


def density_and_coverage(generated, real, k=5):
    """Return both as arXiv:2002.09797, eq. 5 and 6, has them, ball by ball."""
    distances = np.linalg.norm(real[:, None] - generated, axis=-1)
    radii = np.sort(np.linalg.norm(real[:, None] - real, axis=-1), axis=1)[:, k]
    inside = distances < radii[:, None]
    return inside.sum() / (k * len(generated)), inside.any(1).mean()


sizes = st.integers(6, 60)


@few
@given(n=sizes, m=sizes, chunk=st.integers(1, 70), seed=st.integers(0, 999), scale=st.floats(0.2, 3))
def test_precision_and_recall_are_torch_fidelitys_in_chunks_of_any_size(n, m, chunk, seed, scale):
    generated, real = features(n, seed=seed, scale=scale), features(m, seed=seed + 1, shift=0.3)
    found = neighbours(generated, real, CPU, chunk)
    theirs = prc_features_to_metric(generated, real, verbose=False)
    assert (found.precision, found.recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)


@few
@given(n=sizes, m=sizes, chunk=st.integers(1, 70), seed=st.integers(0, 999), scale=st.floats(0.2, 3))
def test_density_and_coverage_are_those_of_all_balls(n, m, chunk, seed, scale):
    generated, real = features(n, seed=seed, scale=scale), features(m, seed=seed + 1, shift=0.3)
    found = neighbours(generated, real, CPU, chunk)
    expected = density_and_coverage(generated.numpy(), real.numpy())
    assert (found.density, found.coverage) == pytest.approx(expected, rel=1e-12)


def test_the_data_themselves_are_precise_recalled_and_covered():
    real = features(50)
    found = neighbours(real.flip(0), real, CPU)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_far_samples_are_nothing_and_a_collapsed_generator_is_precise_but_covers_little():
    real = features(200)
    assert neighbours(features(200, shift=50), real, CPU) == (0, 0, 0, 0)
    collapsed = neighbours(features(200, scale=1e-3), real, CPU)
    assert collapsed.precision == 1
    assert collapsed.recall == 0
    assert collapsed.density > 1
    assert collapsed.coverage < 0.3


def line(*points):
    return torch.tensor(points, dtype=torch.float64)[:, None]


def test_a_ball_of_precision_and_recall_holds_its_border():
    # The third neighbour of 9 is 6; 12 is as far away.
    numbers, twelve = line(*range(10)), line(*[12] * 6)
    assert neighbours(twelve, numbers, CPU).precision == 1
    assert neighbours(numbers, twelve, CPU).recall == 1
    assert neighbours(twelve + 0.01, numbers, CPU).precision == 0


def test_a_ball_of_density_and_coverage_is_open():
    # The fifth neighbour of 9 is 4; 14 is as far away.
    numbers, fourteen = line(*range(10)), line(*[14] * 6)
    assert neighbours(fourteen, numbers, CPU) == (0, 0, 0, 0)
    assert neighbours(fourteen - 0.01, numbers, CPU) == (0, 0, 1 / 5, 1 / 10)


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="5 neighbours need 6 vectors or more, got 5"):
        neighbours(features(20), features(5), CPU)
