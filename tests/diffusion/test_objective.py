import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.diffusion.objective import Objective, Position
from jitlab.diffusion.path import (
    PRECONDITIONERS,
    SIGMA_DATA,
    SPACES,
    Clip,
    Preconditioner,
    Space,
    interpolate,
    precondition,
)

T_EPS = 0.05
CLIP = Clip(T_EPS, T_EPS)
NULL = 10
PREDICTIONS = (*SPACES, *PRECONDITIONERS)
BASE = Objective("x", "v", -0.8, 0.8, 1.0, CLIP, CLIP, 0.1, NULL)
few = settings(deadline=None, max_examples=15)


def pair(seed, n=4) -> tuple[torch.Tensor, torch.Tensor]:
    x, eps = torch.randn(2, n, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, eps


def errors(prediction, output, x, eps, t) -> dict[Space, torch.Tensor]:
    return dataclasses.replace(BASE, prediction=prediction).errors(output, x, eps, interpolate(x, eps, t), t)


def factors(prediction: Preconditioner, t: float, noise_scale: float = 1.0) -> tuple[float, float]:
    """Return c_skip and c_out, as the network's surroundings show them."""
    one, nothing, time = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 0.0, t))
    skip = precondition(nothing, one, time, prediction, noise_scale)
    return skip.item(), precondition(one, nothing, time, prediction, noise_scale).item()


def oracle(prediction, x, eps, z, t) -> torch.Tensor:
    """Return the output of a network that knows x and eps."""
    if prediction in SPACES:
        return torch.as_tensor({"x": x, "eps": eps, "v": x - eps}[prediction])
    skip, out = factors(prediction, t)
    return torch.as_tensor((x - skip * z) / out)


def draw(
    samples: Sequence[int], *, step: int = 3, seed: int = 0, batch_size: int = 64, objective: Objective = BASE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.zeros(len(samples), 3, 8, 8)
    y = torch.arange(len(samples)) % 10
    return objective.draw(x, y, seed, Position(step, samples, batch_size))


# The loss.


@pytest.mark.parametrize("prediction", SPACES)
@few
@given(t=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, T_EPS, 1 - T_EPS, 1.0])), seed=st.integers(0, 99))
def test_an_exact_network_has_no_error_in_any_space_clips_included(prediction, t, seed):
    x, eps = pair(seed)
    output = {"x": x, "eps": eps, "v": x - eps}[prediction]
    for space, error in errors(prediction, output, x, eps, torch.full((4,), t, dtype=torch.float64)).items():
        assert error.tolist() == [0.0] * 4, space


@few
@given(t=st.floats(0, 1), seed=st.integers(0, 99))
def test_v_error_of_x_prediction_is_the_official_one(t, seed):
    x, eps = pair(seed)
    output = pair(seed + 1)[0]
    found = errors("x", output, x, eps, torch.full((4,), t, dtype=torch.float64))["v"]
    torch.testing.assert_close(found, (output - x).square().flatten(1).mean(1) / max(1 - t, T_EPS) ** 2)


@pytest.mark.parametrize("prediction", SPACES)
@few
@given(t=st.floats(T_EPS, 1 - T_EPS), seed=st.integers(0, 99))
def test_errors_of_the_three_spaces_differ_by_the_weights_of_table_1(prediction, t, seed):
    x, eps = pair(seed)
    output = pair(seed + 1)[0]
    found = errors(prediction, output, x, eps, torch.full((4,), t, dtype=torch.float64))
    # x_hat - x = (1 - t)(v_hat - v) and eps_hat - eps = -t (v_hat - v), at the same z.
    torch.testing.assert_close(found["x"], (1 - t) ** 2 * found["v"])
    torch.testing.assert_close(found["eps"], t**2 * found["v"])
    target = {"x": x, "eps": eps, "v": x - eps}[prediction]
    torch.testing.assert_close(found[prediction], (output - target).square().flatten(1).mean(1))


@pytest.mark.parametrize(("prediction", "space"), list(itertools.product(SPACES, SPACES)))
def test_the_loss_is_the_mean_error_in_the_loss_space(prediction, space):
    x, eps = pair(0)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    objective = dataclasses.replace(BASE, prediction=prediction, loss_space=space)
    found = objective.errors(pair(1)[0], x, eps, interpolate(x, eps, t), t)
    assert objective.loss(found).item() == pytest.approx(sum(found[space].tolist()) / 4, rel=1e-12)
    assert len({round(error.mean().item(), 9) for error in found.values()}) == 3


