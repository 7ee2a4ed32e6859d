"""Named feature extractors: what a Frechet distance is taken between."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jitlab.errors import UserError, nearest

PIXELS = "pixels"
INCEPTION = "inception"
TIMM = "timm:"
PIXELS_SIDE = 8
FORWARD_BATCH = 32


class Features(NamedTuple):
    """Feature vectors (B, D) float32 of a batch, and logits (B, classes) where the network classifies."""

    vectors: Tensor
    logits: Tensor | None = None


class Extractor(Protocol):
    """Turns images (B, 3, H, W) uint8 into features, on the device that it was built for.

    `weights_sha256` tells its weights from others, "" where it has none; `classes` is 0 where it gives no logits.
    """

    name: str
    dimensions: int
    classes: int
    weights_sha256: str

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images, each the same in any batch."""


def build_extractor(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
    """Return the extractor of this name: `pixels`, `inception`, or `timm:` and the name of one of timm's networks.

    Args:
        name: what the features are called.
        device: where images will lie.
        weights: a file of weights, for a network; by default the published ones.

    Raises:
        UserError: an unknown name; a weights file that is missing, damaged or of another network; timm missing.
    """
    if name == PIXELS:
        if weights:
            raise UserError(f"features {name}: a network's weights were given ({weights}), but this is none; drop them")
        return Pixels()
    if name == INCEPTION:
        # Here, for it takes seconds to import.
        from jitlab.metrics.inception import Inception

        return Inception(device, weights)
    if name.startswith(TIMM):
        from jitlab.metrics.timm_network import TimmNetwork

        return TimmNetwork(name, device, weights)
    raise UserError(f"features {name}: unknown; {nearest(name, [PIXELS, INCEPTION, f'{TIMM}NETWORK'])}")


def metric_name(features: str) -> str:
    """Return the name of the Frechet distance over features: `fid` is Inception's alone."""
    return "fid" if features == INCEPTION else "fd_" + re.sub(r"[^\w.-]", "_", features)


class Pixels:
    """Averages images over channels and areas to 8 x 8 grey values in [0, 1]."""

    name = PIXELS
    dimensions = PIXELS_SIDE**2
    classes = 0
    weights_sha256 = ""

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images (B, 3, H, W) uint8."""
        grey = images.float().div(255).mean(dim=1, keepdim=True)
        return Features(F.adaptive_avg_pool2d(grey, PIXELS_SIDE).flatten(1))


@contextmanager
def plain_float32() -> Iterator[None]:
    """Compute a block in float32 proper: not in the run's bf16, and not in TF32, which cuDNN takes where it may."""
    cudnn = torch.backends.cudnn
    with (
        torch.autocast("cuda" if torch.cuda.is_available() else "cpu", enabled=False),
        torch.inference_mode(),
        cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False),
    ):
        yield


def full_batches(images: Tensor) -> list[Tensor]:
    """Cut images into batches of one size, the last one filled up with black.

    A convolution of another batch size may round another way: so an image's features would depend on the batch.
    """
    missing = -len(images) % FORWARD_BATCH
    filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images
    return list(filled.split(FORWARD_BATCH)) if len(filled) else []
