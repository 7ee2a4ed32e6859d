"""The kernel distance between two sets of features: Kernel Inception Distance (arXiv:1801.01401)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
DEGREE = 3
# torch-fidelity's: the same images give the same subsets, and the same value.
SEED = 2020


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the distance over `subsets` pairs of random subsets of `subset_size` vectors.

    Where both sets are of `subset_size`, all subsets are the same, and the deviation is that of rounding.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int


def kernel_distance(
    generated: Tensor, real: Tensor, subsets: int = SUBSETS, subset_size: int | None = None
) -> KernelDistance:
    """Return the unbiased squared maximum mean discrepancy under the kernel (x · y / D + 1)³, which may be negative.

    Computed in float64, where torch-fidelity, whose subsets these are, takes the features' float32.

    Args:
        generated: features (N, D), on any device or in a mapped file.
        real: features (M, D).
        subsets: pairs of subsets to average over.
        subset_size: vectors of a subset; by default as published, and half of the smaller set where that has fewer.

    Raises:
        ValueError: a subset of fewer than two vectors, or of more than there are.
    """
    fewest = min(len(generated), len(real))
    if subset_size is None:
        subset_size = SUBSET_SIZE if fewest >= SUBSET_SIZE else fewest // 2
    if not 2 <= subset_size <= fewest:
        raise ValueError(f"a kernel distance of subsets of {subset_size} between {len(generated)} and {len(real)}")
    draw = np.random.RandomState(SEED)
    values = []
    for _ in range(subsets):
        ours = generated[torch.from_numpy(draw.choice(len(generated), subset_size, replace=False))]
        theirs = real[torch.from_numpy(draw.choice(len(real), subset_size, replace=False))]
        values.append(_squared_discrepancy(ours.double(), theirs.double()))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subsets, subset_size)


def _squared_discrepancy(x: Tensor, y: Tensor) -> float:
    n = len(x)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    # No vector is compared with itself: that is what makes the estimate unbiased.
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return float(within / (n * (n - 1)) - 2 * xy.sum() / n**2)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** DEGREE
