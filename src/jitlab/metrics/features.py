"""Named feature extractors: what a Frechet distance is taken between."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Extractor = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) uint8 -> features (B, D)."""

PIXELS_SIDE = 8


def pixels(images: Tensor) -> Tensor:
    """Average images (B, 3, H, W) uint8 over channels and areas to 8 x 8 grey values in [0, 1], (B, 64)."""
    grey = images.float().div(255).mean(dim=1, keepdim=True)
    return F.adaptive_avg_pool2d(grey, PIXELS_SIDE).flatten(1)


EXTRACTORS: dict[str, Extractor] = {"pixels": pixels}


def metric_name(extractor: str) -> str:
    """Return the name of the Frechet distance over an extractor's features."""
    return f"fd_{extractor}"
