"""Every question in the repository, at every scale."""

import dataclasses
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from jitlab import build
from jitlab.config import load
from jitlab.config.schema import Config, Data, Model
from jitlab.diffusion.samplers import SOLVERS, Churn
from jitlab.diffusion.time_grid import time_grid
from jitlab.errors import UserError

ROOT = Path(__file__).parents[1]
QUESTIONS = load.question_names(ROOT)
SCALES = load.scale_names(ROOT)
# What these vary means nothing where samples are points.
ABOUT_IMAGES = {
    "ablation": "(arm plain): model.in_context_tokens = 0: has no effect with model.architecture = mlp",
    "bottleneck": "(arm width_8): model.bottleneck_dim = 8: has no effect with model.architecture = mlp",
    "classification_loss": "(arm with_cls_loss): model.class_head_block = 2: has no effect with model.architecture",
    "resolution": "(arm side_1x): data.path = data/digits32: is for data.source = digits, and scale spiral has spiral",
    "scaling": "(arm B): model.in_context_start = 1: has no effect with model.architecture = mlp",
}
ABOUT_POINTS = {"toy_manifold": "(arm x_d2): data.ambient_dim = 2: has no effect with data.source = "}
# These span scales, which are asked from one of them.
ABOUT_SCALES = {
    "resolution": "(arm side_1x): data.path = data/digits32: is for data.source = digits, and scale imagenet"
}


def misfit(name: str, scale: str) -> str | None:
    if scale == "spiral":
        return ABOUT_IMAGES.get(name)
    others = ABOUT_SCALES if scale in ("imagenet64", "imagenet512", "imagenet1024") else {}
    return (ABOUT_POINTS | others).get(name)


@cache
def arms(name: str, scale: str) -> dict[str, Config]:
    question = load.load_question(ROOT, name)
    return {arm: load.resolve(ROOT, question, scale, arm, []) for arm in question.arms}


class Answers(nn.Module):
    """Stands in for a network whose answers have been looked at, since asking a deep one takes a second."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.num_classes = num_classes

    def forward(self, z, t, y, with_logits=False) -> Any:
        output = z * self.weight.mean()
        return (output, self.weight.mean() + z.new_zeros(len(z), self.num_classes)) if with_logits else output


@cache
def look_at_the_network_s_answers(data: Data, model: Model) -> None:
    with torch.device("meta"):
        config = Config(data=data, model=model)
        network, z = build.build_network(config), torch.empty(2, *build.build_signal(config).shape)
        answers = network(z, torch.empty(2), torch.empty(2, dtype=torch.long), **with_logits(model))
    output, *logits = answers if with_logits(model) else (answers,)
    assert output.shape == z.shape
    assert [found.shape for found in logits] == [(2, build.num_classes(config))] * len(with_logits(model))


def with_logits(model: Model) -> dict[str, bool]:
    return {"with_logits": True} if model.class_head_block else {}


@cache
def take_a_step_of_what_a_run_builds(config: Config) -> None:
    look_at_the_network_s_answers(config.data, config.model)
    with torch.device("meta"):
        module = build.build_module(config)
        optimizer = module.configure_optimizers()["optimizer"]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, module.network.parameters()))
    # Fakes have values nowhere, but generators and a loss, unlike tensors on the meta device.
    with FakeTensorMode():
        module.network = Answers(build.num_classes(config))
        module.trainer = SimpleNamespace(global_rank=0, global_step=0)  # type: ignore[assignment]
        samples = torch.zeros(2, *module.signal.shape)
        found = module.training_step((samples, torch.zeros(2, dtype=torch.long), []), 0)
        found["loss"].backward()
        x = SOLVERS[module.sampler.solver](
            lambda z, t: module.objective.velocity(z, z, torch.full((2,), t)),
            samples,
            # Two steps show as much as all.
            time_grid(module.sampler.steps, module.sampler.shift, module.sampler.times)[:3],
            Churn(module.sampler.churn, lambda step: samples),
        )
    assert x.shape == samples.shape
    assert found["loss"].shape == ()
    assert ("class_loss" in found) == bool(config.objective.class_loss_weight)


def what_counts(config: Config) -> Config:
    """Leave out what the module is not built from, or differs where it is compiled."""
    train = dataclasses.replace(config.train, compile=False, steps=1, log_every_steps=1, checkpoint_every_steps=1)
    return dataclasses.replace(config, train=train, evaluation=Config().evaluation)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_every_arm_builds_and_takes_a_step_without_values(name, scale):
    if expected := misfit(name, scale):
        with pytest.raises(UserError) as caught:
            arms(name, scale)
        message = str(caught.value)
        assert message.startswith(f"experiments/{name}.yaml {expected}")
        assert f"; use --scale {load.load_question(ROOT, name).scale}" in message
        assert "\n" not in message
        return
    for config in arms(name, scale).values():
        take_a_step_of_what_a_run_builds(what_counts(config))


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_says_how_to_run_it_before_anything_else(name):
    header = (ROOT / "experiments" / f"{name}.yaml").read_text().partition("question:")[0]
    assert f"make experiment EXP={name}\n" in header
    assert all(line.startswith("#") for line in header.splitlines())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_no_two_arms_of_a_question_are_the_same(name, scale):
    if not misfit(name, scale):
        resolved = arms(name, scale)
        assert len(set(resolved.values())) == len(resolved)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_arms_differ_in_what_the_report_says_of_them_alone(name, scale):
    if not misfit(name, scale):
        told = {key for fields in load.load_question(ROOT, name).arms_at(scale).values() for key in fields}
        assert set(load.differing(arms(name, scale))) <= told
