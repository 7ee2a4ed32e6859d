"""Checkpoints in the official layout, taken over: the network from the tensors, the rest of the recipe from a scale."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jitlab import build
from jitlab.callbacks.ema import CHECKPOINT_KEY
from jitlab.checkpoint_files import NETWORK, refuse_target, state_at
from jitlab.config import load, schema
from jitlab.config.load import Setting
from jitlab.config.schema import Config
from jitlab.errors import UserError
from jitlab.models.jit import SIZES, sincos_positions
from jitlab.models.layers import Rope2d
from jitlab.training import official_checkpoint as official
from jitlab.training.checkpoints import AtomicCheckpointIO
from jitlab.training.official_checkpoint import OfficialFile, Sizes, Weights
from jitlab.training.official_optimizer import group_settings, moments_by_name

# What the official layout holds and a jitlab checkpoint has no other place for.
OFFICIAL_KEY = "official"
# What every network in the official layout has, as the schema does where nothing is said.
PAPERS_OWN = (
    "model.architecture",
    "model.rope",
    "model.qk_norm",
    "model.norm",
    "model.mlp",
    "model.class_head_block",
    "objective.prediction",
)
# What no tensor tells of the paper's sizes, the block of the first class tokens and dropout, by width and depth.
PUBLISHED = {(size.hidden_size, size.depth): size for size in SIZES.values()}


@dataclass(frozen=True)
class Options:
    """What no tensor says, as it was given; None where it was not.

    `scale` has the training recipe, `in_context_start` is the block of the first class tokens, `ema_decays` are of the
    file's two averages in its order, and `overrides` are `key=value` words.
    """

    scale: str | None
    in_context_start: int | None
    ema_decays: tuple[float, float]
    overrides: Sequence[str]


@dataclass(frozen=True)
class Imported:
    """The configuration and step of a checkpoint that was taken over, and the epoch of a file that lost its step."""

    config: Config
    step: int
    lost_epoch: int | None


def import_official(source: Path, out: Path, options: Options) -> Imported:
    """Write a jitlab checkpoint of a file in the official layout; it samples, and runs start from it.

    Raises UserError where the file or the options do not fit; then nothing is written.
    """
    refuse_target(source, out)
    file = official.read_official(source)
    config = _config(file, options)
    with torch.device("meta"):
        module = build.build_module(config)
    # Its memory is never looked at: the weights are the file's.
    module.to_empty(device="cpu")
    shapes = {name: parameter.shape for name, parameter in module.network.named_parameters()}
    official.check_weights(file, shapes, _fixed(config))
    moments = moments_by_name(file, shapes)
    step = max((int(state["step"]) for state in moments.values()), default=0)
    model, own = file.weights[official.MODEL], module.network.state_dict().keys()
    content = {
        **state_at(config, module, step, moments, [group_settings(file, decays) for decays in (True, False)]),
        "state_dict": {NETWORK + name: tensor for name, tensor in model.items() if name in own},
        CHECKPOINT_KEY: {
            str(decay): {name: file.weights[key][name] for name in shapes}
            for decay, key in zip(config.train.ema_decays, official.AVERAGES, strict=True)
        },
        OFFICIAL_KEY: _beside(file, shapes),
    }
    AtomicCheckpointIO().save_checkpoint(content, out)
    return Imported(config, step, file.epoch if not moments else None)


def _config(file: OfficialFile, options: Options) -> Config:
    sizes = official.find_sizes(file)
    decided = _decided(file, sizes, options)
    for key, given in load.from_words(options.overrides).items():
        if key in decided and given.value != decided[key].value:
            own = {"train.ema_decays": "use --ema-decays"}
            own |= {"model.in_context_start": "use --in-context-start"} if sizes.in_context_tokens else {}
            raise UserError(
                f"{load.COMMAND_LINE}: {key} = {given.value}: is decided by {decided[key].origin}, "
                f"{decided[key].value}; {own.get(key, 'leave it out')}"
            )
    settings = _suggested(sizes, str(file.path)) | decided
    return load.resolve_scale(load.repository(), _scale(file, sizes, options), settings, options.overrides)


def _scale(file: OfficialFile, sizes: Sizes, options: Options) -> str:
    scales = load.scale_names(load.repository())
    usual = f"imagenet{sizes.image_size}"
    if options.scale is None and usual not in scales:
        raise UserError(
            f"{file.path}: has images of {sizes.image_size} px, and there is no scale {usual} to take the training "
            f"recipe from; add --scale NAME, one of {', '.join(scales)}"
        )
    return options.scale or usual


def _decided(file: OfficialFile, sizes: Sizes, options: Options) -> dict[str, Setting]:
    """Return the settings that the file, or an option of its own, decides."""
    values: dict[str, Any] = {key: schema.settings()[key].default for key in PAPERS_OWN}
    for field in dataclasses.fields(sizes):
        node = "data" if f"data.{field.name}" in schema.settings() else "model"
        values[f"{node}.{field.name}"] = getattr(sizes, field.name)
    found = {"betas": "train.betas", "weight_decay": "train.weight_decay"}
    values |= {found[key]: value for key, value in group_settings(file, decays=True).items() if key in found}
    return {
        **{key: Setting(load.plain(value), str(file.path)) for key, value in values.items()},
        "model.in_context_start": _in_context_start(file, sizes, options.in_context_start),
        "train.ema_decays": Setting(list(options.ema_decays), "--ema-decays"),
    }


def _suggested(sizes: Sizes, origin: str) -> dict[str, Setting]:
    size = PUBLISHED.get((sizes.hidden_size, sizes.depth))
    return {"model.dropout": Setting(size.dropout, origin)} if size else {}


def _in_context_start(file: OfficialFile, sizes: Sizes, given: int | None) -> Setting:
    if not sizes.in_context_tokens:
        if given is not None:
            raise UserError(f"--in-context-start {given}: {file.path} has no class tokens; leave it out")
        return Setting(0, str(file.path))
    if given is not None:
        return Setting(given, "--in-context-start")
    if (sizes.hidden_size, sizes.depth) not in PUBLISHED:
        raise UserError(
            f"{file.path}: width {sizes.hidden_size} and depth {sizes.depth} are none of the paper's sizes, and no "
            "tensor says which block sees the class tokens first; add --in-context-start BLOCK"
        )
    return Setting(PUBLISHED[sizes.hidden_size, sizes.depth].in_context_start, str(file.path))


def _fixed(config: Config) -> Weights:
    model = config.model
    grid, head_dim = config.data.image_size // model.patch_size, model.hidden_size // model.num_heads
    fixed = {"pos_embed": sincos_positions(model.hidden_size, grid)}
    for name, prefix in {"feat_rope": 0, "feat_rope_incontext": model.in_context_tokens}.items():
        rope = Rope2d(head_dim, grid, prefix)
        fixed |= {f"{name}.freqs_cos": rope.cos, f"{name}.freqs_sin": rope.sin}
    return fixed


def _beside(file: OfficialFile, shapes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "keys": list(file.keys),
        "orders": {key: list(state) for key, state in file.weights.items()},
        "fixed": {
            key: {name: tensor for name, tensor in state.items() if name not in shapes}
            for key, state in file.weights.items()
        },
        "groups": None if file.optimizer is None else file.optimizer["param_groups"],
        "epoch": file.epoch,
        "args": file.args,
    }
