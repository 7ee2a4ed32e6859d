"""What is kept of every generated image: its features, logits, and what its patches tell, in one row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.metrics.features import Extractor
from jitlab.metrics.patches import MEASURES, RealPatches


@dataclass(frozen=True)
class Columns:
    """The parts of a row: features, logits (none of extractors that do not classify), energies of patches (or none)."""

    dimensions: int
    classes: int
    measures: int

    @property
    def size(self) -> int:
        """Return the length of a row."""
        return self.dimensions + self.classes + self.measures

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, logits and energies of rows (B, size)."""
        features, logits, measured = rows.split([self.dimensions, self.classes, self.measures], dim=1)
        return features, logits, measured


class Observer:
    """Makes a row of an image."""

    def __init__(self, extractor: Extractor, patches: RealPatches | None) -> None:
        """Prepare; without real patches there is nothing to hold those of the images to."""
        self._extractor = extractor
        self._patches = patches
        self.columns = columns(extractor, patches)

    def __call__(self, images: Tensor) -> Tensor:
        """Return rows (B, size) float32 of images (B, 3, H, W) uint8."""
        features = self._extractor(images)
        parts = [features.vectors]
        if features.logits is not None:
            parts.append(features.logits)
        if self._patches is not None:
            parts.append(self._patches.measure(images))
        return torch.cat([part.float() for part in parts], 1)


def columns(extractor: Extractor, patches: RealPatches | None) -> Columns:
    """Return the parts of the rows that these make."""
    return Columns(extractor.dimensions, extractor.classes, MEASURES if patches is not None else 0)
