"""Reference statistics through the command line."""

import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from jitlab import reference_statistics
from jitlab.cli import main
from jitlab.datasets.index import open_index
from jitlab.metrics.features import Pixels
from jitlab.metrics.reference import read_reference
from tests.datasets.folders import datamodule
from tests.inception import write_inception

USER_ERROR = 2
SIZE = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics") / "digits16"
    assert main(["data", "build", "digits", "--image-size", str(SIZE), "--out", str(folder)]) == 0
    return folder


def reference(shards, *words):
    return main(["evaluate", "reference", "--data", str(shards), *words])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_statistics_are_those_of_the_training_images_in_numpy(shards, tmp_path, capsys, workers):
    out = tmp_path / "pixels.npz"
    assert reference(shards, "--features", "pixels", "--out", str(out), "--workers", workers) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: pixels of 1600 images"
    images = torch.cat([batch for batch, _ in datamodule(shards).reference_images()])
    rows = Pixels()(images).vectors.double().numpy()
    with np.load(out) as found:
        np.testing.assert_allclose(found["mu"], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found["sigma"], np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-15)
    found = read_reference(out, 64)
    assert found.features is not None
    np.testing.assert_array_equal(found.features, rows.astype(np.float32))
    labels = torch.cat([labels for _, labels in datamodule(shards).reference_images()])
    # Analysis of variance: what is left of it within the classes.
    within = sum(((rows[labels == c] - rows[labels == c].mean(0)) ** 2).sum() for c in range(10)) / (1600 - 10)
    assert found.class_share == pytest.approx(1 - within / (((rows - rows.mean(0)) ** 2).sum() / 1599))
    provenance = found.provenance
    assert provenance is not None
    assert provenance.fingerprint == open_index(shards, "").fingerprint
    assert (provenance.features, provenance.image_size, provenance.crop) == ("pixels", SIZE, "adm")


def test_inception_takes_its_weights_from_a_file_and_warns_of_too_few_images(shards, tmp_path, capsys):
    weights = write_inception(tmp_path / "inception.pth")
    assert reference(shards, "--weights", str(weights), "--images", "20", "--workers", "0") == 0
    told = capsys.readouterr().out
    out = shards / "reference-inception-16.npz"
    assert f"{out}: inception of 20 images" in told
    assert "warning: 20 images have no covariance of full rank in 2048 dimensions" in told
    found = read_reference(out, 2048)
    assert found.moments.n == 20
    assert found.provenance is not None
    assert len(found.provenance.weights_sha256) == 64


@pytest.mark.parametrize(("images", "most"), [(1600, 7), (150, 100), (70, 100)])
def test_features_are_kept_of_images_spread_evenly_over_the_shards(shards, tmp_path, monkeypatch, images, most):
    monkeypatch.setattr(reference_statistics, "MOST_FEATURES", most)
    out = tmp_path / "pixels.npz"
    words = ("--features", "pixels", "--images", str(images), "--out", str(out), "--workers", "0")
    assert reference(shards, *words) == 0
    found = read_reference(out, 64)
    pictures = torch.cat([batch for batch, _ in datamodule(shards).reference_images()])
    kept = min(images, most)
    places = [number * images // kept for number in range(kept)]
    assert found.features is not None
    assert torch.equal(found.features, Pixels()(pictures[places]).vectors)
    assert found.moments.n == images


def test_images_of_one_class_have_no_class_share(shards, tmp_path):
    data = datamodule(shards)
    rows = data.index.rows.copy()
    rows["label"] = 3
    images = reference_statistics.training_images(replace(data.index, rows=rows), data.store, SIZE)
    out = tmp_path / "reference.npz"
    cpu = torch.device("cpu")
    reference_statistics.write_reference_of(images, 20, Pixels(), cpu, out, 0, Console(quiet=True))
    found = read_reference(out, 64)
    assert found.class_share is None
    assert found.features is not None


@pytest.mark.parametrize(
    ("fault", "told"), [(errno.ENOSPC, "No space left on device; make room"), (errno.EACCES, "another file with --out")]
)
def test_a_file_that_cannot_be_written_is_told_on_one_line(shards, tmp_path, monkeypatch, capsys, fault, told):
    def fail(path, reference):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(reference_statistics, "write_reference", fail)
    words = ("--features", "pixels", "--images", "20", "--workers", "0", "--out", str(tmp_path / "out.npz"))
    assert reference(shards, *words) == USER_ERROR
    line = capsys.readouterr().err
    assert f"{tmp_path / 'out.npz'}: " in line
    assert told in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--features", "pixel"], "did you mean 'pixels'?"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--features", "pixels", "--image-size", "32"], "has crops of 16 px; leave it out"),
        (["--features", "pixels", "--images", "1"], "use 2 to 1600"),
        (["--features", "pixels", "--images", "1601"], "use 2 to 1600"),
    ],
)
def test_what_does_not_fit_is_told_on_one_line(shards, capsys, words, told):
    before = sorted(shards.iterdir())
    assert reference(shards, *words) == USER_ERROR
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert sorted(shards.iterdir()) == before


def test_images_as_they_came_need_a_size(shards, tmp_path, capsys):
    content = json.loads((shards / "index.json").read_text())
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "index.json").write_text(json.dumps({**content, "image_size": None}))
    assert reference(tmp_path, "--features", "pixels") == USER_ERROR
    assert "--image-size: missing" in capsys.readouterr().err
    assert reference(tmp_path, "--features", "pixels", "--image-size", "8", "--workers", "0") == 0
    assert (tmp_path / "reference-pixels-8.npz").exists()
