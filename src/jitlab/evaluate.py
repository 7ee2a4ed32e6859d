"""Evaluates a checkpoint: a search over averages and guidance scales, the winner in full, the certificate of both."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torchvision.transforms.functional import pil_to_tensor

from jitlab import build
from jitlab.build_measure import process_device
from jitlab.callbacks.drawing import draw_images, write_png
from jitlab.callbacks.stop import StopRequest
from jitlab.checkpoint_files import Checkpoint, open_checkpoint
from jitlab.config.schema import Config
from jitlab.datasets import spiral
from jitlab.datasets.parallel import cores
from jitlab.errors import UserError
from jitlab.evaluation import cautions
from jitlab.evaluation.folder import EvaluationFolder
from jitlab.evaluation.generation import RAW
from jitlab.evaluation.generator import Job, Pool
from jitlab.evaluation.mirror import Mirror
from jitlab.evaluation.observation import columns
from jitlab.evaluation.protocol import Amounts, protocol
from jitlab.evaluation.scores import Truth
from jitlab.evaluation.search import Cell, Search, read_search, read_weights
from jitlab.evaluation.stages import Stages
from jitlab.evaluation.subject import FileState, Subject, find_subject
from jitlab.evaluation.truth import RealImages, at
from jitlab.metrics.features import Extractor, build_extractor
from jitlab.metrics.reference import Reference
from jitlab.report.certificate import (
    CERTIFICATE_FILE,
    Certificate,
    Searched,
    SearchedCell,
    read_certificate,
    write_certificate,
)
from jitlab.report.evaluation_page import write_page
from jitlab.report.folders import EXPERIMENT_FILE
from jitlab.report.render import write_report
from jitlab.sampling_config import sampling_config

# Far from the seeds of the final evaluation, which count from 0: other images choose the winner than judge it.
SEARCH_SEED = 1_000_000
GRID_IMAGES, GRID_FILE = 80, "grid.png"
MOST_IMAGES, MOST_SEEDS = 10_000_000, 1000
PACKAGES = ("jitlab", "torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "scipy")


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how.

    Args:
        target: a run's folder or a checkpoint.
        words: `sampler.KEY=VALUE`.
        search: `ema=...` and `cfg=...`; None to evaluate one average at the checkpoint's own guidance scale.
        ema: the decay of that average, or `raw`; None for the first one.
        full: whether every cell of the search is looked at.
        images: generated for every cell of the search.
        final: generated for the winner at each seed.
        seeds: how many seeds the winner is evaluated at.
        features: name of the extractor; None for the run's own.
        weights: its file of weights; None for the published ones.
        reference: file of the reference statistics; None for those of the training images.
        data: folder or URL of the training images; None for the run's own.
        batch_size: images generated at a time on a device; None for the run's own.
        devices: that generate; None for all GPUs, or one process without any.
        save: how many of the first final images are kept as files.
        out: folder of the evaluation; None for one beside the checkpoint.
        fresh: whether to delete what another evaluation left there.
    """

    target: Path
    words: Sequence[str]
    search: Sequence[str] | None
    ema: str | None
    full: bool
    images: int
    final: int
    seeds: int
    features: str | None
    weights: Path | None
    reference: Path | None
    data: str | None
    batch_size: int | None
    devices: int | None
    save: int
    out: Path | None
    fresh: bool


@dataclass(frozen=True)
class Plan:
    """All that is decided and checked before anything is generated; `own` is what is evaluated without a search."""

    request: Request
    subject: Subject
    state: FileState
    step: int
    config: Config
    search: Search | None
    own: Cell
    decays: Sequence[float]
    amounts: Amounts
    extractor: Extractor
    reference: Reference
    real: RealImages
    protocol: Mapping[str, Any]

    @property
    def asked(self) -> dict[str, Any]:
        """Return all that the figures and files of the evaluation depend on."""
        own = {} if self.search else {"weights": self.own.weights, "guidance_scale": self.own.scale}
        others = {"patch_images": self.real.patch_images, "save": self.request.save}
        return {**self.protocol, **own, "checkpoint": self.state.sha256, **others}

    @property
    def devices(self) -> int:
        """Return how many processes generate."""
        return self.request.devices or max(1, torch.cuda.device_count())


