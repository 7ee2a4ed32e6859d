"""`jitlab sample`: from a checkpoint to pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from jitlab import cli
from tests.test_checkpoint_files import golden_state, imported, official_content, refusal

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("sampled"), official_content(golden_state()))


def draw(checkpoint, out, *words):
    command = ["sample", str(checkpoint), "--out", str(out), "--classes", "3,7", "--steps", "3"]
    assert cli.main([*command, *words]) == 0
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(out.iterdir())}


@pytest.mark.parametrize("cfg", ["1.0", "2.9"])
def test_image_is_the_same_whatever_the_batch(checkpoint, tmp_path, cfg):
    words = ("--count", "2", "--cfg", cfg)
    whole = draw(checkpoint, tmp_path / "whole", *words)
    assert list(whole) == ["00000-class3.png", "00001-class3.png", "00002-class7.png", "00003-class7.png"]
    for size in ("1", "3"):
        parts = draw(checkpoint, tmp_path / size, *words, "--batch-size", size)
        for name, image in whole.items():
            assert image.shape == (32, 32, 3)
            assert abs(parts[name] - image).max() <= 1
    assert abs(whole["00000-class3.png"] - whole["00001-class3.png"]).max() > 1


def test_grid_holds_the_images_and_the_strip_ends_in_them(checkpoint, tmp_path):
    images = draw(checkpoint, tmp_path / "images", "--count", "2")
    both = draw(checkpoint, tmp_path / "grid", "--count", "2", "--grid", "--trajectory", "--steps", "10")
    assert list(both) == ["grid.png", "trajectory.png"]
    assert both["grid.png"].shape == (64, 64, 3)
    assert both["trajectory.png"].shape == (4 * 2 * 32, 6 * 32, 3)
    assert len(images) == 4
    strip, grid = both["trajectory.png"], both["grid.png"]
    assert np.array_equal(strip[64:96, -32:], grid[:32, 32:])
    assert np.array_equal(strip[96:128, -32:], grid[:32, 32:])


def test_seed_and_weights_change_the_image(checkpoint, tmp_path):
    first = draw(checkpoint, tmp_path / "a")["00000-class3.png"]
    for number, words in enumerate([("--seed", "1"), ("--weights", "raw"), ("--solver", "euler")]):
        other = draw(checkpoint, tmp_path / str(number), *words)["00000-class3.png"]
        assert not np.array_equal(first, other)


REFUSED = {
    "class": (("--classes", "3,10"), "--classes 10: no such class"),
    "weights": (("--classes", "3", "--weights", "ema0.5"), "use one of raw, ema0.9999, ema0.9996"),
    "solver": (("--classes", "3", "--solver", "hewn"), "did you mean 'heun'?"),
    "steps": (("--classes", "3", "--steps", "0"), "sampler.steps = 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_there_is_not_is_refused_on_one_line(checkpoint, tmp_path, capsys, case):
    words, said = REFUSED[case]
    assert said in refusal(capsys, "sample", checkpoint, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_refused(checkpoint, tmp_path, capsys):
    words = ("--out", tmp_path / "out", "--classes", "3")
    assert "no such checkpoint" in refusal(capsys, "sample", tmp_path / "none.ckpt", *words)
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:9000])
    assert "damaged" in refusal(capsys, "sample", damaged, *words)
    official = tmp_path / "official.pth"
    torch.save(official_content(golden_state()), official)
    assert "jitlab checkpoint import" in refusal(capsys, "sample", official, *words)
