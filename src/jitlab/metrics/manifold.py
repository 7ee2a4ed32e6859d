"""How much of generated patches lies off the linear subspace that holds real ones: the paper's claim, measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.metrics.frechet import RunningMoments
from jitlab.randomness import seeded

KEEP = 0.99
FIRST_RANK = 64


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


def energies(manifold: Manifold, rows: Tensor) -> Tensor:
    """Return the energy of patches (..., D) about the mean of real ones, and what of it is off their subspace.

    As (..., 2) in float64. The share of all energy that is off, in [0, 1], is at most 1 - keep for the real patches
    themselves. Energy about the *real* mean: a constant shift off the subspace counts too.
    """
    centred = rows.double() - manifold.mean
    total = centred.square().sum(-1)
    # The rounding of what lies inside must not leave less than nothing outside.
    outside = (total - (centred @ manifold.basis).square().sum(-1)).clamp(min=0)
    return torch.stack([total, outside], -1)


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
