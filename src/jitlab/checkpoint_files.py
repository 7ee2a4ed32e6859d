"""Checkpoints as files: opened with their configuration, taken over from the official layout, and written as it."""

import argparse
import dataclasses
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from torch import Tensor

from jitlab import build
from jitlab.callbacks.ema import CHECKPOINT_KEY
from jitlab.config import load, schema
from jitlab.config.schema import Config
from jitlab.errors import UserError
from jitlab.files import write_bytes
from jitlab.models.jit import SIZES, JiT
from jitlab.models.layers import Rope2d
from jitlab.training import official_checkpoint as official
from jitlab.training.checkpoints import CONFIG_KEY, AtomicCheckpointIO
from jitlab.training.module import JiTModule
from jitlab.training.official_checkpoint import OfficialFile, Sizes, Weights

NETWORK = "network."
# What the official layout holds and a jitlab checkpoint has no other place for.
OFFICIAL_KEY = "official"
RAW = "raw"
# What no tensor tells of the paper's sizes, the block of the first class tokens and dropout, by width and depth.
PUBLISHED = {(size.hidden_size, size.depth): size for size in SIZES.values()}
IMAGENET_STEPS_PER_EPOCH = 1_281_167 // 1024
# The training recipe of Table 9, where neither the tensors nor the schema's defaults say it.
RECIPE: dict[str, Any] = {
    "data.flip": True,
    "sampler.guidance_scale": 2.9,
    "train.steps": 600 * IMAGENET_STEPS_PER_EPOCH,
    "train.batch_size": 1024,
    "train.warmup_steps": 5 * IMAGENET_STEPS_PER_EPOCH,
    "evaluation.every_steps": 40 * IMAGENET_STEPS_PER_EPOCH,
    "evaluation.images": 50_000,
    "evaluation.reference_images": 10_000,
    "evaluation.held_out_every_steps": 5 * IMAGENET_STEPS_PER_EPOCH,
    "evaluation.grid_every_steps": 5 * IMAGENET_STEPS_PER_EPOCH,
}


@dataclass(frozen=True)
class Checkpoint:
    """A jitlab checkpoint on the CPU, with the configuration that it was trained with."""

    path: Path
    config: Config
    content: dict[str, Any]

    @property
    def network(self) -> Weights:
        """Return the raw weights and the buffers by name."""
        return {name.removeprefix(NETWORK): tensor for name, tensor in self.content["state_dict"].items()}

    @property
    def averages(self) -> dict[str, Weights]:
        """Return the averages by decay, as text, and parameter."""
        averages: dict[str, Weights] = self.content[CHECKPOINT_KEY]
        return averages

    def weights(self, choice: str | None) -> tuple[str, Weights]:
        """Return the name and the tensors of `raw`, of `ema<decay>`, or with None of the first average."""
        named = {f"ema{decay}": average for decay, average in self.averages.items()}
        if choice is None:
            choice = next(iter(named), RAW)
        if choice != RAW and choice not in named:
            typed, known = shlex.quote(choice), ", ".join([RAW, *named])
            raise UserError(f"{self.path}: --weights {typed}: no such weights; use one of {known}")
        return choice, self.network | named.get(choice, {})

    def module(self, choice: str | None, config: Config | None = None) -> JiTModule:
        """Return the module with these weights, set up by `config` or as it was trained.

        Raises UserError naming a weight that is missing, left over or of another shape.
        """
        module = build.build_module(config or self.config)
        _, weights = self.weights(choice)
        expected = module.network.state_dict()
        for name in expected.keys() | weights.keys():
            if name not in weights:
                raise UserError(f"{self.path}: {name}: is missing; the file's configuration has it")
            if name not in expected:
                raise UserError(f"{self.path}: {name}: is left over; the file's configuration has no such weight")
            if weights[name].shape != expected[name].shape:
                raise UserError(
                    f"{self.path}: {name}: shape {tuple(weights[name].shape)}; expected {tuple(expected[name].shape)}"
                )
        module.network.load_state_dict(weights)
        return module


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a jitlab checkpoint; raises UserError where it is missing, damaged or something else."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a checkpoint in it, such as {path / 'last.ckpt'}")
    # The official file keeps its command line as a Namespace, and is to be known for what it is.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: Any = AtomicCheckpointIO().load_checkpoint(path)
    if isinstance(content, dict) and official.MODEL in content:
        raise UserError(f"{path}: is in the official layout; first: jitlab checkpoint import {path} --out FILE.ckpt")
    for key in ("state_dict", CHECKPOINT_KEY, CONFIG_KEY):
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path}: {key}: is missing; expected a checkpoint that this version of jitlab wrote")
    for name in content["state_dict"]:
        if not name.startswith(NETWORK):
            raise UserError(f"{path}: state_dict: {name}: is left over; expected names that begin with {NETWORK}")
    return Checkpoint(path, load.from_text(content[CONFIG_KEY], f"{path} ({CONFIG_KEY})"), content)


