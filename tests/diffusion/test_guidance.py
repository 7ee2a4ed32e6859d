from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.diffusion.guidance import acts, guided_velocity
from jitlab.diffusion.time_grid import linear_grid

NULL = 9
Y = torch.tensor([1, 2, 3])
Z = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Network:
    """Output depends on z, t and the label, and every call is recorded."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, z: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls.append((z.shape[0], t.tolist(), y.tolist()))
        return z * (1 + y)[:, None, None] + t[:, None, None]


def to_velocity(output: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return output - 0.5 * z + 2 * t[:, None, None]


def velocity_at(t, scale, interval, z=Z) -> tuple[torch.Tensor, list[Any]]:
    network = Network()
    v = guided_velocity(network, to_velocity, Y, NULL, scale, interval)(z, t)
    return v, network.calls


def branch(y, t) -> torch.Tensor:
    times = torch.full((3,), t, dtype=Z.dtype)
    return to_velocity(Network()(Z, times, y), Z, times)


@pytest.mark.parametrize(
    ("t", "scale", "interval"),
    [
        (0.5, 1.0, (0.0, 1.0)),
        (0.0, 1.0, (0.0, 1.0)),
        (0.05, 3.0, (0.1, 0.9)),
        (0.1, 3.0, (0.1, 0.9)),
        (0.9, 3.0, (0.1, 0.9)),
        (0.95, 3.0, (0.1, 0.9)),
        (0.0, 3.0, (0.1, 0.9)),
        (1.0, 3.0, (0.0, 1.0)),
    ],
)
def test_no_unconditional_pass_at_scale_1_or_outside_the_interval(t, scale, interval):
    v, calls = velocity_at(t, scale, interval)
    assert calls == [(3, [t] * 3, [1, 2, 3])]
    torch.testing.assert_close(v, branch(Y, t), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("t", "interval"), [(0.5, (0.1, 0.9)), (0.11, (0.1, 0.9)), (0.89, (0.1, 0.9)), (0.0, (0.0, 0.5)), (0.2, (0.0, 0.5))]
)
def test_inside_the_interval_both_branches_are_one_call(t, interval):
    _, calls = velocity_at(t, 3.0, interval)
    assert calls == [(6, [t] * 6, [1, 2, 3, NULL, NULL, NULL])]


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(0, 10), t=st.floats(0, 0.99))
def test_guidance_extrapolates_from_no_class_to_the_class(scale, t):
    v, _ = velocity_at(t, scale, (0.0, 1.0))
    conditional, unconditional = branch(Y, t), branch(torch.full_like(Y, NULL), t)
    torch.testing.assert_close(v, (1 - scale) * unconditional + scale * conditional, rtol=1e-12, atol=1e-10)


def test_scale_0_is_the_unconditional_velocity():
    v, calls = velocity_at(0.5, 0.0, (0.0, 1.0))
    assert len(calls) == 1
    torch.testing.assert_close(v, branch(torch.full_like(Y, NULL), 0.5), rtol=0, atol=0)


@settings(deadline=None, max_examples=100)
@given(t=st.floats(0, 1), low=st.floats(0, 1), high=st.floats(0, 1), scale=st.sampled_from([0.0, 1.0, 2.5]))
def test_guidance_acts_in_the_open_interval_which_0_closes(t, low, high, scale):
    assert acts(t, scale, (low, high)) == (scale != 1 and t < high and (t > low or low == 0))


def test_the_velocity_keeps_type_and_shape():
    v, _ = velocity_at(0.5, 2.0, (0.0, 1.0), z=Z.bfloat16())
    assert (v.dtype, v.shape) == (torch.bfloat16, Z.shape)


@pytest.mark.parametrize("steps", [10, 20, 40])
@pytest.mark.parametrize(("interval", "end"), [((0.1, 1.0), 0.1), ((0.0, 0.7), 0.7)])
def test_a_grid_point_on_an_end_of_the_interval_is_outside(steps, interval, end):
    t = linear_grid(steps)[round(end * steps)]
    assert not acts(t, 2.9, interval)
