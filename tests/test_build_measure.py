"""What generated images are measured by: reference files, weights and warnings, all before anything is trained."""

import urllib.error
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jitlab import build
from jitlab.build_measure import build_measure, check_measure
from jitlab.cli import main
from jitlab.datasets.datamodule import ShardDataModule
from jitlab.datasets.digits import build_digits
from jitlab.errors import UserError
from jitlab.metrics import features
from jitlab.metrics.features import Features
from jitlab.metrics.images import ImageMeasure, fit_real
from jitlab.metrics.reference import read_reference, write_reference
from tests.callbacks.runs import ROOT, tiny_config
from tests.inception import write_inception

CPU = torch.device("cpu")
USER_ERROR = 2
STEPS = ("train.steps=4", "evaluation.every_steps=2", "evaluation.grid_every_steps=4")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, 16)
    return folder


@pytest.fixture(scope="module")
def statistics(shards):
    words = ("--data", str(shards), "--features", "pixels", "--workers", "0")
    assert main(["evaluate", "reference", *words]) == 0
    return shards / "reference-pixels-16.npz"


def opened(shards, **changes):
    config = tiny_config(shards, **changes)
    return config, build.build_datamodule(config, ROOT)


def measure(shards, **changes) -> tuple[ImageMeasure, list[str]]:
    config, datamodule = opened(shards, **changes)
    found, doubts = build_measure(config, ROOT, datamodule, CPU)
    assert isinstance(found, ImageMeasure)
    return found, doubts


def compute(measure: ImageMeasure) -> dict[str, float]:
    labels = torch.arange(40) % 10
    generated = torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    measurement = measure.start(CPU)
    measurement.add(generated // 2 + (10 * labels).to(torch.uint8)[:, None, None, None], labels)
    return measurement.compute()


def test_statistics_in_a_file_give_what_the_images_themselves_do(shards, statistics):
    found = compute(measure(shards, evaluation__reference=statistics)[0])
    expected = compute(measure(shards)[0])
    assert found == pytest.approx(expected, rel=1e-9)
    assert found.keys() == {"eval/fd_pixels", "eval/off_manifold", "eval/seams", "eval/class_structure"}


def test_with_a_file_no_features_of_training_images_are_computed(shards, statistics):
    class Refuses:
        name, dimensions, classes, weights_sha256 = "pixels", 64, 0, ""

        def __call__(self, images: torch.Tensor) -> Features:
            raise AssertionError("features were computed")

    batches = measure(shards)[0].reference_images
    real = fit_real(batches(), Refuses(), 8, 10, CPU, read_reference(statistics, 64))
    expected = fit_real(batches(), features.Pixels(), 8, 10, CPU)
    torch.testing.assert_close(real.moments.covariance, expected.moments.covariance, rtol=1e-9, atol=1e-15)
    assert real.class_share == pytest.approx(expected.class_share, rel=1e-9)
    assert torch.equal(real.patches.differences, expected.patches.differences)


def test_the_file_counts_where_it_is_of_more_images_than_are_looked_at(shards, statistics):
    few = {"evaluation__reference_images": 100}
    found = compute(measure(shards, **few, evaluation__reference=statistics)[0])
    assert found["eval/fd_pixels"] == pytest.approx(compute(measure(shards)[0])["eval/fd_pixels"], rel=1e-9)
    assert found["eval/off_manifold"] == compute(measure(shards, **few)[0])["eval/off_manifold"]


def test_without_a_class_share_in_the_file_nothing_is_said_of_classes(shards, statistics, tmp_path):
    path = tmp_path / "reference.npz"
    write_reference(path, replace(read_reference(statistics, 64), class_share=None))
    found = compute(measure(shards, evaluation__reference=path)[0])
    assert found.keys() == {"eval/fd_pixels", "eval/off_manifold", "eval/seams"}


def test_a_missing_file_is_told_with_the_command_that_writes_it(shards, tmp_path):
    config, datamodule = opened(shards, evaluation__reference=tmp_path / "none.npz")
    with pytest.raises(UserError) as caught:
        check_measure(config, ROOT, datamodule)
    command = f"jitlab evaluate reference --data {shards} --features pixels --out {tmp_path / 'none.npz'}"
    assert command in str(caught.value)
    assert main(command.split()[1:]) == 0
    check_measure(config, ROOT, datamodule)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", "d" * 64), ("image_size", 32), ("crop", "squeezed"), ("features", "inception")],
)
def test_statistics_of_something_else_are_refused(shards, statistics, tmp_path, field, value):
    reference = read_reference(statistics, 64)
    assert reference.provenance is not None
    path = tmp_path / "reference.npz"
    write_reference(path, replace(reference, provenance=replace(reference.provenance, **{field: value})))
    config, datamodule = opened(shards, evaluation__reference=path)
    with pytest.raises(UserError, match=f"{field} is "):
        check_measure(config, ROOT, datamodule)


