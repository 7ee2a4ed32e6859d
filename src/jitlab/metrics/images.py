"""Generated images against the training images: Frechet distances, and energy off the subspace of real patches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from jitlab.metrics.features import EXTRACTORS, metric_name
from jitlab.metrics.frechet import Moments, RunningMoments, frechet_distance
from jitlab.metrics.manifold import Manifold, patches


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
            for images in self.reference_images():
                _add(moments, images.to(device), self.patch_size, pooled=False)
            real = {name: running.compute() for name, running in moments.items()}
            self._reference = real, Manifold.fit(real["patches"])
        return ImageMeasurement(*self._reference, self.patch_size)


class ImageMeasurement:
    """Moments of the features and patches of generated images."""

    def __init__(self, real: dict[str, Moments], manifold: Manifold, patch_size: int) -> None:
        self.real = real
        self.manifold = manifold
        self.patch_size = patch_size
        self._moments: dict[str, RunningMoments] = {}

    def add(self, samples: Tensor) -> None:
        """Add images (B, C, H, W) uint8."""
        _add(self._moments, samples, self.patch_size)

    def compute(self) -> dict[str, float]:
        """Return `eval/fd_<features>` and `eval/off_manifold`."""
        generated = {name: running.compute() for name, running in self._moments.items()}
        distances = {
            f"eval/{metric_name(name)}": frechet_distance(self.real[name], generated[name]) for name in EXTRACTORS
        }
        return {**distances, "eval/off_manifold": self.manifold.off_share(generated["patches"])}


def _add(moments: dict[str, RunningMoments], images: Tensor, patch_size: int, pooled: bool = True) -> None:
    vectors = {name: extract(images) for name, extract in EXTRACTORS.items()}
    vectors["patches"] = patches(images, patch_size)
    for name, rows in vectors.items():
        if name not in moments:
            # Every process sees all reference images, so theirs are not summed over processes.
            running = RunningMoments(rows.shape[1], sync_on_compute=pooled)
            moments[name] = running.to(images.device)
        moments[name].update(rows)
