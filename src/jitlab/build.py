"""From a resolved configuration to objects: the only place where settings become constructor arguments."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console

from jitlab.build_measure import DataModule, build_measure, process_device
from jitlab.callbacks.checkpointing import Checkpointing
from jitlab.callbacks.damage_count import DamageCount
from jitlab.callbacks.drawing import POINTS_INCHES, STRIP_INCHES, Draw, draw_images, draw_points
from jitlab.callbacks.ema import Ema
from jitlab.callbacks.evaluation import Evaluation, EvaluationSettings
from jitlab.callbacks.ledger import Ledger
from jitlab.callbacks.progress import TerminalProgress
from jitlab.callbacks.sample_grid import SampleGrid
from jitlab.callbacks.saved_config import SavedConfig
from jitlab.callbacks.stop import StopRequest
from jitlab.callbacks.strip import DenoisingStrip, strip_numbers
from jitlab.callbacks.throughput import Throughput
from jitlab.callbacks.training_log import TrainingLog
from jitlab.config import load, schema
from jitlab.config.schema import Config, Data, Model
from jitlab.datasets import digits, imagenet, spiral
from jitlab.datasets.cache import GIGABYTE, ShardCache
from jitlab.datasets.damage import DAMAGE_FILE, Damage, damaged_samples
from jitlab.datasets.datamodule import Reading, ShardDataModule
from jitlab.datasets.index import INDEX_FILE, Index
from jitlab.datasets.remote import is_remote
from jitlab.datasets.spiral import SpiralDataModule
from jitlab.datasets.store import open_store
from jitlab.diffusion.objective import Objective
from jitlab.diffusion.path import Clip
from jitlab.errors import UserError
from jitlab.models.cost import Cost, cost
from jitlab.models.jit import JiT
from jitlab.models.mlp import MLP
from jitlab.randomness import seeded
from jitlab.training.checkpoints import AtomicCheckpointIO
from jitlab.training.module import JiTModule, SamplerSettings
from jitlab.training.optim import OptimizerSettings
from jitlab.training.signal import Signal, image_signal, point_signal

# Where Lightning keeps the position in a run's images.
DATA_POSITION_KEY = ShardDataModule.__qualname__
CHANNELS = 3
# What to do where the shards of a source are missing.
REMEDIES = {digits.NAME: digits.remedy, imagenet.NAME: imagenet.remedy}
SETTLED_WARNINGS = (
    ".*GPU available but not used.*",
    ".*dataloader is not resumable.*",
    ".*does not have many workers.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    # Of the patch embedding's 1 x 1 convolution when compiled: a copy of a small tensor.
    ".*Grad strides do not match bucket view strides.*",
)


def data_path(config: Config, root: Path) -> str:
    """Return the folder of the shards, where a relative one is below the repository, or their URL."""
    return config.data.path if is_remote(config.data.path) else str(root / config.data.path)


def data_place(config: Config, root: Path) -> str:
    """Say where the samples come from, for messages."""
    return "the spiral" if config.data.source == spiral.NAME else data_path(config, root)


def num_classes(config: Config) -> int:
    """Return the number of classes; points have one."""
    return spiral.NUM_CLASSES if config.data.source == spiral.NAME else config.data.num_classes


def build_data(config: Config, root: Path) -> Index | None:
    """Build the shards where they are missing and can be made from what is installed; return their index if so."""
    if config.data.source != digits.NAME or is_remote(config.data.path):
        return None
    folder = root / config.data.path
    if (folder / INDEX_FILE).exists():
        return None
    return digits.build_digits(folder, config.data.image_size)


def build_datamodule(
    config: Config, root: Path, run: Path | None = None, allow_batch_change: bool = False
) -> DataModule:
    """Open the data.

    Args:
        config: of the run.
        root: the repository.
        run: the run's folder, where damaged samples that are tolerated are written down; None tolerates none.
        allow_batch_change: whether to go on from a state with another batch size.

    Raises:
        UserError: where shards are missing, damaged or others than the settings say.
        RunError: where a server stays away or silent.
    """
    data, batch_size = config.data, config.train.batch_size
    if data.source == spiral.NAME:
        return SpiralDataModule(data.ambient_dim, batch_size, config.seed, data.workers, allow_batch_change)
    path = data_path(config, root)
    cache = ShardCache(root / data.cache, int(data.cache_gb * GIGABYTE))
    index, store = open_store(path, REMEDIES[data.source](path, data.image_size), cache)
    return ShardDataModule(
        path,
        index,
        store,
        reading=Reading(
            image_size=data.image_size,
            num_classes=data.num_classes,
            decoder=data.decoder,  # type: ignore[arg-type]
            flip=data.flip,
            seed=config.seed,
            window=data.window_shards,
            partitions=data.partitions,
        ),
        batch_size=batch_size,
        workers=data.workers,
        reference_count=config.evaluation.reference_images,
        damage=Damage(run / DAMAGE_FILE, data.skip_damaged) if run and data.skip_damaged else None,
        allow_batch_change=allow_batch_change,
    )


def build_network(config: Config) -> JiT | MLP:
    """Return the network with the initial weights that belong to the seed, the same for every arm."""
    with seeded("weights", config.seed):
        if config.model.architecture == "mlp":
            return MLP(config.data.ambient_dim, config.model.hidden_size, config.model.depth)
        return JiT(
            image_size=config.data.image_size,
            patch_size=config.model.patch_size,
            hidden_size=config.model.hidden_size,
            depth=config.model.depth,
            num_heads=config.model.num_heads,
            mlp_ratio=config.model.mlp_ratio,
            num_classes=config.data.num_classes,
            bottleneck_dim=config.model.bottleneck_dim,
            in_context_tokens=config.model.in_context_tokens,
            in_context_start=config.model.in_context_start,
            channels=CHANNELS,
            rope=config.model.rope,
            qk_norm=config.model.qk_norm,
            norm=config.model.norm,  # type: ignore[arg-type]
            mlp=config.model.mlp,  # type: ignore[arg-type]
            dropout=config.model.dropout,
            class_head_block=config.model.class_head_block,
        )


def network_cost(config: Config) -> Cost:
    """Count parameters and operations of a run's network, without allocating it."""
    return _network_cost(config.data, config.model)


