"""Generated images against training images: features, the patches that they are made of, and their classes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.metrics.accumulation import Total
from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.features import Extractor, metric_name
from jitlab.metrics.frechet import Moments, RunningMoments, frechet_distance
from jitlab.metrics.patches import MEASURES, PatchFit, RealPatches
from jitlab.metrics.reference import Reference


@dataclass(frozen=True)
class Real:
    """Real images: the moments of their features, their patches, and how much of the features is their class."""

    moments: Moments
    patches: RealPatches
    class_share: float


def fit_real(
    batches: Iterable[tuple[Tensor, Tensor]],
    extractor: Extractor,
    patch_size: int,
    classes: int,
    device: torch.device,
    reference: Reference | None = None,
) -> Real:
    """Return what batches of images (B, C, H, W) uint8 and labels (B,) have; every process sees all of them.

    With a `reference` only the patches are theirs, and no features are computed.
    """
    moments = RunningMoments(extractor.dimensions, sync_on_compute=False).to(device)
    structure = ClassStructure(extractor.dimensions, classes, sync_on_compute=False).to(device)
    fit = PatchFit(patch_size, device)
    for images, labels in batches:
        if reference is None:
            vectors = extractor(images.to(device)).vectors
            moments.update(vectors)
            structure.update(vectors, labels)
        fit.add(images.to(device))
    if reference is None:
        return Real(moments.compute(), fit.compute(), structure.compute())
    share = math.nan if reference.class_share is None else reference.class_share
    return Real(reference.moments.to(device), fit.compute(), share)


def class_structure(generated: float, real: float) -> dict[str, float]:
    """Return `class_structure`, the share of generated images over that of real ones, where both have one."""
    if not (math.isfinite(generated) and real > 0):
        return {}
    return {"class_structure": max(generated, 0.0) / real}


class ImageMeasure:
    """Fits the training images once, at the first measurement."""

    key = "eval/off_manifold"

    def __init__(
        self,
        reference_images: Callable[[], Iterable[tuple[Tensor, Tensor]]],
        patch_size: int,
        classes: int,
        extractor: Extractor,
        reference: Reference | None = None,
    ) -> None:
        """Prepare a measure.

        Args:
            reference_images: yields the training images, (B, C, H, W) uint8, and their labels (B,).
            patch_size: pixels.
            classes: of the labels.
            extractor: of the features, built for the device that images will lie on.
            reference: what features are compared with; None for those of the training images.
        """
        self.reference_images = reference_images
        self.patch_size = patch_size
        self.classes = classes
        self.extractor = extractor
        self.reference = reference
        self._real: Real | None = None

    def start(self, device: torch.device) -> "ImageMeasurement":
        """Begin a measurement of images (B, C, H, W) uint8 on `device`."""
        if self._real is None:
            batches = self.reference_images()
            self._real = fit_real(batches, self.extractor, self.patch_size, self.classes, device, self.reference)
        return ImageMeasurement(self.extractor, self._real, self.classes, device)


class ImageMeasurement:
    """What generated images are compared with training images by."""

    def __init__(self, extractor: Extractor, real: Real, classes: int, device: torch.device) -> None:
        self.extractor = extractor
        self.real = real
        self._moments = RunningMoments(extractor.dimensions).to(device)
        self._structure = ClassStructure(extractor.dimensions, classes).to(device)
        self._patches = Total(MEASURES).to(device)

    def add(self, samples: Tensor, labels: Tensor) -> None:
        """Add images (B, C, H, W) uint8 that were generated for classes (B,)."""
        vectors = self.extractor(samples).vectors
        self._moments.update(vectors)
        self._structure.update(vectors, labels)
        self._patches.update(self.real.patches.measure(samples))

    def compute(self) -> dict[str, float]:
        """Return the Frechet distance, `eval/off_manifold`, and what can be said of seams and classes."""
        found = {
            metric_name(self.extractor.name): frechet_distance(self.real.moments, self._moments.compute()),
            **self.real.patches.scores(self._patches.compute()),
            **class_structure(self._structure.compute(), self.real.class_share),
        }
        return {f"eval/{name}": value for name, value in found.items()}