def import_official(
    source: Path, out: Path, in_context_start: int | None, ema_decays: tuple[float, float], overrides: Sequence[str]
) -> Config:
    """Write a jitlab checkpoint that samples, evaluates and goes on training; return its configuration.

    Args:
        source: a file in the official layout.
        out: the checkpoint to write.
        in_context_start: block of the first class tokens; with None that of the paper's size.
        ema_decays: of the file's two averages, in its order.
        overrides: `key=value` settings that the tensors do not say.
    """
    file = official.read_official(source)
    if ema_decays[0] == ema_decays[1]:
        raise UserError(f"--ema-decays {ema_decays[0]:g},{ema_decays[1]:g}: expected two different decays")
    config = _imported_config(file, in_context_start, ema_decays, overrides)
    module = build.build_module(config)
    network: JiT = module.network  # type: ignore[assignment]
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    official.check_weights(file, shapes, _fixed(network))
    moments = official.moments_by_name(file, shapes)
    step = max((int(state["step"]) for state in moments.values()), default=0)
    optimizer, schedule = _optimizer_states(module, file, moments, step)
    model = file.weights[official.MODEL]
    own = network.state_dict().keys()
    content = {
        "epoch": 0 if file.epoch is None else file.epoch + 1,
        "global_step": step,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {NETWORK + name: tensor for name, tensor in model.items() if name in own},
        "loops": _loops(step),
        "callbacks": {},
        "optimizer_states": [optimizer],
        "lr_schedulers": [schedule],
        CHECKPOINT_KEY: {
            str(decay): {name: file.weights[key][name] for name in shapes}
            for decay, key in zip(ema_decays, official.AVERAGES, strict=True)
        },
        CONFIG_KEY: load.to_yaml(config),
        OFFICIAL_KEY: _beside(file, shapes),
    }
    AtomicCheckpointIO().save_checkpoint(content, out)
    return config


def export_official(source: Path, out: Path, decays: tuple[float, float] | None) -> None:
    """Write a checkpoint in the official layout; one that was imported comes out bit-equal.

    With `decays` None the two averages are the first two of the checkpoint.
    """
    checkpoint = open_checkpoint(source)
    averages = checkpoint.averages
    names = list(averages)[:2] if decays is None else [str(decay) for decay in decays]
    known = ", ".join(averages)
    for name in names:
        if name not in averages:
            raise UserError(f"{source}: --ema-decays {name}: there is no such average; use two of {known}")
    if len(names) < len(official.AVERAGES):
        raise UserError(
            f"{source}: has the average {known} alone and the official layout holds two; repeat it with "
            f"--ema-decays {known},{known}, or use --format safetensors"
        )
    beside = checkpoint.content.get(OFFICIAL_KEY, {})
    network, fixed = checkpoint.network, beside.get("fixed", {})
    sets: list[tuple[str, Weights]] = [(official.MODEL, network)]
    sets += [(key, network | averages[name]) for key, name in zip(official.AVERAGES, names, strict=True)]
    order = beside.get("order", list(network))
    content: dict[str, Any] = {key: official.with_prefix(weights | fixed.get(key, {}), order) for key, weights in sets}
    if beside.get("optimizer", True):
        content[official.OPTIMIZER] = _official_optimizer(checkpoint, order, beside.get("groups"))
    epoch = beside.get("epoch", checkpoint.content["epoch"])
    if epoch is not None:
        content[official.EPOCH] = epoch
    if beside.get("args") is not None:
        content[official.ARGS] = argparse.Namespace(**beside["args"])
    _save(content, out)


def export_safetensors(source: Path, out: Path, choice: str | None) -> str:
    """Write one set of weights, under the network's own names, as safetensors; return which set it is."""
    from safetensors.torch import save

    checkpoint = open_checkpoint(source)
    label, weights = checkpoint.weights(choice)
    step = str(checkpoint.content["global_step"])
    metadata = {"weights": label, "step": step, "config": load.to_yaml(checkpoint.config)}
    write_bytes(out, save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata))
    return label


