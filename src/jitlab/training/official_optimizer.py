"""AdamW's state in the official layout: checked, by parameter name, and written back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from jitlab.errors import UserError
from jitlab.training.official_checkpoint import MODEL, OPTIMIZER, PREFIX, OfficialFile, wrong_shape

GROUPS = 2
# How an implementation of AdamW computes, not what; the rest of a group's settings goes with its moments.
COMPUTING = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")
CHECKED = ("lr", "betas", "eps", "weight_decay")


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


def _optimizer_parts(file: OfficialFile) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    optimizer = file.optimizer
    if not isinstance(optimizer, dict) or set(optimizer) != {"state", "param_groups"}:
        raise UserError(f"{file.path}: {OPTIMIZER}: expected the state of torch's AdamW (state and param_groups)")
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise UserError(
            f"{file.path}: {OPTIMIZER}: param_groups is a {type(groups).__name__} and state a {type(state).__name__}; "
            "expected a list and a dictionary"
        )
    if len(groups) != GROUPS:
        raise UserError(
            f"{file.path}: {OPTIMIZER}: has {len(groups)} groups; expected {GROUPS}, biases and norms, then matrices"
        )
    for group in groups:
        _check_group(file, group)
    return groups, state


def _check_group(file: OfficialFile, group: Any) -> None:
    members = group.get("params") if isinstance(group, dict) else None
    if not isinstance(members, list) or not all(isinstance(index, int) for index in members):
        raise UserError(f"{file.path}: {OPTIMIZER}: param_groups: expected groups whose params are a list of numbers")
    try:
        AdamW([torch.zeros(1)], **{key: group[key] for key in CHECKED if key in group})
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(f"{file.path}: {OPTIMIZER}: param_groups: AdamW does not take them ({error})") from error


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


def _check_moments(file: OfficialFile, name: str, moments: Any, shape: torch.Size) -> None:
    if not isinstance(moments, dict):
        raise UserError(
            f"{file.path}: {OPTIMIZER}: state of {PREFIX}{name} is a {type(moments).__name__}; expected a dictionary"
        )
    for key in ("step", "exp_avg", "exp_avg_sq"):
        if key not in moments:
            raise UserError(f"{file.path}: {OPTIMIZER}: {key} of {PREFIX}{name} is missing")
    for key, value in moments.items():
        if key == "step":
            _check_step(file, name, value)
        elif not isinstance(value, Tensor):
            raise UserError(
                f"{file.path}: {OPTIMIZER}: {PREFIX}{name} {key}: is a {type(value).__name__}; expected a tensor"
            )
        elif value.shape != shape:
            raise wrong_shape(file.path, OPTIMIZER, f"{name} {key}", str(tuple(shape)), value.shape)


def _check_step(file: OfficialFile, name: str, step: Any) -> None:
    number = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if not isinstance(number, int | float) or not (number >= 0 and float(number).is_integer()):
        raise UserError(
            f"{file.path}: {OPTIMIZER}: {PREFIX}{name} step = {number!r}: expected a whole number of 0 or more"
        )


def _split(order: Sequence[str], shapes: Mapping[str, torch.Size]) -> tuple[list[str], list[str]]:
    # The official optimizer has the group without decay in front.
    return [n for n in order if len(shapes[n]) <= 1], [n for n in order if len(shapes[n]) > 1]
