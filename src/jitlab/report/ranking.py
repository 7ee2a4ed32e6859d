"""Who is better, and by how much: an order by a metric, in which a difference within the spread is none."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jitlab.report.closing import figure_text, spread_text

Values = Mapping[str, Sequence[float]]
"""Figures, lower is better, by the names of what is compared; one for each seed."""


@dataclass(frozen=True)
class Ranked:
    """A name and its rank, from 1; those that share one do not differ by more than their seeds do."""

    rank: int
    name: str


def ranking(values: Values) -> tuple[Ranked, ...]:
    """Return all names, the lowest mean first; figures that are not finite go last and share a rank.

    A rank is shared with the first that has it by those whose means differ from its by no more than `spread`.
    """
    ranked: list[Ranked] = []
    first = ""
    for place, name in enumerate(sorted(values, key=lambda name: _mean(values[name])), start=1):
        if not ranked or _apart(values[first], values[name]):
            first, rank = name, place
        ranked.append(Ranked(rank, name))
    return tuple(ranked)


def spread(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how far two single figures are apart by chance: both sample standard deviations, squared, added, rooted.

    0 where both have one seed, which tells no spread.
    """
    return math.hypot(*(statistics.stdev(figures) for figures in (ours, theirs) if len(figures) > 1))


def conclusions(values: Values, metric: str) -> Iterator[str]:
    """Yield what may be said of the best: by how much it leads, or with whom it shares the lead."""
    order = ranking(values)
    if len(order) < 2:
        return
    leaders = [ranked.name for ranked in order if ranked.rank == 1]
    best = leaders[0]
    if not math.isfinite(_mean(values[best])):
        yield f"no {metric} is finite: nothing is best"
        return
    for other in leaders[1:]:
        apart = figure_text(_mean(values[other]) - _mean(values[best]))
        within = figure_text(spread(values[best], values[other]))
        yield f"{best} and {other} differ by {apart} in {metric}, no more than seeds do ({within}): neither is better"
    if len(leaders) == 1:
        second = order[1].name
        lead = _mean(values[second]) - _mean(values[best])
        below = f"{figure_text(lead)} below {second}" if math.isfinite(lead) else f"that of {second} is not finite"
        yield f"{best} has the lowest {metric}, {spread_text(values[best])}: {below}"
    single = [name for name in values if len(values[name]) == 1]
    if single:
        which = "one seed each" if len(single) == len(values) else f"one seed of {', '.join(single)}"
        yield f"{which}: --seeds 3 tells whether a difference is more than chance"


def twins(values: Values) -> Iterator[tuple[str, str]]:
    """Yield pairs of names whose figures agree to the last digit."""
    for (name, ours), (other, theirs) in itertools.combinations(values.items(), 2):
        if tuple(ours) == tuple(theirs):
            yield name, other


def _mean(figures: Sequence[float]) -> float:
    """Return the mean; infinity where it is not finite, so that it is last in an order."""
    mean = math.fsum(figures) / len(figures) if all(map(math.isfinite, figures)) else math.inf
    return mean if math.isfinite(mean) else math.inf


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    lower, higher = _mean(ours), _mean(theirs)
    if not math.isfinite(higher):
        return math.isfinite(lower)
    return higher - lower > spread(ours, theirs)
