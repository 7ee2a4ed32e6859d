import json
from itertools import chain

import numpy as np
import pytest
import webdataset
from PIL import Image
from sklearn.datasets import load_digits

from jitlab.datasets.digits import build_digits
from jitlab.datasets.order import Reference
from tests.datasets.folders import SIZE, datamodule, images_of

# webdataset leaves the files that it has read to the garbage collector.
leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file .*tar:ResourceWarning")


def all_images(folder, index, split):
    images = images_of(folder, index, split)
    return [images[Reference(0, place)] for place in range(len(images))]


def keys_of(rows):
    return [key.decode() for key in rows["key"]]


def test_building_twice_is_byte_identical(folder, tmp_path):
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    build_digits(tmp_path, SIZE)
    second = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert first.keys() == second.keys()
    for name in first.keys() - {"index.json"}:
        assert first[name] == second[name], name
    # The index names the folder in its build command, and differs in nothing else.
    indices = [json.loads(files["index.json"]) for files in (first, second)]
    assert {key for key in indices[0] if indices[0][key] != indices[1][key]} == {"command"}


def test_rebuilding_in_place_changes_no_byte(copied):
    build_digits(copied, SIZE)
    first = {path.name: path.read_bytes() for path in copied.iterdir()}
    build_digits(copied, SIZE)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == first


def test_train_and_held_out_are_disjoint_and_hold_every_digit(index):
    keys = {split: keys_of(index.split(split)[1]) for split in index.splits}
    assert keys.keys() == {"train", "held_out"}
    assert len(keys["held_out"]) == 197
    assert sorted(chain(*keys.values())) == [f"{row:05d}" for row in range(1797)]


def test_labels_are_those_of_the_rows_that_the_keys_name(index):
    target = load_digits().target
    assert [int(target[int(key)]) for key in keys_of(index.rows)] == index.rows["label"].tolist()


def test_both_splits_have_every_class(index):
    for split in index.splits:
        assert set(index.split(split)[1]["label"].tolist()) == set(range(10))


@leaves_files_open
def test_webdataset_reads_the_shards_as_the_index_lists_them(folder, index):
    for shard, rows in index.each_shard():
        reader = webdataset.WebDataset(str(folder / shard.file), shardshuffle=False, empty_check=False)
        samples = list(reader.decode("rgb8"))
        assert [sample["__key__"] for sample in samples] == keys_of(rows)
        assert [sample["cls"] for sample in samples] == rows["label"].tolist()
        for sample in samples:
            assert {"png", "cls", "json"} == {name for name in sample if not name.startswith("_")}
            assert sample["json"] == {"row": int(sample["__key__"]), "label": sample["cls"]}


@leaves_files_open
def test_images_read_by_byte_offset_are_those_that_webdataset_reads(folder, index):
    for split, shards in index.splits.items():
        urls = [str(folder / shard.file) for shard in shards]
        reader = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        ours = all_images(folder, index, split)
        theirs = list(reader.decode("rgb8"))
        assert len(ours) == len(theirs)
        for (image, label, key), sample in zip(ours, theirs, strict=True):
            assert key == sample["__key__"]
            assert label == sample["cls"]
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), sample["png"])


def test_enlarged_digits_are_those_of_scikit_learn(folder, index):
    originals = load_digits().images
    for image, _, key in all_images(folder, index, "held_out"):
        assert image.shape == (3, SIZE, SIZE)
        assert (image == image[:1]).all()
        small = np.asarray(Image.fromarray(image[0].numpy()).resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(small.ravel(), originals[int(key)].ravel())[0, 1] > 0.97


def test_full_range_of_grey_levels_is_used(folder):
    images = next(datamodule(folder).reference_images(400))[0]
    assert images.min() == 0
    assert images.max() == 255
