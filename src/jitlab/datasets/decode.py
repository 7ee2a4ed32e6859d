"""Decoding (a placeholder until the real one is merged)."""

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jitlab.datasets.crop import center_crop

Decoder = Literal["fast", "exact"]


def decode(encoded: bytes, size: int, decoder: Decoder) -> Tensor:  # noqa: ARG001
    """Return (3, size, size) uint8."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    if image.size != (size, size):
        image = center_crop(image, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
