import math
from itertools import pairwise

import pytest
import torch

from jitlab.diffusion.guidance import Velocity, guided_velocity
from jitlab.diffusion.objective import Objective
from jitlab.diffusion.path import SPACES, Clip, convert
from jitlab.diffusion.samplers import SOLVERS, euler, heun, linear_grid

DIMENSIONS = 3
CLIP = Clip(1e-9, 1e-9)
MEAN = torch.tensor([0.7, -1.0, 0.3], dtype=torch.float64)
FACTOR = torch.tensor([[0.9, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.2, 0.3, 0.3]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T
EYE = torch.eye(DIMENSIONS, dtype=torch.float64)
# The flow is affine in the noise: its images of 0 and of the unit vectors say everything about it.
NOISE = torch.cat([torch.zeros(1, DIMENSIONS, dtype=torch.float64), EYE])


def denoiser(z: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return E[x | z] of data N(m, S) under noise N(0, I)."""
    t = t[0]
    gain: torch.Tensor = t * COVARIANCE @ torch.linalg.inv(t**2 * COVARIANCE + (1 - t) ** 2 * EYE)
    estimate: torch.Tensor = MEAN + (z - t * MEAN) @ gain.T
    return estimate


def root(covariance: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    square_root: torch.Tensor = vectors * values.sqrt() @ vectors.T
    return square_root


def exact(noise: torch.Tensor, t: float) -> torch.Tensor:
    """Return where the flow carries noise until t: its mean and covariance are those of z at t."""
    return t * MEAN + noise @ root(t**2 * COVARIANCE + (1 - t) ** 2 * EYE)


def velocity(prediction="x") -> Velocity:
    objective = Objective(prediction, "v", -0.8, 0.8, 1.0, CLIP, CLIP, 0.0, 1)

    def network(z, t, y) -> torch.Tensor:
        return convert(denoiser(z, t, y), z, t, "x", prediction, CLIP)

    labels = torch.zeros(len(NOISE), dtype=torch.long)
    return guided_velocity(network, objective.velocity, labels, 1, 1.0, (0.0, 1.0))


def grid(steps, end) -> list[float]:
    return [end * i / steps for i in range(steps + 1)]


def error(solver, steps, end) -> float:
    return float((SOLVERS[solver](velocity(), NOISE, grid(steps, end)) - exact(NOISE, end)).norm())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
# The single Euler step at Heun's end errs by h² once, so that the whole keeps second order, also up to t = 1.
@pytest.mark.parametrize("end", [0.8, 1.0])
def test_solvers_converge_at_their_order(solver, order, end):
    errors = [error(solver, steps, end) for steps in (32, 64, 128, 256)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.05)
    assert all(found == pytest.approx(order, abs=0.3) for found in orders)


@pytest.mark.parametrize("prediction", SPACES)
def test_fine_steps_give_the_data_its_mean_and_covariance(prediction):
    # eps-prediction cannot say v at t = 0: it starts behind it, where the exact flow has brought the noise.
    start = 1e-3 if prediction == "eps" else 0.0
    times = [start + (1 - start) * i / 400 for i in range(401)]
    images = heun(velocity(prediction), exact(NOISE, start), times)
    mean, shifts = images[0], images[1:] - images[0]
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-4)
    torch.testing.assert_close(shifts.T @ shifts, COVARIANCE, rtol=0, atol=1e-4)


def test_heun_beats_euler_at_equal_network_calls():
    assert error("heun", 25, 1.0) < 0.2 * error("euler", 49, 1.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_path_is_followed_exactly(solver, steps):
    x, eps = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = SOLVERS[solver](lambda z, t: x - eps, eps, grid(steps, 1.0))
    torch.testing.assert_close(images, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_times_at_which_the_network_is_asked(steps):
    asked: list[float] = []

    def record(z: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        return z

    times = linear_grid(steps)
    euler(record, torch.ones(1), times)
    assert asked == times[:-1]
    asked.clear()
    heun(record, torch.ones(1), times)
    inner = [t for pair in pairwise(times[:-1]) for t in pair]
    assert asked == [*inner, times[-2]]
    assert max(asked) < 1


def test_heun_of_one_step_is_euler():
    assert torch.equal(heun(velocity(), NOISE, [0.0, 1.0]), euler(velocity(), NOISE, [0.0, 1.0]))


@pytest.mark.parametrize("steps", [1, 6, 50, 97])
def test_the_linear_grid_is_even_and_reaches_both_ends(steps):
    times = linear_grid(steps)
    assert (len(times), times[0], times[-1]) == (steps + 1, 0.0, 1.0)
    assert all(later - t == pytest.approx(1 / steps, abs=1e-6) for t, later in pairwise(times))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_noise_is_not_overwritten(solver):
    noise = NOISE.clone()
    SOLVERS[solver](velocity(), noise, grid(3, 1.0))
    assert torch.equal(noise, NOISE)
