"""What patches tell of generated images against real ones: seams between them, and energy off the real subspace."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Total
from jitlab.metrics.manifold import Manifold, ManifoldFit, energies
from jitlab.metrics.seams import border_ratio, squared_differences

MEASURES = 4


@dataclass(frozen=True)
class RealPatches:
    """The patches of real images: their subspace, and the mean energy across their borders and inside, (2,)."""

    patch_size: int
    shape: tuple[int, ...]
    manifold: Manifold
    differences: Tensor

    def to(self, device: torch.device) -> "RealPatches":
        """Return the same on a device, for images that lie there."""
        manifold = Manifold(self.manifold.mean.to(device), self.manifold.basis.to(device))
        return replace(self, manifold=manifold, differences=self.differences.to(device))

    def measure(self, images: Tensor) -> Tensor:
        """Return what `scores` wants the mean of, of each of images (B, C, H, W) uint8: (B, 4) float64."""
        rows = energies(self.manifold, patches(images, self.patch_size)).mean(1)
        # Whole numbers, exact in float64.
        return torch.cat([squared_differences(images, self.patch_size), rows], 1)

    def scores(self, mean: Tensor) -> dict[str, float]:
        """Return `off_manifold` and, where a patch has an inside and a border, `seams`, from a mean (4,) over images.

        `off_manifold` is the share, in [0, 1], of the energy of patches about the mean of real ones that is off their
        subspace. `seams` is the energy across borders over that inside, in samples over that in data: 1 is no seams.
        Relative to data, for a grid of patches may fall on edges that data have there as well.
        """
        total, outside = mean[2:].tolist()
        found = {"off_manifold": outside / total if total > 0 else 0.0}
        if 1 < self.patch_size < min(self.shape[1:]):
            ours, theirs = (border_ratio(part, self.shape, self.patch_size) for part in (mean[:2], self.differences))
            found["seams"] = ours / theirs
        return found


class PatchFit:
    """Collects real images."""

    def __init__(self, patch_size: int, device: torch.device) -> None:
        self.patch_size = patch_size
        self._manifold = ManifoldFit()
        # Every process sees all real images, so theirs are not summed over processes.
        self._differences = Total(2, sync_on_compute=False).to(device)
        self._shape: tuple[int, ...] = ()

    def add(self, images: Tensor) -> None:
        """Add images (B, C, H, W) uint8."""
        self._shape = tuple(images.shape[1:])
        self._manifold.add(patches(images, self.patch_size).flatten(0, 1))
        self._differences.update(squared_differences(images, self.patch_size))

    def compute(self) -> RealPatches:
        """Return what was found; raises ValueError for fewer than two patches."""
        return RealPatches(self.patch_size, self._shape, self._manifold.compute(), self._differences.compute())


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, C, H, W) uint8 into patches (B, N, C p p) with values in [-1, 1]."""
    cut = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)  # (B, C, h, w, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2).float() / 127.5 - 1
