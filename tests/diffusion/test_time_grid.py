from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.diffusion.time_grid import linear_grid, shifted_grid, time_grid

many = settings(deadline=None, max_examples=100)
steps_ = st.integers(1, 300)
shifts = st.floats(0.01, 100)


@pytest.mark.parametrize("steps", [1, 6, 50, 97])
def test_the_linear_grid_is_even(steps):
    assert all(later - t == pytest.approx(1 / steps, abs=1e-6) for t, later in pairwise(linear_grid(steps)))


@many
@given(steps=steps_, shift=shifts)
def test_grids_rise_from_0_to_1(steps, shift):
    for times in (linear_grid(steps), shifted_grid(steps, shift)):
        assert (len(times), times[0], times[-1]) == (steps + 1, 0.0, 1.0)
        assert all(t < later for t, later in pairwise(times))


@many
@given(steps=steps_)
def test_shift_1_is_the_linear_grid_to_the_bit(steps):
    assert shifted_grid(steps, 1.0) == linear_grid(steps) == [step / steps for step in range(steps + 1)]


@many
@given(steps=steps_, shift=shifts)
def test_a_shift_multiplies_noise_over_signal(steps, shift):
    for even, shifted in zip(linear_grid(steps)[1:-1], shifted_grid(steps, shift)[1:-1], strict=True):
        assert (1 - shifted) / shifted == pytest.approx(shift * (1 - even) / even, rel=1e-9)


@many
@given(steps=steps_, shift=shifts)
def test_the_inverse_shift_is_the_mirror_image(steps, shift):
    mirrored = [1 - t for t in reversed(shifted_grid(steps, 1 / shift))]
    assert shifted_grid(steps, shift) == pytest.approx(mirrored, abs=1e-12)


@many
@given(steps=steps_, shift=shifts, inner=st.lists(st.floats(0.01, 0.99), unique=True, max_size=8))
def test_times_that_are_given_are_used_as_they_are(steps, shift, inner):
    times = (0.0, *sorted(inner), 1.0)
    assert time_grid(steps, shift, times) == list(times)
    assert time_grid(steps, shift, ()) == shifted_grid(steps, shift)
