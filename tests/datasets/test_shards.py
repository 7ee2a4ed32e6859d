import json
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.datasets.digits import build_digits
from jitlab.datasets.shards import open_index, verify
from jitlab.datasets.stream import Reference, ShardImages
from jitlab.errors import UserError
from tests.datasets.folders import SIZE, datamodule, one_line_error

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
    assert asdict(open_index(folder, COMMAND)) == asdict(index)


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


def reversed_in_first_shard(field):
    def change(content):
        content["splits"]["train"][0][field].reverse()

    return change


@pytest.mark.parametrize("field", ["labels", "offsets", "sizes", "keys"])
def test_index_with_other_labels_or_places_is_refused(copied, field):
    rewrite_index(copied, reversed_in_first_shard(field))
    with one_line_error(copied / "index.json"):
        open_index(copied, COMMAND)


def test_fingerprint_depends_on_every_shard_and_its_split(index):
    def altered(split, number):
        shards = list(index.splits[split])
        shards[number] = replace(shards[number], sha256="0" * 64)
        return replace(index, splits={**index.splits, split: shards}).fingerprint

    prints = [altered(split, number) for split, shards in index.splits.items() for number in range(len(shards))]
    assert len({index.fingerprint, *prints}) == len(prints) + 1


def test_verify_finds_nothing_wrong_in_whole_shards(folder, index):
    assert list(verify(folder, index)) == []


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=15)
def test_verify_names_the_shard_with_a_flipped_byte(folder, index, share):
    path = folder / "train-00001.tar"
    whole = path.read_bytes()
    try:
        flip_byte(path, int(share * len(whole)))
        lines = list(verify(folder, index))
    finally:
        path.write_bytes(whole)
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert index.build_command in lines[0]


def test_image_bytes_overwritten_name_shard_sample_and_command(copied, command, index):
    shard = index.splits["train"][0]
    path = copied / shard.file
    content = bytearray(path.read_bytes())
    content[shard.offsets[7] : shard.offsets[7] + shard.sizes[7]] = bytes(shard.sizes[7])
    path.write_bytes(content)
    with one_line_error(path, shard.keys[7], command):
        datamodule(copied).images[Reference(0, 7)]


def test_no_flipped_bit_of_an_image_passes_unnoticed(copied, index):
    shard = index.splits["train"][0]
    path = copied / shard.file
    images = ShardImages(copied, [shard], 0, False, COMMAND)
    whole, start, size = path.read_bytes(), shard.offsets[3], shard.sizes[3]
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
    shard = index.splits["train"][0]
    (copied / shard.file).write_bytes((copied / shard.file).read_bytes()[: shard.offsets[5] + 40])
    with one_line_error(copied / shard.file, shard.keys[5], command):
        module.images[Reference(0, 5)]


def test_shard_removed_under_a_running_reader_is_an_error(copied, command):
    module = datamodule(copied)
    (copied / "train-00003.tar").unlink()
    with one_line_error(copied / "train-00003.tar", command):
        module.images[Reference(0, len(module.images) - 1)]


def test_interrupted_build_leaves_no_index(copied, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jitlab.datasets.shards._image_ranges", killed)
    with pytest.raises(KeyboardInterrupt):
        build_digits(copied, SIZE)
    assert not (copied / "index.json").exists()