@dataclass(frozen=True)
class Evaluated:
    """A certificate and the pages that show it; `report` is that of the run's experiment, which may not be there."""

    certificate: Certificate
    file: Path
    page: Path
    report: Path | None


def evaluate(request: Request, root: Path, console: Console) -> Evaluated:
    """Evaluate a checkpoint, and show the certificate on a page, in the experiment's report and in MLflow.

    What was done before an interruption is not done again, and the certificate is the same to the bit.

    Raises:
        UserError: for what is missing, does not fit, or was asked otherwise of the same folder.
        RunError: where a process was killed, or images are not finite.
        StoppedError: where the user stopped it; the same request goes on from there.
    """
    subject = find_subject(request.target)
    mirror = Mirror(root, subject)
    plan = _plan(request, subject, root, console)
    folder = EvaluationFolder(request.out or plan.subject.out)
    path = folder.path / CERTIFICATE_FILE
    stop = StopRequest()
    with folder.held(plan.asked, request.fresh), stop.listening():
        if not path.exists():
            write_certificate(path, _carried_out(plan, folder, root, console, stop))
        folder.finish()
        certificate = read_certificate(path)
        page = write_page(folder.path)
        mirror.show(certificate, path)
    experiment = plan.subject.run.parent if plan.subject.run and folder.path == plan.subject.out else None
    report = write_report(experiment) if experiment and (experiment / EXPERIMENT_FILE).exists() else None
    return Evaluated(certificate, path, page, report)


def _plan(request: Request, subject: Subject, root: Path, console: Console) -> Plan:
    state = subject.state()
    checkpoint = open_checkpoint(subject.checkpoint)
    state.check(subject.checkpoint)
    config = at(sampling_config(checkpoint, request.words), request.data)
    _check(request, subject, config)
    search, own = _search(request, checkpoint, config)
    features = request.features or config.evaluation.features
    real = RealImages(config, root, _data_of(subject, checkpoint), _named_reference(request, config, features, root))
    extractor = build_extractor(features, process_device(), request.weights)
    reference = real.reference(extractor, process_device(), console)
    amounts = Amounts(request.images, request.final, tuple(range(request.seeds)), SEARCH_SEED)
    weights = set(search.weights if search else [own.weights])
    return Plan(
        request=request,
        subject=subject,
        state=state,
        step=checkpoint.content["global_step"],
        config=config,
        search=search,
        own=own,
        decays=[float(decay) for decay in checkpoint.averages if f"ema{decay}" in weights],
        amounts=amounts,
        extractor=extractor,
        reference=reference,
        real=real,
        protocol=protocol(config, search, request.full, amounts, extractor, reference),
    )


def _carried_out(plan: Plan, folder: EvaluationFolder, root: Path, console: Console, stop: StopRequest) -> Certificate:
    """Do what is left to be done, and return the certificate."""
    patches = plan.real.patches(process_device())
    job = Job(
        checkpoint=plan.subject.checkpoint,
        state=plan.state,
        config=plan.config,
        decays=plan.decays,
        features=plan.extractor.name,
        weights=plan.request.weights,
        patches=patches,
        samples=folder.samples,
        devices=plan.devices,
    )
    truth = Truth(plan.extractor.name, plan.reference, patches, plan.config.data.num_classes)
    stages = Stages(
        folder=folder,
        pool=Pool(job, plan.extractor, console, stop),
        columns=columns(plan.extractor, patches),
        truth=truth,
        amounts=plan.amounts,
        batch_size=plan.request.batch_size or plan.config.evaluation.batch_size,
        device=process_device(),
    )
    found = stages.search(plan.search, plan.request.full) if plan.search else {}
    winner = min(found, key=lambda cell: found[cell][truth.metric]) if found else plan.own
    final = stages.final(winner, plan.request.save)
    if plan.request.save:
        _write_grid(folder.samples)
    cells = tuple(SearchedCell(cell.weights, cell.scale, scores) for cell, scores in found.items())
    return Certificate(
        name=plan.subject.name,
        checkpoint={
            "file": _from_root(plan.subject.checkpoint, root),
            "sha256": plan.state.sha256,
            "step": plan.step,
            "patch_size": plan.config.model.patch_size,
            "patches_held_to_images": plan.real.patch_images,
        },
        metric=truth.metric,
        weights=winner.weights,
        guidance_scale=winner.scale,
        values={name: tuple(scores[name] for scores in final) for name in final[0]},
        search=Searched(plan.amounts.images, SEARCH_SEED, plan.request.full, cells) if plan.search else None,
        protocol=plan.protocol,
        warnings=tuple(_warnings(plan, winner, {cell: scores[truth.metric] for cell, scores in found.items()})),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        hardware=build.hardware(plan.devices),
    )


