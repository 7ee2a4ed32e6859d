"""Features of any of timm's networks, for Frechet distances that are not tied to Inception."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jitlab.errors import UserError
from jitlab.metrics.features import TIMM, Features, full_batches, plain_float32


class TimmNetwork:
    """Pooled features, before any classifier, of images resized and normalised as the network's own data were.

    The whole image is resized, not its centre: a crop would not see the borders of generated images.
    """

    classes = 0

    def __init__(self, name: str, device: torch.device, weights: Path | None = None) -> None:
        """Load `timm:NETWORK` with the weights of a file, else those that timm downloads.

        Raises UserError where timm is missing, knows no such network, or cannot load the weights.
        """
        self.name = name
        self._network, config = _load(name, weights)
        self._network.eval().requires_grad_(False).to(device)
        self.weights_sha256 = _digest(self._network)
        self._size = tuple(config["input_size"][1:])
        self._mode = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        self._mean, self._std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
        self.dimensions = self._forward(torch.zeros(1, 3, *self._size, dtype=torch.uint8, device=device)).shape[1]

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images (B, 3, H, W) uint8."""
        parts = [self._forward(batch) for batch in full_batches(images)]
        return Features(torch.cat(parts)[: len(images)] if parts else torch.empty(0, self.dimensions))

    def _forward(self, images: Tensor) -> Tensor:
        with plain_float32():
            resized = F.interpolate(images.float(), self._size, mode=self._mode, antialias=True).clamp(0, 255)
            features: Tensor = self._network((resized / 255 - self._mean) / self._std)
        return features.float()


def _load(name: str, weights: Path | None) -> tuple[torch.nn.Module, dict[str, Any]]:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"features {name}: timm is not installed; pip install 'jitlab[timm]'") from error
    if weights and not weights.is_file():
        raise UserError(f"{weights}: no such file, but --weights says that those of {name} are there")
    network = name.removeprefix(TIMM)
    # timm takes a file in place of its own download, and drops the classifier from either.
    overlay = {"file": str(weights)} if weights else None
    try:
        model = timm.create_model(network, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    # What timm, the hub and torch raise for unknown names, no connection and weights that do not fit is of all kinds.
    except Exception as error:
        source = str(weights) if weights else "timm's download"
        raise UserError(f"features {name}: timm cannot load it with the weights of {source} ({error})") from error
    return model, timm.data.resolve_model_data_config(model)


def _digest(network: torch.nn.Module) -> str:
    """Hash names and values of all weights: the same for any file that holds them."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
