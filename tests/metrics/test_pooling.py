"""Metrics over two processes, of which one may have nothing: the values of one process."""

from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.spawn import spawn

from jitlab.metrics.accumulation import Total
from jitlab.metrics.class_structure import ClassStructure
from jitlab.metrics.features import Pixels
from jitlab.metrics.frechet import RunningMoments
from jitlab.metrics.images import ImageMeasure, ImageMeasurement
from jitlab.metrics.inception_score import InceptionScore
from jitlab.metrics.seams import squared_differences

IMAGES = 60
# Where the images of the first process end: also such that one process has none.
CUTS = (23, IMAGES, 0)


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(IMAGES, 5, generator=generator, dtype=torch.float64) + 3
    return vectors, torch.randint(256, (IMAGES, 3, 8, 8), generator=generator, dtype=torch.uint8)


def start() -> ImageMeasurement:
    """Begin a measurement of generated images against others, of which each class has a grey of its own."""
    _, images = draw()
    labels = torch.arange(IMAGES) % 3
    real = images.roll(1, 3) // 2 + (40 * labels).to(torch.uint8)[:, None, None, None]
    return ImageMeasure(lambda: [(real, labels)], 4, 3, Pixels()).start(torch.device("cpu"))


def measured(first: int, end: int, batch: int) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Return the values over all processes, and this one's states after them, where it has images first to end."""
    vectors, images = draw()
    moments, score, energy = RunningMoments(5), InceptionScore(IMAGES, 5), Total(2)
    structure = ClassStructure(5, 3)
    for numbers in torch.arange(first, end).split(batch) if end > first else ():
        moments.update(vectors[numbers])
        score.update(vectors[numbers], numbers.tolist())
        energy.update(squared_differences(images[numbers], 4))
        structure.update(vectors[numbers], numbers % 3)
    measurement = start()
    for numbers in torch.arange(first, end).split(batch) if end > first else ():
        measurement.add(images[numbers], numbers % 3)
    pooled = moments.compute()
    values = {
        "mean": pooled.mean,
        "covariance": pooled.covariance,
        "score": torch.tensor(score.compute(), dtype=torch.float64),
        "energy": energy.compute(),
        "structure": torch.tensor(structure.compute(), dtype=torch.float64),
        **{key: torch.tensor(value, dtype=torch.float64) for key, value in measurement.compute().items()},
    }
    return values, [value for metric in (moments, score, energy, structure) for value in metric.state().values()]


def work(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for number, cut in enumerate(CUTS):
        first, end = ((0, cut), (cut, IMAGES))[rank]
        values, states = measured(first, end, batch=7)
        torch.save(values, folder / f"{number}-{rank}")
        # Pooled for the values alone: a process goes on with what it saw itself.
        assert states[0][0, 0] == end - first
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_values_of_one(tmp_path):
    spawn(work, (tmp_path,), nprocs=2)
    alone, _ = measured(0, IMAGES, batch=11)
    assert {"eval/fd_pixels", "eval/off_manifold", "eval/seams", "eval/class_structure"} <= alone.keys()
    for part in [f"{number}-{rank}" for number in range(len(CUTS)) for rank in range(2)]:
        values = torch.load(tmp_path / part)
        for name, value in alone.items():
            torch.testing.assert_close(values[name], value, rtol=1e-12, atol=1e-12, msg=f"{name} of {part}")
        assert torch.equal(values["energy"], alone["energy"])


def test_batches_of_any_size_give_the_same_states():
    for small, large in zip(measured(0, IMAGES, 4)[1], measured(0, IMAGES, 50)[1], strict=True):
        torch.testing.assert_close(small, large, rtol=1e-12, atol=1e-12)
