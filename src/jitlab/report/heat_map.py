"""Figures in rows and columns, each on the colour of its height."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Lowest to highest: their lightness falls all the way, so that colour-blind readers and grey prints keep the order.
_COLORS = ((0xFD, 0xF6, 0xE8), (0xF3, 0xA8, 0x5F), (0xB3, 0x36, 0x4A), (0x4A, 0x12, 0x3F))
_BLACK, _WHITE = "#000000", "#ffffff"  # softer ones would leave colours in the middle that neither is read on
GRADIENT = ", ".join("#" + "".join(f"{part:02x}" for part in color) for color in _COLORS)
"""The same as CSS's linear-gradient takes it."""


@dataclass(frozen=True)
class Cell:
    """What is known of a place; without a finite value it has no colour and no point."""

    text: str
    value: float | None = None
    spread: float = 0.0
    failed: bool = False
    seeds: str = ""  # `1 of 3 seeds` where the value is of fewer than were asked for
    mark: str = ""  # what sets it apart, below its text
    tip: str = ""  # shown where the pointer rests


@dataclass(frozen=True)
class Scale:
    """Where figures stand between the palest and the darkest colour: values outside get the nearest of these."""

    low: float
    high: float
    logarithmic: bool

    def shade(self, value: float) -> tuple[str, str]:
        """Return the background of a finite value, and the text colour that is read on it."""
        at, low, high = (math.log(x) if self.logarithmic else x for x in (value, self.low, self.high))
        return _shade(min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.0)


def scale_of(values: Sequence[float], least: float = 10.0, most: float = math.inf) -> Scale:
    """Return a scale for finite values from their lowest to their highest, logarithmic where all are positive.

    Then the highest is at least `least` times the lowest, so that values close to each other look alike, and at most
    `most` times.
    """
    low, high = min(values, default=1.0), max(values, default=1.0)
    if low <= 0:
        return Scale(low, high, logarithmic=False)
    return Scale(low, min(max(high, low * least), low * most), logarithmic=True)


def shades(values: Sequence[float]) -> list[tuple[str, str]]:
    """Return a background and a text colour for each finite value, on a scale over at least a decade."""
    scale = scale_of(values)
    return [scale.shade(value) for value in values]


def heat_map(
    caption: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[int, int], Cell],
    scale: Scale | None = None,
) -> str:
    """Return a table of cells by the number of their row and column; places without one are empty.

    Without a scale the colours are those of `shades`.
    """
    values = [cell.value for cell in cells.values() if cell.value is not None]
    colors = scale or scale_of(values)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row)}</th>'
        + "".join(_cell(cells.get((i, j), Cell("")), colors) for j in range(len(columns)))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption><table><thead><tr><th>{escape(corner)}</th>{head}</tr>"
        f"</thead><tbody>{body}</tbody></table></figure>"
    )


def _cell(cell: Cell, scale: Scale) -> str:
    figure, sign, spread = cell.text.partition(" ± ")
    text = escape(figure) + (f"<small>± {escape(spread)}</small>" if sign else "")
    text += "".join(f"<small>{escape(note)}</small>" for note in (cell.seeds, cell.mark) if note)
    tip = f' title="{escape(cell.tip)}"' if cell.tip else ""
    if cell.value is not None:
        background, color = scale.shade(cell.value)
        return f'<td style="background: {background}; color: {color}"{tip}>{text}</td>'
    return f'<td class="open"{tip}>{text}</td>' if cell.failed else f"<td{tip}>{text}</td>"


def _shade(share: float) -> tuple[str, str]:
    """Return the background at a share of the scale in [0, 1], and the text colour that is read on it."""
    at = share * (len(_COLORS) - 1)
    left = min(int(at), len(_COLORS) - 2)
    pairs = zip(_COLORS[left], _COLORS[left + 1], strict=True)
    rgb = [round(a + (b - a) * (at - left)) for a, b in pairs]
    # Relative luminance of sRGB as WCAG 2 defines it; black and white stand out alike, by 4.58 : 1, at about 0.179.
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#" + "".join(f"{c:02x}" for c in rgb), _BLACK if luminance > 0.179 else _WHITE
