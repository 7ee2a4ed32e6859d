"""Pictures of generated samples: images side by side, points over the curve that they should lie on."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from jitlab.files import write_bytes

Draw = Callable[[Tensor], Image.Image]
"""Generated samples (B, ...) on the CPU -> one picture of them all."""

COLUMNS = 8
POINTS_INCHES, STRIP_INCHES, POINTS_DPI = 4.0, 1.5, 128
POINTS_LIMIT = 1.3
"""Half the width of a scatter plot; the true points have a radius of at most 1."""


def draw_images(images: Tensor, columns: int = COLUMNS) -> Image.Image:
    """Draw images (B, C, H, W) uint8, so many a row."""
    grid = make_grid(images, nrow=columns, padding=0)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def write_png(path: Path, picture: Image.Image) -> Path:
    """Replace `path` by a picture atomically, and return it."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())
    return path


def draw_strip(groups: Sequence[Tensor], draw: Draw) -> Image.Image:
    """Draw a row of z_t and, below it, one of the predicted x over t for each group of samples.

    Args:
        groups: (B, 2, T, ...) each, as `Trajectory.rows` returns them; the samples of a group share their cells.
        draw: draws a cell; its pictures must be of one size.
    """
    rows = [[draw(cell) for cell in row.unbind(1)] for group in groups for row in group.unbind(1)]
    width, height = rows[0][0].size
    strip = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            strip.paste(cell, (width * j, height * i))
    return strip


def draw_points(projection: Tensor, curve: Tensor, inches: float) -> Draw:
    """Return what draws points (B, D) by their coordinates in a plane, over the true curve.

    Args:
        projection: (D, 2), orthonormal columns that span the plane.
        curve: (n, 2), points of the true curve in their order.
        inches: width and height of the picture.
    """
    scale = inches / POINTS_INCHES

    def draw(samples: Tensor) -> Image.Image:
        # Here: most runs draw no points, and Matplotlib is slow to import.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        points = (samples @ projection).numpy()
        seen = (np.abs(points) <= POINTS_LIMIT).all(axis=1)
        figure = Figure(figsize=(inches, inches), dpi=POINTS_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot(curve[:, 0].numpy(), curve[:, 1].numpy(), color="#c3c8cf", linewidth=3 * scale)
        axes.scatter(points[seen, 0], points[seen, 1], s=5 * scale, color="#0072b2", linewidths=0)
        axes.set(xlim=(-POINTS_LIMIT, POINTS_LIMIT), ylim=(-POINTS_LIMIT, POINTS_LIMIT))
        axes.set_axis_off()
        if not seen.all():
            share = (~seen).mean()
            axes.text(
                0.5,
                0.03,
                f"{share:.0%} outside" if share >= 0.01 else "<1% outside",
                transform=axes.transAxes,
                ha="center",
                color="#5b6470",
                fontsize=13,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
            )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    return draw
