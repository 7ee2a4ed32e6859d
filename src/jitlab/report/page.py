"""The frame of a page: one file that needs no other, no network and no script."""

from collections.abc import Iterable
from html import escape

from jitlab.report.style import CSS


def page(title: str, parts: Iterable[str]) -> str:
    """Return parts of HTML, of which empty ones are left out, as one whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
