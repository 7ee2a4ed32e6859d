"""What may be named as a source, and what is said of everything else."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from torchvision.datasets.folder import IMG_EXTENSIONS

from jitlab.datasets.sources import find_images, read_image
from jitlab.datasets.validation import flat_validation
from tests.datasets.archives import CLASSES, class_archives, entries, image_folder, official_tar, write_tar
from tests.datasets.folders import one_line_error

JPEG = entries()[0][2]
KINDS = {"official": official_tar, "folder": image_folder, "class archives": class_archives}


def read_all(source):
    return [read_image(source.archives, source.classes, source.path, row) for row in source.table]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return official_tar(tmp_path_factory.mktemp("official") / "train.tar")


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_found_and_read_in_place(tmp_path, kind):
    source = find_images(KINDS[kind](tmp_path / "source"))
    expected = sorted((name, file, jpeg) for name, file, jpeg in entries())
    assert source.classes == sorted({name for name, _, _ in entries()})
    assert source.num_classes == CLASSES
    assert [source.classes[label] for label in source.table["label"]] == [name for name, _, _ in expected]
    assert source.table["name"].tolist() == [file.encode() for _, file, _ in expected]
    assert read_all(source) == [jpeg for _, _, jpeg in expected]
    assert source.identity == find_images(official_tar(tmp_path / "same.tar")).identity


def test_identity_changes_with_names_labels_and_sizes(tmp_path):
    folder = image_folder(tmp_path / "folder")
    identities = {find_images(folder).identity}
    first = sorted(folder.glob("*/*"))[0]
    first.write_bytes(JPEG + b"\0")
    identities.add(find_images(folder).identity)
    first = first.rename(first.with_name("other.JPEG"))
    identities.add(find_images(folder).identity)
    first.rename(sorted(folder.iterdir())[1] / "other.JPEG")
    identities.add(find_images(folder).identity)
    assert len(identities) == 4


def test_folders_within_a_class_belong_to_it_and_hidden_files_to_none(tmp_path):
    for name in ("cat/images/1.jpg", "cat/2.jpg", "dog/1.png", "dog/._1.png", "dog/notes.txt", ".cache/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    source = find_images(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert source.table["key"].tolist() == [b"cat_2", b"cat_images_1", b"dog_1"]


def test_whatever_image_folder_takes_for_an_image_is_one(tmp_path):
    for extension in IMG_EXTENSIONS:
        written(tmp_path, f"cat/{extension[1:]}{extension}", JPEG)
    assert len(find_images(tmp_path).table) == len(IMG_EXTENSIONS)


def shard(path, samples):
    return write_tar(path, [(f"{key}.{name}", content) for key, parts in samples for name, content in parts.items()])


def test_shards_without_class_names_keep_their_labels(tmp_path):
    for number in range(2):
        samples = [(f"{k:03d}", {"cls": b"%d" % (6 - k), "jpg": JPEG + bytes(k)}) for k in range(3)]
        shard(tmp_path / f"data-{number}.tar", samples)
    source = find_images(tmp_path)
    assert (source.classes, source.num_classes) == ([], 7)
    assert source.table["label"].tolist() == [4, 4, 5, 5, 6, 6]
    assert source.table["key"].tolist() == [b"002", b"002-2", b"001", b"001-2", b"000", b"000-2"]


def test_labels_may_stand_in_json_and_images_before_them(tmp_path):
    facts = [{"label": 1, "synset": "n2"}, {"label": 0, "synset": "n1", "file": "n1_x.JPEG"}]
    path = shard(
        tmp_path / "a.tar", [(f"k{i}", {"png": JPEG, "json": json.dumps(f).encode()}) for i, f in enumerate(facts)]
    )
    source = find_images(path)
    assert source.classes == ["n1", "n2"]
    assert source.table["key"].tolist() == [b"n1_x", b"n2_k0"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([{"label": 0, "synset": "n2"}, {"label": 1, "synset": "n1"}], "label 1 is n1, which is class 0"),
        ([{"label": 0, "synset": "n1"}, {"label": 1, "synset": "n1"}], "class n1 has labels 0 and 1"),
        ([{"label": 0, "synset": "n1"}, {"label": 1}], "some samples name their synset"),
        ([{"label": -1}], "sample k0: has no label"),
        ([{}], "sample k0: has no label"),
        ([{"label": "cat"}], "sample k0: has no label"),
    ],
)
def test_shards_whose_labels_contradict_are_refused(tmp_path, facts, expected):
    samples = [(f"k{i}", {"jpg": JPEG, "json": json.dumps(f).encode()}) for i, f in enumerate(facts)]
    with one_line_error(tmp_path, expected):
        find_images(shard(tmp_path / "a.tar", samples))


@pytest.mark.parametrize("part", [{"cls": b"cat"}, {"json": b"{"}])
def test_a_damaged_label_names_shard_and_sample(tmp_path, part):
    with one_line_error(tmp_path / "a.tar", "sample k", "is damaged"):
        find_images(shard(tmp_path / "a.tar", [("k", {"jpg": JPEG, **part})]))


def test_several_sets_of_shards_are_told_apart(tmp_path):
    for name in ("train-00000", "train-00001", "val-00000"):
        shard(tmp_path / f"{name}.tar", [(name, {"jpg": JPEG, "cls": b"0"})])
    with one_line_error("several sets of shards (train-*.tar, val-*.tar)", f"'{tmp_path}/train-*.tar'"):
        find_images(tmp_path)
    assert len(find_images(tmp_path / "train-*.tar").table) == 2
    with one_line_error(tmp_path / "test-*.tar", "no file has such a name"):
        find_images(tmp_path / "test-*.tar")


def compressed(path):
    with gzip.open(path / "train.tar.gz", "wb") as file:
        file.write(official_tar(path / "t.tar").read_bytes())
    return path / "train.tar.gz"


def empty_class(path):
    image_folder(path / "f")
    (path / "f" / "n99").mkdir()
    return path / "f"


def mixed(path):
    image_folder(path)
    official_tar(path / "t.tar")
    return path


def written(path, name, content=b""):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(content)
    return path / name


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p / "nowhere", "there is no such file or folder; expected ILSVRC2012_img_train.tar"),
        (lambda p: p, "is empty of images"),
        (lambda p: written(p, "a.jpg", JPEG).parent, "holds images without class folders"),
        (lambda p: image_folder(p / "x" / "train").parent, "holds train, which are no classes; name"),
        (empty_class, "n99: this class has no images"),
        (mixed, "holds tar archives and folders; name one"),
        (lambda p: official_tar(p / "t.tar").parent, "holds archives of archives; name one of them"),
        (lambda p: write_tar(p / "val.tar", [("a.JPEG", JPEG)]), "holds images without classes"),
        (lambda p: write_tar(p / "val.tar", [("a.JPEG", JPEG)]), "--devkit ILSVRC2012_devkit_t12.tar.gz"),
        (lambda p: write_tar(p / "t.tar", [("a.txt", b"x")]), "holds no images"),
        (lambda p: write_tar(p / "t.tar", []), "holds no images"),
        (
            lambda p: write_tar(p / "t.tar", [("n1.tar", b"no archive, but of a length of some bytes")]),
            "n1.tar: is damaged or cut off at byte 512",
        ),
        (lambda p: written(p, "t.tar"), "is no tar archive"),
        (lambda p: written(p, "t.jpg", JPEG), "is no tar archive"),
        (lambda p: written(p, "t.zip", b"PK\3\4" + bytes(999)), "unzip it"),
        (compressed, "gunzip it"),
    ],
)
def test_what_is_no_source_is_told_with_what_to_do(tmp_path, make, expected):
    with one_line_error(tmp_path, expected):
        find_images(make(tmp_path))


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=40)
def test_an_official_archive_cut_anywhere_is_an_error_that_names_it(official, tmp_path_factory, share):
    whole = official.read_bytes()
    # Behind the last member, the first block of zeros says that the archive is whole.
    with tarfile.open(official) as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    path = tmp_path_factory.mktemp("cut") / "train.tar"
    path.write_bytes(whole[: int(share * (end + 511))])
    with one_line_error(path):
        find_images(path)


def test_a_class_cut_off_within_a_whole_archive_is_named(tmp_path):
    inner = write_tar(tmp_path / "n1.tar", [("n1_1.JPEG", JPEG), ("n1_2.JPEG", JPEG)]).read_bytes()
    for length in (len(JPEG), 512 + len(JPEG) // 2, 2 * 512 + len(JPEG) + 600):
        path = write_tar(tmp_path / "train.tar", [("n0.tar", inner), ("n1.tar", inner[:length])])
        with one_line_error(f"{path}: n1.tar: ", "cut off"):
            find_images(path)


def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path):
    source = find_images(image_folder(tmp_path / "folder"))
    first, second = sorted((tmp_path / "folder").glob("*/*"))[:2]
    first.unlink()
    second.write_bytes(JPEG + bytes(9))
    for path, row, what in ((first, source.table[0], "is gone"), (second, source.table[1], "has changed")):
        with one_line_error(path, what):
            read_image(source.archives, source.classes, source.path, row)
    found = find_images(official_tar(tmp_path / "t.tar"))
    os.truncate(tmp_path / "t.tar", int(found.table["offset"].max()))
    with one_line_error(tmp_path / "t.tar", "has changed"):
        read_all(found)


def devkit(path, labels, synsets=("n3", "n1", "n2")):
    kit = np.array([(k + 1, name) for k, name in enumerate(synsets)], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": kit})
    root = "ILSVRC2012_devkit_t12/data/"
    lines = "".join(f"{label}\n" for label in labels).encode()
    truth = f"{root}ILSVRC2012_validation_ground_truth.txt"
    return write_tar(path, [(f"{root}meta.mat", meta.getvalue()), (truth, lines)])


def test_validation_images_get_the_labels_of_the_devkit(tmp_path):
    images = [(f"ILSVRC2012_val_{k:08d}.JPEG", JPEG + bytes(k)) for k in range(1, 5)]
    path = write_tar(tmp_path / "val.tar", images[::-1])
    source = flat_validation(path, devkit(tmp_path / "kit.tar.gz", [1, 2, 3, 1]))
    assert source.classes == ["n1", "n2", "n3"]
    found = {bytes(row["name"]).decode(): source.classes[row["label"]] for row in source.table}
    assert found == dict(zip([name for name, _ in images], ["n3", "n1", "n2", "n3"], strict=True))


def test_a_devkit_of_other_images_or_none_is_refused(tmp_path):
    path = write_tar(tmp_path / "val.tar", [("a.JPEG", JPEG)])
    with one_line_error(path, "holds 1 images", "labels for 2"):
        flat_validation(path, devkit(tmp_path / "kit.tar", [1, 2]))
    with one_line_error(tmp_path / "kit.tar", "is no ILSVRC2012 development kit"):
        flat_validation(path, devkit(tmp_path / "kit.tar", [7]))
    with one_line_error(path, "is no ILSVRC2012 development kit", "no data/meta.mat"):
        flat_validation(path, path)
    with one_line_error(tmp_path / "none", "there is no such file"):
        flat_validation(path, tmp_path / "none")
    with one_line_error(tmp_path / "val", "there is no such file"):
        flat_validation(tmp_path / "val", devkit(tmp_path / "kit.tar", [1]))
