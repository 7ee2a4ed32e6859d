"""Checkpoints as files: opened with their configuration, and what a run goes on from."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback
from torch import nn

from jitlab import build
from jitlab.callbacks.ema import CHECKPOINT_KEY
from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.errors import UserError
from jitlab.training import official_checkpoint as official
from jitlab.training.checkpoints import CONFIG_KEY, AtomicCheckpointIO
from jitlab.training.module import JiTModule
from jitlab.training.official_checkpoint import Weights
from jitlab.training.optim import split_parameters

NETWORK = "network."
RAW = "raw"
EXPECTED_KEYS = ("state_dict", CHECKPOINT_KEY, CONFIG_KEY, "global_step", "optimizer_states")


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
        for name in dict.fromkeys([*expected, *weights]):
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

    def moments(self) -> dict[str, Any]:
        """Return AdamW's moments and step by parameter; empty where there are none."""
        with torch.device("meta"):  # the names and their order alone are wanted
            names = optimized_names(build.build_network(self.config))
        return {names[index]: state for index, state in self.content["optimizer_states"][0]["state"].items()}


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a jitlab checkpoint; raises UserError where it is missing, damaged or something else."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a checkpoint in it, such as {path / 'last.ckpt'}")
    # The official file keeps its command line as a Namespace, and is to be known for what it is.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: Any = AtomicCheckpointIO("name a checkpoint that jitlab wrote").load_checkpoint(path)
    if isinstance(content, dict) and official.MODEL in content:
        raise UserError(f"{path}: is in the official layout; first: jitlab checkpoint import {path} --out FILE.ckpt")
    for key in EXPECTED_KEYS:
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path}: {key}: is missing; expected a checkpoint that this version of jitlab wrote")
    for name in content["state_dict"]:
        if not name.startswith(NETWORK):
            raise UserError(f"{path}: state_dict: {name}: is left over; expected names that begin with {NETWORK}")
    return Checkpoint(path, load.from_text(content[CONFIG_KEY], f"{path} ({CONFIG_KEY})"), content)


def refuse_target(source: Path, out: Path) -> None:
    """Raise UserError where `out` is a folder, or the file itself that is to be read."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file, such as {out / source.name}")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out}: is the file that is read, {source}; name another")


def optimized_names(network: nn.Module) -> list[str]:
    """Return the network's parameters in the order in which AdamW counts them."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for group in split_parameters(network) for parameter in group]


def state_at(
    config: Config, module: JiTModule, step: int, moments: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what Lightning restores, beside the weights, of a run that has taken `step` steps.

    Args:
        config: of the run.
        module: whose optimizer and schedule go on.
        step: optimizer steps.
        moments: AdamW's, by parameter.
        settings: of the group that decays and of the other, over those that the module's optimizer has.
    """
    optimizer, schedule = _optimizer_states(module, step, moments, settings)
    return {
        "epoch": 0,
        "global_step": step,
        "pytorch-lightning_version": lightning.__version__,
        "loops": _loops(config, step),
        "callbacks": {},
        "optimizer_states": [optimizer],
        "lr_schedulers": [schedule],
        CONFIG_KEY: load.to_yaml(config),
    }


def _optimizer_states(
    module: JiTModule, step: int, moments: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    configured: Any = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    state: dict[str, Any] = optimizer.state_dict()
    rates = [base * rate(step) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate, own in zip(state["param_groups"], rates, settings, strict=True):
        group |= {"lr": rate, **own}
    state["state"] = {
        index: moments[name] for index, name in enumerate(optimized_names(module.network)) if name in moments
    }
    return state, schedule.state_dict() | {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}


def _loops(config: Config, step: int) -> dict[str, Any]:
    """Return the state of Lightning's loops after `step` steps of one batch each."""
    trainer = build.build_bare_trainer(config, 1, Callback())
    epoch_loop = trainer.fit_loop.epoch_loop
    progress = epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.total.ready = progress.total.completed = step
    epoch_loop._batches_that_stepped = step
    loops = {"fit": trainer.fit_loop, "validate": trainer.validate_loop, "test": trainer.test_loop}
    return {f"{name}_loop": loop.state_dict() for name, loop in {**loops, "predict": trainer.predict_loop}.items()}
