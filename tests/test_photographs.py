import io
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tests.photographs import photographs, synset, write_image_folder, write_official_tar


@pytest.fixture(scope="module")
def entries():
    return list(photographs(60, seed=1, classes=7))


def test_a_photograph_is_a_function_of_seed_and_number(entries):
    assert list(photographs(9, seed=1, classes=7)) == entries[:9]
    assert {encoded for _, _, encoded in photographs(9, seed=2)}.isdisjoint(encoded for _, _, encoded in entries)


def test_they_are_like_imagenets(entries):
    images = [Image.open(io.BytesIO(encoded)) for _, _, encoded in entries]
    assert {image.format for image in images} == {"JPEG"}
    assert 400 < np.mean([image.width for image in images]) < 550
    assert 330 < np.mean([image.height for image in images]) < 450
    assert 90_000 < np.mean([len(encoded) for _, _, encoded in entries]) < 125_000
    assert {image.width > image.height for image in images} == {True, False}
    assert len({encoded for _, _, encoded in entries}) == len(entries)


def test_classes_are_balanced_and_sorted_as_their_labels_are(entries):
    classes = Counter(name for name, _, _ in entries)
    assert sorted(classes) == [synset(label) for label in range(7)]
    assert set(classes.values()) == {8, 9}
    assert synset(0) == "n01440764"
    assert len(synset(999)) == 9
    assert all(file.startswith(f"{name}_") and file.endswith(".JPEG") for name, file, _ in entries)
    assert len({file for _, file, _ in entries}) == len(entries)


def test_small_ones_are_small():
    small = list(photographs(30, seed=0, small=True))
    assert {Image.open(io.BytesIO(encoded)).size for _, _, encoded in small} == {(48, 40), (40, 48)}
    assert all(len(encoded) < 5000 for _, _, encoded in small)


def test_some_are_grey():
    modes = Counter(Image.open(io.BytesIO(encoded)).mode for _, _, encoded in photographs(300, seed=0, small=True))
    assert 0 < modes["L"] < 20 < modes["RGB"]


def test_the_official_tar_holds_a_tar_for_each_class(tmp_path, entries):
    write_official_tar(tmp_path / "train.tar", entries)
    found = []
    with tarfile.open(tmp_path / "train.tar") as archive:
        assert archive.getnames() == [f"{synset(label)}.tar" for label in range(7)]
        for member in archive:
            with tarfile.open(fileobj=archive.extractfile(member)) as inner:
                for image in inner:
                    file = inner.extractfile(image)
                    assert file is not None
                    found.append((member.name.removesuffix(".tar"), image.name, file.read()))
    assert sorted(found) == sorted(entries)


def test_the_image_folder_is_torchvisions(tmp_path, entries):
    write_image_folder(tmp_path, entries)
    folder = ImageFolder(tmp_path)
    assert len(folder) == len(entries)
    assert folder.class_to_idx == {synset(label): label for label in range(7)}
