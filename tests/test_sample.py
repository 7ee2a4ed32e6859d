"""`jitlab sample`: from a checkpoint to pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from jitlab import cli
from jitlab.sample import Request
from jitlab.training.module import JiTModule
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
    "steps": (("--classes", "3", "--steps", "0"), "--steps 0: sampler.steps = 0: expected a value in [1, inf)"),
    "cfg": (("--classes", "3", "--cfg", "high"), "--cfg high: sampler.guidance_scale = 'high': expected a number"),
    "empty cfg": (("--classes", "3", "--cfg", ""), "--cfg '': sampler.guidance_scale = (empty): expected a number"),
    "bracket": (("--classes", "3", "--cfg", "["), "--cfg '[': sampler.guidance_scale = [: "),
    "seed": (("--classes", "3", "--seed", "-1"), "--seed -1: seed = -1: expected a value in [0, inf)"),
    "large seed": (("--classes", "3", "--seed", str(2**63)), f"--seed {2**63}: seed = {2**63}: expected a whole"),
    "seed of letters": (("--classes", "3", "--seed", "x"), "--seed x: seed = 'x': expected a whole number"),
    "solver's name": (("--classes", "3", "--solver", "hewn"), "--solver hewn: sampler.solver = hewn: expected one of"),
    "empty weights": (("--classes", "3", "--weights", ""), "--weights '': no such weights; use one of raw, ema0.9999"),
    "empty word": (("--classes", "3", "sampler.solver="), "sampler.solver = (empty): expected one of euler, heun"),
    "count": (("--classes", "3,4", "--count", str(10**14)), f"--count {10**14}: makes {2 * 10**14} images; expected"),
    "grid": (("--classes", "3", "--count", "1025", "--grid"), "--grid: 1025 images in one picture; expected at most"),
    "strip": (("--classes", "3", "--count", "1025", "--trajectory"), "--trajectory: 1025 images in one picture"),
    "training": (
        ("--classes", "3", "train.steps=5"),
        "train.steps = 5: does not belong to sampling; expected sampler.",
    ),
    "seed's word": (("--classes", "3", "seed=5"), "seed = 5: does not belong to sampling; use --seed"),
    "no word": (("--classes", "3", "heun"), "'heun': expected KEY=VALUE, such as sampler.guidance_interval=[0.2,0.8]"),
    "typing error": (("--classes", "3", "sampler.churm=1"), "sampler.churm: no such setting; did you mean"),
    "twice": (
        ("--classes", "3", "--cfg", "2", "sampler.guidance_scale=3"),
        "--cfg 2: sampler.guidance_scale = 3 sets the same; leave one of them out",
    ),
    "churn of an ODE": (("--classes", "3", "sampler.churn=2"), "command line: sampler.churn = 2.0: heun adds no noise"),
    "steps of a grid": (
        ("--classes", "3", "--steps", "4", "sampler.times=[0,0.5,1]"),
        "--steps 4: sampler.steps = 4: sampler.times has 2 steps; write sampler.steps=2",
    ),
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


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    words = ("sampler.solver=euler_maruyama", "sampler.churn=2")
    return imported(tmp_path_factory.mktemp("noisy"), official_content(golden_state()), *words)


def same(ours, theirs) -> bool:
    return all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_words_set_what_has_no_option_of_its_own(checkpoint, tmp_path):
    first = draw(checkpoint, tmp_path / "first", "--cfg", "2.9")
    words = ("sampler.guidance_interval=[0.5,0.9]", "sampler.clip_one_minus_t=0.4", "sampler.shift=3")
    for number, word in enumerate(words):
        assert not same(first, draw(checkpoint, tmp_path / str(number), "--cfg", "2.9", word)), word
    assert same(first, draw(checkpoint, tmp_path / "word", "sampler.guidance_scale=2.9"))


def test_a_time_grid_says_how_many_steps_it_has(checkpoint, tmp_path):
    command = ["sample", str(checkpoint), "--classes", "3,7", "--out"]
    assert cli.main([*command, str(tmp_path / "even"), "--steps", "2"]) == 0
    assert cli.main([*command, str(tmp_path / "times"), "sampler.times=[0,0.5,1]"]) == 0
    for even in (tmp_path / "even").iterdir():
        assert even.read_bytes() == (tmp_path / "times" / even.name).read_bytes()


def test_a_checkpoint_keeps_its_churn_under_its_own_solver_alone(noisy, tmp_path):
    own = draw(noisy, tmp_path / "own")
    assert same(own, draw(noisy, tmp_path / "named", "--solver", "euler_maruyama"))
    assert same(own, draw(noisy, tmp_path / "word", "sampler.solver=euler_maruyama"))
    assert not same(own, draw(noisy, tmp_path / "weak", "sampler.churn=1"))
    draw(noisy, tmp_path / "heun", "--solver", "heun")


@pytest.mark.parametrize("below", ["", "images"])
def test_a_file_in_the_folder_s_place_is_told_before_anything_is_drawn(
    checkpoint, tmp_path, capsys, below, monkeypatch
):
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(JiTModule, "generate", None)
    said = refusal(capsys, "sample", checkpoint, "--classes", "3", "--out", tmp_path / "out" / below)
    assert f"--out {tmp_path / 'out' / below}: " in said
    assert "expected a folder" in said


def test_an_interruption_leaves_what_was_drawn(checkpoint, tmp_path, monkeypatch):
    whole = draw(checkpoint, tmp_path / "whole", "--count", "3", "--batch-size", "2")
    generate, batches = JiTModule.generate, []

    def interrupted(self, numbers, *rest):
        batches.append(list(numbers))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return generate(self, numbers, *rest)

    monkeypatch.setattr(JiTModule, "generate", interrupted)
    words = ("--classes", "3,7", "--count", "3", "--batch-size", "2", "--steps", "3", "--out", str(tmp_path / "part"))
    assert cli.main(["sample", str(checkpoint), *words]) == 130
    assert batches == [[0, 1], [2, 3], [4, 5]]
    left = {path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "part").iterdir()}
    assert sorted(left) == list(whole)[:4]
    assert all(np.array_equal(left[name], whole[name]) for name in left)


def test_a_large_request_is_laid_out_batch_by_batch():
    request = Request([5, 2], 10**12, {}, [], 3, None, grid=False, trajectory=False)
    batches = request.batches()
    assert [next(batches)[0] for _ in range(2)] == [range(3), range(3, 6)]
    few = Request([5, 2], 2, {}, [], 3, None, grid=False, trajectory=False)
    assert [(list(numbers), labels.tolist()) for numbers, labels in few.batches()] == [
        ([0, 1, 2], [5, 5, 2]),
        ([3], [2]),
    ]
