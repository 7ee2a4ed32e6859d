"""What a reader of an evaluation's figures must know, found from the figures themselves."""

from collections.abc import Iterator, Sequence

from jitlab.evaluation.protocol import Amounts
from jitlab.evaluation.search import Cell, Search
from jitlab.metrics.features import Extractor
from jitlab.metrics.inception import Inception
from jitlab.metrics.reference import Reference
from jitlab.report.ranking import twins

Found = Sequence[tuple[Cell, float]]
"""Cells with the value of the metric that decides."""


def amount_cautions(amounts: Amounts, searched: bool, extractor: Extractor) -> Iterator[str]:
    """Yield what too few images do to a covariance."""
    for images, what in ((amounts.images, "the search"), (amounts.final, "the final evaluation")):
        if images <= extractor.dimensions and (searched or what != "the search"):
            yield (
                f"{images:,} images of {what} have no covariance of full rank in {extractor.dimensions:,} dimensions: "
                "their distance is too large and compares with others of as many images alone"
            )


def reference_cautions(reference: Reference, extractor: Extractor) -> Iterator[str]:
    """Yield what is not known of the reference, or of the network that its features are of."""
    if reference.provenance is None:
        yield "the reference statistics are unverified: nothing says which images and features they are of"
    if reference.moments.n is not None and reference.moments.n <= extractor.dimensions:
        yield (
            f"the reference of {reference.moments.n:,} images has no covariance of full rank in "
            f"{extractor.dimensions:,} dimensions"
        )
    if isinstance(extractor, Inception) and not extractor.published:
        yield "Inception's weights are not the published ones: this FID compares with no other"


def search_cautions(search: Search, found: Found, winner: Cell) -> Iterator[str]:
    """Yield what makes a search doubtful: figures that agree to the last digit, a winner at the end of the scales."""
    if len(search.scales) > 1 and winner.scale == search.scales[-1]:
        yield (
            f"the best guidance scale, {winner.scale:g}, is the largest that was searched; a larger one may be better"
        )
    alike = next(twins({cell.name: (value,) for cell, value in found}), None)
    if alike:
        yield (
            f"{alike[0]} and {alike[1]} agree to the last digit: guidance or averaging has no effect, or something is "
            "computed twice"
        )
