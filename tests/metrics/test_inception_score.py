import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_isc import isc_features_to_metric

from jitlab.metrics.inception_score import InceptionScore, Score

few = settings(deadline=None, max_examples=15)


def random_logits(n, classes=7, seed=0):
    return 2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def score_of(logits, order, batch, splits=10) -> Score:
    score = InceptionScore(len(logits), logits.shape[1], splits)
    for numbers in torch.tensor(order).split(batch):
        score.update(logits[numbers], numbers.tolist())
    return score.compute()


@few
@given(
    n=st.integers(10, 80), splits=st.integers(1, 10), batch=st.integers(1, 30), seed=st.integers(0, 99), data=st.data()
)
def test_it_is_torch_fidelitys_in_any_order_and_any_batches(n, splits, batch, seed, data):
    logits = random_logits(n, seed=seed)
    found = score_of(logits, data.draw(st.permutations(range(n))), batch, splits)
    theirs = isc_features_to_metric(logits, splits)
    assert found.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert found.std == pytest.approx(theirs["inception_score_std"], rel=1e-7, abs=1e-10)


def test_undecided_images_score_one_and_sure_ones_of_all_classes_their_number():
    assert score_of(torch.zeros(40, 5), range(40), 8).mean == pytest.approx(1)
    sure = 1000 * torch.eye(5).repeat(40, 1)
    found = score_of(sure, range(200), 8, splits=1)
    assert (found.mean, found.std) == pytest.approx((5, 0))
    assert score_of(sure[:1].expand(40, 5), range(40), 8).mean == pytest.approx(1)


def test_too_few_images_and_missing_images_are_refused():
    with pytest.raises(ValueError, match="10 parts needs as many images or more, got 9"):
        InceptionScore(9, 5)
    score = InceptionScore(20, 5)
    score.update(random_logits(19, 5), list(range(19)))
    with pytest.raises(ValueError, match="20 images was given 19"):
        score.compute()
    score.update(random_logits(1, 5), [0])
    with pytest.raises(ValueError, match="20 images was given 20"):
        score.compute()
