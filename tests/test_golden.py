"""Parity with the official implementation: output, loss, gradients, samplers."""

import json

import pytest
import torch

from jitlab.diffusion.guidance import guided_velocity
from jitlab.diffusion.objective import Objective
from jitlab.diffusion.path import Clip, interpolate
from jitlab.diffusion.samplers import SOLVERS
from jitlab.diffusion.time_grid import linear_grid
from jitlab.models.jit import published
from tests.golden import vectors as golden

CLIP = Clip(0.05, 0.05)


def objective(null_label: int = 10) -> Objective:
    return Objective("x", "v", -0.8, 0.8, 1.0, CLIP, CLIP, 0.0, null_label)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).detach())


@pytest.fixture(params=golden.NAMES)
def official(request):
    return golden.load(request.param)


def test_output_is_the_official_one(official):
    network, v = official
    z = interpolate(v["in/x"], v["in/noise"], v["in/t"])
    assert relative_error(z, v["in/z"]) < 1e-6
    assert relative_error(network(v["in/z"], v["in/t"], v["in/y"]), v["out/net"]) < 1e-5


def test_loss_and_every_gradient_are_the_official_ones(official):
    network, v = official
    z = v["in/z"]
    goal = objective()
    errors = goal.errors(network(z, v["in/t"], v["in/y"]), v["in/x"], v["in/noise"], z, v["in/t"])
    loss = goal.loss(errors)
    loss.backward()
    assert relative_error(loss, v["out/loss_xpred_vloss"]) < 1e-5
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert {f"grad_norm/{name}" for name in gradients} == {key for key in v if key.startswith("grad_norm/")}
    for name, gradient in gradients.items():
        assert relative_error(gradient.norm(), v[f"grad_norm/{name}"]) < 1e-4, name
    for key in (key for key in v if key.startswith("grad/")):
        assert relative_error(gradients[key.removeprefix("grad/")], v[key]) < 1e-4, key


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0.0, 1.0)), (2.9, (0.1, 1.0)), (2.9, (0.0, 1.0))])
def test_sampled_images_are_the_official_ones(official, solver, scale, interval):
    network, v = official
    null_label = network.y_embedder.embedding_table.num_embeddings - 1
    goal = objective(null_label)
    with torch.no_grad():
        velocity = guided_velocity(network, goal.velocity, v["in/sample_y"], null_label, scale, interval)
        images = SOLVERS[solver](velocity, v["in/init_noise"], linear_grid(6))
    theirs = v[f"out/sample/{solver}/steps6_cfg{scale}_interval{interval[0]}-{interval[1]}"]
    assert relative_error(images, theirs) < 1e-4


COUNTS = json.loads((golden.FOLDER / "parameter_counts.json").read_text())


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_their_parameters_to_the_unit(name):
    with torch.device("meta"):
        network = published(name.lower().replace("-", "_").replace("/", "_"))
    assert network.grid * network.patch_size == COUNTS[name]["image_size"]
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]["trainable"]
