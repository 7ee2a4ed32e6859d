"""How much of generated patches lies off the linear subspace that holds real ones: the paper's claim, measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Accumulation
from jitlab.metrics.frechet import RunningMoments
from jitlab.randomness import seeded

KEEP = 0.99
FIRST_RANK = 64


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, C, H, W) uint8 into patches (B N, C p p) with values in [-1, 1]."""
    cut = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)  # (B, C, h, w, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Manifold:
    """The mean (D,) of real patches and the leading principal directions (D, k) around it, float64."""

    mean: Tensor
    basis: Tensor


class ManifoldFit:
    """Finds the fewest principal directions that hold a share `keep` of the variance of real patches.

    From their covariance; but while they are fewer than their dimensions, as large patches of a small data set are,
    from the patches themselves: there a covariance is far larger than what it is made of.
    """

    def __init__(self, keep: float = KEEP) -> None:
        self.keep = keep
        self._rows: list[Tensor] = []
        self._moments: RunningMoments | None = None

    def add(self, rows: Tensor) -> None:
        """Add patches (B, D)."""
        if self._moments is not None:
            self._moments.update(rows)
            return
        self._rows.append(rows)
        if sum(map(len, self._rows)) >= rows.shape[1]:
            # Every process sees all real patches, so they are not summed over processes.
            self._moments = RunningMoments(rows.shape[1], sync_on_compute=False).to(rows.device)
            for held in self._rows:
                self._moments.update(held)
            self._rows = []

    def compute(self) -> Manifold:
        """Return what was found; raises ValueError for fewer than two patches."""
        if self._moments is not None:
            real = self._moments.compute()
            return Manifold(real.mean, _leading(real.covariance, float(real.covariance.trace()), self.keep, power=1))
        rows = torch.cat(self._rows).double()
        if len(rows) < 2:
            raise ValueError(f"a subspace needs two patches or more, got {len(rows)}")
        mean = rows.mean(0)
        rows -= mean
        return Manifold(mean, _leading(rows, float(rows.square().sum()), self.keep, power=2))


class OffManifold(Accumulation):
    """The share, in [0, 1], of the energy of generated patches about the mean of real ones that is off their subspace.

    At most 1 - keep for the real patches themselves. Energy about the *real* mean: a constant shift off the subspace
    counts too. Summed in float64; pooled over batches and processes it equals one pass.
    """

    total: Tensor
    inside: Tensor

    def __init__(self, manifold: Manifold) -> None:
        super().__init__()
        self.manifold = manifold
        self.set_dtype(torch.float64)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("inside", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rows: Tensor) -> None:
        """Add patches (B, D)."""
        centred = rows.double() - self.manifold.mean
        self.total += centred.square().sum()
        self.inside += (centred @ self.manifold.basis).square().sum()

    def compute(self) -> Tensor:
        """Return the share, (); 0 where there is no energy."""
        return torch.where(self.total > 0, 1 - self.inside / self.total, 0.0).clamp(0, 1)


def _leading(matrix: Tensor, energy: float, keep: float, power: int) -> Tensor:
    """Return the fewest right singular vectors (D, k) of a matrix (n, D) that hold a share `keep` of its energy.

    The energy that a direction holds is its singular value to the `power`. Few of many are wanted, so they are found
    by subspace iteration, in doubling numbers until half of them hold enough: the last ones are not yet exact.
    """
    # On the CPU, whose generator is seeded: the iteration starts from random directions.
    on_cpu = matrix.cpu()
    rank = FIRST_RANK
    while True:
        rank = min(rank, *matrix.shape)
        with seeded("subspace", rank):
            _, values, vectors = torch.svd_lowrank(on_cpu, q=rank, niter=4)
        held = values.pow(power).cumsum(0)
        count = int((held < keep * energy).sum()) + 1
        if rank == min(matrix.shape) or 2 * count <= rank:
            # The rounding of the last partial sums must not ask for one direction more than there are.
            return vectors[:, : min(count, rank)].to(matrix.device)
        rank *= 2
