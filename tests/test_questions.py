"""Every question in the repository, at every scale."""

from pathlib import Path

import pytest
import torch

from jitlab import build
from jitlab.config import load
from jitlab.errors import UserError

ROOT = Path(__file__).parents[1]
QUESTIONS = load.question_names(ROOT)


def kind(scale: str) -> str:
    text = (ROOT / "experiments" / "scales" / f"{scale}.yaml").read_text()
    return "points" if "source: spiral" in text else "images"


@pytest.mark.parametrize("scale", load.scale_names(ROOT))
@pytest.mark.parametrize("name", QUESTIONS)
def test_every_arm_builds_and_answers_on_the_meta_device(name, scale):
    question = load.load_question(ROOT, name)
    own, here = (kind(at) for at in (question.scale, scale))
    for arm in question.arms:
        try:
            config = load.resolve(ROOT, question, scale, arm, [])
        except UserError:
            # What the question varies may have no meaning for other data.
            assert own != here
            continue
        with torch.device("meta"):
            module = build.build_module(config)
            z = torch.empty(2, *module.signal.shape)
            output = module.network(z, torch.empty(2), torch.empty(2, dtype=torch.long))
        assert output.shape == z.shape


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_says_how_to_run_it_before_anything_else(name):
    header = (ROOT / "experiments" / f"{name}.yaml").read_text().partition("question:")[0]
    assert f"make experiment EXP={name}\n" in header
    assert all(line.startswith("#") for line in header.splitlines())


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_two_arms_of_a_question_are_the_same(name):
    question = load.load_question(ROOT, name)
    resolved = [load.resolve(ROOT, question, question.scale, arm, []) for arm in question.arms]
    assert len(set(resolved)) == len(resolved)
