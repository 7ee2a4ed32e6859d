import dataclasses
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from jitlab import build
from jitlab.diffusion.objective import Objective, Position
from jitlab.diffusion.time_grid import shifted_grid
from jitlab.randomness import image_noise
from jitlab.training.module import JiTModule
from jitlab.training.signal import to_images, to_signal
from tests.callbacks.runs import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def trainer():
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def module(arm="x", **changes) -> JiTModule:
    made = build.build_module(tiny_config(Path("nowhere"), arm, sampler__steps=4, **changes))
    # Initial weights write nothing; these write something.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.trainer = trainer()
    return made


def test_every_grey_level_comes_back_from_the_signal():
    levels = torch.arange(256, dtype=torch.uint8)
    signal = to_signal(levels)
    assert (signal.min().item(), signal.max().item()) == (-1, 1)
    assert torch.equal(to_images(signal), levels)


def test_signals_outside_the_range_are_clipped_and_rounded_to_the_nearest_level():
    x = torch.tensor([-7.0, -1.001, 1.001, 99.0])
    assert to_images(x).tolist() == [0, 0, 255, 255]
    levels = torch.arange(255)
    assert torch.equal(to_images((levels + 0.4) / 127.5 - 1).long(), levels)
    assert torch.equal(to_images((levels + 0.6) / 127.5 - 1).long(), levels + 1)


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "euler_maruyama"])
@pytest.mark.parametrize("interval", ["[0.3,1]", "[0,1]", "[0.3,0.6]"])
def test_samples_of_several_scales_share_the_way_to_where_guidance_acts_and_nothing_else(solver, interval):
    made = module(sampler__solver=solver, sampler__guidance_interval=interval)
    labels, scales, asked = torch.arange(3), (3.0, 1.0, 1.5), [0]
    expected = [made.generate(range(3), labels, guidance_scale=scale) for scale in scales]

    def counted(*args, **kwargs):
        asked[0] += 1

    with made.network.register_forward_pre_hook(counted):
        found = dict(made.generate_at_scales(range(3), labels, scales))
        together, asked[0] = asked[0], 0
        for scale in scales:
            made.generate(range(3), labels, guidance_scale=scale)
    assert [torch.equal(found[scale], image) for scale, image in zip(scales, expected, strict=True)] == [True] * 3
    assert not torch.equal(found[3.0], found[1.5])
    # On the grid 0, 1/4, 1/2, 3/4, 1 the velocities at 0 and 1/4 are before 0.3; Heun asks at 1/4 once more.
    saved = 0 if interval == "[0,1]" else 3 if solver == "heun" else 2
    assert asked[0] - together == (len(scales) - 1) * saved


