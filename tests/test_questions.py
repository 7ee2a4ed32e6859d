"""Every question in the repository, at every scale."""

from functools import cache
from pathlib import Path

import pytest
import torch

from jitlab import build
from jitlab.config import load
from jitlab.config.schema import Config, Data, Model
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


@cache
def answer_has_the_shape_of_the_question(data: Data, model: Model) -> bool:
    with torch.device("meta"):
        module = build.build_module(Config(data=data, model=model))
        z = torch.empty(2, *module.signal.shape)
        output = module.network(z, torch.empty(2), torch.empty(2, dtype=torch.long))
    return bool(output.shape == z.shape)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_every_arm_builds_and_answers_on_the_meta_device(name, scale):
    if expected := misfit(name, scale):
        with pytest.raises(UserError) as caught:
            arms(name, scale)
        message = str(caught.value)
        assert message.startswith(f"experiments/{name}.yaml {expected}")
        assert f"; use --scale {load.load_question(ROOT, name).scale}" in message
        assert "\n" not in message
        return
    for config in arms(name, scale).values():
        assert answer_has_the_shape_of_the_question(config.data, config.model)


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
