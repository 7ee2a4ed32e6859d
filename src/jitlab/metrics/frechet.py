"""Mean and covariance in one pass, and the Frechet distance between two of them."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Moments:
    """Mean (D,) and covariance (D, D) of n vectors, float64.

    No tuple and no dataclass: torchmetrics would look inside and drop dimensions of size one.
    """

    def __init__(self, n: int, mean: Tensor, covariance: Tensor) -> None:
        self.n = n
        self.mean = mean
        self.covariance = covariance


class RunningMoments(Metric):
    """Accumulates mean and covariance in float64; pooled over batches and processes it equals one pass."""

    full_state_update = False
    n: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, dimensions: int, sync_on_compute: bool = True) -> None:
        """Start empty; without `sync_on_compute` each process keeps to the vectors that it saw itself."""
        super().__init__(sync_on_compute=sync_on_compute)
        self.set_dtype(torch.float64)
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dimensions, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dimensions, dimensions, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, vectors: Tensor) -> None:
        """Add vectors (B, D)."""
        vectors = vectors.double()
        self.n += len(vectors)
        self.total += vectors.sum(0)
        self.outer += vectors.T @ vectors

    def compute(self) -> Moments:
        """Return the moments; raises ValueError for fewer than two vectors."""
        n = int(self.n)
        if n < 2:
            raise ValueError(f"a covariance needs two vectors or more, got {n}")
        mean = self.total / n
        return Moments(n, mean, (self.outer - n * torch.outer(mean, mean)) / (n - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|² + tr(A + B - 2 (A B)^½), through symmetric eigenvalues only.

    tr (A B)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * overlap
    return max(float(distance), 0.0)
