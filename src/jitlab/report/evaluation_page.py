"""One evaluation as a page of its own: the figure, the search that led there, and what it rests on."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jitlab.files import write_text
from jitlab.report.certificate import CERTIFICATE_FILE, Certificate, read_certificate
from jitlab.report.closing import figure_text
from jitlab.report.glossary import meaning, title
from jitlab.report.page import page
from jitlab.report.pictures import image_tag
from jitlab.report.protocols import HASH_DIGITS, HASH_TEXT, fact_text
from jitlab.report.search_views import every_cell, search_curves, search_map, search_text
from jitlab.report.searched import UNGUIDED, found, metrics, value_text

PAGE_FILE = "evaluation.html"
GRID = Path("samples") / "grid.png"


def write_page(folder: Path) -> Path:
    """Write evaluation.html beside the certificate in a folder; return its path.

    Raises UserError where the certificate is missing or damaged.
    """
    certificate = read_certificate(folder / CERTIFICATE_FILE)
    parts = (
        _header(certificate),
        _warnings(certificate),
        _headline(certificate),
        _metrics(certificate),
        _search(certificate),
        _samples(folder / GRID),
        _protocol(certificate),
        _origin(certificate),
    )
    path = folder / PAGE_FILE
    write_text(path, page(f"{certificate.name}, evaluation", parts))
    return path


def _header(certificate: Certificate) -> str:
    return (
        f'<header><p class="kicker">Certificate of an evaluation</p><h1>{escape(certificate.name)}</h1>'
        f'<p class="soft">Protocol {certificate.protocol_hash[:HASH_DIGITS]}</p></header>'
    )


def _warnings(certificate: Certificate) -> str:
    if not certificate.warnings:
        return ""
    listed = "".join(f"<li>{escape(warning)}</li>" for warning in certificate.warnings)
    return f'<div class="banner" role="status"><p><b>Warnings</b></p><ul>{listed}</ul></div>'


def _headline(certificate: Certificate) -> str:
    """Return the figure that decides, what it is of, and what guidance is worth."""
    seeds = len(certificate.values.get(certificate.metric, ()))
    images = certificate.protocol.get("images")
    each = " at each seed" if seeds > 1 else ""
    amount = f"{images:,} images{each}" if isinstance(images, int) else ""
    over = f"mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so without a spread"
    facts = [
        _fact(title(certificate.metric), value_text(certificate, certificate.metric), amount, over),
        _fact("weights", certificate.weights),
        _fact("guidance scale", f"{certificate.guidance_scale:g}"),
    ]
    cells = found(certificate)
    if certificate.guidance_scale == UNGUIDED:
        facts.append(_fact("unguided", "the same", "a guidance scale of 1 is no guidance"))
    elif cells and cells.unguided is not None:
        best = f"guided there: {figure_text(cells.best)}" if cells.best is not None else ""
        where = f"same weights, on the search’s {certificate.search.images:,} images" if certificate.search else ""
        facts.append(_fact("unguided", figure_text(cells.unguided), where, best))
    return f'<div class="facts">{"".join(facts)}</div>'


def _fact(name: str, figure: str, *notes: str) -> str:
    small = "".join(f"<small>{escape(note)}</small>" for note in notes if note)
    return f"<div><span>{escape(name)}</span><b>{escape(figure)}</b>{small}</div>"


def _metrics(certificate: Certificate) -> str:
    rows = "".join(_metric(certificate, name) for name in metrics(certificate))
    head = '<th scope="col">metric</th><th scope="col" class="number">mean ± spread</th>'
    return (
        f'<section><h2>Metrics</h2><div class="wide"><table class="metrics"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _metric(certificate: Certificate, name: str) -> str:
    each, words = certificate.values[name], escape(meaning(f"eval/{name}"))
    seeds = f"<small>{', '.join(map(figure_text, each))}</small>" if len(each) > 1 else ""
    return (
        f"<tr><td><code>{escape(name).replace('_', '_<wbr>')}</code><small>{words}</small></td>"
        f'<td class="number">{escape(value_text(certificate, name))}{seeds}</td></tr>'
    )


def _search(certificate: Certificate) -> str:
    drawn = search_map(certificate, certificate.metric)
    drawn += search_curves(certificate) + every_cell(certificate)
    return f'<section><h2>Search</h2><p class="soft">{escape(search_text(certificate))}</p>{drawn}</section>'


def _samples(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        shown = f'<figure class="grid">{image_tag(path.read_bytes(), "The first images of the evaluation")}</figure>'
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged picture
        shown = f'<p class="soft">{escape(f"{path.name} cannot be read ({error}).")}</p>'
    text = "The first images of the final evaluation, as they came: none was chosen."
    return f'<section><h2>Samples</h2><p class="soft">{text}</p>{shown}</section>'


def _protocol(certificate: Certificate) -> str:
    return (
        f"<section><h2>Protocol</h2>{_table(certificate.protocol)}"
        f'<p>Protocol hash <code class="hash">{certificate.protocol_hash}</code></p><p class="soft">{HASH_TEXT}</p>'
        "</section>"
    )


def _origin(certificate: Certificate) -> str:
    facts = {f"checkpoint {key}": value for key, value in certificate.checkpoint.items()}
    return (
        f"<section><h2>Made from</h2>{_table({**facts, 'hardware': certificate.hardware})}"
        f"<h2>Versions</h2>{_table(certificate.versions)}</section>"
    )


def _table(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key)).replace("_", "_<wbr>")}</th><td>{escape(fact_text(value))}</td></tr>'
        for key, value in facts.items()
    )
    return f'<table class="facts-table"><tbody>{rows}</tbody></table>'
