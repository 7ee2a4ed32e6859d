"""Damaged samples and shards: errors that name them, or replaced and counted up to a number."""

import errno
import json
import os
from collections import Counter

import pytest
import torch

from jitlab.datasets.damage import Damage, DamagedError, damaged_samples
from jitlab.datasets.order import Reference
from jitlab.datasets.shards import key_of
from jitlab.errors import RunError
from tests.datasets.folders import datamodule, one_line_error


def damage_image(folder, index, place):
    """Overwrite the middle of an image."""
    number = int(place // 400)
    path, row = folder / index.splits["train"][number].file, index.rows[place]
    content = bytearray(path.read_bytes())
    middle = int(row["offset"] + row["size"] // 2)
    content[middle : middle + 8] = b"nonsense"
    path.write_bytes(content)


def tolerant(folder, tmp_path, limit, **changes):
    return datamodule(folder, damage=Damage(tmp_path / "damaged.jsonl", limit), **changes)


@pytest.fixture
def three_damaged(copied, index):
    for place in (3, 4, 900):
        damage_image(copied, index, place)
    return copied


def test_a_damaged_image_is_replaced_by_the_next_whole_one_and_counted(three_damaged, folder, tmp_path, index):
    images, whole = tolerant(three_damaged, tmp_path, 3).images, datamodule(folder).images
    for place, stand_in in ((3, 5), (4, 5), (900, 901), (10, 10)):
        ours, expected = images[Reference(0, place)], whole[Reference(0, stand_in)]
        assert torch.equal(ours[0], expected[0])
        assert ours[1:] == expected[1:]
    rows = [json.loads(line) for line in (tmp_path / "damaged.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [key_of(index.rows[place]) for place in (3, 4, 900)]
    assert all("checksum" in row["error"] for row in rows)
    assert damaged_samples(tmp_path / "damaged.jsonl") == 3


def test_one_damaged_image_too_many_stops_the_run_and_says_so(three_damaged, tmp_path, index):
    images = tolerant(three_damaged, tmp_path, 2).images
    images[Reference(0, 3)]
    with one_line_error("data.skip_damaged = 2", "3 samples are damaged", "damaged.jsonl", key_of(index.rows[900])):
        images[Reference(0, 900)]


def test_a_sample_that_is_met_again_is_counted_once_also_by_another_process(three_damaged, tmp_path):
    for _ in range(2):
        module = tolerant(three_damaged, tmp_path, 3, batch_size=400, workers=2)
        for _ in range(2):
            assert sum(len(keys) for _, _, keys in module.train_dataloader()) == 1600
    assert damaged_samples(tmp_path / "damaged.jsonl") == 3


def test_without_tolerance_a_worker_names_the_sample_on_one_line(three_damaged, index):
    module = datamodule(three_damaged, batch_size=400, workers=2)
    with one_line_error("sample ", "image is damaged", "data.skip_damaged"):
        list(module.train_dataloader())


def test_a_missing_shard_is_refused_before_the_first_step_unless_all_of_it_is_tolerated(copied, tmp_path, index):
    path = copied / index.splits["train"][1].file
    path.unlink()
    with one_line_error(path, "shard is missing", index.facts.command):
        datamodule(copied)
    with one_line_error(path, "400 samples are lost", "data.skip_damaged = 399"):
        tolerant(copied, tmp_path, 399)
    module = tolerant(copied, tmp_path, 400, batch_size=400)
    assert sum(len(keys) for _, _, keys in module.train_dataloader()) == 1600
    assert damaged_samples(tmp_path / "damaged.jsonl") == 400


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_shard_is_tolerated_as_far_as_it_goes(copied, tmp_path, index, kept):
    shard = index.splits["train"][0]
    path = copied / shard.file
    path.write_bytes(path.read_bytes()[: int(kept * shard.bytes)])
    rows = index.rows[:400]
    lost = int((rows["offset"] + rows["size"] > path.stat().st_size).sum())
    assert 0 < lost < 400
    with one_line_error(path, f"its index says {shard.bytes}"):
        datamodule(copied)
    with pytest.raises(DamagedError, match=f"{lost} samples are lost"):
        tolerant(copied, tmp_path, lost - 1)
    module = tolerant(copied, tmp_path, lost, batch_size=400)
    assert sum(len(keys) for _, _, keys in module.train_dataloader()) == 1600
    assert damaged_samples(tmp_path / "damaged.jsonl") == lost


def test_several_faulty_shards_are_told_of_at_once(copied, index):
    for shard in index.splits["train"][:3]:
        (copied / shard.file).unlink()
    with one_line_error("train-00000.tar: shard is missing (and 2 more)"):
        datamodule(copied)


def test_as_many_others_stand_in_for_the_samples_of_a_lost_shard(copied, tmp_path, index):
    (copied / index.splits["train"][3].file).unlink()
    images = tolerant(copied, tmp_path, 400).images
    seen = Counter(images[Reference(0, place)][2] for place in range(1600))
    assert set(seen.values()) == {1, 2}
    assert len(seen) == 1200


def test_where_nothing_whole_is_left_the_run_ends(copied, tmp_path, index):
    (copied / index.splits["held_out"][0].file).unlink()
    with one_line_error("held_out-00000.tar", "No such file"):
        tolerant(copied, tmp_path, 400).held_out(16)


def test_a_lost_shard_takes_no_more_memory_the_more_often_it_is_met(copied, tmp_path, index):
    (copied / index.splits["train"][1].file).unlink()
    images = tolerant(copied, tmp_path, 400).images
    lengths = set()
    for place in (400, 401, 402, 403):
        images[Reference(0, place)]
        trace, length = images._lost[1].__traceback__, 0
        while trace:
            trace, length = trace.tb_next, length + 1
        lengths.add(length)
    assert len(lengths) <= 2


def test_bytes_that_the_disk_does_not_give_are_a_damaged_sample(folder, tmp_path, index, monkeypatch):
    images, pread = tolerant(folder, tmp_path, 1).images, os.pread

    def failing(file, size, offset):
        if offset == index.rows[7]["offset"]:
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, size, offset)

    expected = images[Reference(0, 8)][2]
    monkeypatch.setattr(os, "pread", failing)
    assert images[Reference(0, 7)][2] == expected
    with one_line_error(f"sample {key_of(index.rows[7])}", "Input/output error"):
        datamodule(folder).images[Reference(0, 7)]


def test_too_many_open_files_are_no_damage(folder, tmp_path, monkeypatch):
    images, opened = tolerant(folder, tmp_path, 400).images, os.open

    def refusing(path, *arguments):
        if str(path).endswith(".tar"):
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(RunError, match="Too many open files; allow more of them: ulimit -n"):
        images[Reference(0, 0)]
    monkeypatch.undo()
    images[Reference(0, 0)]
    assert damaged_samples(tmp_path / "damaged.jsonl") == 0


def test_a_line_that_a_power_cut_tore_is_written_again(three_damaged, tmp_path):
    (tmp_path / "damaged.jsonl").write_text('{"key": "000')
    images = tolerant(three_damaged, tmp_path, 3).images
    for place in (3, 4, 900):
        images[Reference(0, place)]
    assert damaged_samples(tmp_path / "damaged.jsonl") == 3
    assert len((tmp_path / "damaged.jsonl").read_text().splitlines()) == 4
