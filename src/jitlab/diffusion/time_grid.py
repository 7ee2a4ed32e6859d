"""Time grids: where between noise at t = 0 and data at t = 1 a solver stops."""

from collections.abc import Sequence


def linear_grid(steps: int) -> list[float]:
    """Return steps + 1 times from 0 to 1, evenly spaced."""
    return [step / steps for step in range(steps + 1)]


def shifted_grid(steps: int, shift: float) -> list[float]:
    """Return steps + 1 times from 0 to 1 whose noise-to-signal ratios (1 - t) / t are `shift` times the linear grid's.

    A shift above 1 puts more of the steps near the noise, one below 1 near the data; 1 is the linear grid to the
    bit. This is SD3's timestep shift (arXiv:2403.03206, eq. 23) with its t read as 1 - t.
    """
    return [t / (1 + (shift - 1) * (1 - t)) for t in linear_grid(steps)]


def time_grid(steps: int, shift: float, times: Sequence[float]) -> list[float]:
    """Return `times` where there are any, else the shifted grid."""
    return list(times) or shifted_grid(steps, shift)
