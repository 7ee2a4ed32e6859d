import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jitlab.callbacks.drawing import draw_images, draw_strip
from jitlab.callbacks.sample_grid import grid_labels
from jitlab.callbacks.strip import DenoisingStrip, strip_numbers
from tests.callbacks.runs import tiny_config, train

STRIP = "step000003-strip.png"
CONFIG = {"train__steps": 3, "sampler__steps": 5, "evaluation__grid_every_steps": 2}


@given(st.integers(1, 1024))
def test_strip_numbers_are_of_the_grid_and_spread(images):
    numbers = strip_numbers(images)
    assert numbers == sorted(set(numbers))
    assert len(numbers) == min(images, 3)
    assert numbers[0] == 0
    assert images // 2 <= numbers[-1] < images


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    return train(tiny_config(shards, "v", **CONFIG), tmp_path_factory.mktemp("strip"))


def cells(path):
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (3 * 2 * 16, 6 * 16, 3)
    return pixels.reshape(3, 2, 16, 6, 16, 3).transpose(0, 1, 3, 2, 4, 5)  # sample, row, t, y, x, channel


def test_the_strip_is_drawn_once_at_the_end_and_says_its_times(run):
    assert [path.name for path in (run.folder / "samples").glob("*strip*")] == [STRIP]
    with Image.open(run.folder / "samples" / STRIP) as strip:
        assert strip.info["t"] == "0 0.2 0.4 0.6 0.8 1"


def test_the_strip_goes_from_noise_to_the_grids_own_samples_of_the_first_average(run):
    drawn = cells(run.folder / "samples" / STRIP)
    numbers = strip_numbers(10)
    with run.trainer.callbacks[0].applied(0.5):
        images = run.module.generate(range(10), grid_labels(10, 10))
    for sample, number in enumerate(numbers):
        expected = images[number].permute(1, 2, 0).numpy()
        for row in (0, 1):
            np.testing.assert_allclose(drawn[sample, row, 5].astype(int), expected, atol=1)
        # The last step goes straight to the predicted x.
        np.testing.assert_allclose(drawn[sample, 1, 4].astype(int), expected, atol=1)
    grid = np.asarray(Image.open(run.folder / "samples" / "step000003-ema0.5.png"))
    np.testing.assert_allclose(drawn[0, 0, 5].astype(int), grid[:16, :16], atol=1)


def test_arms_start_from_the_same_noise(shards, run, tmp_path):
    other = train(tiny_config(shards, "eps", **CONFIG), tmp_path)
    ours, theirs = (cells(each.folder / "samples" / STRIP) for each in (run, other))
    np.testing.assert_array_equal(ours[:, 0, 0], theirs[:, 0, 0])
    assert (ours[:, 1, 0] != theirs[:, 1, 0]).any()


def test_a_strip_that_was_cut_off_is_made_up_for(shards, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(DenoisingStrip, "look", lambda self, trainer, module: None)
        train(tiny_config(shards, "v", **CONFIG), tmp_path)
    assert not (tmp_path / "samples" / STRIP).exists()
    train(tiny_config(shards, "v", **CONFIG), tmp_path)
    assert (tmp_path / "samples" / STRIP).read_bytes() == (run.folder / "samples" / STRIP).read_bytes()


def test_a_cell_shows_all_samples_of_its_group():
    rows = torch.arange(2 * 2 * 3).view(2, 2, 3, 1, 1, 1).expand(2, 2, 3, 3, 4, 4).to(torch.uint8)
    alone, together = draw_strip(rows.split(1), draw_images), draw_strip([rows], draw_images)
    assert (alone.size, together.size) == ((12, 16), (24, 8))
    assert np.asarray(alone)[::4, ::4, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert np.asarray(together)[::4, ::4, 0].tolist() == [[0, 6, 1, 7, 2, 8], [3, 9, 4, 10, 5, 11]]