@pytest.mark.parametrize("arm", ["x", "v", "eps"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_image_is_the_same_in_every_batch(arm, scale):
    made = module(arm, sampler__guidance_scale=scale)
    labels = torch.arange(7) % 10
    whole = made.generate(range(7), labels)
    assert whole.dtype == torch.uint8
    assert whole.shape == (7, 3, 16, 16)
    assert whole.float().std() > 10
    for size in (1, 3):
        parts = [made.generate(part.tolist(), labels[part]) for part in torch.arange(7).split(size)]
        assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1


def test_a_stochastic_image_is_the_same_in_every_batch_and_order():
    made = module(sampler__solver="euler_maruyama", sampler__churn=2.0)
    labels = torch.arange(5)
    whole = made.generate(range(5), labels)
    assert torch.equal(whole, made.generate(range(5), labels))
    alone = torch.cat([made.generate([i], labels[i : i + 1]) for i in (4, 3, 2, 1, 0)]).flip(0)
    assert (alone.int() - whole.int()).abs().max() <= 1
    steady = module(sampler__solver="euler").generate(range(5), labels)
    assert (steady.int() - whole.int()).abs().max() > 1


def test_the_time_grid_is_the_one_that_is_set():
    labels = torch.arange(3)

    def images(**changes) -> torch.Tensor:
        return module(**{f"sampler__{name}": value for name, value in changes.items()}).generate(range(3), labels)

    assert torch.equal(images(), images(times=[0.0, 0.25, 0.5, 0.75, 1.0]))
    shifted = images(shift=3.0)
    assert not torch.equal(images(), shifted)
    assert torch.equal(shifted, images(times=shifted_grid(4, 3.0)))


def test_images_are_told_apart_by_number_label_and_seed():
    made = module()
    first, second, other_label, again = made.generate([3, 4, 3, 3], torch.tensor([1, 1, 2, 1]))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_label)
    made.seed = 1
    assert not torch.equal(first, made.generate([3], torch.tensor([1]))[0])


def test_generation_changes_neither_weights_nor_the_global_generator():
    made = module()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    state = torch.get_rng_state()
    made.generate([0], torch.tensor([0]))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_initial_weights_belong_to_the_seed_alone():
    def weights(arm, seed):
        torch.manual_seed(hash(arm) % 1000)
        network = build.build_network(tiny_config(Path("nowhere"), arm, seed))
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    assert torch.equal(weights("x", 0), weights("eps", 0))
    assert torch.equal(weights("x", 3), weights("v", 3))
    assert not torch.equal(weights("x", 0), weights("x", 3))


def errors(made, batch, t):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 16, 16), generator=generator, dtype=torch.uint8)
    eps = image_noise(0, range(batch), (3, 16, 16))
    return made.errors_at(images, torch.arange(batch) % 10, eps, torch.full((batch,), t))


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_held_out_errors_of_the_x_arm_convert_as_the_paper_says(noise_scale):
    found = errors(module(objective__noise_scale=noise_scale), 5, 0.6)
    assert all(error.shape == (5,) for error in found.values())
    torch.testing.assert_close(found["v"], found["x"] / 0.4**2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["eps"], found["x"] * 0.6**2 / 0.4**2, rtol=1e-4, atol=1e-4)


def test_training_step_drops_labels_of_a_position_and_reports_all_spaces():
    made = module()
    made.objective = dataclasses.replace(made.objective, label_drop=1.0)
    images = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    first = made.training_step((images, torch.zeros(400).long(), [""] * 400), 0)
    second = made.training_step((images, torch.ones(400).long(), [""] * 400), 0)
    assert first.keys() == {"loss", "x_mse", "eps_mse", "v_mse"}
    assert torch.equal(first["loss"], second["loss"])
    assert torch.equal(first["loss"], first["v_mse"])


def step(made) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    losses: dict[str, torch.Tensor] = made.training_step((images, torch.arange(4), [""] * 4), 0)
    return losses


def test_dropout_belongs_to_the_position_and_rests_while_images_are_made():
    made = module(model__dropout=0.5, model__depth=4)
    made.train()
    assert torch.equal(step(made)["loss"], step(made)["loss"])
    assert not torch.equal(step(made)["loss"], step(module(model__depth=4))["loss"])
    image = made.generate([0], torch.tensor([0]))
    made.eval()
    assert torch.equal(image, made.generate([0], torch.tensor([0])))
    made.train()
    assert made.network.training


def test_dropout_masks_of_two_parts_of_a_step_differ():
    made = module(model__dropout=0.5, model__depth=4)
    made.train()
    z, t, y = torch.randn(4, 3, 16, 16), torch.full((4,), 0.5), torch.arange(4)

    def output(first):
        return made._predict(z, t, y, y, Position(0, range(first, first + 4), 8))[0]

    assert torch.equal(output(4), output(4))
    assert not torch.equal(output(0), output(4))


def test_a_loss_that_overflows_shows_in_the_gradient(monkeypatch):
    made = module()
    monkeypatch.setattr(Objective, "loss", lambda self, errors: errors["v"].mean() + torch.inf)
    step(made)["loss"].backward()
    gradients = [parameter.grad for parameter in made.network.parameters() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).isnan()


def test_the_class_loss_is_added_and_reported():
    made = module(model__class_head_block=1, objective__class_loss_weight=100)
    losses = step(made)
    torch.testing.assert_close(losses["loss"], losses["v_mse"] + losses["class_loss"])
    losses["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in made.network.named_parameters()}
    assert gradients["class_head.weight"] is not None
