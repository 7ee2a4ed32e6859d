"""The layout of the official implementation's checkpoints, and its mapping to tensors by parameter name and back."""

import argparse
import io
import zipfile
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
KNOWN_KEYS = (*WEIGHT_KEYS, OPTIMIZER, EPOCH, ARGS)
# The official averages take the fixed positions in as well, which moves them by rounding alone.
FIXED_TOLERANCE = 1e-3

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
    """A file in the official layout, in its order: what it holds, and its weights by name without the prefix.

    `args` is the command line as torch saves it, since loading it again is allowed to the official layout alone.
    """

    path: Path
    keys: tuple[str, ...]
    weights: dict[str, Weights]
    optimizer: Any
    epoch: int | None
    args: Tensor | None


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
    if EPOCH in content and (not isinstance(epoch, int) or epoch < 0):
        raise UserError(f"{path}: {EPOCH} = {epoch!r}: expected a whole number of 0 or more")
    if not isinstance(args, argparse.Namespace | dict | None):
        raise UserError(f"{path}: {ARGS}: is a {type(args).__name__}; expected the command line as a Namespace")
    return OfficialFile(
        path,
        tuple(content),
        {key: _without_prefix(path, key, content[key]) for key in WEIGHT_KEYS},
        content.get(OPTIMIZER),
        epoch,
        _packed(args) if ARGS in content else None,
    )


def find_sizes(file: OfficialFile) -> Sizes:
    """Read the network's sizes off the shapes; raises UserError naming a tensor that is missing or does not fit."""
    state = file.weights[MODEL]

    def shape(name: str, dimensions: str) -> torch.Size:
        if name not in state:
            raise UserError(f"{file.path}: {MODEL}: {PREFIX}{name}: is missing; the network's sizes are read off it")
        found = state[name].shape
        if len(found) != len(dimensions.split(", ")):
            raise wrong_shape(file.path, MODEL, name, f"({dimensions})", found)
        if 0 in found:
            raise wrong_shape(file.path, MODEL, name, f"({dimensions}), none of them 0", found)
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
                raise wrong_shape(file.path, key, name, str(tuple(expected)), tensor.shape)
            if name in fixed and not torch.allclose(tensor.float(), fixed[name], rtol=0, atol=FIXED_TOLERANCE):
                off = (tensor.float() - fixed[name]).abs().max().item()
                raise UserError(
                    f"{file.path}: {key}: {PREFIX}{name}: differs by {off:.2g} from the fixed positions of the paper; "
                    f"expected at most {FIXED_TOLERANCE:g}"
                )


def with_prefix(weights: Mapping[str, Tensor], order: Sequence[str]) -> Weights:
    """Return weights under their official names, in this order."""
    return {PREFIX + name: weights[name] for name in order}


def unpacked(args: Tensor) -> Any:
    """Return the command line of an `OfficialFile`."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(args.numpy().tobytes()), weights_only=True)


def wrong_shape(path: Path, key: str, name: str, expected: str, found: torch.Size) -> UserError:
    """Return the refusal of a tensor whose shape does not fit."""
    return UserError(f"{path}: {key}: {PREFIX}{name}: shape {tuple(found)}; expected {expected}")


def _load(path: Path) -> Any:
    try:
        # The official file keeps its command line as a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Tensors stay in the file until they are looked at; torch maps its newer format alone.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
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


def _packed(args: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(args, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _without_prefix(path: Path, key: str, state: Any) -> Weights:
    if not isinstance(state, dict):
        raise UserError(f"{path}: {key}: is a {type(state).__name__}; expected a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {key}: {name}: is a {type(tensor).__name__}; expected a tensor")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise UserError(
                f"{path}: {key}: {name}: is of {tensor.dtype}, {tensor.layout}; expected dense real numbers"
            )
        if not str(name).startswith(PREFIX):
            raise UserError(f"{path}: {key}: {name}: is left over; official names begin with {PREFIX}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