@pytest.mark.parametrize(("prediction", "space"), list(itertools.product(SPACES, SPACES)))
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_gradients_are_finite_everywhere(prediction, space, t):
    x, eps = pair(0)
    output = pair(1)[0].requires_grad_()
    found = errors(prediction, output, x, eps, torch.full((4,), t, dtype=torch.float64))
    found[space].mean().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("prediction", SPACES)
def test_velocity_of_an_exact_network_is_the_velocity(prediction):
    x, eps = pair(0)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    output = {"x": x, "eps": eps, "v": x - eps}[prediction]
    velocity = dataclasses.replace(BASE, prediction=prediction).velocity(output, interpolate(x, eps, t), t)
    torch.testing.assert_close(velocity, x - eps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("space", SPACES)
@few
@given(t=st.floats(T_EPS, 1 - T_EPS), seed=st.integers(0, 99))
def test_an_oracle_has_no_loss_and_one_velocity_in_every_combination(prediction, space, t, seed):
    x, eps = pair(seed)
    times = torch.full((4,), t, dtype=torch.float64)
    z = interpolate(x, eps, times)
    objective = dataclasses.replace(BASE, prediction=prediction, loss_space=space)
    output = oracle(prediction, x, eps, z, t)
    assert objective.loss(objective.errors(output, x, eps, z, times)).item() < 1e-24
    velocity = objective.velocity(output, z, times)
    torch.testing.assert_close(velocity, x - eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(objective.clean(velocity, z, times), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@few
@given(
    t=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.97, 1.0])),
    clip=st.floats(0.01, 0.4),
    noise_scale=st.sampled_from([1.0, 2.0]),
)
def test_clean_data_are_the_prediction_s_own_also_where_its_velocity_is_clipped(prediction, t, clip, noise_scale):
    output, z = pair(0)
    times = torch.full((4,), t, dtype=torch.float64)
    objective = dataclasses.replace(
        BASE, prediction=prediction, noise_scale=noise_scale, sampling_clip=Clip(clip, clip / 2)
    )
    expected = {
        "x": output,
        "v": z + (1 - t) * output,
        "eps": (z - (1 - t) * output) / max(t, clip / 2),
    }
    if prediction in PRECONDITIONERS:
        expected[prediction] = precondition(output, z, times, prediction, noise_scale)
    found = objective.clean(objective.velocity(output, z, times), z, times)
    torch.testing.assert_close(found, expected[prediction], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PRECONDITIONERS)
@few
@given(t=st.floats(T_EPS, 1 - T_EPS), seed=st.integers(0, 99))
def test_a_preconditioned_error_is_that_of_the_network_times_c_out(prediction, t, seed):
    x, eps = pair(seed)
    z = interpolate(x, eps, torch.full((4,), t, dtype=torch.float64))
    output, target = pair(seed + 1)[0], oracle(prediction, x, eps, z, t)
    found = errors(prediction, output, x, eps, torch.full((4,), t, dtype=torch.float64))
    own = (output - target).square().flatten(1).mean(1)
    torch.testing.assert_close(found["x"], factors(prediction, t)[1] ** 2 * own, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["x"], (1 - t) ** 2 * found["v"])
    torch.testing.assert_close(found["eps"], t**2 * found["v"])


@few
@given(t=st.floats(1e-3, 1 - 1e-3))
def test_the_edm_factors_are_those_of_table_10(t):
    sigma, data = (1 - t) / t, 0.5
    skip = data**2 / (data**2 + sigma**2) / t
    out = data * sigma / math.sqrt(data**2 + sigma**2)
    assert factors("edm", t) == pytest.approx((skip, out), rel=1e-9)
    assert factors("linear", t) == pytest.approx((t, 1 - t), rel=1e-9)


@pytest.mark.parametrize("noise_scale", [1.0, 2.0, 4.0])
@few
@given(t=st.floats(0, 0.999))
def test_what_an_edm_network_has_to_say_has_unit_variance_at_every_t(noise_scale, t):
    skip, out = factors("edm", t, noise_scale)
    # x - c_skip z = (1 - c_skip t) x - c_skip (1 - t) eps, for data of the variance that EDM assumes.
    of_target = ((1 - skip * t) * SIGMA_DATA) ** 2 + (skip * (1 - t) * noise_scale) ** 2
    assert of_target / out**2 == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("prediction", PRECONDITIONERS)
