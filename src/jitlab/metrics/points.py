"""Generated points against true points of a plane: the distance between them in it, and the energy outside it."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the exact 1-Wasserstein distance between two equally many points, (n, D) each.

    That is the mean distance by which points of `a` must be moved to lie on those of `b`, one on each.
    """
    if a.shape != b.shape:
        raise ValueError(f"expected equally many points of equal dimension, got {tuple(a.shape)} and {tuple(b.shape)}")
    costs = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
    return float(costs[linear_sum_assignment(costs)].mean())


def off_share(points: Tensor, projection: Tensor) -> float:
    """Return the share, in [0, 1], of the energy of points (n, D) outside the plane that `projection` (D, 2) spans."""
    points, projection = points.double(), projection.double()
    total = points.square().sum()
    if total == 0:
        return 0.0
    # Of the remainder: the difference of two energies would leave rounding where nothing is outside.
    outside = (points - points @ projection @ projection.T).square().sum()
    return float((outside / total).clamp(0, 1))


class PointMeasure:
    """Holds true points of the plane, as many as an evaluation generates."""

    key = "eval/spiral_distance"

    def __init__(self, true_points: Tensor, projection: Tensor) -> None:
        """Prepare for `true_points` (n, 2) in the coordinates of `projection` (D, 2)."""
        self.true_points = true_points
        self.projection = projection

    def start(self, device: torch.device) -> "PointMeasurement":
        """Begin a measurement of points (B, D) on `device`."""
        return PointMeasurement(self.true_points.to(device), self.projection.to(device)).to(device)


class PointMeasurement(Metric):
    """Generated points of all processes."""

    full_state_update = False
    points: list[Tensor] | Tensor

    def __init__(self, true_points: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.true_points = true_points
        self.projection = projection
        self.add_state("points", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor) -> None:
        """Add points (B, D)."""
        self.points = [*self.points, samples]

    def add(self, samples: Tensor, labels: Tensor) -> None:  # noqa: ARG002
        """Add points (B, D): an evaluation's word for it. All are of one class."""
        self.update(samples)

    def compute(self) -> dict[str, float]:
        """Return `eval/spiral_distance` and `eval/off_plane`."""
        points = self.points if isinstance(self.points, Tensor) else torch.cat(self.points)
        plane = points.double() @ self.projection.double()
        return {
            "eval/spiral_distance": wasserstein(plane, self.true_points.double()),
            "eval/off_plane": off_share(points, self.projection),
        }
