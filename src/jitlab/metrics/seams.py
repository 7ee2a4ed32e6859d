"""Patch seams: whether pixels differ more across the borders of patches than inside them, in samples against data."""

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Accumulation

# Mean square of the difference of two roundings to 8 bits; so flat images have a ratio too.
ROUNDING = 1 / 6


class BorderEnergy(Accumulation):
    """Accumulates squared differences of neighbouring pixels, across patch borders and inside patches.

    In whole numbers: any split over batches, processes and restarts gives the same bits.
    """

    border: Tensor
    border_pairs: Tensor
    inside: Tensor
    inside_pairs: Tensor

    def __init__(self, patch_size: int, sync_on_compute: bool = True) -> None:
        """Start empty; raises ValueError for patches of one pixel, which have no inside.

        Without `sync_on_compute` each process keeps to the images that it saw itself.
        """
        super().__init__(sync_on_compute=sync_on_compute)
        if patch_size < 2:
            raise ValueError(f"patches of {patch_size} pixel have no inside to compare their borders with")
        self.patch_size = patch_size
        for name in ("border", "border_pairs", "inside", "inside_pairs"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images: Tensor) -> None:
        """Add images (B, C, H, W) uint8 of several patches each."""
        values = images.to(torch.int32)
        for axis in (2, 3):
            squares = values.diff(dim=axis).square().sum((0, 1, 5 - axis), dtype=torch.int64)
            # Difference i is between pixels i and i + 1.
            across = (torch.arange(len(squares), device=squares.device) + 1) % self.patch_size == 0
            pairs = images.numel() // images.shape[axis]
            borders = (images.shape[axis] - 1) // self.patch_size
            self.border += (squares * across).sum()
            self.inside += (squares * ~across).sum()
            self.border_pairs += borders * pairs
            self.inside_pairs += (len(squares) - borders) * pairs

    def compute(self) -> Tensor:
        """Return the mean energy across borders over that inside, (); 1 where borders are like any other place."""
        border = self.border.double() / self.border_pairs + ROUNDING
        return border / (self.inside.double() / self.inside_pairs + ROUNDING)


def seam_score(generated: Tensor, real: Tensor) -> float:
    """Return the border energy of samples over that of data, each as `BorderEnergy` gives it: 1 is no seams.

    Relative to data, for a grid of patches may fall on edges that data have there as well.
    """
    return float(generated / real)