def test_a_preconditioned_objective_knows_its_noise_scale(prediction):
    output, z = pair(0)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    objective = dataclasses.replace(BASE, prediction=prediction, noise_scale=2.0)
    expected = precondition(output, z, t, prediction, 2.0)
    torch.testing.assert_close(objective.clean(objective.velocity(output, z, t), z, t), expected)
    changed = not torch.equal(expected, precondition(output, z, t, prediction, 1.0))
    assert changed == (prediction == "edm")


@few
@given(t=st.floats(0, 1), seed=st.integers(0, 99))
def test_unit_noise_is_preconditioned_as_in_the_paper_to_the_bit(t, seed):
    output, z = (value.float() for value in pair(seed))
    time = torch.full((4, 1, 1, 1), t)
    variance = time**2 * SIGMA_DATA**2 + (1 - time) ** 2
    paper = time * SIGMA_DATA**2 / variance * z + SIGMA_DATA * (1 - time) / variance.sqrt() * output
    assert torch.equal(precondition(output, z, time.flatten(), "edm", 1.0), paper)


@pytest.mark.parametrize("prediction", PRECONDITIONERS)
def test_preconditioners_are_finite_at_both_ends(prediction):
    assert factors(prediction, 0.0)[0] == 0
    assert factors(prediction, 1.0) == pytest.approx((1, 0), abs=1e-12)


@few
@given(t=st.floats(0, 1), training=st.floats(0.01, 0.4), sampling=st.floats(0.01, 0.4))
def test_training_and_sampling_clip_for_themselves(t, training, sampling):
    x, eps = pair(0)
    times = torch.full((4,), t, dtype=torch.float64)
    z, output = interpolate(x, eps, times), pair(1)[0]
    objective = dataclasses.replace(BASE, clip=Clip(training, training), sampling_clip=Clip(sampling, sampling))
    torch.testing.assert_close(objective.velocity(output, z, times), (output - z) / max(1 - t, sampling))
    found = objective.errors(output, x, eps, z, times)["v"]
    torch.testing.assert_close(found, (output - x).square().flatten(1).mean(1) / max(1 - t, training) ** 2)
    of_eps = dataclasses.replace(objective, prediction="eps")
    torch.testing.assert_close(of_eps.velocity(output, z, times), (z - output) / max(t, sampling))


def test_the_class_loss_weighs_against_the_sum_over_elements():
    logits, y = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    objective = dataclasses.replace(BASE, class_loss_weight=100.0)
    entropy = -torch.log_softmax(logits, 1)[range(4), y].mean()
    summed = 48 * objective.class_loss(logits, y, 48)
    torch.testing.assert_close(summed, 100 * entropy)


# The draw.


@few
@given(cut=st.integers(1, 63), step=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_draws_do_not_depend_on_how_the_batch_is_split(cut, step, seed):
    whole = draw(range(64), step=step, seed=seed)
    halves = [draw(part, step=step, seed=seed) for part in (range(cut), range(cut, 64))]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), whole[0], rtol=1e-6, atol=0)
    assert torch.equal(whole[1], torch.cat([half[1] for half in halves]))
    dropped = torch.cat([half[2] == NULL for half in halves])
    assert torch.equal(whole[2] == NULL, dropped)


def test_t_of_two_halves_is_bit_equal_to_t_of_the_whole():
    assert torch.equal(torch.cat([draw(range(32))[0], draw(range(32, 64))[0]]), draw(range(64))[0])


def test_t_is_bit_equal_however_the_batch_is_split():
    parts = [draw([sample])[0] for sample in range(64)]
    assert torch.equal(torch.cat(parts), draw(range(64))[0])


@few
@given(samples=st.permutations(range(16)))
def test_draws_follow_the_sample_in_any_order(samples):
    t, eps, _ = draw(range(16), batch_size=16)
    t_permuted, eps_permuted, _ = draw(samples, batch_size=16)
    torch.testing.assert_close(t_permuted, t[samples], rtol=1e-6, atol=0)
    assert torch.equal(eps[samples], eps_permuted)


