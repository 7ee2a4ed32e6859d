"""Classifier-free guidance in velocity space, within an interval of t."""

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z, t (B,), y (B,)) -> the network's output, like z."""
ToVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(output, z, t (B,)) -> velocity, like z."""
Velocity = Callable[[Tensor, float], Tensor]
"""(z, t) -> dz/dt, like z."""


def acts(t: float, scale: float, interval: tuple[float, float]) -> bool:
    """Say whether guidance changes the velocity at t: lo < t < hi, where lo = 0 includes t = 0."""
    low, high = interval
    return scale != 1 and t < high and (low == 0 or t > low)


def guided_velocity(
    predict: Predict,
    to_velocity: ToVelocity,
    y: Tensor,
    null_label: int,
    scale: float,
    interval: tuple[float, float],
) -> Velocity:
    """Return v = v_uncond + scale (v_cond - v_uncond) inside the interval, v_cond outside it.

    Both branches go through the network in one call; outside the interval, and at scale 1, the
    unconditional branch is not computed at all.

    Args:
        predict: the network.
        to_velocity: reads its output as a velocity.
        y: labels, (B,).
        null_label: the label of no class.
        scale: guidance scale; 1 is none.
        interval: (lo, hi) of t.
    """
    both = torch.cat([y, torch.full_like(y, null_label)])

    def velocity(z: Tensor, t: float) -> Tensor:
        guided = acts(t, scale, interval)
        inputs = torch.cat([z, z]) if guided else z
        times = torch.full((len(inputs),), t, dtype=z.dtype, device=z.device)
        v = to_velocity(predict(inputs, times, both if guided else y), inputs, times)
        if not guided:
            return v
        conditional, unconditional = v.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return velocity
