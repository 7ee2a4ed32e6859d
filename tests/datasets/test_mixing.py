import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.datasets.mixing import mixing
from jitlab.datasets.order import Order


def test_an_order_over_one_window_mixes_as_a_perfect_shuffle_does():
    labels = np.repeat(np.arange(50), 100)
    found = mixing(Order([500] * 10, 100, 0, window=10), labels)
    assert found.classes == pytest.approx(found.classes_at_best, rel=0.01)
    assert found.again == pytest.approx(found.again_at_best, rel=0.1)
    # A batch of 100 of 50 equal classes: 1 - C(4900, 100) / C(5000, 100) of them are seen.
    assert found.classes_at_best == pytest.approx(50 * (1 - np.prod(1 - 100 / np.arange(5000, 4900, -1))), rel=1e-6)


def test_shards_that_hold_a_class_each_are_told_by_fewer_classes_and_more_meetings():
    labels = np.repeat(np.arange(20), 100)
    narrow, wide = (mixing(Order([100] * 20, 50, 0, window), labels) for window in (2, 10))
    assert narrow.classes <= 2 < wide.classes <= 10 < wide.classes_at_best
    assert narrow.again > 2 * wide.again > 2 * wide.again_at_best


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
@settings(deadline=None, max_examples=30)
def test_figures_are_shares_and_counts_for_any_shards(sizes, data):
    batch_size = data.draw(st.integers(1, sum(sizes)))
    labels = np.arange(sum(sizes)) % data.draw(st.integers(1, 5))
    found = mixing(Order(sizes, batch_size, 0, 2), labels)
    for classes in (found.classes, found.classes_at_best):
        assert 1 - 1e-9 <= classes <= min(batch_size, labels.max() + 1) + 1e-9
    for share in (found.again, found.again_at_best):
        assert 0 <= share <= 1
