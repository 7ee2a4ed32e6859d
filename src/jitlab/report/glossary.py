"""What the known metric keys mean, one sentence each, for the reader of a table."""

import re

_MEANINGS = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (
            r"eval/fid",
            "Fréchet distance of Inception features, generated against training images; lower is better.",
        ),
        (
            r"eval/fd_([a-z0-9]+)",
            r"Fréchet distance of \1 features, generated against training images; lower is better.",
        ),
        (
            r"eval/off_manifold",
            "Share of the generated patches’ energy, about the real mean, outside the subspace that holds 99 % of real "
            "patches’ variance (real patches: at most 0.01); lower is better.",
        ),
        (
            r"eval/spiral_distance",
            "Mean distance by which generated points, seen in the spiral’s plane, must be moved to lie one by one on "
            "as many true points (exact 1-Wasserstein distance; the spiral’s radius is 1); lower is better.",
        ),
        (
            r"eval/off_plane",
            "Share of the generated points’ energy outside the spiral’s plane (true points: 0); lower is better.",
        ),
        (
            r"train/(x|eps|v)_mse",
            r"Mean squared error in \1 space on training batches, whatever the arm predicts.",
        ),
        (
            r"val/(x|eps|v)_mse",
            r"Mean squared error in \1 space on a fixed held-out batch, whatever the arm predicts; within the clips of "
            r"t = 0 and t = 1 the clips of the arm’s own conversions count.",
        ),
        (r"train/loss", "Each arm’s own objective: not comparable between arms."),
    )
)
_AVERAGE = re.compile(r"_ema([\d.]+)$")


def meaning(key: str) -> str:
    """Return what a metric key means, or an empty string where it is not a known one."""
    average = _AVERAGE.search(key)
    base = _AVERAGE.sub("", key)
    for pattern, text in _MEANINGS:
        match = pattern.fullmatch(base)
        if match:
            return f"As {base}, weights averaged with decay {average[1]}." if average else match.expand(text)
    return ""
