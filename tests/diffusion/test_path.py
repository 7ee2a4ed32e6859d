import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.diffusion.path import SPACES, Clip, Space, convert, interpolate, per_sample

T_EPS = 0.05
CLIP = Clip(T_EPS, T_EPS)
few = settings(deadline=None, max_examples=20)
unclipped = st.floats(T_EPS, 1 - T_EPS)


def point(seed: int, t: float) -> tuple[dict[Space, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return x, eps, v, z and t of one point of the path, float64."""
    generator = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    times = torch.full((2,), t, dtype=torch.float64)
    return {"x": x, "eps": eps, "v": x - eps}, interpolate(x, eps, times), times


@pytest.mark.parametrize("source", SPACES)
@pytest.mark.parametrize("target", SPACES)
@few
@given(t=unclipped, seed=st.integers(0, 1000))
def test_one_of_x_eps_v_gives_the_others(source, target, t, seed):
    values, z, t = point(seed, t)
    torch.testing.assert_close(convert(values[source], z, t, source, target, CLIP), values[target], rtol=0, atol=1e-12)


@pytest.mark.parametrize("source", SPACES)
@pytest.mark.parametrize("target", SPACES)
@few
@given(t=unclipped, seed=st.integers(0, 1000))
def test_there_and_back_is_the_identity_for_any_value(source, target, t, seed):
    _, z, t = point(seed, t)
    value = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    there = convert(value, z, t, source, target, CLIP)
    torch.testing.assert_close(convert(there, z, t, target, source, CLIP), value, rtol=0, atol=1e-10)


@few
@given(t=unclipped, value=st.floats(-3, 3), z=st.floats(-3, 3))
def test_conversions_are_those_of_table_1(t, value, z):
    expected = {
        ("x", "x"): value,
        ("x", "eps"): (z - t * value) / (1 - t),
        ("x", "v"): (value - z) / (1 - t),
        ("eps", "x"): (z - (1 - t) * value) / t,
        ("eps", "eps"): value,
        ("eps", "v"): (z - value) / t,
        ("v", "x"): z + (1 - t) * value,
        ("v", "eps"): z - t * value,
        ("v", "v"): value,
    }
    scalar = {name: torch.tensor([number], dtype=torch.float64) for name, number in [("v", value), ("z", z), ("t", t)]}
    for source in SPACES:
        for target in SPACES:
            converted = convert(scalar["v"], scalar["z"], scalar["t"], source, target, CLIP)
            assert converted.item() == pytest.approx(expected[source, target], rel=1e-12, abs=1e-12)


def test_the_path_starts_in_noise_and_ends_in_data():
    values, _, _ = point(0, 0.0)
    torch.testing.assert_close(interpolate(values["x"], values["eps"], torch.zeros(2)), values["eps"], rtol=0, atol=0)
    torch.testing.assert_close(interpolate(values["x"], values["eps"], torch.ones(2)), values["x"], rtol=0, atol=0)


@few
@given(t=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_v_is_the_derivative_of_the_path(t, seed):
    values, z, t = point(seed, t)
    later = interpolate(values["x"], values["eps"], t + 0.01)
    torch.testing.assert_close((later - z) / 0.01, values["v"], rtol=0, atol=1e-10)


def test_every_sample_has_its_own_t():
    x, eps = torch.ones(3, 2, 2, 2), torch.zeros(3, 2, 2, 2)
    z = interpolate(x, eps, torch.tensor([0.0, 0.25, 1.0]))
    assert z.flatten(1).unique(dim=1).flatten().tolist() == [0.0, 0.25, 1.0]
    assert per_sample(torch.zeros(3), x).shape == (3, 1, 1, 1)
    assert per_sample(torch.zeros(3), torch.zeros(3, 7)).shape == (3, 1)


@pytest.mark.parametrize("target", ["eps", "v"])
@few
@given(t=st.floats(1 - T_EPS, 1), t_eps=st.sampled_from([0.05, 0.2]), value=st.floats(-3, 3))
def test_the_denominator_1_minus_t_never_falls_below_t_eps(target, t, t_eps, value):
    z = torch.tensor([0.5], dtype=torch.float64)
    time = torch.tensor([t], dtype=torch.float64)
    out = convert(torch.full_like(z, value), z, time, "x", target, Clip(t_eps, 0.5)).item()
    numerator = value - 0.5 if target == "v" else 0.5 - t * value
    assert out == pytest.approx(numerator / max(1 - t, t_eps), rel=1e-12, abs=1e-12)
    assert abs(out) <= abs(numerator) / t_eps * (1 + 1e-12)


@pytest.mark.parametrize("target", ["x", "v"])
@few
@given(t=st.floats(0, T_EPS), t_eps=st.sampled_from([0.05, 0.2]), value=st.floats(-3, 3))
def test_the_denominator_t_never_falls_below_t_eps(target, t, t_eps, value):
    z = torch.tensor([0.5], dtype=torch.float64)
    time = torch.tensor([t], dtype=torch.float64)
    out = convert(torch.full_like(z, value), z, time, "eps", target, Clip(0.5, t_eps)).item()
    numerator = 0.5 - value if target == "v" else 0.5 - (1 - t) * value
    assert out == pytest.approx(numerator / max(t, t_eps), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("source", SPACES)
@pytest.mark.parametrize("target", SPACES)
@few
@given(t=st.floats(0, 1))
def test_nothing_is_infinite_anywhere_in_0_1(source, target, t):
    values, z, t = point(1, t)
    assert convert(values[source], z, t, source, target, Clip(1e-3, 1e-3)).isfinite().all()
