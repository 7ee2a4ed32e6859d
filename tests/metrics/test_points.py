import math

import pytest
import torch

from jitlab.metrics.points import PointMeasure, off_share, wasserstein

CPU = torch.device("cpu")


def cloud(n=60, dimensions=2, seed=0):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_same_points_in_any_order_have_no_distance():
    points = cloud()
    assert wasserstein(points, points.flip(0)) == 0


def test_a_shift_is_its_length():
    assert wasserstein(cloud(), cloud() + torch.tensor([3.0, 4.0])) == pytest.approx(5)


def test_distance_grows_with_noise_and_sees_points_that_are_missing():
    points = cloud()
    noise = cloud(seed=1)
    distances = [wasserstein(points + scale * noise, points) for scale in (0.0, 0.01, 0.1, 1.0)]
    assert distances == sorted(set(distances))
    assert wasserstein(points[:1].expand(60, 2), points) > 0.5


def test_unequal_numbers_of_points_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        wasserstein(cloud(3), cloud(4))


def test_share_of_energy_outside_the_plane():
    plane = torch.eye(5)[:, :2]
    inside = cloud(dimensions=2) @ plane.T.double()
    assert off_share(inside, plane) == 0
    assert off_share(torch.tensor([[3.0, 0, 4, 0, 0]]), plane) == pytest.approx(16 / 25)
    assert off_share(torch.tensor([[0.0, 0, 0, 0, 1]]), plane) == 1
    assert off_share(torch.zeros(2, 5), plane) == 0


def test_a_measurement_in_parts_equals_one_in_one_piece_and_true_points_measure_zero():
    plane = torch.eye(5)[:, :2]
    measure = PointMeasure(cloud(20), plane)
    whole, parts, true = (measure.start(CPU) for _ in range(3))
    samples = cloud(20, 5, seed=2)
    labels = torch.zeros(20, dtype=torch.long)
    whole.add(samples, labels)
    for part in samples.split(7):
        parts.add(part, labels[: len(part)])
    true.add(cloud(20) @ plane.T.double(), labels)
    assert whole.compute() == parts.compute()
    assert measure.key in whole.compute()
    assert all(math.isclose(value, 0, abs_tol=1e-9) for value in true.compute().values())
