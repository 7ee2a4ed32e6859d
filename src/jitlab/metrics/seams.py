"""Patch seams: whether pixels differ more across the borders of patches than inside them."""

import torch
from torch import Tensor

# Mean square of the difference of two roundings to 8 bits; so flat images have a ratio too.
ROUNDING = 1 / 6


def squared_differences(images: Tensor, patch_size: int) -> Tensor:
    """Sum the squared differences of neighbouring pixels of images (B, C, H, W) uint8 over each image.

    Returns (B, 2) int64: those across patch borders, and those inside patches.
    """
    values = images.to(torch.int32)
    border, inside = (images.new_zeros(len(images), dtype=torch.int64) for _ in range(2))
    for axis in (2, 3):
        # Of each image and difference i, which is between pixels i and i + 1 along the axis.
        squares = values.diff(dim=axis).square().sum((1, 5 - axis), dtype=torch.int64)
        across = (torch.arange(squares.shape[1], device=squares.device) + 1) % patch_size == 0
        border += (squares * across).sum(1)
        inside += (squares * ~across).sum(1)
    return torch.stack([border, inside], 1)


def border_ratio(differences: Tensor, shape: tuple[int, ...], patch_size: int) -> float:
    """Return the mean energy across borders over that inside; 1 where borders are like any other place.

    Args:
        differences: the mean of `squared_differences` over images, (2,).
        shape: (C, H, W) of an image, of several patches.
        patch_size: pixels; 2 or more.
    """
    channels, height, width = shape
    across = channels * ((height - 1) // patch_size * width + (width - 1) // patch_size * height)
    inside = channels * ((height - 1) * width + (width - 1) * height) - across
    border, within = differences.double().tolist()
    return float((border / across + ROUNDING) / (within / inside + ROUNDING))
