import math
from itertools import pairwise

import pytest
import torch

from jitlab.config.schema import Sampler
from jitlab.diffusion.guidance import Velocity, acts, guided_velocity
from jitlab.diffusion.objective import Objective
from jitlab.diffusion.path import SPACES, Clip, convert
from jitlab.diffusion.samplers import SOLVERS, Churn, ab2, euler, euler_maruyama, heun
from jitlab.diffusion.time_grid import linear_grid, shifted_grid

ODE_SOLVERS = [name for name, solver in SOLVERS.items() if not solver.stochastic]
DIMENSIONS = 3
CLIP = Clip(1e-9, 1e-9)
MEAN = torch.tensor([0.7, -1.0, 0.3], dtype=torch.float64)
FACTOR = torch.tensor([[0.9, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.2, 0.3, 0.3]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T
EYE = torch.eye(DIMENSIONS, dtype=torch.float64)
# The flow is affine in the noise: its images of 0 and of the unit vectors say everything about it.
NOISE = torch.cat([torch.zeros(1, DIMENSIONS, dtype=torch.float64), EYE])

QUIET = Churn(1.0, lambda step: torch.zeros(1))


def marginal(t, noise_scale=1.0) -> torch.Tensor:
    """Return the covariance of z at t."""
    covariance: torch.Tensor = t**2 * COVARIANCE + (noise_scale * (1 - t)) ** 2 * EYE
    return covariance


def denoiser(z: torch.Tensor, t: torch.Tensor, noise_scale=1.0) -> torch.Tensor:
    """Return E[x | z] of data N(m, S) under noise N(0, noise_scale² I)."""
    t = t[0]
    gain: torch.Tensor = t * COVARIANCE @ torch.linalg.inv(marginal(t, noise_scale))
    estimate: torch.Tensor = MEAN + (z - t * MEAN) @ gain.T
    return estimate


def root(covariance: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    square_root: torch.Tensor = vectors * values.sqrt() @ vectors.T
    return square_root


def exact(noise: torch.Tensor, t: float) -> torch.Tensor:
    """Return where the flow carries noise until t: its mean and covariance are those of z at t."""
    return t * MEAN + noise @ root(marginal(t))


def velocity(prediction="x", noise_scale=1.0, batch=1 + DIMENSIONS, clip=CLIP) -> Velocity:
    objective = Objective(prediction, "v", -0.8, 0.8, 1.0, CLIP, clip, 0.0, 1)

    def network(z, t, y) -> torch.Tensor:
        return convert(denoiser(z, t, noise_scale), z, t, "x", prediction, CLIP)

    labels = torch.zeros(batch, dtype=torch.long)
    return guided_velocity(network, objective.velocity, labels, 1, 1.0, (0.0, 1.0))


def calls(solver: str, steps: int) -> int:
    """Return how many velocities a solver takes: one a step, Heun two in every step but the last."""
    return 2 * steps - 1 if solver == "heun" else steps


def grid(steps, end) -> list[float]:
    return [end * i / steps for i in range(steps + 1)]


def uneven(steps, end) -> list[float]:
    return [end * t for t in shifted_grid(steps, 3.0)]


def error(solver, steps, end, spaced=grid) -> float:
    return float((SOLVERS[solver](velocity(), NOISE, spaced(steps, end)) - exact(NOISE, end)).norm())


def moments(solver, times, noise_scale=1.0, strength=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean and covariance of what a stochastic solver makes of the Gaussian.

    It is affine in the noise it starts from and in the noise of each step: its images of 0 and of their unit vectors
    say everything about it.
    """
    batch = 1 + DIMENSIONS * (len(times) - 1)

    def unit(place: int) -> torch.Tensor:
        noise = torch.zeros(batch, DIMENSIONS, dtype=torch.float64)
        first = 1 + DIMENSIONS * place
        noise[first : first + DIMENSIONS] = noise_scale * EYE
        return noise

    churn = Churn(strength, lambda step: unit(step + 1))
    images = SOLVERS[solver](velocity("x", noise_scale, batch), unit(0), times, churn)
    shifts = images[1:] - images[0]
    return images[0], shifts.T @ shifts


def weak_error(solver, steps, end, noise_scale=1.0, strength=1.0) -> float:
    mean, covariance = moments(solver, grid(steps, end), noise_scale, strength)
    return float((mean - end * MEAN).norm() + (covariance - marginal(end, noise_scale)).norm())


@pytest.mark.parametrize("solver", ODE_SOLVERS)
@pytest.mark.parametrize("spaced", [grid, uneven])
# The single Euler steps at the ends err by h² once each, so that the whole keeps second order, also up to t = 1.
@pytest.mark.parametrize("end", [0.8, 1.0])
def test_solvers_converge_at_their_order(solver, spaced, end):
    order = SOLVERS[solver].order
    errors = [error(solver, steps, end, spaced) for steps in (64, 128, 256, 512)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.05)
    assert all(found == pytest.approx(order, abs=0.3) for found in orders)


@pytest.mark.parametrize("solver", ["euler_maruyama"])
@pytest.mark.parametrize(("noise_scale", "strength"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.25), (0.5, 3.0)])
@pytest.mark.parametrize("end", [0.4, 0.8, 1.0])
def test_stochastic_solvers_keep_the_marginals_at_their_order(solver, noise_scale, strength, end):
    errors = [weak_error(solver, steps, end, noise_scale, strength) for steps in (64, 128, 256)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(found == pytest.approx(SOLVERS[solver].order, abs=0.15) for found in orders)


def test_every_stochastic_solver_is_measured():
    assert [name for name in SOLVERS if name not in ODE_SOLVERS] == ["euler_maruyama"]


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_fine_stochastic_steps_give_the_data_its_mean_and_covariance(noise_scale):
    coarse, fine = (moments("euler_maruyama", grid(steps, 1.0), noise_scale) for steps in (128, 256))
    for once, twice, limit in zip(coarse, fine, (MEAN, COVARIANCE), strict=True):
        # Richardson: the first-order error of the fine grid is half of the coarse one's.
        torch.testing.assert_close(2 * twice - once, limit, rtol=0, atol=1e-3)


def test_a_stronger_churn_forgets_more_of_the_noise_at_the_start():
    def memory(strength) -> float:
        churn = Churn(strength, lambda step: torch.zeros_like(NOISE))
        images = euler_maruyama(velocity(), NOISE, grid(64, 1.0), churn)
        return float((images[1:] - images[0]).norm())

    flow = euler(velocity(), NOISE, grid(64, 1.0))
    assert torch.equal(euler_maruyama(velocity(), NOISE, grid(64, 1.0), Churn(0.0, lambda step: NOISE)), flow)
    assert memory(0.0) > memory(0.5) > memory(1.0) > memory(2.0)


@pytest.mark.parametrize("solver", ["heun", "ab2"])
@pytest.mark.parametrize("prediction", SPACES)
def test_fine_steps_give_the_data_its_mean_and_covariance(prediction, solver):
    # eps-prediction cannot say v at t = 0: it starts behind it, where the exact flow has brought the noise.
    start = 1e-3 if prediction == "eps" else 0.0
    times = [start + (1 - start) * i / 400 for i in range(401)]
    images = SOLVERS[solver](velocity(prediction), exact(NOISE, start), times)
    mean, shifts = images[0], images[1:] - images[0]
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-4)
    torch.testing.assert_close(shifts.T @ shifts, COVARIANCE, rtol=0, atol=1e-4)


# Of mean and covariance with the paper's solver, measured: x loses variance in the last steps, which no longer land on
# the predicted x, eps keeps too much, as it stands still at first; v has no clip, only the solver's error.
@pytest.mark.parametrize(
    ("prediction", "mean_bias", "variance"), [("x", 0.0221, 0.9577), ("v", 0.0, 0.9993), ("eps", 0.0096, 1.0527)]
)
def test_what_the_default_clips_cost_an_exact_network(prediction, mean_bias, variance):
    clip = Clip(Sampler.clip_one_minus_t, Sampler.clip_t)
    made = velocity(prediction, clip=clip)
    images = SOLVERS[Sampler.solver](made, NOISE, linear_grid(Sampler.steps))
    mean, shifts = images[0], images[1:] - images[0]
    assert float((mean - MEAN).norm() / MEAN.norm()) == pytest.approx(mean_bias, abs=2e-4)
    assert float((shifts.T @ shifts).trace() / COVARIANCE.trace()) == pytest.approx(variance, abs=2e-4)
    moved = float(made(NOISE, 0.0).norm())
    assert moved == pytest.approx(0, abs=1e-6) if prediction == "eps" else moved > 1


@pytest.mark.parametrize(("solver", "steps"), [("heun", 25), ("ab2", 49)])
def test_second_order_beats_euler_at_equal_network_calls(solver, steps):
    assert calls(solver, steps) == calls("euler", 49)
    assert error(solver, steps, 1.0) < 0.2 * error("euler", 49, 1.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_last_step_lands_on_the_predicted_x(solver, steps):
    x, eps = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    churn = Churn(1.0, lambda step: torch.randn(5, generator=torch.Generator().manual_seed(step), dtype=torch.float64))
    images = SOLVERS[solver](lambda z, t: (x - z) / (1 - t), eps, grid(steps, 1.0), churn)
    torch.testing.assert_close(images, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
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
    asked.clear()
    ab2(record, torch.ones(1), times)
    assert asked == times[:-1]
    asked.clear()
    euler_maruyama(record, torch.ones(1), times, QUIET)
    assert asked == times[:-1]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
# v_uncond costs no call outside the interval and none at scale 1; inside it shares the call with v_cond.
@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0.0, 1.0)), (3.0, (0.25, 0.75)), (3.0, (0.0, 0.5))])
def test_a_step_takes_one_network_call_or_heun_s_two_and_none_is_wasted(solver, steps, scale, interval):
    asked: list[tuple[float, int]] = []

    def network(z: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        asked.append((t[0].item(), int((y == 1).sum())))
        return z

    guided = guided_velocity(network, lambda output, z, t: output, torch.zeros(2).long(), 1, scale, interval)
    SOLVERS[solver](guided, torch.ones(2, 3, dtype=torch.float64), linear_grid(steps), QUIET)
    assert len(asked) == calls(solver, steps)
    assert asked == [(t, 2 * acts(t, scale, interval)) for t, _ in asked]


def test_heun_and_ab2_of_one_step_are_euler():
    for solver in (heun, ab2):
        assert torch.equal(solver(velocity(), NOISE, [0.0, 1.0]), euler(velocity(), NOISE, [0.0, 1.0]))


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_noise_is_asked_for_once_in_every_step_but_the_last(steps):
    asked: list[int] = []

    def noise(step: int) -> torch.Tensor:
        asked.append(step)
        return torch.zeros_like(NOISE)

    euler_maruyama(velocity(), NOISE, grid(steps, 1.0), Churn(1.0, noise))
    assert asked == list(range(steps - 1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_noise_is_not_overwritten(solver):
    noise = NOISE.clone()
    SOLVERS[solver](velocity(), noise, grid(3, 1.0), Churn(1.0, lambda step: noise))
    assert torch.equal(noise, NOISE)
