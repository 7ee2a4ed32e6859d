"""What a run's generated samples are measured by, put together and checked before anything is trained."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from jitlab.config.schema import Config
from jitlab.datasets.datamodule import ShardDataModule
from jitlab.datasets.spiral import SpiralDataModule
from jitlab.errors import UserError
from jitlab.metrics.features import INCEPTION, Extractor, build_extractor, metric_name
from jitlab.metrics.images import ImageMeasure
from jitlab.metrics.measure import Measure
from jitlab.metrics.points import PointMeasure
from jitlab.metrics.reference import Provenance, Reference, check_reference, read_reference
from jitlab.reference_statistics import CROP

DataModule = ShardDataModule | SpiralDataModule
Report = Callable[[str, int, int], None]
"""(what, images done, images in all): is told how far something is."""


def build_measure(
    config: Config, root: Path, datamodule: DataModule, device: torch.device, report: Report | None = None
) -> tuple[Measure, list[str]]:
    """Return what is measured of generated samples, and what the researcher should know of it.

    Raises UserError for weights of a network that are missing or damaged, for reference statistics that are, or that
    are not of these images and features, and for a single training image.
    """
    if isinstance(datamodule, SpiralDataModule):
        return PointMeasure(datamodule.true_points(config.evaluation.images), datamodule.projection), []
    if datamodule.reference_count < 2:
        raise UserError(f"{datamodule.what}: has one training image; to compare others with takes two or more")
    extractor = build_extractor(config.evaluation.features, device)
    reference = _reference(config, root, datamodule, extractor)
    images = partial(_told, datamodule, config.evaluation.batch_size, report)
    measure = ImageMeasure(images, config.model.patch_size, config.data.num_classes, extractor, reference)
    return measure, list(_doubts(config, datamodule, extractor, reference))


def check_measure(config: Config, root: Path, datamodule: DataModule) -> None:
    """Raise what `build_measure` would, on the CPU: before any process is started, or an earlier arm trained."""
    build_measure(config, root, datamodule, torch.device("cpu"))


def process_device() -> torch.device:
    """Return the device of this process among those that train a run together."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _told(datamodule: ShardDataModule, batch_size: int, report: Report | None) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    for images, labels in datamodule.reference_images(batch_size):
        yield images, labels
        done += len(images)
        if report:
            report("reading training images", done, datamodule.reference_count)


def _reference(config: Config, root: Path, datamodule: ShardDataModule, extractor: Extractor) -> Reference | None:
    named, size = config.evaluation.reference, config.data.image_size
    if not named:
        return None
    path = root / named
    if not path.is_file():
        sized = "" if datamodule.index.facts.image_size else f" --image-size {size}"
        raise UserError(
            f"evaluation.reference = {named}: there is no {path}; write it with jitlab evaluate reference --data "
            f"{datamodule.what} --features {extractor.name}{sized} --out {path}, or say evaluation.reference= with "
            "nothing behind it to compare with evaluation.reference_images training images"
        )
    reference = read_reference(path, extractor.dimensions)
    fingerprint = datamodule.index.fingerprint
    check_reference(path, reference, Provenance(extractor.name, extractor.weights_sha256, size, CROP, fingerprint))
    return reference


def _doubts(
    config: Config, datamodule: ShardDataModule, extractor: Extractor, reference: Reference | None
) -> Iterator[str]:
    key, dimensions = f"eval/{metric_name(extractor.name)}", extractor.dimensions
    counts = {"evaluation.images": config.evaluation.images}
    if reference is None:
        counts["evaluation.reference_images"] = datamodule.reference_count
    elif reference.moments.n:
        counts["evaluation.reference is of images"] = reference.moments.n
    for what, count in counts.items():
        if count <= dimensions:
            yield (
                f"{what} = {count}: so few have no covariance of full rank in the {dimensions} dimensions of "
                f"{extractor.name}, and {key} says little; use more than {dimensions}"
            )
    if reference and reference.provenance is None:
        yield (
            f"evaluation.reference = {config.evaluation.reference}: does not say what it is of, so nobody has checked "
            f"that {key} compares like with like; jitlab evaluate reference writes one that does"
        )
    if extractor.name == INCEPTION:
        # Here, for it takes seconds to import.
        from jitlab.metrics.inception import Inception

        assert isinstance(extractor, Inception)
        if not extractor.published:
            yield f"Inception's weights are not the published ones, so {key} compares with no published figure"
