"""Shards that somebody else made, and reading everything again."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from jitlab.datasets.index import open_index
from jitlab.datasets.indexing import index_shards, scan
from jitlab.datasets.order import Reference
from jitlab.datasets.store import LocalStore, local_store
from jitlab.datasets.verify import verify
from jitlab.errors import UserError
from tests.datasets.folders import datamodule, one_line_error
from tests.datasets.test_damage import damage_image


def nothing(done, total):
    pass


def indexed(folder, out=None, held_out=(), num_classes=None):
    return index_shards(str(folder), out or folder, held_out, num_classes, 1, "index it", nothing)


def image(side=20, kind="JPEG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 2, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, kind)
    return encoded.getvalue()


def write(path, samples):
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)


def foreign(number, count=5, **changes):
    return [
        {"__key__": f"im-{number}-{i}", "jpg": image(seed=i), "cls": str((number + i) % 7).encode(), **changes}
        for i in range(count)
    ]


@pytest.fixture
def theirs(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for number in range(3):
        write(folder / f"imagenet-train-{number:04d}.tar", foreign(number))
    write(folder / "imagenet-validation-00.tar", foreign(9))
    return folder


def test_the_index_of_our_own_shards_is_found_again(copied, index):
    (copied / "index.json").unlink()
    (copied / "samples.npy").unlink()
    found = indexed(copied)
    assert found.splits["train"] == index.splits["train"]
    assert found.splits["held_out"] == index.splits["held_out"]
    assert found.fingerprint == index.fingerprint == open_index(copied, "").fingerprint
    assert (found.facts.image_size, found.facts.num_classes) == (16, 10)


def test_the_index_of_a_build_is_not_replaced(copied, index):
    before = (copied / "index.json").read_bytes()
    with one_line_error(copied, "has the index of its build", "jitlab data build digits"):
        indexed(copied)
    assert (copied / "index.json").read_bytes() == before


def test_half_a_build_is_not_indexed_as_a_whole_one(copied):
    (copied / "index.json").unlink()
    (copied / ".build").mkdir()
    (copied / ".build" / "recipe.json").write_text("{}")
    with one_line_error(copied, "holds an unfinished build"):
        indexed(copied)
    assert not (copied / "index.json").exists()


def test_foreign_shards_are_parted_by_name_and_read(theirs):
    found = indexed(theirs)
    assert {split: [shard.file for shard in shards] for split, shards in found.splits.items()} == {
        "train": [f"imagenet-train-{number:04d}.tar" for number in range(3)],
        "held_out": ["imagenet-validation-00.tar"],
    }
    assert found.facts.image_size is None
    module = datamodule(theirs, batch_size=3, num_classes=7)
    picture, label, key = module.images[Reference(0, 6)]
    assert (picture.shape, label, key) == ((3, 16, 16), 2, "im-1-1")
    assert list(verify(found, local_store(theirs, found), 1, nothing)) == []


def test_keys_may_have_letters_of_any_alphabet(tmp_path):
    for number, name in enumerate(("train", "val")):
        write(tmp_path / f"{name}.tar", [{**s, "__key__": f"caf\u00e9-{i}"} for i, s in enumerate(foreign(number))])
    found = indexed(tmp_path)
    assert (
        datamodule(tmp_path, batch_size=3, num_classes=found.facts.num_classes).images[Reference(0, 1)][2] == "café-1"
    )


def test_labels_may_be_in_json(tmp_path):
    labelled = [{**sample, "json": json.dumps({"label": 3}).encode()} for sample in foreign(0)]
    for sample in labelled:
        del sample["cls"]
    write(tmp_path / "train.tar", labelled)
    write(tmp_path / "val.tar", foreign(1))
    assert indexed(tmp_path).split("train")[1]["label"].tolist() == [3] * 5


def test_class_names_are_those_of_the_samples_where_every_class_has_one(theirs):
    def named(name_of):
        for number in range(7):
            labelled = {"cls": str(number).encode(), "json": json.dumps({"synset": name_of(number)}).encode()}
            samples = [{**sample, **labelled} for sample in foreign(number, count=1 + number)]
            write(theirs / f"imagenet-{'val' if number == 6 else 'train'}-{number:04d}.tar", samples)
        return indexed(theirs).facts.classes

    (theirs / "imagenet-validation-00.tar").unlink()
    assert named(lambda number: f"n{number}") == [f"n{number}" for number in range(7)]
    assert named(lambda number: f"n{number}" if number else None) == []


def test_any_pattern_names_what_is_held_out(theirs):
    found = indexed(theirs, held_out=["*-0002.tar"])
    assert [shard.file for shard in found.splits["held_out"]] == ["imagenet-train-0002.tar"]
    with one_line_error("--held-out", "none of imagenet-train-0000.tar"):
        indexed(theirs, held_out=["nothing*"])
    with one_line_error("--held-out", "all of imagenet-train-0000.tar"):
        indexed(theirs, held_out=["*"])


def test_classes_beyond_those_that_were_named_are_refused(theirs):
    assert indexed(theirs, num_classes=1000).facts.num_classes == 1000
    with one_line_error("--num-classes 6", "labels up to 6", "use 7 or more"):
        indexed(theirs, num_classes=6)


def test_a_folder_without_shards_is_refused(tmp_path):
    with one_line_error(tmp_path, "no .tar files"):
        indexed(tmp_path)
    with one_line_error(tmp_path / "nowhere", "no such folder"):
        indexed(tmp_path / "nowhere")


def unlabelled(folder):
    write(folder / "imagenet-train-0001.tar", [{"__key__": "a", "jpg": image()}])
    return "sample a: has no label"


def no_image(folder):
    write(folder / "imagenet-train-0001.tar", [{"__key__": "a", "jpg": b"nonsense", "cls": b"1"}])
    return "sample a: no image can be read"


def two_images(folder):
    write(folder / "imagenet-train-0001.tar", [{"__key__": "a", "jpg": image(), "png": image(), "cls": b"1"}])
    return "sample a: has two images"


def empty(folder):
    write(folder / "imagenet-train-0001.tar", [])
    return "has no images"


def no_tar(folder):
    (folder / "imagenet-train-0001.tar").write_bytes(b"nonsense" * 1000)
    return "is damaged or cut off"


def cut_within_a_sample(folder):
    path = folder / "imagenet-train-0001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    return "cut off"


def cut_between_samples(folder):
    path = folder / "imagenet-train-0001.tar"
    with tarfile.open(path) as archive:
        third = archive.getmembers()[4]
    path.write_bytes(path.read_bytes()[: third.offset])
    return "lacks the end mark of a tar file: it is cut off"


def double(folder):
    write(folder / "imagenet-train-0001.tar", foreign(0))
    return "sample im-0-0 is also in imagenet-train-0000.tar"


@pytest.mark.parametrize(
    "spoil", [unlabelled, no_image, two_images, empty, no_tar, cut_within_a_sample, cut_between_samples, double]
)
def test_a_shard_that_cannot_be_trusted_is_named_and_no_index_is_written(theirs, spoil):
    expected = spoil(theirs)
    with one_line_error("imagenet-train-0001.tar", expected):
        indexed(theirs)
    assert not (theirs / "index.json").exists()


def test_verify_names_each_damaged_shard_and_sample(copied, index):
    for place in (3, 4, 900):
        damage_image(copied, index, place)
    (copied / "train-00001.tar").unlink()
    lines = list(verify(index, LocalStore(copied, "mend it", "delete it"), 1, nothing))
    keys = [index.rows[place]["key"].decode() for place in (3, 4, 900)]
    assert lines == [
        f"{copied}/train-00000.tar: contents differ from the index, 2 of 400 samples damaged; delete it",
        f"{copied}/train-00000.tar: sample {keys[0]}: its checksum is not the index's",
        f"{copied}/train-00000.tar: sample {keys[1]}: its checksum is not the index's",
        f"{copied}/train-00001.tar: No such file or directory; mend it",
        f"{copied}/train-00002.tar: contents differ from the index, 1 of 400 samples damaged; delete it",
        f"{copied}/train-00002.tar: sample {keys[2]}: its checksum is not the index's",
    ]


def test_verify_finds_an_image_that_is_as_indexed_but_cannot_be_decoded(theirs):
    cut = image(200)
    write(theirs / "imagenet-train-0001.tar", [{"__key__": "a", "jpg": cut[: len(cut) // 2], "cls": b"1"}])
    found = indexed(theirs)
    (line,) = verify(found, local_store(theirs, found), 1, nothing)
    assert "imagenet-train-0001.tar: sample a: image is damaged" in line


def test_two_processes_find_what_one_finds(theirs):
    alone = indexed(theirs)
    together = index_shards(str(theirs), theirs, (), None, 2, "index it", nothing)
    assert alone == together
    assert alone.fingerprint == together.fingerprint
    assert list(verify(together, local_store(theirs, together), 2, nothing)) == []


def test_a_scan_tells_size_and_samples_of_a_shard(theirs):
    found = scan(str(theirs / "imagenet-train-0000.tar"))
    assert found.faults == []
    assert found.shard.samples == 5
    with pytest.raises(UserError):
        index_shards(str(theirs / "nowhere"), theirs, (), None, 1, "", nothing)
