"""What a search goes through: which weights, at which guidance scales."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from jitlab.errors import UserError, nearest
from jitlab.report.searched import UNGUIDED

MOST_SCALES = 1000
WEIGHTS, SCALES = "ema", "cfg"


@dataclass(frozen=True, order=True)
class Cell:
    """Weights, `raw` or `ema` and a decay, and a guidance scale."""

    weights: str
    scale: float

    @property
    def name(self) -> str:
        """Return its name in files and tables."""
        return f"{self.weights}-cfg{self.scale}"


@dataclass(frozen=True)
class Search:
    """A grid of weights and rising guidance scales, the unguided one among them."""

    weights: Sequence[str]
    scales: Sequence[float]

    @property
    def cells(self) -> list[Cell]:
        """Return every cell of the grid."""
        return [Cell(weights, scale) for weights in self.weights for scale in self.scales]


def read_search(words: Sequence[str], known: Sequence[str], default: Search) -> Search:
    """Read `ema=all`, `ema=0.9999,raw`, `cfg=1.0:4.0:0.1` or `cfg=1,1.5,2`.

    Args:
        words: of the command line.
        known: the weights that the checkpoint has, such as `raw` and `ema0.9999`.
        default: what is searched where a word is missing.

    Raises:
        UserError: for a word, weights or numbers that cannot be.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in (WEIGHTS, SCALES) or not equals:
            elsewhere = "; sampler settings stand before --search" if "." in key else ""
            raise UserError(f"--search {word}: expected {WEIGHTS}=all or {SCALES}=1.0:4.0:0.1{elsewhere}")
        if key in given:
            raise UserError(f"--search {word}: {key} is there twice; leave one of them out")
        given[key] = value
    weights = _weights(given[WEIGHTS], known) if WEIGHTS in given else default.weights
    scales = _scales(given[SCALES]) if SCALES in given else default.scales
    return Search(weights, sorted({UNGUIDED, *scales}))


def coarse_to_fine(search: Search, value: Callable[[Sequence[Cell]], Sequence[float]]) -> dict[Cell, float]:
    """Return the values of some cells, the least of each weights among them where values fall and then rise.

    Every so many scales first, as many as there then lie between two of them; then those beside the best one.

    Args:
        search: the grid.
        value: of cells that are asked for together.
    """
    stride = max(1, round(len(search.scales) ** 0.5))
    places = {*range(0, len(search.scales), stride), len(search.scales) - 1, search.scales.index(UNGUIDED)}
    found: dict[Cell, float] = {}
    coarse = [Cell(weights, search.scales[place]) for weights in search.weights for place in sorted(places)]
    found |= dict(zip(coarse, value(coarse), strict=True))
    fine: list[Cell] = []
    for weights in search.weights:
        best = min(sorted(places), key=lambda place: found[Cell(weights, search.scales[place])])
        near = range(max(0, best - stride + 1), min(len(search.scales), best + stride))
        fine += [Cell(weights, search.scales[place]) for place in near if place not in places]
    return found | dict(zip(fine, value(fine), strict=True))


def read_weights(word: str, known: Sequence[str], option: str = "--ema") -> str:
    """Return the name of weights from `0.9999`, `ema0.9999` or `raw`; raises UserError where they are not `known`."""
    name = word if word == "raw" or word.startswith("ema") else f"ema{word}"
    if name not in known:
        raise UserError(f"{option} {word}: no such weights; {nearest(name, list(known))}")
    return name


def _weights(text: str, known: Sequence[str]) -> list[str]:
    if text == "all":
        return [name for name in known if name != "raw"]
    chosen = [read_weights(word, known, f"--search {WEIGHTS}={text}:") for word in text.split(",")]
    return list(dict.fromkeys(chosen))


def _scales(text: str) -> list[float]:
    try:
        if ":" not in text:
            return [_scale(Decimal(word), text) for word in text.split(",")]
        # In decimals: a step of 0.1 must arrive at 4.0, and 1.3 must be what 1.3 is elsewhere.
        first, last, step = map(Decimal, text.split(":"))
        if step <= 0 or last < first:
            raise UserError(f"--search {SCALES}={text}: holds no scale; expected FIRST:LAST:STEP that rise")
        # Before it is counted: a number of scales may have a million digits.
        if last - first >= MOST_SCALES * step:
            raise UserError(f"--search {SCALES}={text}: has more than {MOST_SCALES} scales; use a larger step")
        count = int((last - first) / step) + 1
    # InvalidOperation is of what is no number, Overflow of what is none that decimals hold.
    except (ArithmeticError, ValueError) as error:
        raise UserError(f"--search {SCALES}={text}: expected 1.0:4.0:0.1 or 1,1.5,2") from error
    return [_scale(first + number * step, text) for number in range(count)]


def _scale(value: Decimal, text: str) -> float:
    if not math.isfinite(float(value)) or value < 0:
        raise UserError(f"--search {SCALES}={text}: {value}: expected finite scales of 0 or more")
    return float(value)
