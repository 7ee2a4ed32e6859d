"""The denoising strips: how samples came out of the noise, all arms under each other."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from jitlab.report.pictures import image_tag
from jitlab.report.records import Experiment, Run, common_seed
from jitlab.report.sections import dot

LARGEST_CELL = 96
"""Pixels; a cell is shown smaller than that, so that a larger one would only make the page heavy."""
GAP_SHARE = 1 / 16
_TEXT = (
    "From noise (t = 0) to sample (t = 1) at the end of training, with averaged weights: <b>z</b> is the noisy state"
    " that the network sees at t, <b>x</b> the clean sample that it predicts from it, as in the lower part of the"
    " paper’s Figure 7. Noise and labels are the same in all arms."
)


@dataclass(frozen=True)
class Strip:
    """One run's strip: for each sample a row of z and a row of x, over the same times."""

    run: Run
    times: tuple[str, ...]
    samples: tuple[tuple[Image.Image, Image.Image], ...]


def strips(experiment: Experiment) -> str:
    """Return a table for each sample, in which all arms stand under each other; empty where no run has a strip."""
    seed = common_seed(run for run in experiment.runs if run.strip)
    if seed is None:
        return ""
    shown, absent, faults = list[Strip](), list[str](), list[str]()
    for arm in experiment.arms:
        runs = sorted((run for run in experiment.of_arm(arm) if run.strip), key=lambda run: run.seed != seed)
        if not runs or runs[0].strip is None:
            absent.append(arm)
            continue
        try:
            shown.append(read_strip(runs[0], runs[0].strip))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged picture
            faults.append(f"{runs[0].name}: {runs[0].strip.name} cannot be read ({error}).")
    notes = [*faults, *([f"No strip: {', '.join(absent)}."] if absent else [])]
    several = any(len(experiment.of_arm(arm)) > 1 for arm in experiment.arms)
    return (
        f'<section><h2>From noise to sample</h2><p class="soft">{_TEXT}{" One seed is shown." if several else ""}</p>'
        f'<div class="strips">{"".join(_tables(experiment, shown))}</div>'
        + "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)
        + "</section>"
    )


def read_strip(run: Run, path: Path) -> Strip:
    """Cut a run's strip into rows.

    Raises OSError, SyntaxError or ValueError where the picture is damaged or does not say its times.
    """
    with Image.open(path) as image:
        times = tuple(f"{float(t):.2g}" for t in str(image.info.get("t", "")).split())
        pixels = image.convert("RGB")
    cell = pixels.width // max(1, len(times))
    if not times or pixels.width % len(times) or pixels.height % (2 * cell):
        raise ValueError("its size does not fit its times")
    rows = [_row(pixels, cell, len(times), top) for top in range(0, pixels.height, cell)]
    return Strip(run, times, tuple(zip(rows[::2], rows[1::2], strict=True)))


def _row(pixels: Image.Image, cell: int, count: int, top: int) -> Image.Image:
    """Return a row of cells with half a gap on either side of each, so that they stand below equal columns."""
    size = min(cell, LARGEST_CELL)
    gap = max(2, round(size * GAP_SHARE))
    row = Image.new("RGB", ((size + gap) * count, size), "white")
    for place in range(count):
        part = pixels.crop((place * cell, top, (place + 1) * cell, top + cell))
        if size < cell:
            part = part.resize((size, size), Image.Resampling.LANCZOS)
        row.paste(part, ((size + gap) * place + gap // 2, 0))
    return row


def _tables(experiment: Experiment, shown: Sequence[Strip]) -> list[str]:
    tables = []
    # Arms that were sampled on other time grids cannot stand under the same heading.
    for times in dict.fromkeys(strip.times for strip in shown):
        alike = [strip for strip in shown if strip.times == times]
        heads = "".join(f'<th scope="col">{escape(t)}</th>' for t in times)
        for sample in range(max(len(strip.samples) for strip in alike)):
            arms = "".join(_arm(experiment, strip, sample) for strip in alike if sample < len(strip.samples))
            tables.append(f"<table><thead><tr><th><i>t</i></th>{heads}</tr></thead>{arms}</table>")
    return tables


def _arm(experiment: Experiment, strip: Strip, sample: int) -> str:
    name = f", sample {sample + 1}," if len(strip.samples) > 1 else ""
    z, x = strip.samples[sample]
    rows = _tr(strip, "noisy z", z, f"Noisy z{name}") + _tr(strip, "predicted x", x, f"Predicted x{name}")
    arm = f"{dot(experiment, strip.run.arm)}{escape(strip.run.name)}"
    return f'<tbody><tr><th scope="rowgroup" colspan="{len(strip.times) + 1}">{arm}</th></tr>{rows}</tbody>'


def _tr(strip: Strip, head: str, row: Image.Image, what: str) -> str:
    picture = _picture(strip, row, what)
    return f'<tr><th scope="row">{head}</th><td colspan="{len(strip.times)}">{picture}</td></tr>'


def _picture(strip: Strip, row: Image.Image, what: str) -> str:
    encoded = io.BytesIO()
    row.save(encoded, "PNG")
    return image_tag(encoded.getvalue(), f"{what} of {strip.run.name} at t = {', '.join(strip.times)}")
