"""How well an order mixes the samples, against a perfect shuffle."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from jitlab.datasets.order import Order, Position


@dataclass(frozen=True)
class Mixing:
    """Two figures of an order's first two epochs, each with what a perfect shuffle would give.

    Args:
        classes: different classes in a batch, on average.
        classes_at_best: the same of a perfect shuffle.
        again: of two samples that share a batch, the share that does so in the next epoch, too.
        again_at_best: the same of a perfect shuffle.
    """

    classes: float
    classes_at_best: float
    again: float
    again_at_best: float


def mixing(order: Order, labels: np.ndarray) -> Mixing:
    """Measure an order of samples with these labels (n,)."""
    first, second = ([*order.batches(Position(epoch, 0))] for epoch in (0, 1))
    size, samples = order.batch_size, len(labels)
    _, counts = np.unique(labels, return_counts=True)
    return Mixing(
        classes=float(np.mean([len(np.unique(labels[batch])) for batch in first])),
        classes_at_best=float((1 - _share_without(samples, counts, size)).sum()),
        again=_meet_again(first, second, samples),
        # Of those that the first epoch has come to.
        again_at_best=(size - 1) / max(len(first) * size - 1, 1),
    )


def _meet_again(first: list[np.ndarray], second: list[np.ndarray], samples: int) -> float:
    before = np.full(samples, -1)
    for number, batch in enumerate(first):
        before[batch] = number
    again = pairs = 0
    for batch in second:
        seen = before[batch][before[batch] >= 0]
        _, counts = np.unique(seen, return_counts=True)
        again += int((counts * (counts - 1)).sum())
        pairs += len(seen) * (len(seen) - 1)
    return again / pairs if pairs else 0.0


def _share_without(samples: int, counts: np.ndarray, size: int) -> np.ndarray:
    """Return the probability that so many samples out of all hold none of a class, for each class."""
    rest = samples - counts
    possible = rest >= size
    found = np.zeros(len(counts))
    left = rest[possible]
    logs = gammaln(left + 1) - gammaln(left - size + 1) - gammaln(samples + 1) + gammaln(samples - size + 1)
    found[possible] = np.exp(logs)
    return found
