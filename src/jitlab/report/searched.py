"""What a search found, for tables, maps and curves alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jitlab.report.certificate import Certificate, SearchedCell
from jitlab.report.closing import NOTHING, spread_text

UNGUIDED = 1.0


@dataclass(frozen=True)
class Found:
    """The cells of a search that have the figure that decides, laid out in a grid.

    Args:
        weights: in the order in which they were searched.
        scales: ascending; with those of the protocol, also where no cell was looked at.
        figures: by weights and scale; of a coarse search not every place has one.
        winner: the place of the one that was evaluated in full.
    """

    weights: tuple[str, ...]
    scales: tuple[float, ...]
    figures: Mapping[tuple[str, float], float]
    winner: tuple[str, float]

    @property
    def best(self) -> float | None:
        """Return the figure of the winner on the search's own images."""
        return self.figures.get(self.winner)

    @property
    def unguided(self) -> float | None:
        """Return the figure of the winner's weights without guidance, on the same images."""
        return self.figures.get((self.winner[0], UNGUIDED))


def found(certificate: Certificate) -> Found | None:
    """Return what the search of a certificate found, None where nothing was searched."""
    if certificate.search is None:
        return None
    metric, cells = certificate.metric, certificate.search.cells
    return Found(
        weights=tuple(dict.fromkeys(cell.weights for cell in cells)),
        scales=tuple(sorted({cell.guidance_scale for cell in cells} | _scales(certificate.protocol))),
        figures={_place(cell): cell.metrics[metric] for cell in cells if metric in cell.metrics},
        winner=(certificate.weights, certificate.guidance_scale),
    )


def value_text(certificate: Certificate, metric: str) -> str:
    """Return a metric of the final evaluation, mean ± sample standard deviation over its seeds."""
    values = certificate.values.get(metric)
    return spread_text(values) if values else NOTHING


def metrics(certificate: Certificate) -> list[str]:
    """Return the names of the metrics, the one that decides first."""
    return sorted(certificate.values, key=lambda name: name != certificate.metric)


def _scales(protocol: Mapping[str, Any]) -> set[float]:
    """Return the scales of the grid, none where the protocol does not tell them."""
    told = protocol.get("search_scales")
    # Figures stand at their scale all the same: protocols may come to hold other keys.
    numbers = isinstance(told, list) and all(isinstance(scale, int | float) and math.isfinite(scale) for scale in told)
    return set(told) if numbers and told else set()


def _place(cell: SearchedCell) -> tuple[str, float]:
    return cell.weights, cell.guidance_scale
