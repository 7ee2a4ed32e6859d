"""Certificates as `jitlab evaluate` writes them, made up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from jitlab.report.certificate import Certificate, Searched, SearchedCell

PROTOCOL = {
    "solver": "heun",
    "steps": 50,
    "guidance_interval": [0.1, 1.0],
    "feature_weights_sha256": "",
    "images": 1000,
    "seeds": [0, 1, 2],
}
CERTIFICATE = Certificate(
    name="x",
    checkpoint={"file": "runs/a/x/last.ckpt", "sha256": "ab" * 32, "step": 600},
    metric="fd_pixels",
    weights="ema0.99",
    guidance_scale=1.5,
    values={"seams": (1.1, 1.0, 1.2), "fd_pixels": (0.05, 0.06, 0.07)},
    search=None,
    protocol=PROTOCOL,
    warnings=(),
    versions={"torch": "2.15"},
    hardware="CPU, 2 threads",
)


def searched(figures: Mapping[tuple[str, float], float], metric: str = "fd_pixels", **changes: Any) -> Certificate:
    """Return a certificate of which the search found these figures, and evaluated the best of them."""
    cells = tuple(SearchedCell(weights, scale, {metric: value}) for (weights, scale), value in figures.items())
    weights, scale = min(figures, key=lambda place: figures[place])
    facts: dict[str, Any] = {"metric": metric, "weights": weights, "guidance_scale": scale}
    return replace(CERTIFICATE, **{**facts, "search": Searched(500, 1_000_000, True, cells), **changes})


def whole_grid(weights: Sequence[str], scales: Sequence[float]) -> dict[tuple[str, float], float]:
    """Return figures, all different, that fall and then rise over the scales."""
    return {
        (name, scale): 4.0 + (scale - 2.0) ** 2 + 0.01 * row for row, name in enumerate(weights) for scale in scales
    }


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.just("<b>[red]\"'&amp;$x$</b>")
FIGURES = st.floats(min_value=1e-6, max_value=1e6) | st.just(0.0) | st.floats(min_value=-1e-9, max_value=0.0)


@st.composite
def searches(draw: st.DrawFn, most_scales: int = 14) -> dict[tuple[str, float], float]:
    """Draw the figures of some places of a grid, whose unguided column was looked at."""
    weights = draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True))
    tenths = draw(st.lists(st.integers(11, 40), max_size=most_scales - 1, unique=True))
    places = [(name, scale) for name in weights for scale in (1.0, *sorted(tenth / 10 for tenth in tenths))]
    kept = draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    return {place: draw(FIGURES) for place, keep in zip(places, kept, strict=True) if keep or place[1] == 1.0}
