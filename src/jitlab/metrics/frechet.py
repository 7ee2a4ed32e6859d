"""Mean and covariance in one pass, and the Frechet distance between two of them."""

import math

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Accumulation


class Moments:
    """Mean (D,) and covariance (D, D) of n vectors, float64; n is None where a file does not say it.

    No tuple and no dataclass: torchmetrics would look inside and drop dimensions of size one.
    """

    def __init__(self, n: int | None, mean: Tensor, covariance: Tensor) -> None:
        self.n = n
        self.mean = mean
        self.covariance = covariance

    def to(self, device: torch.device) -> "Moments":
        """Return the same on a device."""
        return Moments(self.n, self.mean.to(device), self.covariance.to(device))


class RunningMoments(Accumulation):
    """Accumulates mean and covariance in float64; pooled over batches, processes and restarts it equals one pass.

    Vectors are centred before they are squared and parts are merged as Chan, Golub and LeVeque do (1983): sums of
    squares would cancel where the mean is large against the spread.
    """

    # One state, for torchmetrics reduces every state on its own: [[n, mean], [mean, squares about the mean]].
    moments: Tensor

    def __init__(self, dimensions: int, sync_on_compute: bool = True) -> None:
        """Start empty; without `sync_on_compute` each process keeps to the vectors that it saw itself."""
        super().__init__(sync_on_compute=sync_on_compute)
        self.set_dtype(torch.float64)
        empty = torch.zeros(dimensions + 1, dimensions + 1, dtype=torch.float64)
        self.add_state("moments", empty, dist_reduce_fx=_merge_all)

    def update(self, vectors: Tensor) -> None:
        """Add vectors (B, D)."""
        if len(vectors) == 0:
            return
        vectors = vectors.double()
        mean = vectors.mean(0)
        centred = vectors - mean
        _merge(self.moments, len(vectors), mean)
        self.moments[1:, 1:].addmm_(centred.T, centred)

    def compute(self) -> Moments:
        """Return the moments; raises ValueError for fewer than two vectors."""
        n = int(self.moments[0, 0])
        if n < 2:
            raise ValueError(f"a covariance needs two vectors or more, got {n}")
        return Moments(n, self.moments[0, 1:].clone(), self.moments[1:, 1:] / (n - 1))


def _merge(moments: Tensor, n: int | Tensor, mean: Tensor) -> None:
    """Add n > 0 vectors of a mean (D,) to the state, but for their squares about that mean."""
    n_before = moments[0, 0].clone()
    n_after = n_before + n
    shift = mean - moments[0, 1:]
    moments[1:, 1:] += (n_before * n / n_after) * torch.outer(shift, shift)
    moments[0, 1:] += shift * (n / n_after)
    moments[1:, 0] = moments[0, 1:]
    moments[0, 0] = n_after


def _merge_all(parts: Tensor) -> Tensor:
    """Merge states (processes, D + 1, D + 1), some of them empty, in their order."""
    merged = torch.zeros_like(parts[0])
    for part in parts:
        if part[0, 0] > 0:
            _merge(merged, part[0, 0], part[0, 1:])
            merged[1:, 1:] += part[1:, 1:]
    return merged


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|² + tr(A + B - 2 (A B)^½), through symmetric eigenvalues only.

    tr (A B)^½ is the sum of the roots of the eigenvalues of Fᵀ B F for any F with F Fᵀ = A. That of the smaller
    sample is factored: where it has fewer vectors than dimensions, Fᵀ B F is that much smaller, and has no
    eigenvalues that are zero but for rounding, whose roots would not be small.
    """
    if (b.n or math.inf) < (a.n or math.inf):
        a, b = b, a
    factor = _factor(a)
    overlap = torch.linalg.eigvalsh(factor.T @ b.covariance @ factor).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * overlap
    return max(float(distance), 0.0)


def _factor(moments: Moments) -> Tensor:
    """Return F (D, rank) with F Fᵀ = the covariance: Cholesky's where the rank is full beyond doubt, for its speed."""
    covariance = moments.covariance
    eps = torch.finfo(covariance.dtype).eps
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > math.sqrt(eps) * pivots.max():
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(covariance) * eps * values[-1]
    factor = vectors[:, kept] * values[kept].sqrt()
    return factor
