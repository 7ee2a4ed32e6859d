"""What a run is said to cost, against hand computation and against what it does."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback

from jitlab import build
from jitlab.budget import Budget, forwards_per_image, heaviest, run_budget
from jitlab.config import load
from jitlab.config.schema import Sampler
from jitlab.datasets.digits import build_digits
from jitlab.diffusion.samplers import SOLVERS
from tests.callbacks.runs import tiny_config, train

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")
ROOT = Path(__file__).parents[1]


class ImagesThroughTheNetwork(Callback):
    def __init__(self) -> None:
        self.training = self.looking = 0

    def on_fit_start(self, trainer, pl_module) -> None:
        pl_module.network.register_forward_hook(self.count)

    def count(self, network, inputs, output) -> None:
        if network.training:
            self.training += len(output)
        else:
            self.looking += len(output)


def test_a_run_of_an_mlp_costs_what_a_hand_computation_says():
    settings: dict[str, Any] = {
        **{"data.ambient_dim": 3, "model.hidden_size": 4, "model.depth": 3, "sampler.steps": 3},
        **{"train.steps": 5, "train.batch_size": 7, "train.ema_decays": [0.5, 0.9]},
        **{"evaluation.every_steps": 2, "evaluation.images": 11, "evaluation.grid_every_steps": 5},
        **{"evaluation.grid_images": 13, "evaluation.held_out_every_steps": 10, "evaluation.held_out_images": 6},
    }
    question = load.load_question(ROOT, "toy_manifold")
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load.resolve(ROOT, question, "spiral", "x_d2", overrides)
    forward = 2 * ((3 + 1) * 4 + 4 * 4 + 4 * 3)
    evaluated, drawn = 3 * 2 * 11, 1 * 3 * 13  # after steps 2, 4 and 5; after step 5, from the raw weights as well
    drawn += 13  # the denoising strip, which shows all points of the grid
    held_out = 1 * 2 * 5 * 6  # after step 5, at five bins of t
    calls = 2 * 2 + 1  # of Heun: the last step is Euler's
    assert run_budget(config) == Budget(
        images=5 * 7,
        training_flops=3 * 5 * 7 * forward,
        evaluation_flops=((evaluated + drawn) * calls + held_out) * forward,
    )


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_run_puts_as_many_images_through_its_network_as_it_is_said_to(tmp_path, scale):
    build_digits(tmp_path / "shards", 16)
    config = tiny_config(
        tmp_path / "shards",
        sampler__guidance_scale=scale,
        sampler__guidance_interval=[0.2, 0.7],
        evaluation__every_steps=4,
        evaluation__held_out_every_steps=3,
        evaluation__grid_every_steps=2,
    )
    seen = ImagesThroughTheNetwork()
    train(config, tmp_path / "run", callbacks=[seen])
    told, forward = run_budget(config), build.network_cost(config).forward_flops
    assert (told.images, told.training_flops) == (seen.training, 3 * seen.training * forward)
    assert told.evaluation_flops == seen.looking * forward


@pytest.mark.parametrize(
    ("sampler", "forwards"),
    [
        (Sampler(steps=4), 7),
        # Heun asks at 0, 1/4, 1/4, 1/2, 1/2, 3/4 and 3/4.
        (Sampler(steps=4, guidance_scale=2.0), 7 + 6),
        (Sampler(steps=4, guidance_scale=2.0, guidance_interval=(0.0, 1.0)), 7 + 7),
        (Sampler(steps=4, guidance_scale=2.0, guidance_interval=(0.3, 0.6)), 7 + 2),
        (Sampler(steps=4, guidance_scale=0.0, guidance_interval=(0.3, 0.6)), 7 + 2),
        (Sampler(solver="euler", steps=4, guidance_scale=2.0), 4 + 3),
        (Sampler(solver="euler_maruyama", steps=4, guidance_scale=2.0), 4 + 3),
        (Sampler(solver="ab2", steps=2, times=(0.0, 0.05, 1.0), guidance_scale=2.0), 2),
    ],
)
def test_guidance_doubles_the_forwards_within_its_interval_alone(sampler, forwards):
    assert forwards_per_image(sampler) == forwards


@given(
    solver=st.sampled_from(sorted(SOLVERS)),
    steps=st.integers(1, 40),
    shift=st.floats(0.1, 10),
    scale=st.sampled_from([0.0, 1.0, 2.9]),
    low=st.floats(0, 0.9),
)
def test_forwards_lie_between_the_solver_s_calls_and_twice_as_many(solver, steps, shift, scale, low):
    sampler = Sampler(solver=solver, steps=steps, shift=shift, guidance_scale=scale, guidance_interval=(low, 1.0))
    # Heun asks twice a step but in the last.
    calls, forwards = (2 * steps - 1 if solver == "heun" else steps), forwards_per_image(sampler)
    assert calls <= forwards <= 2 * calls
    assert (forwards == calls) if scale == 1 else (low > 0 or forwards == 2 * calls)


def test_the_heaviest_network_is_that_of_most_operations_over_all_runs():
    narrow, wide = (tiny_config(Path("nowhere"), model__hidden_size=width) for width in (32, 48))
    ratio = run_budget(wide).flops / run_budget(narrow).flops
    assert 1 < ratio < 3
    assert heaviest([narrow, wide]) == wide
    assert heaviest([narrow, wide, narrow, narrow]) == narrow
