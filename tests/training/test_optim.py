import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jitlab.training.optim import NonFiniteGuard, OptimizerSettings, build_adamw, build_schedule

SETTINGS = OptimizerSettings(learning_rate=0.1, warmup_steps=4, weight_decay=0.3, betas=(0.9, 0.95))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def backward(module, step, spoil=None):
    generator = torch.Generator().manual_seed(step)
    module.zero_grad()
    module(torch.randn(8, 4, generator=generator)).square().mean().backward()
    if spoil:
        module[0].weight.grad[1, 2] = float(spoil)


def everything(module, optimizer):
    state = [tensor for entry in optimizer.state_dict()["state"].values() for tensor in entry.values()]
    return [tensor.detach().clone() for tensor in (*module.parameters(), *state)]


def step_guarded(module, optimizer, guard, step, spoil=None):
    backward(module, step, spoil)
    guard.protect(optimizer, module.parameters(), step)
    optimizer.step()


@pytest.mark.parametrize("spoil", ["nan", "inf", "-inf"])
def test_nothing_non_finite_reaches_weights_moments_or_step_counters(spoil):
    module, guard = network(), NonFiniteGuard()
    optimizer = build_adamw(module, SETTINGS)
    for step in range(1, 4):
        step_guarded(module, optimizer, guard, step)
    assert guard.first_bad_step() is None
    before = everything(module, optimizer)
    step_guarded(module, optimizer, guard, 4, spoil)
    step_guarded(module, optimizer, guard, 5)
    step_guarded(module, optimizer, guard, 6, spoil)
    assert guard.first_bad_step() == 4
    after = everything(module, optimizer)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_first_step_that_is_not_finite_leaves_the_initial_weights():
    module, guard = network(), NonFiniteGuard()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    step_guarded(module, build_adamw(module, SETTINGS), guard, 1, "nan")
    assert guard.first_bad_step() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_finite_steps_are_the_same_as_without_a_guard():
    guarded, free, guard = network(), network(), NonFiniteGuard()
    first, second = build_adamw(guarded, SETTINGS), build_adamw(free, SETTINGS)
    for step in range(1, 6):
        step_guarded(guarded, first, guard, step)
        backward(free, step)
        second.step()
    pairs = zip(everything(guarded, first), everything(free, second), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_norm_is_that_of_all_gradients():
    module = network()
    backward(module, 1)
    norm = NonFiniteGuard().protect(build_adamw(module, SETTINGS), module.parameters(), 1)
    gradients = torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])
    torch.testing.assert_close(norm, gradients.norm())


def test_a_guard_that_has_seen_nothing_has_no_bad_step():
    assert NonFiniteGuard().first_bad_step() is None


def test_matrices_alone_are_decayed():
    module = network()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    before = copy.deepcopy(module)
    optimizer = build_adamw(module, SETTINGS)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.1 * 0.3) if new.ndim > 1 else old)


def test_frozen_parameters_are_not_optimised():
    module = network()
    module[0].weight.requires_grad_(False)
    held = {id(p) for group in build_adamw(module, SETTINGS).param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}


@given(st.integers(0, 40))
@settings(deadline=None, max_examples=15)
def test_rate_rises_evenly_to_the_rate_at_the_last_warm_up_step_and_stays(warmup_steps):
    optimizer = build_adamw(network(), SETTINGS)
    schedule = build_schedule(optimizer, warmup_steps)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.1 * min(1, (step + 1) / warmup_steps) if warmup_steps else 0.1 for step in range(50)]
    assert rates == pytest.approx(expected)