def build_signal(config: Config) -> Signal:
    """Return what a sample is to the network."""
    if config.data.source == spiral.NAME:
        return point_signal(config.data.ambient_dim)
    return image_signal(CHANNELS, config.data.image_size)


def build_draw(datamodule: DataModule, inches: float) -> Draw:
    """Return what draws generated samples; points in a picture of so many inches, images as they are."""
    if isinstance(datamodule, SpiralDataModule):
        return draw_points(datamodule.projection, spiral.curve(), inches)
    return draw_images


def strip_groups(config: Config) -> Sequence[Sequence[int]]:
    """Return which samples of the grid the denoising strip shows: images one by one, points all together."""
    images = config.evaluation.grid_images
    if config.data.source == spiral.NAME:
        return [range(images)]
    return [[number] for number in strip_numbers(images)]


def build_module(config: Config) -> JiTModule:
    """Return network, objective, sampler and optimizer settings as one LightningModule."""
    network = build_network(config)
    if config.train.compile:
        network.compile(fullgraph=True)
    return JiTModule(
        network=network,
        objective=Objective(
            prediction=config.objective.prediction,  # type: ignore[arg-type]
            loss_space=config.objective.loss_space,  # type: ignore[arg-type]
            time_mu=config.objective.time_mu,
            time_sigma=config.objective.time_sigma,
            noise_scale=config.objective.noise_scale,
            clip=Clip(config.objective.clip_one_minus_t, config.objective.clip_t),
            sampling_clip=Clip(config.sampler.clip_one_minus_t, config.sampler.clip_t),
            label_drop=config.objective.label_drop,
            null_label=num_classes(config),
            class_loss_weight=config.objective.class_loss_weight,
        ),
        sampler=SamplerSettings(
            solver=config.sampler.solver,
            churn=config.sampler.churn,
            steps=config.sampler.steps,
            shift=config.sampler.shift,
            times=config.sampler.times,
            guidance_scale=config.sampler.guidance_scale,
            guidance_interval=config.sampler.guidance_interval,
        ),
        optimizer=OptimizerSettings(
            learning_rate=config.train.learning_rate,
            warmup_steps=config.train.warmup_steps,
            weight_decay=config.train.weight_decay,
            betas=config.train.betas,
        ),
        signal=build_signal(config),
        batch_size=config.train.batch_size,
        parts=schema.parts(config.train),
        seed=config.seed,
    )


@dataclass(frozen=True)
class RunContext:
    """What a run needs besides its configuration: where it reads and writes, and whom it tells."""

    name: str
    root: Path
    checkpoint: Path
    loggers: list[Logger]
    console: Console
    stop: StopRequest
    on_saved: Callable[[int], None] | None


