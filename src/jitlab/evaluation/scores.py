"""What the rows of generated images are worth against real images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jitlab.evaluation.observation import Columns
from jitlab.metrics.accumulation import Total
from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.features import metric_name
from jitlab.metrics.frechet import RunningMoments, frechet_distance
from jitlab.metrics.images import class_structure
from jitlab.metrics.inception_score import SPLITS, InceptionScore
from jitlab.metrics.kernel import kernel_distance
from jitlab.metrics.neighbours import DENSITY_NEIGHBOURS, neighbours
from jitlab.metrics.patches import MEASURES, RealPatches
from jitlab.metrics.reference import Reference

# Of a fixed size, so that sums are formed in the same order whatever the batches were that images were drawn in.
BLOCK = 1024


@dataclass(frozen=True)
class Truth:
    """Real images: reference statistics of so named features, and patches where the images themselves were there."""

    features: str
    reference: Reference
    patches: RealPatches | None
    num_classes: int

    @property
    def metric(self) -> str:
        """Return the name of the metric that decides, the Frechet distance."""
        return metric_name(self.features)


def quick_scores(rows: Tensor, columns: Columns, truth: Truth) -> dict[str, float]:
    """Return what takes one pass over the rows (N, size) of images of class i modulo their number.

    That is the Frechet distance, the Inception Score where features come with logits, what patches tell, and class
    structure; what cannot be told of so few images is left out. Raises ValueError for fewer than two images.
    """
    moments = RunningMoments(columns.dimensions, sync_on_compute=False)
    structure = ClassStructure(columns.dimensions, truth.num_classes, sync_on_compute=False)
    measured = Total(MEASURES, sync_on_compute=False)
    judged = InceptionScore(len(rows), columns.classes) if columns.classes and len(rows) >= SPLITS else None
    for numbers, block in _blocks(rows):
        features, logits, energies = columns.split(block)
        moments.update(features)
        structure.update(features, torch.tensor(numbers) % truth.num_classes)
        if columns.measures:
            measured.update(energies)
        if judged:
            judged.update(logits, list(numbers))
    found = {truth.metric: frechet_distance(truth.reference.moments, moments.compute())}
    if truth.reference.class_share is not None:
        found |= class_structure(structure.compute(), truth.reference.class_share)
    if truth.patches is not None:
        found |= truth.patches.scores(measured.compute())
    if judged:
        found |= {"inception_score": judged.compute().mean, "inception_score_std": judged.compute().std}
    return found


def slow_scores(rows: Tensor, columns: Columns, truth: Truth, device: torch.device) -> dict[str, float]:
    """Return what compares images one by one, computed on `device`: kernel distance, precision, recall and the like.

    Nothing where the reference holds no features, or too few images are given.
    """
    real = truth.reference.features
    fewest = min(len(rows), 0 if real is None else len(real))
    # A subset of the kernel distance is half of them; a vector finds itself among its neighbours.
    if real is None or fewest <= max(DENSITY_NEIGHBOURS, 3):
        return {}
    features = columns.split(rows)[0]
    distance = kernel_distance(features, real)
    return {"kid": distance.mean, "kid_std": distance.std, **neighbours(features, real, device)._asdict()}


def _blocks(rows: Tensor) -> Iterator[tuple[range, Tensor]]:
    for start in range(0, len(rows), BLOCK):
        numbers = range(start, min(start + BLOCK, len(rows)))
        # A copy: of the mapped file only what is looked at lies in memory.
        yield numbers, rows[numbers.start : numbers.stop].clone()
