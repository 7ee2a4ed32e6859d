import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.images import class_structure

few = settings(deadline=None, max_examples=15)
LABELS = torch.arange(600) % 6


def noise(n=600, dimensions=5, seed=0):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share(vectors, labels=LABELS, classes=6):
    measure = ClassStructure(vectors.shape[1], classes)
    measure.update(vectors, labels)
    return measure.compute()


@few
@given(seed=st.integers(0, 99), shift=st.floats(-1e3, 1e3))
def test_classes_that_say_nothing_have_none(seed, shift):
    assert share(noise(seed=seed) + shift) == pytest.approx(0, abs=0.02)


def test_images_that_are_their_class_are_all_of_it():
    assert share(noise(6)[LABELS]) == pytest.approx(1)


@few
@given(strength=st.floats(0.1, 5), seed=st.integers(0, 99))
def test_the_share_is_that_of_the_variance_between_classes(strength, seed):
    means = strength * noise(6, 50, seed)
    expected = means.var(0).sum() / (means.var(0).sum() + 50)
    assert share(means[LABELS] + noise(dimensions=50, seed=seed + 100)) == pytest.approx(float(expected), abs=0.06)


@few
@given(cuts=st.lists(st.integers(0, 600), max_size=4))
def test_any_split_gives_the_same_share(cuts):
    vectors = noise() + noise(6, seed=1)[LABELS]
    parts = ClassStructure(5, 6)
    for vector, label in zip(vectors.tensor_split(sorted(cuts)), LABELS.tensor_split(sorted(cuts)), strict=True):
        parts.update(vector, label)
    assert parts.compute() == pytest.approx(share(vectors), rel=1e-12)


def test_without_classes_or_variance_there_is_no_share():
    assert math.isnan(share(noise(), torch.zeros(600, dtype=torch.long)))
    assert math.isnan(share(noise(6), torch.arange(6)))
    assert math.isnan(share(torch.ones(600, 5)))


def test_samples_are_compared_with_data():
    assert class_structure(0.2, 0.4) == {"class_structure": 0.5}
    assert class_structure(-0.01, 0.4) == {"class_structure": 0.0}
    assert class_structure(0.2, math.nan) == class_structure(math.nan, 0.4) == class_structure(0.2, -0.1) == {}
