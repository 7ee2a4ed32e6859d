"""Class structure: how much of what images differ in is explained by their class."""

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Accumulation


class ClassStructure(Accumulation):
    """Accumulates the share of the variance of features that lies between the means of classes.

    Less what chance alone would give (Kelley's epsilon squared): about 0 where the class says nothing, 1 where it says
    all. In float64; pooled over batches, processes and restarts it equals one pass.
    """

    n: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, dimensions: int, classes: int, sync_on_compute: bool = True) -> None:
        """Start empty; without `sync_on_compute` each process keeps to what it saw itself."""
        super().__init__(sync_on_compute=sync_on_compute)
        self.set_dtype(torch.float64)
        self.add_state("n", torch.zeros(classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(classes, dimensions, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, vectors: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of images of classes (B,)."""
        vectors, labels = vectors.double(), labels.to(vectors.device)
        self.n.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        self.total.index_add_(0, labels, vectors)
        self.squares += vectors.square().sum()

    def compute(self) -> float:
        """Return the share; NaN where there are not two classes and more images than classes, or no variance."""
        n, present = self.n.sum(), self.n > 0
        groups = int(present.sum())
        if groups < 2 or n <= groups:
            return float("nan")
        between = (self.total[present].square().sum(1) / self.n[present]).sum()
        spread = self.squares - self.total.sum(0).square().sum() / n
        within = (self.squares - between) / (n - groups)
        return float(1 - within / (spread / (n - 1))) if spread > 0 else float("nan")
