"""The straight path from noise to data, and x, eps and v from one another (Table 1)."""

from typing import Literal, NamedTuple

from torch import Tensor

Space = Literal["x", "eps", "v"]
SPACES: tuple[Space, ...] = ("x", "eps", "v")
Preconditioner = Literal["edm", "linear"]
PRECONDITIONERS: tuple[Preconditioner, ...] = ("edm", "linear")
SIGMA_DATA = 0.5


class Clip(NamedTuple):
    """Least values, in (0, 1), of the denominators 1 - t (near data) and t (near noise)."""

    one_minus_t: float
    t: float


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """Shape t (B,) to broadcast over `like` (B, ...)."""
    return t.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return z = t x + (1 - t) eps; t (B,) in [0, 1], 1 is clean."""
    t = per_sample(t, x)
    return t * x + (1 - t) * eps


def convert(value: Tensor, z: Tensor, t: Tensor, source: Space, target: Space, clip: Clip) -> Tensor:
    """Turn a prediction in space `source` into the one in space `target` that it implies (Table 1).

    Denominators 1 - t and t are clipped from below, as the official implementation does for 1 - t.

    Args:
        value: x, eps or v, (B, ...).
        z: the noisy data that it was predicted from, (B, ...).
        t: (B,) in [0, 1].
        source: what `value` is.
        target: what is wanted.
        clip: least denominators.
    """
    t = per_sample(t, z)
    match source, target:
        case "x", "eps":
            return (z - t * value) / (1 - t).clamp(min=clip.one_minus_t)
        case "x", "v":
            return (value - z) / (1 - t).clamp(min=clip.one_minus_t)
        case "eps", "x":
            return (z - (1 - t) * value) / t.clamp(min=clip.t)
        case "eps", "v":
            return (z - value) / t.clamp(min=clip.t)
        case "v", "x":
            return z + (1 - t) * value
        case "v", "eps":
            return z - t * value
        case _:
            return value


def precondition(output: Tensor, z: Tensor, t: Tensor, kind: Preconditioner, noise_scale: float) -> Tensor:
    """Return x = c_skip z + c_out output (Table 10), like z; at t = 0 output alone counts, at t = 1 z alone.

    Args:
        output: of the network, (B, ...).
        z: the noisy data that it was computed from, (B, ...).
        t: (B,) in [0, 1].
        kind: `linear`, or `edm` with sigma_t = noise_scale (1 - t) / t, the noise of z / t, multiplied out, so that
            nothing is divided by t.
        noise_scale: standard deviation of eps; the paper's figures for preconditioners are at 1.
    """
    t = per_sample(t, z)
    if kind == "linear":
        return t * z + (1 - t) * output
    noise = noise_scale * (1 - t)
    variance = t**2 * SIGMA_DATA**2 + noise**2
    return t * SIGMA_DATA**2 / variance * z + SIGMA_DATA * noise / variance.sqrt() * output
