"""The layout of the official implementation's checkpoints, and its mapping to tensors by parameter name and back."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitlab.errors import UserError

PREFIX = "net."
MODEL, AVERAGES = "model", ("model_ema1", "model_ema2")
OPTIMIZER, EPOCH, ARGS = "optimizer", "epoch", "args"
WEIGHT_KEYS = (MODEL, *AVERAGES)
GROUPS = 2
KNOWN_KEYS = (*WEIGHT_KEYS, OPTIMIZER, EPOCH, ARGS)
# The official averages take the fixed positions in as well, which moves them by rounding alone.
FIXED_TOLERANCE = 1e-3
# How an implementation of AdamW computes, not what; the rest of a group's settings goes with its moments.
COMPUTING = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """What the tensors say about the network; lengths in pixels, widths in numbers."""

    image_size: int
    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float
    num_classes: int
    bottleneck_dim: int
    in_context_tokens: int


@dataclass(frozen=True)
class OfficialFile:
    """A file in the official layout: weights by name, without the prefix, in the order of the file."""

    path: Path
    weights: dict[str, Weights]
    optimizer: dict[str, Any] | None
    epoch: int | None
    args: dict[str, Any] | None


def read_official(path: Path) -> OfficialFile:
    """Read a file in the official layout; raises UserError where it is missing, damaged or something else."""
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds a {type(content).__name__}; expected a dictionary with {', '.join(WEIGHT_KEYS)}"
        )
    if "state_dict" in content and "pytorch-lightning_version" in content:
        raise UserError(f"{path}: is a checkpoint of jitlab or Lightning already; expected the official layout")
    missing = [key for key in WEIGHT_KEYS if key not in content]
    if missing:
        raise UserError(
            f"{path}: {missing[0]}: is missing; the official layout has {', '.join(WEIGHT_KEYS)}, "
            f"found {', '.join(map(str, content)) or 'nothing'}"
        )
    for key in content:
        if key not in KNOWN_KEYS:
            raise UserError(f"{path}: {key}: is not of the official layout; expected {', '.join(KNOWN_KEYS)}")
    epoch, args = content.get(EPOCH), content.get(ARGS)
    if epoch is not None and (not isinstance(epoch, int) or epoch < 0):
        raise UserError(f"{path}: epoch = {epoch!r}: expected a whole number of 0 or more")
    return OfficialFile(
        path,
        {key: _without_prefix(path, key, content[key]) for key in WEIGHT_KEYS},
        content.get(OPTIMIZER),
        epoch,
        vars(args) if isinstance(args, argparse.Namespace) else args,
    )


def find_sizes(file: OfficialFile) -> Sizes:
    """Read the network's sizes off the shapes; raises UserError naming a tensor that is missing or does not fit."""
    state = file.weights[MODEL]

    def shape(name: str, dimensions: str) -> torch.Size:
        if name not in state:
            raise UserError(f"{file.path}: {MODEL}: {PREFIX}{name}: is missing; the network's sizes are read off it")
        found = state[name].shape
        if len(found) != len(dimensions.split(", ")):
            raise _wrong_shape(file.path, MODEL, name, f"({dimensions})", found)
        return found

    bottleneck, _, patch_size, _ = shape("x_embedder.proj1.weight", "bottleneck, channels, patch, patch")
    hidden_size = shape("x_embedder.proj2.weight", "hidden, bottleneck, 1, 1")[0]
    patches = shape("pos_embed", "1, patches, hidden")[1]
    head_dim = shape("blocks.0.attn.q_norm.weight", "head")[0]
    inner = shape("blocks.0.mlp.w3.weight", "hidden, inner")[1]
    rows = shape("y_embedder.embedding_table.weight", "classes + 1, hidden")[0]
    grid = round(patches**0.5)
    if grid * grid != patches:
        raise UserError(f"{file.path}: {MODEL}: {PREFIX}pos_embed: has {patches} patches; expected a square number")
    if hidden_size % head_dim:
        raise UserError(
            f"{file.path}: {MODEL}: {PREFIX}blocks.0.attn.q_norm.weight: has {head_dim} values; "
            f"expected a divisor of the width {hidden_size}"
        )
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    context = "in_context_posemb"
    # Of the ratios that give this inner width, int(int(hidden ratio) 2 / 3), the usual one where it does.
    usual = int(int(hidden_size * 4.0) * 2 / 3) == inner
    return Sizes(
        image_size=grid * patch_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        depth=len(blocks),
        num_heads=hidden_size // head_dim,
        mlp_ratio=4.0 if usual else -(-3 * inner // 2) / hidden_size,
        num_classes=rows - 1,
        bottleneck_dim=bottleneck,
        in_context_tokens=shape(context, "1, tokens, hidden")[1] if context in state else 0,
    )


def check_weights(file: OfficialFile, parameters: Mapping[str, torch.Size], fixed: Mapping[str, Tensor]) -> None:
    """Compare every set of weights with the network; raises UserError for the first that does not fit.

    Args:
        file: what was read.
        parameters: the network's trainable parameters.
        fixed: what the network computes itself and a file may hold; `pos_embed` always is there.
    """
    for key, state in file.weights.items():
        for name in (*parameters, "pos_embed"):
            if name not in state:
                raise UserError(f"{file.path}: {key}: {PREFIX}{name}: is missing")
        for name, tensor in state.items():
            expected = parameters[name] if name in parameters else fixed[name].shape if name in fixed else None
            if expected is None:
                raise UserError(
                    f"{file.path}: {key}: {PREFIX}{name}: shape {tuple(tensor.shape)} is left over; the network that "
                    "the other tensors describe has no such weight"
                )
            if tensor.shape != expected:
                raise _wrong_shape(file.path, key, name, str(tuple(expected)), tensor.shape)
            if name in fixed and not torch.allclose(tensor.float(), fixed[name], rtol=0, atol=FIXED_TOLERANCE):
                off = (tensor.float() - fixed[name]).abs().max().item()
                raise UserError(
                    f"{file.path}: {key}: {PREFIX}{name}: differs by {off:.2g} from the fixed positions of the paper; "
                    f"expected at most {FIXED_TOLERANCE:g}"
                )


def moments_by_name(file: OfficialFile, parameters: Mapping[str, torch.Size]) -> dict[str, dict[str, Any]]:
    """Return AdamW's moments and step of every parameter; empty where the file has none.

    Raises UserError where the optimizer's groups or moments do not fit the parameters.
    """
    if file.optimizer is None:
        return {}
    groups, state = _optimizer_parts(file)
    names = {
        index: name
        for members, group in zip(_official_groups(file, parameters), groups, strict=True)
        for index, name in zip(group["params"], members, strict=True)
    }
    if not state:
        return {}
    for index in state:
        if index not in names:
            raise UserError(f"{file.path}: {OPTIMIZER}: state of parameter {index} is left over; the groups lack it")
    for index, name in names.items():
        if index not in state:
            raise UserError(f"{file.path}: {OPTIMIZER}: state of {PREFIX}{name} (parameter {index}) is missing")
        _check_moments(file, name, state[index], parameters[name])
    return {name: state[index] for index, name in names.items()}


def group_settings(file: OfficialFile, decays: bool) -> dict[str, Any]:
    """Return the settings of the group that decays, or of the other, that go with its moments."""
    if file.optimizer is None:
        return {}
    group = _optimizer_parts(file)[0][1 if decays else 0]
    return {key: value for key, value in group.items() if key not in COMPUTING}


def official_optimizer(
    order: Sequence[str],
    shapes: Mapping[str, torch.Size],
    moments: Mapping[str, Any],
    settings: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the optimizer's state as the official implementation saves it.

    Args:
        order: the parameters' order in the official network.
        shapes: of the parameters.
        moments: by parameter.
        settings: of the group that does not decay, then of the one that does.
    """
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    first = 0
    for members, setting in zip(_split(order, shapes), settings, strict=True):
        indices = range(first, first + len(members))
        state |= {index: moments[name] for index, name in zip(indices, members, strict=True) if name in moments}
        groups.append({**{k: v for k, v in setting.items() if k != "initial_lr"}, "params": list(indices)})
        first += len(members)
    return {"state": state, "param_groups": groups}


def with_prefix(weights: Mapping[str, Tensor], order: Sequence[str]) -> Weights:
    """Return weights under their official names, in this order."""
    return {PREFIX + name: weights[name] for name in order}


def _load(path: Path) -> Any:
    try:
        # The official file keeps its command line as a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise
    except Exception as error:
        # Torch's unpickler meets damaged files with almost any exception.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: is damaged or holds more than tensors and numbers ({reason})") from error


def _without_prefix(path: Path, key: str, state: Any) -> Weights:
    if not isinstance(state, dict):
        raise UserError(f"{path}: {key}: is a {type(state).__name__}; expected a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {key}: {name}: is a {type(tensor).__name__}; expected a tensor")
        if not str(name).startswith(PREFIX):
            raise UserError(f"{path}: {key}: {name}: is left over; official names begin with {PREFIX}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def _optimizer_parts(file: OfficialFile) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    optimizer = file.optimizer
    if not isinstance(optimizer, dict) or set(optimizer) != {"state", "param_groups"}:
        raise UserError(f"{file.path}: {OPTIMIZER}: expected the state of torch's AdamW (state and param_groups)")
    groups: list[dict[str, Any]] = optimizer["param_groups"]
    if len(groups) != GROUPS or not all("params" in group for group in groups):
        raise UserError(
            f"{file.path}: {OPTIMIZER}: has {len(groups)} groups; expected {GROUPS}, biases and norms, then matrices"
        )
    return groups, optimizer["state"]


def _official_groups(file: OfficialFile, shapes: Mapping[str, torch.Size]) -> tuple[list[str], list[str]]:
    groups = _optimizer_parts(file)[0]
    expected = _split([name for name in file.weights[MODEL] if name in shapes], shapes)
    sizes, found = [len(names) for names in expected], [len(group["params"]) for group in groups]
    if sizes != found:
        raise UserError(
            f"{file.path}: {OPTIMIZER}: has groups of {found} parameters; expected {sizes} "
            "(biases and norms, then matrices)"
        )
    return expected


def _check_moments(file: OfficialFile, name: str, moments: Mapping[str, Any], shape: torch.Size) -> None:
    for key in ("step", "exp_avg", "exp_avg_sq"):
        if key not in moments:
            raise UserError(f"{file.path}: {OPTIMIZER}: {key} of {PREFIX}{name} is missing")
    for key, value in moments.items():
        if key != "step" and value.shape != shape:
            raise _wrong_shape(file.path, OPTIMIZER, f"{name} {key}", str(tuple(shape)), value.shape)


def _split(order: Sequence[str], shapes: Mapping[str, torch.Size]) -> tuple[list[str], list[str]]:
    # The official optimizer has the group without decay in front.
    return [n for n in order if len(shapes[n]) <= 1], [n for n in order if len(shapes[n]) > 1]


def _wrong_shape(path: Path, key: str, name: str, expected: str, found: torch.Size) -> UserError:
    return UserError(f"{path}: {key}: {PREFIX}{name}: shape {tuple(found)}; expected {expected}")
