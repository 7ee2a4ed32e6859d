"""The straight path from noise to data, and x, eps and v from one another (Table 1)."""

from typing import Literal

from torch import Tensor

Space = Literal["x", "eps", "v"]
SPACES: tuple[Space, ...] = ("x", "eps", "v")


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """Shape t (B,) to broadcast over `like` (B, ...)."""
    return t.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return z = t x + (1 - t) eps; t (B,) in [0, 1], 1 is clean."""
    t = per_sample(t, x)
    return t * x + (1 - t) * eps


def convert(value: Tensor, z: Tensor, t: Tensor, source: Space, target: Space, t_eps: float) -> Tensor:
    """Turn a prediction in space `source` into the one in space `target` that it implies (Table 1).

    Denominators 1 - t and t are clipped from below at `t_eps`, as the official implementation does for 1 - t.

    Args:
        value: x, eps or v, (B, ...).
        z: the noisy data that it was predicted from, (B, ...).
        t: (B,) in [0, 1].
        source: what `value` is.
        target: what is wanted.
        t_eps: least denominator, in (0, 1).
    """
    t = per_sample(t, z)
    match source, target:
        case "x", "eps":
            return (z - t * value) / (1 - t).clamp(min=t_eps)
        case "x", "v":
            return (value - z) / (1 - t).clamp(min=t_eps)
        case "eps", "x":
            return (z - (1 - t) * value) / t.clamp(min=t_eps)
        case "eps", "v":
            return (z - value) / t.clamp(min=t_eps)
        case "v", "x":
            return z + (1 - t) * value
        case "v", "eps":
            return z - t * value
        case _:
            return value
