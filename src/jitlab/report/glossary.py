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
            r"eval/fd_([\w.-]+)",
            r"Fréchet distance of \1 features, generated against training images; lower is better.",
        ),
        (
            r"eval/kid",
            "Kernel distance of features (unbiased, cubic kernel, mean over random subsets), generated against "
            "training images; lower is better, and chance may take it below 0.",
        ),
        (r"eval/kid_std", "Standard deviation of the kernel distance over its random subsets, within one seed."),
        (
            r"eval/inception_score",
            "How sure Inception is of each generated image’s class and how evenly all classes occur; higher is better. "
            "It knows nothing of the training images.",
        ),
        (
            r"eval/inception_score_std",
            "Standard deviation of the Inception Score over equal parts of the images, within one seed.",
        ),
        (
            r"eval/precision",
            "Share of generated images that lie among the real ones (within a real image’s distance to its 3rd "
            "neighbour); higher is better: fidelity.",
        ),
        (
            r"eval/recall",
            "Share of real images that lie among the generated ones (within a generated image’s distance to its 3rd "
            "neighbour); higher is better: variety.",
        ),
        (
            r"eval/density",
            "Mean number of real images’ neighbourhoods (to the 5th neighbour) that a generated image lies in, over 5: "
            "as precision, but outliers count little; real images have about 1.",
        ),
        (
            r"eval/coverage",
            "Share of real images with a generated one nearer than their 5th real neighbour; higher is better.",
        ),
        (
            r"eval/seams",
            "Squared differences of pixels across the borders of patches over those inside, of generated over that of "
            "real images; 1 is no seams, more is seams.",
        ),
        (
            r"eval/class_structure",
            "Share of the variance of features that the class explains, of generated over that of real images; about 1 "
            "as in real images, 0 where classes look alike.",
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


def title(name: str) -> str:
    """Return what the metric that decides is called in words: only Inception’s distance is FID."""
    if name == "fid":
        return "FID"
    return f"Fréchet distance of {name.removeprefix('fd_')} features" if name.startswith("fd_") else name