def test_draws_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    draw(range(8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [{"step": 4}, {"seed": 1}])
def test_another_step_or_seed_draws_something_else(other):
    ours, theirs = draw(range(64)), draw(range(64), **other)
    assert (ours[0] != theirs[0]).all()
    assert (ours[1] != theirs[1]).flatten(1).any(1).all()
    assert not torch.equal(ours[2], theirs[2])


def test_step_and_seed_are_not_interchangeable():
    assert not torch.equal(draw(range(8), step=1, seed=2)[0], draw(range(8), step=2, seed=1)[0])


def test_no_two_samples_and_no_two_steps_share_their_noise():
    noise = torch.cat([draw(range(32), step=step)[1].flatten(1) for step in range(4)])
    assert len(noise.unique(dim=0)) == 128
    correlation = torch.corrcoef(noise) - torch.eye(128)
    assert correlation.abs().max() < 6 / math.sqrt(noise.shape[1])


@pytest.mark.parametrize("prediction", SPACES)
@pytest.mark.parametrize("loss_space", SPACES)
def test_arms_are_paired(prediction, loss_space):
    arm = dataclasses.replace(BASE, prediction=prediction, loss_space=loss_space)
    for ours, theirs in zip(draw(range(8)), draw(range(8), objective=arm), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", [{"time_mu": 0.0}, {"time_sigma": 0.1}, {"noise_scale": 2.0}, {"label_drop": 0.5}])
def test_an_arm_that_changes_one_distribution_keeps_the_other_draws(change):
    ours, theirs = draw(range(64)), draw(range(64), objective=dataclasses.replace(BASE, **change))
    same = [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert same.count(False) == 1
    assert same.index(False) == {"time_mu": 0, "time_sigma": 0, "noise_scale": 1, "label_drop": 2}[next(iter(change))]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_label_drop_of_nothing_and_of_everything(share):
    _, _, y = draw(range(64), objective=dataclasses.replace(BASE, label_drop=share))
    assert y.tolist() == ([NULL] * 64 if share else [i % 10 for i in range(64)])


def test_label_drop_replaces_its_share_and_leaves_the_rest():
    n, share = 20_000, 0.1
    x, y = torch.zeros(n, 1), torch.arange(n) % 10
    kept = dataclasses.replace(BASE, label_drop=share).draw(x, y, 0, Position(0, range(n), n))[2]
    dropped = kept == NULL
    assert abs(dropped.float().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / n)
    assert torch.equal(kept[~dropped], y[~dropped])


@pytest.mark.parametrize(("mu", "sigma"), [(-0.8, 0.8), (0.5, 2.0)])
def test_t_is_logit_normal(mu, sigma):
    n = 20_000
    objective = dataclasses.replace(BASE, time_mu=mu, time_sigma=sigma)
    t = objective.draw(
        torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, dtype=torch.long), 0, Position(0, range(n), n)
    )
    logit = torch.logit(t[0])
    assert abs(logit.mean().item() - mu) < 5 * sigma / math.sqrt(n)
    assert abs(logit.std().item() - sigma) < 5 * sigma / math.sqrt(2 * n)
    standard = (logit - mu) / sigma
    assert abs(standard.pow(3).mean().item()) < 5 * math.sqrt(15 / n)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_noise_has_the_noise_scale(scale):
    eps = draw(range(64), objective=dataclasses.replace(BASE, noise_scale=scale))[1]
    n = eps.numel()
    assert abs(eps.mean().item()) < 5 * scale / math.sqrt(n)
    assert abs(eps.std().item() - scale) < 5 * scale / math.sqrt(2 * n)
    assert torch.equal(eps, scale * draw(range(64))[1])


def test_draws_take_the_type_of_the_images():
    x = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    t, eps, y = BASE.draw(x, torch.zeros(4, dtype=torch.int32), 0, Position(0, range(4), 4))
    assert (t.dtype, eps.dtype, y.dtype) == (torch.float64, torch.float64, torch.int32)


def test_noise_does_not_depend_on_the_memory_format():
    x = torch.zeros(4, 3, 8, 8)
    y, position = torch.zeros(4, dtype=torch.long), Position(0, range(4), 4)
    eps = BASE.draw(x, y, 0, position)[1]
    assert torch.equal(eps, BASE.draw(x.to(memory_format=torch.channels_last), y, 0, position)[1])
