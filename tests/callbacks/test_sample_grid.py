import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jitlab.callbacks.sample_grid import grid_labels
from tests.callbacks.runs import tiny_config, train


@given(st.integers(1, 1024), st.integers(1, 1000))
def test_grid_labels_are_balanced_and_in_order(count, num_classes):
    labels = grid_labels(count, num_classes)
    assert labels.shape == (count,)
    assert 0 <= labels.min() <= labels.max() < num_classes
    assert (labels.diff() >= 0).all()
    counts = torch.bincount(labels, minlength=num_classes)
    assert counts.max() - counts.min() <= 1


def test_eighty_digits_are_ten_rows_of_one_class_each():
    assert torch.equal(grid_labels(80, 10).view(10, 8), torch.arange(10).view(10, 1).expand(10, 8))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    config = tiny_config(shards, train__steps=3, evaluation__grid_every_steps=2)
    return train(config, tmp_path_factory.mktemp("grids"))


def test_grids_of_raw_and_averaged_weights_are_drawn_at_multiples_and_at_the_end(run):
    drawn = sorted(path.name for path in (run.folder / "samples").iterdir() if "strip" not in path.name)
    assert drawn == [f"step00000{step}-{key}.png" for step in (2, 3) for key in ("ema0.5", "ema0.9", "raw")]


def test_last_grids_show_what_the_final_weights_generate(run):
    ema = run.trainer.callbacks[0]
    for key, decay in (("raw", None), ("ema0.9", 0.9)):
        pixels = np.asarray(Image.open(run.folder / "samples" / f"step000003-{key}.png"))
        assert pixels.shape == (32, 128, 3)
        with ema.applied(decay):
            images = run.module.generate(range(10), grid_labels(10, 10))
        for place, image in enumerate(images):
            row, column = divmod(place, 8)
            cell = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            np.testing.assert_array_equal(cell, image.permute(1, 2, 0).numpy())
