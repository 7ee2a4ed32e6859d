"""What a sample is to the network, and the way from how the data set stores it and back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Of `to_images`; part of the protocol of an evaluation.
ROUNDING = "nearest of 256"


@dataclass(frozen=True)
class Signal:
    """The shape of one x, and how stored samples become x and x becomes samples again."""

    shape: tuple[int, ...]
    to_signal: Callable[[Tensor], Tensor]
    from_signal: Callable[[Tensor], Tensor]


def to_signal(images: Tensor) -> Tensor:
    """Turn uint8 images into x with values in [-1, 1], float32."""
    return images.float() / 127.5 - 1


def to_images(x: Tensor) -> Tensor:
    """Turn x into uint8 images, rounded; values outside [-1, 1] are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def image_signal(channels: int, size: int) -> Signal:
    """Return the signal of uint8 images (B, channels, size, size)."""
    return Signal((channels, size, size), to_signal, to_images)


def point_signal(dimensions: int) -> Signal:
    """Return the signal of points (B, dimensions), which are stored as they are."""
    return Signal((dimensions,), Tensor.float, Tensor.float)
