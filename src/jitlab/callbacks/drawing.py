"""Pictures of generated samples: images side by side, points over the curve that they should lie on."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

Draw = Callable[[Tensor], Image.Image]
"""Generated samples (B, ...) on the CPU -> one picture of them all."""

COLUMNS = 8
POINTS_INCHES, POINTS_DPI = 4.0, 128
POINTS_LIMIT = 1.3
"""Half the width of a scatter plot; the true points have a radius of at most 1."""


def draw_images(images: Tensor) -> Image.Image:
    """Draw images (B, C, H, W) uint8 eight a row."""
    grid = make_grid(images, nrow=COLUMNS, padding=0)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def draw_points(projection: Tensor, curve: Tensor) -> Draw:
    """Return what draws points (B, D) by their coordinates in a plane, over the true curve.

    Args:
        projection: (D, 2), orthonormal columns that span the plane.
        curve: (n, 2), points of the true curve in their order.
    """

    def draw(samples: Tensor) -> Image.Image:
        # Here: most runs draw no points, and Matplotlib is slow to import.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        points = (samples @ projection).numpy()
        seen = (np.abs(points) <= POINTS_LIMIT).all(axis=1)
        figure = Figure(figsize=(POINTS_INCHES, POINTS_INCHES), dpi=POINTS_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot(curve[:, 0].numpy(), curve[:, 1].numpy(), color="#c3c8cf", linewidth=3)
        axes.scatter(points[seen, 0], points[seen, 1], s=5, color="#0072b2", linewidths=0)
        axes.set(xlim=(-POINTS_LIMIT, POINTS_LIMIT), ylim=(-POINTS_LIMIT, POINTS_LIMIT))
        axes.set_axis_off()
        if not seen.all():
            axes.text(
                0.5, 0.02, f"{(~seen).mean():.0%} outside", transform=axes.transAxes, ha="center", color="#5b6470"
            )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    return draw