def build_trainer(config: Config, module: JiTModule, datamodule: DataModule, context: RunContext) -> Trainer:
    """Return a Trainer with all callbacks; each of them sees what those before it did in the same step.

    Raises UserError where there is not what samples are to be measured with.
    """
    every, batch_size = config.train.log_every_steps, config.train.batch_size
    ema = Ema(module, config.train.ema_decays)
    throughput = Throughput(every, batch_size)
    progress = TerminalProgress(context.console, context.name, every, throughput)

    def report(what: str, done: int, total: int) -> None:
        progress.report(what, done, total)
        context.stop.raise_if_requested()

    def epoch_at(step: int) -> int:
        return datamodule.position_at(step).epoch

    measure, doubts = build_measure(config, context.root, datamodule, process_device(), report)
    for doubt in doubts:
        progress.warn(doubt)
    evaluation = Evaluation(
        ema,
        EvaluationSettings(
            every_steps=config.evaluation.every_steps,
            held_out_every_steps=config.evaluation.held_out_every_steps,
            images=config.evaluation.images,
            batch_size=config.evaluation.batch_size,
            num_classes=num_classes(config),
        ),
        measure=measure,
        held_out=datamodule.held_out(config.evaluation.held_out_images),
        pause=throughput.paused,
        progress=report,
        warn=progress.warn,
    )
    grid = SampleGrid(
        ema,
        every_steps=config.evaluation.grid_every_steps,
        images=config.evaluation.grid_images,
        batch_size=config.evaluation.batch_size,
        num_classes=num_classes(config),
        draw=build_draw(datamodule, POINTS_INCHES),
        pause=throughput.paused,
        progress=report,
    )
    strip = DenoisingStrip(
        ema,
        groups=strip_groups(config),
        grid_images=config.evaluation.grid_images,
        batch_size=config.evaluation.batch_size,
        num_classes=num_classes(config),
        draw=build_draw(datamodule, STRIP_INCHES),
        pause=throughput.paused,
        progress=report,
    )
    training_log = TrainingLog(every, datamodule.samples_at, datamodule.batches_per_epoch * batch_size)
    # Before what takes long as well, so that stopping there costs nothing.
    saved_every = (
        config.train.checkpoint_every_steps,
        config.evaluation.every_steps,
        config.evaluation.grid_every_steps,
    )
    saved_config = SavedConfig(load.to_yaml(config))
    folder = context.checkpoint.parent
    asked: list[Callback] = [Ledger(folder, epoch_at)] if config.data.ledger else []
    if config.data.skip_damaged:
        asked.append(DamageCount(every, partial(damaged_samples, folder / DAMAGE_FILE), progress.warn))
    checkpointing = Checkpointing(context.checkpoint, saved_every, context.stop, context.on_saved)
    return _trainer(
        config,
        max_steps=config.train.steps,
        devices=config.train.devices,
        strategy="ddp" if config.train.devices > 1 else "auto",
        logger=context.loggers,
        callbacks=[
            *(ema, saved_config, throughput, training_log, *asked, progress),
            *(checkpointing, grid, strip, evaluation),
        ],
        # The processes are jitlab's own, whatever else this runs under.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        default_root_dir=folder,
        use_distributed_sampler=False,
    )


def build_bare_trainer(config: Config, parts: int, callback: Callback) -> Trainer:
    """Return a Trainer that takes steps of so many parts each until `callback` stops it, and writes nothing."""
    return _trainer(config, max_steps=-1, devices=1, logger=False, callbacks=[callback], accumulate_grad_batches=parts)


def _trainer(config: Config, **own: Any) -> Trainer:
    """Return a Trainer that leaves validation, checkpoints and the terminal to jitlab."""
    quieten_lightning()
    return Trainer(
        **own,
        max_epochs=-1,
        # Not "auto": Apple's GPUs have no float64, in which the metrics are kept.
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        precision=_precision(config.train.precision),
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@cache
def _network_cost(data: Data, model: Model) -> Cost:
    # Most arms have the same network, and counting a deep one takes a second.
    config = Config(data=data, model=model)
    return cost(partial(build_network, config), build_signal(config).shape)


def check_machine(config: Config) -> None:
    """Raise UserError where the machine has fewer devices than asked for: GPUs, or cores where it has none."""
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    have, what = (gpus, "GPUs") if gpus else (cores, "CPU cores and no GPU")
    if config.train.devices > have:
        fix = next((n for n in range(have, 0, -1) if not list(schema.sharing_conflicts(_on(config, n)))), 1)
        raise UserError(
            f"train.devices = {config.train.devices}: this machine has {have} {what}; use train.devices={fix}, which "
            "takes the same batches in more time"
        )


def devices_at_hand(config: Config) -> int:
    """Return how many devices a run can have here; a CPU counts once, whatever the processes that share its cores."""
    return min(config.train.devices, max(1, torch.cuda.device_count()))


def _on(config: Config, devices: int) -> Config:
    return replace(config, train=replace(config.train, devices=devices))


def hardware(devices: int = 1) -> str:
    """Name the devices that so many processes use, for the report."""
    many = f"{devices} x " if devices > 1 else ""
    if torch.cuda.is_available():
        return f"{many}{torch.cuda.get_device_name()}"
    return f"{many}CPU, {max(1, torch.get_num_threads() // devices)} threads"


def precision_context(config: Config) -> torch.autocast:
    """Return the arithmetic that runs use, for generating without a Trainer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=_precision(config.train.precision) == "bf16-mixed")


def precision_name(config: Config) -> str:
    """Name the arithmetic that runs use on this machine."""
    return "bf16" if _precision(config.train.precision) == "bf16-mixed" else "float32"


def _precision(precision: str) -> Literal["32-true", "bf16-mixed"]:
    # On CPUs bf16 attention has a slow backward, so that auto means float32 there.
    if precision == "auto":
        return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def quieten_lightning() -> None:
    """Keep from users what Lightning says to those who hold it directly, and what jitlab has taken care of."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SETTLED_WARNINGS:
        warnings.filterwarnings("ignore", message)