def _imported_config(
    file: OfficialFile, in_context_start: int | None, ema_decays: tuple[float, float], overrides: Sequence[str]
) -> Config:
    sizes = official.find_sizes(file)
    values = RECIPE | {
        "data.source": "imagenet",
        "data.path": f"data/imagenet{sizes.image_size}",
        "data.image_size": sizes.image_size,
        "data.num_classes": sizes.num_classes,
        "model.in_context_start": _in_context_start(file, sizes, in_context_start),
        # image size / 256, and 1 below it (Table 9).
        "objective.noise_scale": max(1.0, sizes.image_size / 256),
        "train.ema_decays": list(ema_decays),
        "evaluation.images": max(RECIPE["evaluation.images"], sizes.num_classes),
        "seed": 0,
    }
    for field in dataclasses.fields(sizes):
        if f"model.{field.name}" in schema.settings():
            values[f"model.{field.name}"] = getattr(sizes, field.name)
    if (sizes.hidden_size, sizes.depth) in PUBLISHED:
        values["model.dropout"] = PUBLISHED[sizes.hidden_size, sizes.depth].dropout
    values |= _optimizer_settings(file)
    return load.assemble(values, str(file.path), load.from_words(overrides))


def _in_context_start(file: OfficialFile, sizes: Sizes, given: int | None) -> int:
    if not sizes.in_context_tokens:
        return 0
    if given is not None:
        return given
    if (sizes.hidden_size, sizes.depth) not in PUBLISHED:
        raise UserError(
            f"{file.path}: width {sizes.hidden_size} and depth {sizes.depth} are none of the paper's sizes, and no "
            "tensor says which block sees the class tokens first; add --in-context-start BLOCK"
        )
    return PUBLISHED[sizes.hidden_size, sizes.depth].in_context_start


def _optimizer_settings(file: OfficialFile) -> dict[str, Any]:
    settings = official.group_settings(file, decays=True)
    found = {"betas": "train.betas", "weight_decay": "train.weight_decay"}
    return {found[key]: list(v) if isinstance(v, tuple) else v for key, v in settings.items() if key in found}


def _fixed(network: JiT) -> Weights:
    fixed = {"pos_embed": network.pos_embed}
    for name, rope in {"feat_rope": network.rope, "feat_rope_incontext": network.rope_in_context}.items():
        assert isinstance(rope, Rope2d)  # the official network always has it
        fixed |= {f"{name}.freqs_cos": rope.cos, f"{name}.freqs_sin": rope.sin}
    return fixed


def _optimizer_states(
    module: JiTModule, file: OfficialFile, moments: Mapping[str, Any], step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of jitlab's optimizer and schedule after `step` steps."""
    configured: Any = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    ordered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, Any] = optimizer.state_dict()
    rates = [base * rate(step) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate, decays in zip(state["param_groups"], rates, (True, False), strict=True):
        group |= {"lr": rate, **official.group_settings(file, decays)}
    state["state"] = {index: moments[name] for index, name in enumerate(ordered) if name in moments}
    return state, schedule.state_dict() | {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}


def _loops(step: int) -> dict[str, Any]:
    """Return the state of Lightning's loops after `step` steps of one batch each."""
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    epoch_loop = trainer.fit_loop.epoch_loop
    progress = epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.total.ready = progress.total.completed = step
    epoch_loop._batches_that_stepped = step
    loops = {"fit": trainer.fit_loop, "validate": trainer.validate_loop, "test": trainer.test_loop}
    return {f"{name}_loop": loop.state_dict() for name, loop in {**loops, "predict": trainer.predict_loop}.items()}


def _beside(file: OfficialFile, shapes: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {
        key: {name: tensor for name, tensor in state.items() if name not in shapes}
        for key, state in file.weights.items()
    }
    groups = None if file.optimizer is None else file.optimizer["param_groups"]
    return {
        "order": list(file.weights[official.MODEL]),
        "fixed": fixed,
        "optimizer": file.optimizer is not None,
        "groups": groups,
        "epoch": file.epoch,
        "args": file.args,
    }


def _official_optimizer(checkpoint: Checkpoint, order: Sequence[str], groups: Any) -> dict[str, Any]:
    network = checkpoint.network
    # Only the network's order of parameters is wanted: nothing is allocated.
    with torch.device("meta"):
        parameters = dict(build.build_network(checkpoint.config).named_parameters())
    saved = checkpoint.content["optimizer_states"][0]
    matrices = [name for name, p in parameters.items() if p.ndim > 1]
    ordered = matrices + [name for name, p in parameters.items() if p.ndim <= 1]
    moments = {ordered[index]: state for index, state in saved["state"].items()}
    return official.official_optimizer(
        [name for name in order if name in parameters],
        {name: network[name].shape for name in parameters},
        moments,
        groups or saved["param_groups"][::-1],
    )


def _save(content: Mapping[str, Tensor | Any], out: Path) -> None:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_bytes(out, buffer.getvalue())
