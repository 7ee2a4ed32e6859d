import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.datasets.digits import build_digits
from jitlab.datasets.index import open_index
from jitlab.datasets.order import Reference
from jitlab.datasets.shards import key_of
from jitlab.datasets.store import check_store
from jitlab.datasets.verify import verify
from jitlab.errors import UserError
from tests.datasets.folders import SIZE, datamodule, images_of, local, one_line_error

COMMAND = "jitlab data build digits --to-here"


def flip_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite_index(folder, change):
    path = folder / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_index_read_back_is_the_index_that_was_built(folder, index):
    opened = open_index(folder, COMMAND)
    assert opened == index
    np.testing.assert_array_equal(opened.rows, index.rows)
    assert opened.fingerprint == index.fingerprint


def test_missing_index_names_file_and_command(tmp_path):
    with one_line_error(tmp_path / "index.json", COMMAND):
        open_index(tmp_path, COMMAND)


def test_missing_shard_names_file_and_command(copied, command):
    (copied / "train-00001.tar").unlink()
    with one_line_error(copied / "train-00001.tar", command):
        datamodule(copied)


@pytest.mark.parametrize("change", [-1, -512, 1, 10240])
@pytest.mark.parametrize("name", ["train-00002.tar", "held_out-00000.tar"])
def test_truncated_or_grown_shard_names_file_and_command(copied, command, name, change):
    path = copied / name
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with one_line_error(path, command, len(content)):
        datamodule(copied)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"5", b"{}", b"\xff\xfe\x00", b'{"format": "jitlab-shards/0"}']
)
def test_damaged_index_names_file_and_command(copied, content):
    (copied / "index.json").write_bytes(content)
    with one_line_error(copied / "index.json", COMMAND):
        open_index(copied, COMMAND)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=30)
def test_index_cut_anywhere_is_damaged(folder, tmp_path_factory, share):
    content = (folder / "index.json").read_bytes()
    target = tmp_path_factory.mktemp("cut")
    (target / "index.json").write_bytes(content[: int(share * (len(content) - 2))])
    with one_line_error(target / "index.json", COMMAND):
        open_index(target, COMMAND)


def test_index_that_does_not_match_its_fingerprint_is_refused(copied):
    def change(content):
        content["splits"]["train"][0]["sha256"] = "0" * 64

    rewrite_index(copied, change)
    with one_line_error(copied / "index.json", "fingerprint", COMMAND):
        open_index(copied, COMMAND)


@pytest.mark.parametrize("field", ["label", "offset", "size", "key", "crc32"])
def test_table_with_other_labels_or_places_is_refused(copied, field):
    rows = np.load(copied / "samples.npy")
    rows[field][:50] = rows[field][:50][::-1].copy()
    np.save(copied / "samples.npy", rows)
    with one_line_error(copied / "index.json", "samples.npy"):
        open_index(copied, COMMAND)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=15)
def test_table_cut_anywhere_is_damaged(folder, tmp_path_factory, share):
    target = tmp_path_factory.mktemp("cut")
    (target / "index.json").write_bytes((folder / "index.json").read_bytes())
    with one_line_error(target / "samples.npy", COMMAND):
        open_index(target, COMMAND)
    content = (folder / "samples.npy").read_bytes()
    (target / "samples.npy").write_bytes(content[: int(share * len(content))])
    with one_line_error(target / "samples.npy", COMMAND):
        open_index(target, COMMAND)


def test_fingerprint_depends_on_every_shard_and_its_split(index):
    def altered(split, number):
        shards = list(index.splits[split])
        shards[number] = replace(shards[number], sha256="0" * 64)
        return replace(index, splits={**index.splits, split: shards}).fingerprint

    prints = [altered(split, number) for split, shards in index.splits.items() for number in range(len(shards))]
    assert len({index.fingerprint, *prints}) == len(prints) + 1


def test_verify_finds_nothing_wrong_in_whole_shards(folder, index):
    assert list(verify(index, local(folder, index), 1, lambda *_: None)) == []


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=5)
def test_verify_names_the_shard_with_a_flipped_byte(folder, index, share):
    path = folder / "train-00001.tar"
    whole = path.read_bytes()
    try:
        flip_byte(path, int(share * len(whole)))
        lines = list(verify(index, local(folder, index), 1, lambda *_: None))
    finally:
        path.write_bytes(whole)
    assert lines
    assert lines[0].startswith(f"{path}: contents differ from the index")
    assert index.facts.command in lines[0]


def test_image_bytes_overwritten_name_shard_sample_and_command(copied, command, index):
    shard = index.splits["train"][0]
    path = copied / shard.file
    content = bytearray(path.read_bytes())
    row = index.rows[7]
    content[row["offset"] : row["offset"] + row["size"]] = bytes(int(row["size"]))
    path.write_bytes(content)
    with one_line_error(path, key_of(row), command):
        datamodule(copied).images[Reference(0, 7)]


def test_no_flipped_bit_of_an_image_passes_unnoticed(copied, index):
    shard = index.splits["train"][0]
    path = copied / shard.file
    images, row = images_of(copied, index), index.rows[3]
    whole, start, size = path.read_bytes(), int(row["offset"]), int(row["size"])
    before = images[Reference(0, 3)][0]
    damaged_but_read, lines = [], []
    with path.open("r+b") as file:
        for bit in range(8 * size):
            place = start + bit // 8
            file.seek(place)
            file.write(bytes([whole[place] ^ 1 << bit % 8]))
            file.flush()
            try:
                if not torch.equal(images[Reference(0, 3)][0], before):
                    damaged_but_read.append(bit)
            except UserError as error:
                lines.append(len(str(error).splitlines()))
            file.seek(place)
            file.write(whole[place : place + 1])
    assert set(lines) == {1}
    assert damaged_but_read == []


def test_shard_truncated_under_a_running_reader_is_an_error(copied, command, index):
    module = datamodule(copied)
    shard, row = index.splits["train"][0], index.rows[5]
    (copied / shard.file).write_bytes((copied / shard.file).read_bytes()[: row["offset"] + 40])
    with one_line_error(copied / shard.file, key_of(row), command):
        module.images[Reference(0, 5)]


def test_shard_removed_under_a_running_reader_is_an_error(copied, command):
    module = datamodule(copied)
    (copied / "train-00003.tar").unlink()
    with one_line_error(copied / "train-00003.tar", command):
        module.images[Reference(0, len(module.images) - 1)]


def test_interrupted_build_leaves_no_index(copied, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jitlab.datasets.shards.image_places", killed)
    with pytest.raises(KeyboardInterrupt):
        build_digits(copied, SIZE)
    assert not (copied / "index.json").exists()


def test_shard_of_another_build_with_the_same_size_is_refused_before_it_is_read(copied, command, index):
    first, other = (copied / shard.file for shard in index.splits["train"][:2])
    size = first.stat().st_size
    first.write_bytes(other.read_bytes().ljust(size, b"\0")[:size])
    with one_line_error(first, key_of(index.rows[0]), "another build", command):
        check_store(index, local(copied, index))
