"""Runs that start from the weights, averages and moments of another checkpoint, at its step."""

import json
from pathlib import Path

from jitlab.callbacks.ema import CHECKPOINT_KEY
from jitlab.checkpoint_files import RAW, Checkpoint, state_at
from jitlab.config import load, schema
from jitlab.config.schema import Config
from jitlab.errors import UserError
from jitlab.files import write_json
from jitlab.training.checkpoints import AtomicCheckpointIO
from jitlab.training.official_optimizer import COMPUTING

START_FILE = "start.json"
# Beside those of the network, the settings that a run takes over from a checkpoint or not at all.
COMPARED = ("data.image_size", "data.num_classes", "data.ambient_dim", "objective.prediction", "train.ema_decays")
# What the run says of AdamW; its other settings go with the moments.
RUNS_OWN = (*COMPUTING, "betas", "weight_decay")


def check_start(start: Checkpoint, run: str, config: Config) -> None:
    """Raise UserError naming a setting in which a run differs from the checkpoint that it is to start from."""
    theirs, ours = load.flat(start.config), load.flat(config)
    for key in schema.settings():
        if (key.startswith("model.") or key in COMPARED) and theirs[key] != ours[key]:
            value = str(load.plain(theirs[key])).replace(" ", "")
            raise UserError(
                f"--from {start.path}: {key} = {theirs[key]}: run {run} has {ours[key]}; add {key}={value}, or leave "
                "the run out with --arms"
            )
    step = start.content["global_step"]
    if step >= config.train.steps:
        raise UserError(
            f"--from {start.path}: is at step {step}: run {run} ends at train.steps = {config.train.steps}; use more"
        )


def write_start(start: Checkpoint, config: Config, path: Path) -> None:
    """Write the checkpoint that a run starts from to `path`, and beside it where that came from.

    Rates, betas and weight decay are the run's own. The position in the images of another run is left behind: the run
    takes its own images in its own order, from the place that belongs to the step.
    """
    module, step = start.module(RAW, config), start.content["global_step"]
    groups = start.content["optimizer_states"][0]["param_groups"]
    settings = [{key: value for key, value in group.items() if key not in RUNS_OWN} for group in groups]
    content = {
        **state_at(config, module, step, start.moments(), settings),
        "state_dict": start.content["state_dict"],
        CHECKPOINT_KEY: start.averages,
    }
    write_json(path.with_name(START_FILE), {"checkpoint": str(start.path), "step": step})
    AtomicCheckpointIO().save_checkpoint(content, path)


def start_of(folder: Path) -> str | None:
    """Return which checkpoint a run started from, and at which step; None where it started from nothing."""
    path = folder / START_FILE
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return f"{found['checkpoint']} at step {found['step']}"
