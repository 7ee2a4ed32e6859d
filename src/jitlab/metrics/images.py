"""Generated images against the training images: Frechet distances, and energy off the subspace of real patches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from jitlab.metrics.features import EXTRACTORS, metric_name
from jitlab.metrics.frechet import Moments, RunningMoments, frechet_distance
from jitlab.metrics.manifold import Manifold, ManifoldFit, OffManifold, patches


class ImageMeasure:
    """Fits the training images once, at the first measurement."""

    key = "eval/off_manifold"

    def __init__(self, reference_images: Callable[[], Iterable[Tensor]], patch_size: int) -> None:
        """Prepare; `reference_images` yields the training images, (B, C, H, W) uint8."""
        self.reference_images = reference_images
        self.patch_size = patch_size
        self._reference: tuple[dict[str, Moments], Manifold] | None = None

    def start(self, device: torch.device) -> "ImageMeasurement":
        """Begin a measurement of images (B, C, H, W) uint8 on `device`."""
        if self._reference is None:
            moments: dict[str, RunningMoments] = {}
            fit = ManifoldFit()
            for images in self.reference_images():
                # Every process sees all reference images, so theirs are not summed over processes.
                _add_features(moments, images.to(device), pooled=False)
                fit.add(patches(images.to(device), self.patch_size))
            real = {name: running.compute() for name, running in moments.items()}
            self._reference = real, fit.compute()
        return ImageMeasurement(*self._reference, self.patch_size, device)


class ImageMeasurement:
    """Moments of the features of generated images, and the energy of their patches."""

    def __init__(self, real: dict[str, Moments], manifold: Manifold, patch_size: int, device: torch.device) -> None:
        self.real = real
        self.patch_size = patch_size
        self._moments: dict[str, RunningMoments] = {}
        self._off_manifold = OffManifold(manifold).to(device)

    def add(self, samples: Tensor) -> None:
        """Add images (B, C, H, W) uint8."""
        _add_features(self._moments, samples, pooled=True)
        self._off_manifold.update(patches(samples, self.patch_size))

    def compute(self) -> dict[str, float]:
        """Return `eval/fd_<features>` and `eval/off_manifold`."""
        generated = {name: running.compute() for name, running in self._moments.items()}
        distances = {
            f"eval/{metric_name(name)}": frechet_distance(self.real[name], generated[name]) for name in EXTRACTORS
        }
        return {**distances, "eval/off_manifold": float(self._off_manifold.compute())}


def _add_features(moments: dict[str, RunningMoments], images: Tensor, pooled: bool) -> None:
    for name, extract in EXTRACTORS.items():
        rows = extract(images)
        if name not in moments:
            moments[name] = RunningMoments(rows.shape[1], sync_on_compute=pooled).to(images.device)
        moments[name].update(rows)
