"""Solvers from noise at t = 0 to data at t = 1: pure functions of velocity, time grid and, for an SDE, its noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from jitlab.diffusion.guidance import Velocity


@dataclass(frozen=True)
class Churn:
    """The noise that an SDE adds and takes away again on its way.

    `strength` above 0 says how much; `noise` returns the draws of a step (counted from 0), like z and distributed
    as eps.
    """

    strength: float
    noise: Callable[[int], Tensor]


@dataclass(frozen=True)
class Solver:
    """A way to integrate, and what it declares of itself.

    `order` is the power of the step with which the error at the end falls; for a stochastic solver, the error of
    mean and covariance (weak order).
    """

    function: Callable[..., Tensor]
    order: int
    stochastic: bool = False

    def __call__(self, velocity: Velocity, z: Tensor, times: Sequence[float], churn: Churn | None = None) -> Tensor:
        """Return where z at times[0] arrives at times[-1]; only a stochastic solver reads `churn`, and it must."""
        return self.function(velocity, z, times, churn) if self.stochastic else self.function(velocity, z, times)


def euler(velocity: Velocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate dz/dt = v with first order: one velocity a step."""
    for t, t_next in pairwise(times):
        z = z + (t_next - t) * velocity(z, t)
    return z


def heun(velocity: Velocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate dz/dt = v with second order: two velocities a step, the last step Euler (Table 9)."""
    for t, t_next in pairwise(times[:-1]):
        v = velocity(z, t)
        v_next = velocity(z + (t_next - t) * v, t_next)
        z = z + (t_next - t) * (v + v_next) / 2
    return euler(velocity, z, times[-2:])


def ab2(velocity: Velocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate dz/dt = v with second order: one velocity a step and the one before it, first and last step Euler.

    Adams-Bashforth 2 for steps of any length (Hairer, Norsett, Wanner: Solving ODEs I, section III.5).
    """
    v_before, h_before = None, math.nan
    for t, t_next in pairwise(times[:-1]):
        v, h = velocity(z, t), t_next - t
        slope = v if v_before is None else v + h / (2 * h_before) * (v - v_before)
        z = z + h * slope
        v_before, h_before = v, h
    # Euler's step to t = 1 lands on the predicted x, whatever error has gathered off the data's manifold.
    return euler(velocity, z, times[-2:])


def euler_maruyama(velocity: Velocity, z: Tensor, times: Sequence[float], churn: Churn) -> Tensor:
    """Integrate an SDE that has the ODE's marginals with weak order 1: one velocity a step, the last step Euler."""
    # dz = (v + g²/2 score) dt + g dW keeps the marginals of dz = v dt for every g(t) (Song et al., arXiv:2011.13456,
    # appendix D; SiT, arXiv:2401.08740). On z = t x + (1 - t) eps, eps ~ N(0, s² I), Tweedie's formula gives
    # score = -E[eps | z] / ((1 - t) s²), and E[eps | z] = z - t v (Table 1). With g² = 2 strength s² (1 - t), which
    # is finite at t = 0 and vanishes at t = 1, the factors s² (1 - t) cancel: g²/2 score = -strength (z - t v).
    for step, (t, t_next) in enumerate(pairwise(times[:-1])):
        v, h = velocity(z, t), t_next - t
        drift = v - churn.strength * (z - t * v)
        z = z + h * drift + math.sqrt(2 * churn.strength * (1 - t) * h) * churn.noise(step)
    # Noise that is added in the last step would stay in the picture.
    return euler(velocity, z, times[-2:])


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler, order=1),
    "heun": Solver(heun, order=2),
    "ab2": Solver(ab2, order=2),
    "euler_maruyama": Solver(euler_maruyama, order=1, stochastic=True),
}
