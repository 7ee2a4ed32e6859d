"""Generated images against the training images: Frechet distances, and energy off the subspace of real patches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from jitlab.metrics.features import Extractor, Pixels, metric_name
from jitlab.metrics.frechet import Moments, RunningMoments, frechet_distance
from jitlab.metrics.manifold import Manifold, ManifoldFit, OffManifold, patches


class ImageMeasure:
    """Fits the training images once, at the first measurement."""

    key = "eval/off_manifold"

    def __init__(self, reference_images: Callable[[], Iterable[Tensor]], patch_size: int) -> None:
        """Prepare; `reference_images` yields the training images, (B, C, H, W) uint8."""
        self.reference_images = reference_images
        self.patch_size = patch_size
        self.extractor = Pixels()
        self._reference: tuple[Moments, Manifold] | None = None

    def start(self, device: torch.device) -> "ImageMeasurement":
        """Begin a measurement of images (B, C, H, W) uint8 on `device`."""
        if self._reference is None:
            # Every process sees all reference images, so theirs are not pooled over processes.
            moments = RunningMoments(self.extractor.dimensions, sync_on_compute=False).to(device)
            fit = ManifoldFit()
            for images in self.reference_images():
                moments.update(self.extractor(images.to(device)).vectors)
                fit.add(patches(images.to(device), self.patch_size))
            self._reference = moments.compute(), fit.compute()
        return ImageMeasurement(self.extractor, *self._reference, self.patch_size, device)


class ImageMeasurement:
    """Moments of the features of generated images, and the energy of their patches."""

    def __init__(
        self, extractor: Extractor, real: Moments, manifold: Manifold, patch_size: int, device: torch.device
    ) -> None:
        self.extractor = extractor
        self.real = real
        self.patch_size = patch_size
        self._moments = RunningMoments(extractor.dimensions).to(device)
        self._off_manifold = OffManifold(manifold).to(device)

    def add(self, samples: Tensor) -> None:
        """Add images (B, C, H, W) uint8."""
        self._moments.update(self.extractor(samples).vectors)
        self._off_manifold.update(patches(samples, self.patch_size))

    def compute(self) -> dict[str, float]:
        """Return `eval/fd_<features>` and `eval/off_manifold`."""
        distance = frechet_distance(self.real, self._moments.compute())
        return {
            f"eval/{metric_name(self.extractor.name)}": distance,
            "eval/off_manifold": float(self._off_manifold.compute()),
        }
