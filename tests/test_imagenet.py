"""ImageNet's scales through the command line, on shards of its layout with few and small images."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitlab import build
from jitlab.cli import main
from jitlab.config import load
from jitlab.datasets.building import Plan, ShardLog
from jitlab.datasets.building import build as build_shards
from jitlab.datasets.index import Facts
from jitlab.datasets.shards import Sample
from jitlab.errors import UserError
from jitlab.experiment import summary_metrics
from jitlab.randomness import numpy_generator
from jitlab.reference_statistics import default_path
from tests.inception import write_inception

USER_ERROR = 2
SUMMARY = ("eval/fd_pixels", "eval/off_manifold", "val/v_mse")
SIDE, CLASSES = 32, 4
COUNTS = {"train": 24, "held_out": 4}
SHRUNKEN = [
    *(f"data.image_size={SIDE}", f"data.num_classes={CLASSES}", "data.workers=0"),
    *("model.patch_size=16", "model.hidden_size=32", "model.depth=5", "model.num_heads=2"),
    *("sampler.steps=2", "train.steps=2", "train.batch_size=8", "train.devices=1", "train.device_batch_size=4"),
    *("evaluation.images=8", "evaluation.reference_images=20", "evaluation.held_out_images=4"),
    *("evaluation.features=pixels", "evaluation.reference="),
]
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


class Noise:
    def samples(self, split: str, number: int, log: ShardLog) -> Iterator[Sample]:
        for place in range(10 * number, min(10 * (number + 1), COUNTS[split])):
            pixels = numpy_generator(split, place).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "PNG")
            yield Sample(f"{place:08d}", encoded.getvalue(), "png", place % CLASSES, {})


def write_shards(folder: Path) -> None:
    facts = Facts(source="imagenet", image_size=SIDE, num_classes=CLASSES, classes=list("abcd"), command="make them")
    build_shards(folder, Plan(facts, COUNTS, 10, Noise(), bytes_per_image=3000))


def run(*words: str) -> int:
    return main(["run", "noise_vs_x", "--scale", "imagenet256", "--arms", "x,eps", *SHRUNKEN, *words])


def test_a_shrunken_scale_goes_from_shards_to_a_report(repository, capsys):
    write_shards(repository / "data" / "imagenet256")
    assert run() == 0
    assert "eval/fd_pixels" in capsys.readouterr().out
    folder = repository / "runs" / "noise_vs_x-imagenet256"
    facts = json.loads((folder / "experiment.json").read_text())
    assert facts["differs"]["eps"] == {"objective.prediction": "eps"}
    assert facts["summary_metrics"] == list(SUMMARY)
    config = load.from_yaml(folder / "eps" / "config.yaml")
    assert (config.model.bottleneck_dim, config.model.rope, config.model.in_context_tokens) == (0, False, 0)
    assert config.sampler.guidance_interval == (0.0, 1.0)
    for arm in ("x", "eps"):
        rows = [json.loads(line) for line in (folder / arm / "metrics.jsonl").read_text().splitlines()]
        logged = {key for row in rows for key in row["metrics"]}
        assert {*SUMMARY, "eval/fd_pixels_ema0.9996"} <= logged
    assert "Table 2 (a)" in (folder / "report.html").read_text()


@pytest.mark.parametrize("scale", ["imagenet64", "imagenet256", "imagenet512", "imagenet1024"])
def test_the_scales_are_measured_by_fid_against_the_file_that_evaluate_reference_writes(repository, scale):
    config = load.resolve(repository, load.load_question(repository, "noise_vs_x"), scale, "x", [])
    assert summary_metrics(config) == ("eval/fid", "eval/off_manifold", "val/v_mse")
    written = default_path(Path(config.data.path), config.evaluation.features, config.data.image_size)
    assert config.evaluation.reference == str(written)


def test_where_the_file_or_the_weights_are_missing_it_is_told_before_training(
    repository, monkeypatch, capsys, tmp_path
):
    write_shards(repository / "data" / "imagenet256")
    own = ("evaluation.features=inception", "evaluation.reference=data/imagenet256/reference-inception-256.npz")
    monkeypatch.setenv("JITLAB_INCEPTION_WEIGHTS", "nowhere.pth")
    assert run(*own) == USER_ERROR
    assert "nowhere.pth: no such file, but JITLAB_INCEPTION_WEIGHTS says" in capsys.readouterr().err
    monkeypatch.setenv("JITLAB_INCEPTION_WEIGHTS", str(write_inception(tmp_path / "inception.pth")))
    assert run(*own) == USER_ERROR
    command = f"jitlab evaluate reference --data {repository / 'data' / 'imagenet256'} --features inception"
    assert command in capsys.readouterr().err
    assert not list((repository / "runs").glob("*/*/status.json"))


@pytest.mark.parametrize("scale", ["imagenet64", "imagenet256", "imagenet512", "imagenet1024"])
def test_without_shards_it_is_told_on_one_line_what_is_missing(repository, scale):
    config = load.resolve(repository, load.load_question(repository, "noise_vs_x"), scale, "x", [])
    assert build.build_data(config, repository) is None
    with pytest.raises(UserError) as caught:
        build.build_datamodule(config, repository)
    line = str(caught.value)
    assert "\n" not in line
    folder, size = repository / "data" / scale, scale.removeprefix("imagenet")
    assert f"{folder / 'index.json'}: there is no such index of shards; build it from your ImageNet" in line
    command = f"jitlab data build imagenet --source ILSVRC2012_img_train.tar --image-size {size} --out {folder}"
    assert command in line
    assert "data/README.md" in line


def test_shards_that_are_missing_or_damaged_are_told_with_what_to_do(repository, capsys):
    folder = repository / "data" / "imagenet256"
    assert run() == USER_ERROR
    line = capsys.readouterr().err
    assert f"jitlab: {folder / 'index.json'}: there is no such index of shards; build it" in line
    assert line.count("\n") == 1
    write_shards(folder)
    (folder / "train-00001.tar").unlink()
    assert run() == USER_ERROR
    assert (
        f"{folder / 'train-00001.tar'}: shard is missing; put it there again, or write the index anew: make them"
        in capsys.readouterr().err
    )
    (folder / "index.json").write_text("{")
    assert run() == USER_ERROR
    line = capsys.readouterr().err
    assert f"{folder / 'index.json'}: is damaged" in line
    assert "jitlab data build imagenet" in line


def test_more_reference_images_than_shards_hold_are_refused_before_training(repository, capsys):
    write_shards(repository / "data" / "imagenet256")
    assert run("evaluation.reference_images=25") == USER_ERROR
    assert "evaluation.reference_images = 25" in capsys.readouterr().err
    assert not list((repository / "runs").glob("*/*/status.json"))
