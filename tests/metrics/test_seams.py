import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.metrics.patches import PatchFit
from jitlab.metrics.seams import border_ratio, squared_differences

few = settings(deadline=None, max_examples=15)


def noise(n=20, size=16, seed=0):
    return torch.randint(256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def energy(images, patch_size=4):
    return border_ratio(squared_differences(images, patch_size).double().mean(0), images.shape[1:], patch_size)


def scores(generated, real, patch_size=4):
    fit = PatchFit(patch_size, torch.device("cpu"))
    fit.add(real)
    fitted = fit.compute()
    return fitted.scores(fitted.measure(generated).mean(0))


def tiles(images, patch_size=4, step=40):
    """Lift every second patch by a step."""
    index = torch.arange(images.shape[-1]) // patch_size
    lift = (index[:, None] + index) % 2 * step
    return (images // 2 + lift).to(torch.uint8)


def test_images_that_know_no_patches_have_no_seams():
    assert energy(noise(200, 32)) == pytest.approx(1, abs=0.01)
    assert energy(torch.full((2, 3, 16, 16), 9, dtype=torch.uint8)) == 1


@few
@given(patch_size=st.sampled_from([2, 4, 8]), step=st.integers(1, 120))
def test_flat_patches_have_the_energy_of_their_step(patch_size, step):
    flat = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    assert energy(tiles(flat, patch_size, step), patch_size) == pytest.approx(6 * step**2 + 1)


def test_borders_are_those_of_the_patch_size():
    assert energy(tiles(noise(), 8), 8) > 1.3
    # Every second border of patches of 4 is one of 8; the other half is inside for 8.
    assert energy(tiles(noise(), 4), 8) < energy(tiles(noise(), 8), 8)


def test_both_directions_count():
    rows = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    rows[:, :, 4:] = 60
    # 1 border of 8 pairs in each direction, one of them with the step.
    assert energy(rows) == pytest.approx((8 * 3600 / 16) * 6 + 1)
    assert energy(rows.transpose(2, 3)) == energy(rows)


def test_samples_are_compared_with_data():
    assert scores(tiles(noise()), noise(seed=1))["seams"] > 1.2
    assert scores(tiles(noise()), tiles(noise(seed=1)))["seams"] == pytest.approx(1, abs=0.05)


def test_real_images_have_no_seams_and_lie_on_their_subspace():
    found = scores(noise(), noise())
    assert found["seams"] == 1
    assert 0 <= found["off_manifold"] <= 0.01


@pytest.mark.parametrize("patch_size", [1, 16])
def test_a_patch_of_one_pixel_or_of_the_whole_image_has_no_seams(patch_size):
    assert scores(noise(), noise(seed=1), patch_size).keys() == {"off_manifold"}
