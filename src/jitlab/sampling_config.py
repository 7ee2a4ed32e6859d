"""The configuration that a checkpoint is sampled with: its own, with another sampler where one is asked for."""

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jitlab.checkpoint_files import Checkpoint
from jitlab.config import load
from jitlab.config.load import COMMAND_LINE, Setting
from jitlab.config.schema import Config, Sampler
from jitlab.errors import UserError

SHORT = {
    "--cfg": "sampler.guidance_scale",
    "--steps": "sampler.steps",
    "--solver": "sampler.solver",
    "--seed": "seed",
}
"""The options of the command line that are short for a setting."""
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def sampling_config(checkpoint: Checkpoint, words: Sequence[str], options: Mapping[str, str] = NO_OPTIONS) -> Config:
    """Return the checkpoint's configuration with the sampler that `words` (`sampler.KEY=VALUE`) and `options` ask for.

    What is asked for goes before what the checkpoint was trained to be sampled with, and its own settings that no
    longer fit give way. Raises UserError where a word is no sampler setting, or an option has set it already.
    """
    given = load.from_words(words, "sampler.guidance_interval=[0.2,0.8]")
    for key, setting in given.items():
        if not key.startswith("sampler."):
            use = "use --seed" if key == "seed" else "expected sampler.KEY=VALUE: the checkpoint decides the rest"
            raise UserError(f"{COMMAND_LINE}: {key} = {setting.value}: does not belong to sampling; {use}")
    for option, text in options.items():
        key, typed = SHORT[option], f"{option} {shlex.quote(text)}"
        if key in given:
            raise UserError(f"{typed}: {key} = {given[key].value} sets the same; leave one of them out")
        given[key] = load.from_typed(key, text, typed)
    origin = str(checkpoint.path)
    given = _give_way(given, checkpoint.config.sampler, origin) | given
    given["train.compile"] = Setting(False, origin)
    return load.assemble(load.flat(checkpoint.config), origin, given)


def _give_way(given: Mapping[str, Setting], own: Sampler, origin: str) -> dict[str, Setting]:
    """Return the settings in place of the checkpoint's own that would not fit those given."""
    found = {}
    if "sampler.solver" in given and given["sampler.solver"].value != own.solver:
        found["sampler.churn"] = Setting(Sampler.churn, origin)
    if own.times and ("sampler.steps" in given or "sampler.shift" in given):
        found["sampler.times"] = Setting([], origin)
    times = given["sampler.times"].value if "sampler.times" in given else None
    if times and isinstance(times, list):
        found["sampler.steps"] = Setting(len(times) - 1, origin)
        found["sampler.shift"] = Setting(Sampler.shift, origin)
    return found
