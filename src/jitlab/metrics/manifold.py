"""How much of generated patches lies off the linear subspace that holds real ones: the paper's claim, measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.metrics.frechet import Moments


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, C, H, W) uint8 into patches (B N, C p p) with values in [-1, 1]."""
    cut = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)  # (B, C, h, w, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Manifold:
    """The mean of real patches and the leading principal directions (D, k) around it."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, real: Moments, keep: float = 0.99) -> "Manifold":
        """Keep the fewest principal directions that hold a share `keep` of the variance."""
        values, vectors = torch.linalg.eigh(real.covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        held = values.cumsum(0) / values.sum()
        # The rounding of the last partial sums must not ask for one direction more than there are.
        count = int((held < keep).sum()) + 1
        return cls(real.mean, vectors[:, : min(count, len(values))])

    def off_share(self, generated: Moments) -> float:
        """Return the share, in [0, 1], of the generated patches' energy about the real mean that is off the subspace.

        At most 1 - keep for the real patches themselves. Energy about the *real* mean: a constant shift off the
        subspace counts too.
        """
        shift = generated.mean - self.mean
        energy = generated.covariance * ((generated.n - 1) / generated.n) + torch.outer(shift, shift)
        total = energy.trace()
        if total == 0:
            return 0.0
        inside = torch.einsum("dk,de,ek->", self.basis, energy, self.basis)
        return float((1 - inside / total).clamp(0, 1))
