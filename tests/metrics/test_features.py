import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.metrics.features import EXTRACTORS, metric_name, pixels


def checkerboard(size: int, cell: int) -> torch.Tensor:
    rows = torch.arange(size) // cell
    return ((rows[:, None] + rows) % 2 * 255).to(torch.uint8).expand(1, 3, size, size)


@settings(deadline=None, max_examples=20)
@given(value=st.integers(0, 255), size=st.sampled_from([8, 16, 32, 36]))
def test_a_flat_image_has_its_grey_value_everywhere(value, size):
    images = torch.full((2, 3, size, size), value, dtype=torch.uint8)
    torch.testing.assert_close(pixels(images), torch.full((2, 64), value / 255))


def test_an_8_x_8_image_is_its_own_features_row_by_row():
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    torch.testing.assert_close(pixels(image), torch.arange(64)[None] / 255)


def test_areas_are_averaged():
    torch.testing.assert_close(pixels(checkerboard(16, 1)), torch.full((1, 64), 0.5))
    coarse = pixels(checkerboard(32, 4)).view(8, 8)
    assert coarse[0, :4].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert coarse[1, :4].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_colours_count_the_same():
    image = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    for channel in range(3):
        image[channel, channel] = 255
    torch.testing.assert_close(pixels(image), torch.full((3, 64), 1 / 3))


def test_images_of_a_batch_do_not_mix():
    images = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(pixels(images)[1:2], pixels(images[1:2]))


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_distance_is_named_after_its_features_and_never_fid(name):
    assert metric_name(name) == f"fd_{name}"
    assert "fid" not in metric_name(name)
