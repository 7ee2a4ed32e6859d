"""The parts of the page that show pictures: sample grids side by side, and groups of curves."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape

from PIL import Image

from jitlab.report.closing import figure_text
from jitlab.report.figures import Line, metric_lines, noise_level_base, noise_level_lines, panel, svg
from jitlab.report.glossary import meaning
from jitlab.report.records import Experiment, Grid, Run, common_seed
from jitlab.report.sections import dot, legend

LARGEST_EXACT_BYTES = 100_000
JPEG_QUALITY = 90
PIXELS_WIDTH = 256
"""A picture up to this wide is enlarged on the page, where its pixels should stay squares; others are smoothed."""
_ERROR = re.compile(r"[^/]+/(x|eps|v)_mse")
_TEXTS = {
    "Held-out error": "Mean squared error in x, eps and v space on a fixed held-out batch with fixed noise:"
    " the same three for every arm, whatever it predicts.",
    "Training": "Mean squared error in x, eps and v space on the training batches, the same three for every"
    " arm; the loss is what each arm minimises itself.",
}
_AVERAGE = re.compile(r"ema([\d.]+)")


def samples(experiment: Experiment) -> str:
    """Return every arm's last sample grids under its name, averaged weights first."""
    several = any(len(experiment.of_arm(arm)) > 1 for arm in experiment.arms)
    columns = "".join(
        f"<div><h3>{dot(experiment, arm)}{escape(arm)}</h3>{_grids(experiment, arm, several)}</div>"
        for arm in experiment.arms
    )
    text = (
        "Noise and labels are the same in all arms, so the pictures can be laid on each other:"
        " what differs between two of the same step was caused by the arm. The exact files, and every earlier"
        " step, lie in each run’s folder under <code>samples/</code>."
    )
    if several:
        text += " One seed is shown."
    # Three beside each other where that leaves no gap: so predictions stand below their like.
    width = 3 if len(experiment.arms) % 3 == 0 else 4
    many = " many" if len(experiment.arms) > width else ""
    return (
        f'<section><h2>Samples</h2><p class="soft">{text}</p>'
        f'<div class="samples{many}" style="--columns: {width}">{columns}</div></section>'
    )


def noise_levels(experiment: Experiment) -> str:
    """Return the last errors over t: a panel each for x, eps and v space, all arms in each."""
    keyed = ((run, key, noise_level_base(key)) for run in experiment.runs for key in run.curves)
    bins = [(run, key, base) for run, key, base in keyed if base]
    bases = sorted({base for _, _, base in bins}, key=_space_order)
    panels = [(base, noise_level_lines(experiment, base)) for base in bases]
    last = {run.name: run.curves[key].steps[-1] for run, key, _ in bins}
    text = "The last errors on the fixed held-out batch, in bins of t."
    if len(set(last.values())) > 1:
        text += " Last step: " + ", ".join(f"{name} {step}" for name, step in last.items()) + "."
    return _group(experiment, "Error by noise level", text, panels, "t (0 noise, 1 data)")


def curves(experiment: Experiment) -> str:
    """Return the metrics over optimizer steps: evaluation, held-out and training, then all others folded."""
    keys = [key for key in experiment.metric_keys() if not noise_level_base(key)]
    groups = {
        "Evaluation": [key for key in keys if key.startswith("eval/")],
        "Held-out error": [key for key in keys if _ERROR.fullmatch(key) and key.startswith("val/")],
        "Training": [key for key in keys if _ERROR.fullmatch(key) and key.startswith("train/")],
    }
    groups["Training"] += [key for key in keys if key == "train/loss"]
    groups = {title: sorted(of_group, key=_space_order) for title, of_group in groups.items()}
    rest = [key for key in keys if not any(key in of_group for of_group in groups.values())]
    parts = [_metrics(experiment, title, of_group) for title, of_group in groups.items()]
    if rest:
        parts.append(f"<details><summary>Other metrics</summary>{_metrics(experiment, '', rest)}</details>")
    return "".join(parts) if keys else "<section><h2>Curves</h2><p>No run has logged a metric yet.</p></section>"


def embedded(content: bytes) -> tuple[str, int, int]:
    """Return a picture as a data URI with its width and height in pixels.

    One that would bloat the page (noise does not compress) becomes a JPEG with full colour resolution. Raises
    OSError, SyntaxError or ValueError where the picture is damaged.
    """
    with Image.open(io.BytesIO(content)) as image:
        pixels = image.convert("RGB")
    kind = "png"
    if len(content) > LARGEST_EXACT_BYTES:
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        kind, content = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", pixels.width, pixels.height


def image_tag(content: bytes, alt: str) -> str:
    """Return a picture inside the page; raises OSError, SyntaxError or ValueError where it is damaged."""
    source, width, height = embedded(content)
    sharp = ' class="pixels"' if width <= PIXELS_WIDTH else ""
    return f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}"{sharp}>'


def _metrics(experiment: Experiment, title: str, keys: Sequence[str]) -> str:
    panels = [(key, metric_lines(experiment, key)) for key in keys]
    return _group(experiment, title, _TEXTS.get(title, ""), panels, "step")


def _group(
    experiment: Experiment, title: str, text: str, panels: Sequence[tuple[str, Sequence[Line]]], x_label: str
) -> str:
    if not panels:
        return ""
    shown = legend(experiment, (line.run for _, lines in panels for line in lines))
    drawn = "".join(_panel(key, lines, x_label) for key, lines in panels)
    head = f"<h2>{escape(title)}</h2>" if title else ""
    head += f'<p class="soft">{escape(text)}</p>' if text else ""
    return f'<section>{head}{shown}<div class="panels">{drawn}</div></section>'


def _panel(key: str, lines: Sequence[Line], x_label: str) -> str:
    ends = ", ".join(f"{line.run} ends at {figure_text(line.y[-1])}" for line in lines)
    figure = panel(lines, x_label, log=None if x_label == "step" else True)
    drawing = svg(figure, f"{key} over {x_label.split()[0]}", f"{key} over {x_label}: {ends}")
    note = meaning(key) if key.startswith(("eval/", "train/loss")) else ""
    caption = f"{escape(key)}<small>{escape(note)}</small>" if note else escape(key)
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>"


def _space_order(key: str) -> tuple[int, str]:
    error = _ERROR.fullmatch(key)
    return (("x", "eps", "v").index(error[1]) if error else 3, key)


def _grids(experiment: Experiment, arm: str, several: bool) -> str:
    # Pictures of different seeds show different noise.
    seed = common_seed(run for run in experiment.runs if run.grids)
    drawn = sorted((run for run in experiment.of_arm(arm) if run.grids), key=lambda run: run.seed != seed)
    if not drawn:
        return '<p class="soft">No samples yet.</p>'
    run = drawn[0]
    return "".join(_grid(run, grid, f", seed {run.seed}" if several else "") for grid in run.last_grids())


def _grid(run: Run, grid: Grid, seed: str) -> str:
    average = _AVERAGE.fullmatch(grid.weights)
    weights = f"EMA {average[1]}" if average else f"{grid.weights} weights"
    caption = f"{weights}, step {grid.step}{seed}"
    try:
        image = image_tag(grid.path.read_bytes(), f"Sample grid of {run.name}, {caption}")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged picture
        text = f"{caption}: {grid.path.name} cannot be read ({error})."
        return f'<p class="soft">{escape(text)}</p>'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
