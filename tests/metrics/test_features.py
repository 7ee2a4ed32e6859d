from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.errors import UserError
from jitlab.metrics.features import Pixels, build_extractor, full_batches, metric_name, plain_float32

CPU = torch.device("cpu")


def pixels(images: torch.Tensor) -> torch.Tensor:
    return Pixels()(images).vectors


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


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("inception", "fid"),
        ("pixels", "fd_pixels"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "fd_timm_vit_small_patch14_dinov2.lvd142m"),
        ("timm:inception_v3.tf_in1k", "fd_timm_inception_v3.tf_in1k"),
    ],
)
def test_only_the_distance_of_inception_is_called_fid(features, name):
    assert metric_name(features) == name


def test_extractors_are_built_by_name():
    extractor = build_extractor("pixels", CPU)
    features = extractor(torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    assert (extractor.name, extractor.weights_sha256, extractor.classes) == ("pixels", "", 0)
    assert features.vectors.shape == (3, extractor.dimensions)
    assert features.logits is None


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("inceptoin", None, "did you mean 'inception'"),
        ("vgg", None, "expected one of pixels, inception, timm:NETWORK"),
        ("pixels", "w.pth", "this is none"),
    ],
)
def test_what_is_no_extractor_is_told(name, weights, words):
    with pytest.raises(UserError, match=words):
        build_extractor(name, CPU, weights and Path(weights))


@settings(deadline=None, max_examples=20)
@given(n=st.integers(0, 100))
def test_batches_are_full_and_in_order(n):
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2)
    batches = full_batches(images)
    assert {len(batch) for batch in batches} <= {32}
    assert torch.equal(torch.cat([images[:0], *batches])[:n], images)
    assert sum(map(len, batches)) - n < 32


def test_networks_compute_in_float32_proper_whatever_surrounds_them():
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        with plain_float32():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.enabled
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert torch.backends.cudnn.allow_tf32 == before