def test_enough_images_raise_no_doubts(shards, statistics):
    assert measure(shards, evaluation__images=65)[1] == []
    assert measure(shards, evaluation__images=65, evaluation__reference=statistics)[1] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation__images": 64}, "evaluation.images = 64: so few have no covariance of full rank in the 64"),
        ({"evaluation__reference_images": 30}, "evaluation.reference_images = 30: so few"),
    ],
)
def test_too_few_images_for_the_features_are_doubted(shards, changes, told):
    doubts = measure(shards, **{"evaluation__images": 65, **changes})[1]
    assert [told in doubt for doubt in doubts] == [True]
    assert "eval/fd_pixels says little; use more than 64" in doubts[0]


def test_statistics_of_few_images_or_of_nobody_knows_what_are_doubted(shards, statistics, tmp_path):
    reference = read_reference(statistics, 64)
    reference.moments.n = 30
    few, others = tmp_path / "few.npz", tmp_path / "others.npz"
    write_reference(few, reference)
    np.savez(others, mu=reference.moments.mean.numpy(), sigma=reference.moments.covariance.numpy())
    doubts = measure(shards, evaluation__images=65, evaluation__reference=few)[1]
    assert ["of images = 30: so few" in doubt for doubt in doubts] == [True]
    doubts = measure(shards, evaluation__images=65, evaluation__reference=others)[1]
    assert ["does not say what it is of" in doubt for doubt in doubts] == [True]


def test_other_weights_than_the_published_ones_are_doubted_and_held_against_the_reference(
    shards, statistics, tmp_path, monkeypatch
):
    monkeypatch.setenv("JITLAB_INCEPTION_WEIGHTS", str(write_inception(tmp_path / "inception.pth")))
    found, doubts = measure(shards, evaluation__features="inception", evaluation__reference_images=10)
    assert found.extractor.name == "inception"
    assert any("not the published ones, so eval/fid compares with no published figure" in doubt for doubt in doubts)
    told = {doubt.partition(" = ")[0] for doubt in doubts if "2048 dimensions of inception" in doubt}
    assert told == {"evaluation.images", "evaluation.reference_images"}
    config, datamodule = opened(shards, evaluation__features="inception", evaluation__reference=statistics)
    with pytest.raises(UserError, match="statistics of other features"):
        check_measure(config, ROOT, datamodule)


def test_one_training_image_is_refused(shards):
    config, datamodule = opened(shards)
    assert isinstance(datamodule, ShardDataModule)
    datamodule.reference_count = 1
    with pytest.raises(UserError, match="has one training image"):
        check_measure(config, ROOT, datamodule)


def run(*words: str) -> int:
    return main(["run", "noise_vs_x", "--scale", "tiny", "--arms", "x,v", *STEPS, *words])


def test_runs_are_compared_with_the_file_and_it_may_not_change_under_them(repository, capsys):
    assert run("evaluation.reference=data/own.npz") == USER_ERROR
    line = capsys.readouterr().err
    assert "write it with jitlab evaluate reference --data" in line
    assert line.count("\n") == 1
    assert not list((repository / "runs").glob("*/*/status.json"))
    words = ("--features", "pixels", "--images", "200", "--workers", "0")
    out = repository / "data" / "own.npz"
    data = str(repository / "data" / "digits16")
    assert main(["evaluate", "reference", "--data", data, *words, "--out", str(out)]) == 0
    assert run("evaluation.reference=data/own.npz") == 0
    told = capsys.readouterr().out
    assert told.count("warning x: evaluation.images = 20: so few") == 1
    assert told.count("warning v: evaluation.images = 20: so few") == 1
    # What is complete is shown without them.
    out.unlink()
    assert run("evaluation.reference=data/own.npz") == 0
    assert run() == USER_ERROR
    assert "evaluation.reference = data/own.npz: the run has this value" in capsys.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_missing_weights_are_told_on_one_line_before_any_run(repository, monkeypatch, capsys, tmp_path, named):
    def offline(*arguments: Any, **words: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("JITLAB_INCEPTION_WEIGHTS", raising=False)
    if named:
        monkeypatch.setenv("JITLAB_INCEPTION_WEIGHTS", "nowhere.pth")
    assert run("evaluation.features=inception") == USER_ERROR
    line = capsys.readouterr().err
    assert ("nowhere.pth: no such file" if named else "cannot be downloaded") in line
    assert "JITLAB_INCEPTION_WEIGHTS=FILE" in line
    assert line.count("\n") == 1
    assert not list((repository / "runs").glob("*/*/status.json"))
