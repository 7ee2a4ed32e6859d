"""Reference statistics through the command line."""

import json

import numpy as np
import pytest
import torch

from jitlab import reference_statistics
from jitlab.cli import main
from jitlab.datasets.index import open_index
from jitlab.metrics.class_structure import ClassStructure
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
    provenance = read_reference(out, 64).provenance
    assert provenance is not None
    assert provenance.fingerprint == open_index(shards, "").fingerprint
    assert (provenance.features, provenance.image_size, provenance.crop) == ("pixels", SIZE, "adm")


def test_features_of_some_images_spread_evenly_and_the_share_of_classes_are_kept(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(reference_statistics, "MOST_FEATURES", 7)
    out = tmp_path / "pixels.npz"
    assert reference(shards, "--features", "pixels", "--out", str(out), "--workers", "0", "--images", "100") == 0
    found = read_reference(out, 64)
    batches = list(datamodule(shards).reference_images())
    rows = Pixels()(torch.cat([images for images, _ in batches])).vectors[:100]
    assert found.features is not None
    assert torch.equal(found.features, rows[[0, 14, 28, 42, 57, 71, 85]])
    structure = ClassStructure(64, 10)
    structure.update(rows, torch.cat([labels for _, labels in batches])[:100])
    assert found.class_share == pytest.approx(structure.compute(), rel=1e-12)


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
