"""Checkpoints written for others: in the official layout, or one set of weights as safetensors."""

from pathlib import Path
from typing import Any

import torch

from jitlab import build
from jitlab.checkpoint_files import Checkpoint, open_checkpoint, refuse_target
from jitlab.checkpoint_import import OFFICIAL_KEY, PAPERS_OWN
from jitlab.config import load, schema
from jitlab.errors import UserError
from jitlab.files import replacing, write_bytes
from jitlab.training import official_checkpoint as official
from jitlab.training.official_checkpoint import Weights
from jitlab.training.official_optimizer import official_optimizer


def export_official(source: Path, out: Path, decays: tuple[float, float] | None) -> None:
    """Write a checkpoint in the official layout; one that was imported comes out bit-equal.

    With `decays` None the two averages are the first two of the checkpoint.
    Raises UserError for averages that there are not, and for a network that the official layout cannot describe.
    """
    refuse_target(source, out)
    checkpoint = open_checkpoint(source)
    _refuse_foreign(checkpoint)
    names = _averages(checkpoint, decays)
    beside = checkpoint.content.get(OFFICIAL_KEY) or _own(checkpoint)
    network = checkpoint.network
    sets: list[tuple[str, Weights]] = [(official.MODEL, network)]
    sets += [(key, network | checkpoint.averages[name]) for key, name in zip(official.AVERAGES, names, strict=True)]
    found: dict[str, Any] = {
        key: official.with_prefix(weights | beside["fixed"].get(key, {}), beside["orders"][key])
        for key, weights in sets
    }
    found[official.OPTIMIZER] = _optimizer(checkpoint, beside)
    found[official.EPOCH] = beside["epoch"]
    found[official.ARGS] = None if beside["args"] is None else official.unpacked(beside["args"])
    with replacing(out) as file:
        torch.save({key: found[key] for key in beside["keys"]}, file)


def export_safetensors(source: Path, out: Path, choice: str | None) -> str:
    """Write one set of weights, under the network's own names, as safetensors; return which set it is."""
    from safetensors.torch import save

    refuse_target(source, out)
    checkpoint = open_checkpoint(source)
    label, weights = checkpoint.weights(choice)
    step = str(checkpoint.content["global_step"])
    metadata = {"weights": label, "step": step, "config": load.to_yaml(checkpoint.config)}
    write_bytes(out, save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata))
    return label


def _refuse_foreign(checkpoint: Checkpoint) -> None:
    values = load.flat(checkpoint.config)
    fix = "use --format safetensors"
    for key in PAPERS_OWN:
        expected = schema.settings()[key].default
        if values[key] != expected:
            raise UserError(
                f"{checkpoint.path}: {key} = {values[key]}: the official layout is of networks with {expected}; {fix}"
            )
    if not checkpoint.config.model.bottleneck_dim:
        raise UserError(
            f"{checkpoint.path}: model.bottleneck_dim = 0: the official layout is of networks with a bottleneck; {fix}"
        )


def _averages(checkpoint: Checkpoint, decays: tuple[float, float] | None) -> list[str]:
    names = list(checkpoint.averages)[:2] if decays is None else [str(decay) for decay in decays]
    known = ", ".join(checkpoint.averages)
    for name in names:
        if name not in checkpoint.averages:
            raise UserError(f"{checkpoint.path}: --ema-decays {name}: there is no such average; use two of {known}")
    if len(names) < len(official.AVERAGES):
        raise UserError(
            f"{checkpoint.path}: has the average {known} alone and the official layout holds two; repeat it with "
            f"--ema-decays {known},{known}, or use --format safetensors"
        )
    return names


def _own(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what an import would have put beside the weights, for a checkpoint that a run saved."""
    order = list(checkpoint.network)
    position = checkpoint.content.get(build.DATA_POSITION_KEY)
    # The official epoch is the last whole one, from 0; where none is whole yet there is none.
    epoch = position["epoch"] - 1 if position and position["epoch"] else None
    keys = [*official.WEIGHT_KEYS, official.OPTIMIZER, *([] if epoch is None else [official.EPOCH])]
    orders = dict.fromkeys(official.WEIGHT_KEYS, order)
    return {"keys": keys, "orders": orders, "fixed": {}, "groups": None, "epoch": epoch, "args": None}


def _optimizer(checkpoint: Checkpoint, beside: dict[str, Any]) -> dict[str, Any]:
    network, saved = checkpoint.network, checkpoint.content["optimizer_states"][0]
    # The buffers are no parameters, and no average has them.
    names = set(next(iter(checkpoint.averages.values())))
    return official_optimizer(
        [name for name in beside["orders"][official.MODEL] if name in names],
        {name: network[name].shape for name in names},
        checkpoint.moments(),
        beside["groups"] or saved["param_groups"][::-1],
    )