def _warnings(plan: Plan, winner: Cell, found: Mapping[Cell, float]) -> Iterator[str]:
    if plan.subject.unfinished:
        yield f"the run was not complete: this is its checkpoint of step {plan.step:,}"
    yield from cautions.amount_cautions(plan.amounts, plan.search is not None, plan.extractor)
    yield from cautions.reference_cautions(plan.reference, plan.extractor)
    if plan.search:
        yield from cautions.search_cautions(plan.search, list(found.items()), winner)


def _check(request: Request, subject: Subject, config: Config) -> None:
    if config.data.source == spiral.NAME:
        raise UserError(f"{subject.checkpoint}: its samples are points, not images; training measures them: eval/*")
    amounts = {"--final": request.final, **({"--images": request.images} if request.search is not None else {})}
    for option, images in amounts.items():
        fewest = max(2, config.data.num_classes)
        if images > MOST_IMAGES:
            raise UserError(f"{option} {images}: expected {MOST_IMAGES} or fewer")
        if images < fewest:
            raise UserError(
                f"{option} {images}: fewer than one image of each class; {subject.checkpoint} knows "
                f"{config.data.num_classes} classes: use {fewest} or more"
            )
    if request.seeds > MOST_SEEDS:
        raise UserError(f"--seeds {request.seeds}: expected {MOST_SEEDS} or fewer")
    if request.save > request.final:
        raise UserError(f"--save {request.save}: more than the {request.final} images of --final; use at most that")
    gpus = torch.cuda.device_count()
    have, what = (gpus, "GPUs") if gpus else (cores(), "CPU cores and no GPU")
    if (request.devices or 1) > have:
        raise UserError(f"--devices {request.devices}: this machine has {have} {what}; use at most that")


def _search(request: Request, checkpoint: Checkpoint, config: Config) -> tuple[Search | None, Cell]:
    """Return what is searched, and what is evaluated without a search."""
    known = [*(f"ema{decay}" for decay in checkpoint.averages), RAW]
    own = Cell(known[0], config.sampler.guidance_scale)
    if request.search is None:
        return None, own if request.ema is None else Cell(read_weights(request.ema, known), own.scale)
    if request.ema is not None:
        raise UserError(f"--ema {request.ema}: a search chooses the average; use --search ema={request.ema}")
    return read_search(request.search, known, Search([own.weights], [own.scale])), own


def _data_of(subject: Subject, checkpoint: Checkpoint) -> str | None:
    """Return the fingerprint of the data that a checkpoint was trained on, where that is known."""
    if subject.record:
        return subject.record.data_fingerprint
    fingerprint: str | None = checkpoint.content.get(build.DATA_POSITION_KEY, {}).get("fingerprint")
    return fingerprint


def _named_reference(request: Request, config: Config, features: str, root: Path) -> Path | None:
    # The run's own is of the run's own features.
    own = config.evaluation.reference if features == config.evaluation.features else ""
    return request.reference or (root / own if own else None)


def _write_grid(samples: Path) -> None:
    files = sorted(path for path in samples.glob("*.png") if path.name != GRID_FILE)[:GRID_IMAGES]
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(pil_to_tensor(image))
    write_png(samples / GRID_FILE, draw_images(torch.stack(images)))


def _from_root(path: Path, root: Path) -> str:
    found = path.resolve()
    return str(found.relative_to(root) if found.is_relative_to(root) else found)
