"""The part of an experiment's report that shows the evaluations of its runs, those of one protocol together."""

from collections.abc import Sequence
from html import escape

from jitlab.report.certificate import CERTIFICATE_FILE, EVALUATION_FOLDER, Certificate
from jitlab.report.closing import NOTHING, figure_text
from jitlab.report.glossary import meaning
from jitlab.report.protocols import HASH_DIGITS, HASH_TEXT, differing, fact_text
from jitlab.report.records import Experiment, Run
from jitlab.report.search_views import search_map, search_text
from jitlab.report.searched import UNGUIDED, found, value_text
from jitlab.report.sections import dot

MOST_KEYS, MOST_LETTERS = 8, 32
"""Of what sets a protocol apart: the certificate has all of it."""
Evaluated = tuple[Run, Certificate]
_HEADS = ("arm", "figure", "weights", "guidance scale", "unguided", "images", "seeds", "protocol")
_NUMBERS = ("figure", "guidance scale", "unguided", "images", "seeds")


def evaluations(experiment: Experiment) -> str:
    """Return the figures and searches of all runs that were evaluated; empty where none was."""
    done = [(run, run.certificate) for run in experiment.runs if run.certificate]
    damaged = [(run, run.certificate_problem) for run in experiment.runs if run.certificate_problem]
    if not done and not damaged:
        return ""
    groups: dict[tuple[str, str], list[Evaluated]] = {}
    for run, certificate in done:
        groups.setdefault((certificate.protocol_hash, certificate.metric), []).append((run, certificate))
    protocols = {certificate.protocol_hash: certificate.protocol for _, certificate in done}
    differ = differing(list(protocols.values()))
    faults = "".join(f"<li><b>{escape(run.name)}</b>: {escape(problem)}</li>" for run, problem in damaged)
    return (
        '<section><h2>Evaluations</h2><p class="soft">By <code>jitlab evaluate</code>. All that a figure rests on '
        f"is in <code>{EVALUATION_FOLDER}/{CERTIFICATE_FILE}</code> of its run. {HASH_TEXT}</p>"
        + (f'<div class="banner"><p><b>Cannot be read.</b></p><ul>{faults}</ul></div>' if faults else "")
        + (_mixed(len(protocols), differ) if differ else "")
        + "".join(_group(experiment, group, differ) for group in groups.values())
        + "</section>"
    )


def _mixed(protocols: int, differ: Sequence[str]) -> str:
    """Return that figures of several protocols must not be ranked, and in what these differ."""
    keys = ", ".join(f"<code>{escape(key)}</code>" for key in differ[:MOST_KEYS])
    keys += f" and {len(differ) - MOST_KEYS} more" if len(differ) > MOST_KEYS else ""
    return (
        f'<div class="banner"><p><b>{protocols} protocols: figures of different tables must not be ranked.</b></p>'
        f"<p>The protocols differ in {keys}.</p></div>"
    )


def _group(experiment: Experiment, group: Sequence[Evaluated], differ: Sequence[str]) -> str:
    """Return the table and the heat maps of evaluations of one metric under one protocol."""
    first = group[0][1]
    head = _apart(first, differ) if differ else ""
    names = [first.metric if name == "figure" else name for name in _HEADS]
    heads = "".join(
        f'<th scope="col"{_kind(column)}>{escape(name).replace("_", "_<wbr>")}</th>'
        for column, name in zip(_HEADS, names, strict=True)
    )
    rows = "".join(_row(experiment, run, certificate) for run, certificate in group)
    known = meaning(f"eval/{first.metric}")
    note = f"<li><code>{escape(first.metric)}</code>: {escape(known)}</li>" if known else ""
    return (
        f'{head}<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<ul class="notes">{note}<li>±: sample standard deviation over the seeds of an evaluation.</li></ul>'
        + "".join(_search(run, certificate) for run, certificate in group)
    )


def _apart(certificate: Certificate, differ: Sequence[str]) -> str:
    """Return the heading of a protocol, with what sets it apart from the others."""
    protocol = certificate.protocol
    told = [f"{key} = {_short(fact_text(protocol[key]))}" for key in differ if key in protocol]
    more = f"; {len(told) - MOST_KEYS} more" if len(told) > MOST_KEYS else ""
    text = "; ".join(told[:MOST_KEYS]) + more
    return f'<h3>Protocol {certificate.protocol_hash[:HASH_DIGITS]}</h3><p class="soft">{escape(text)}</p>'


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _kind(name: str) -> str:
    return ' class="number"' if name in _NUMBERS else ""


def _row(experiment: Experiment, run: Run, certificate: Certificate) -> str:
    images = certificate.protocol.get("images")
    cells = {
        "figure": escape(value_text(certificate, certificate.metric)),
        "weights": escape(certificate.weights),
        "guidance scale": f"{certificate.guidance_scale:g}",
        "unguided": _unguided(certificate),
        "images": f"{images:,}" if isinstance(images, int) else NOTHING,
        "seeds": str(len(certificate.values.get(certificate.metric, ()))),
        "protocol": f"<code>{certificate.protocol_hash[:HASH_DIGITS]}</code>",
    }
    body = "".join(f"<td{_kind(name)}>{cell}</td>" for name, cell in cells.items())
    warned = "".join(f"<small>{escape(warning)}</small>" for warning in certificate.warnings)
    note = f'<tr class="warned"><td colspan="{len(_HEADS)}">{warned}</td></tr>' if warned else ""
    return f'<tr><td class="arm">{dot(experiment, run.arm)}{escape(run.name)}</td>{body}</tr>{note}'


def _unguided(certificate: Certificate) -> str:
    """Return the figure without guidance, and beside it the winner's on the same images, which it compares with."""
    cells = found(certificate)
    if certificate.guidance_scale == UNGUIDED:
        return "the same"
    if cells is None or cells.unguided is None:
        return NOTHING
    best = f"<small>guided there {figure_text(cells.best)}</small>" if cells.best is not None else ""
    return figure_text(cells.unguided) + best


def _search(run: Run, certificate: Certificate) -> str:
    drawn = search_map(certificate, f"{run.name}: {certificate.metric} of the search")
    return f'<div class="searched">{drawn}<p class="soft">{escape(search_text(certificate))}</p></div>' if drawn else ""
