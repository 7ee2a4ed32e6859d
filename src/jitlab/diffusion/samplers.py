"""Solvers of dz/dt = v from noise at t = 0 to data at t = 1: pure functions of a velocity and a time grid."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from jitlab.diffusion.guidance import Velocity

Solver = Callable[[Velocity, Tensor, Sequence[float]], Tensor]


def linear_grid(steps: int) -> list[float]:
    """Return steps + 1 times from 0 to 1, evenly spaced."""
    return [step / steps for step in range(steps + 1)]


def euler(velocity: Velocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate with first order: one velocity a step."""
    for t, t_next in pairwise(times):
        z = z + (t_next - t) * velocity(z, t)
    return z


def heun(velocity: Velocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate with second order: two velocities a step, the last step Euler (Table 9)."""
    for t, t_next in pairwise(times[:-1]):
        v = velocity(z, t)
        v_next = velocity(z + (t_next - t) * v, t_next)
        z = z + (t_next - t) * (v + v_next) / 2
    return euler(velocity, z, times[-2:])


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}
