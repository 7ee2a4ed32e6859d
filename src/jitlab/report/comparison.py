"""A comparison as the terminal shows it: figures side by side, what may be said of them, and a verdict on each."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from jitlab.errors import UserError
from jitlab.report.certificate import Certificate
from jitlab.report.closing import NOTHING, figure_text, spread_text
from jitlab.report.compared import Compared, read_compared
from jitlab.report.protocols import HASH_DIGITS, differing, fact_text
from jitlab.report.ranking import conclusions, ranking, twins
from jitlab.report.searched import UNGUIDED, found
from jitlab.report.verdict import verdict

# As many as fit beside each other with their spreads.
METRICS_A_TABLE = 4
SHOWN = 60
TOLD = ("features", "images", "seeds", "solver", "steps", "guidance_interval")
CERTIFIED = ("weights", "guidance", "searched", "unguided")
# The options of `jitlab evaluate` that decide fields of a protocol; the others follow from checkpoint and data.
OPTIONS = {
    **{
        key: f"sampler.{key}"
        for key in ("solver", "steps", "shift", "times", "churn", "guidance_interval", "clip_one_minus_t", "clip_t")
    },
    "features": "--features",
    "feature_weights_sha256": "--weights",
    "reference": "--reference",
    "images": "--final",
    "seeds": "--seeds",
    "search": "--search and --full",
    "search_images": "--images",
    "search_weights": "--search ema=",
    "search_scales": "--search cfg=",
}


def comparison(paths: Sequence[Path]) -> tuple[list[Table], list[str]]:
    """Lay what `paths` name side by side; return tables, and lines that say what may be made of them.

    Raises UserError for what cannot be read, and for certificates of different protocols: they are not to be ranked.
    """
    compared = read_compared(paths)
    measured = [one for one in compared if one.metric]
    different = _different(measured)
    if different and compared[0].certificate:
        raise UserError(_refusal(*different))
    values = {one.name: one.values[one.metric] for one in measured}
    ranks = {} if different else {ranked.name: ranked.rank for ranked in ranking(values)}
    order = sorted(compared, key=lambda one: ranks.get(one.name, len(compared) + 1))
    lines = [_protocol_line(compared)]
    lines += [f"not ranked: {_differences(*different)}"] if different else conclusions(values, _metric(measured))
    lines += [f"warning: {line}" for line in _warnings(order, values)]
    lines += ["", *_verdicts(order)]
    return list(_tables(order, ranks)), lines


def _tables(order: Sequence[Compared], ranks: Mapping[str, int]) -> Iterator[Table]:
    for table in _rows(order, ranks):
        # In a narrow terminal a name or a figure must not end in three dots.
        for column in table.columns:
            column.overflow = "fold"
        yield table


def _rows(order: Sequence[Compared], ranks: Mapping[str, int]) -> Iterator[Table]:
    first = Table()
    for head in ("rank", "name", *(CERTIFIED if order[0].certificate else ("seeds",))):
        first.add_column(head, justify="left" if head in ("name", "weights") else "right")
    deciding = list(dict.fromkeys(one.metric for one in order if one.metric))
    for key in deciding:
        first.add_column(Text(key), justify="right")
    for one in order:
        facts = _facts(one.certificate) if one.certificate else [str(max(map(len, one.values.values()), default=0))]
        first.add_row(str(ranks.get(one.name, NOTHING)), Text(one.name), *facts, *(_cell(one, key) for key in deciding))
    yield first
    others = list(dict.fromkeys(key for one in order for key in one.values if key not in deciding))
    for start in range(0, len(others), METRICS_A_TABLE):
        keys = others[start : start + METRICS_A_TABLE]
        table = Table("name")
        for key in keys:
            table.add_column(Text(key), justify="right")
        for one in order:
            table.add_row(Text(one.name), *(_cell(one, key) for key in keys))
        yield table


def _facts(certificate: Certificate) -> list[Text | str]:
    search = certificate.search
    searched = f"{len(search.cells)} x {search.images:,}" if search else NOTHING
    return [Text(certificate.weights), f"{certificate.guidance_scale:g}", searched, Text(_unguided(certificate))]


def _unguided(certificate: Certificate) -> str:
    """Return the figure without guidance, and beside it the winner's on the same images, which it compares with."""
    if certificate.guidance_scale == UNGUIDED:
        return "the same"
    cells = found(certificate)
    if cells is None or cells.unguided is None:
        return NOTHING
    guided = f" (guided {figure_text(cells.best)})" if cells.best is not None else ""
    return figure_text(cells.unguided) + guided


def _cell(one: Compared, key: str) -> str:
    return spread_text(one.values[key]) if one.values.get(key) else NOTHING


def _protocol_line(compared: Sequence[Compared]) -> str:
    certificate = compared[0].certificate
    if not certificate:
        return "as logged in training, the last evaluation of each run; jitlab evaluate makes certificates"
    protocol = certificate.protocol
    named = [f"{key} = {_shown(protocol[key])}" for key in TOLD if key in protocol]
    return f"protocol {certificate.protocol_hash[:HASH_DIGITS]}: {'; '.join(named)}"


def _metric(measured: Sequence[Compared]) -> str:
    return measured[0].metric if measured else ""


def _warnings(order: Sequence[Compared], values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    for one in order:
        yield from (f"{one.name}: {note}" for note in one.notes)
    certificates = {one.name: one.certificate for one in order}
    for name, other in twins(values):
        ours, theirs = certificates[name], certificates[other]
        same = ours and theirs and ours.checkpoint.get("sha256") == theirs.checkpoint.get("sha256")
        why = "they are of the same checkpoint" if same else "one is a copy, or a setting is without effect"
        yield f"{name} and {other} agree to the last digit: {why}"


def _verdicts(order: Sequence[Compared]) -> Iterator[str]:
    width = max(len(one.name) for one in order)
    for one in order:
        yield f"{one.name:<{width}}  {verdict(one.values).line}"


def _different(compared: Sequence[Compared]) -> tuple[Compared, Compared] | None:
    """Return the first that is of another protocol than the one before it, with that one."""
    pairs = itertools.pairwise(compared)
    return next(((one, other) for one, other in pairs if differing([one.protocol, other.protocol])), None)


def _differences(one: Compared, other: Compared) -> str:
    told = (
        f"{key} = {_shown(one.protocol.get(key))} and {_shown(other.protocol.get(key))}"
        for key in differing([one.protocol, other.protocol])
    )
    return f"{one.name} and {other.name} have {'; '.join(told)}"


def _refusal(one: Compared, other: Compared) -> str:
    keys = differing([one.protocol, other.protocol])
    options = [OPTIONS[key] for key in keys if key in OPTIONS]
    given = [key for key in keys if key not in OPTIONS]
    fix = [f"evaluate one of them again, with --fresh and the other's {', '.join(options)}"] if options else []
    fix += [f"what is of different {', '.join(given)} cannot be ranked"] if given else []
    return f"different protocols: {_differences(one, other)} ({one.path}, {other.path}); {'; '.join(fix)}"


def _shown(value: object) -> str:
    text = fact_text(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
