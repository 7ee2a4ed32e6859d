import json

import pytest

from jitlab.callbacks.ledger import ledger_entry
from jitlab.errors import UserError
from tests.callbacks.runs import BATCHES_PER_EPOCH, BatchKeys, tiny_config, train


def rows(folder, rank=0):
    return [json.loads(line) for line in (folder / f"ledger-{rank}.jsonl").read_text().splitlines()]


def test_ledger_holds_what_every_step_was_trained_on(shards, tmp_path):
    keys = BatchKeys()
    train(tiny_config(shards, data__ledger="true"), tmp_path, [keys])
    assert [row["keys"] for row in rows(tmp_path)] == keys.keys
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows(tmp_path)] == [step // BATCHES_PER_EPOCH for step in range(6)]
    assert ledger_entry(tmp_path, 5) == (1, keys.keys[4])
    assert ledger_entry(tmp_path, 7) is None


def test_steps_that_are_trained_again_are_in_it_once(shards, tmp_path):
    config = tiny_config(shards, data__ledger="true")
    train(config, tmp_path, stop_after=3)
    path = tmp_path / "ledger-0.jsonl"
    undisturbed = rows(tmp_path)
    # As a kill leaves it: steps after the checkpoint, a torn line, and a process that there is no more.
    later = {"step": 4, "epoch": 0, "keys": ["lost"]}
    path.write_text(path.read_text() + json.dumps(later) + "\n" + '{"step": 5, "ke')
    (tmp_path / "ledger-1.jsonl").write_text(json.dumps({**later, "step": 2}) + "\n" + json.dumps(later) + "\n")
    keys = BatchKeys()
    train(config, tmp_path, [keys])
    assert rows(tmp_path)[:3] == undisturbed
    assert [row["keys"] for row in rows(tmp_path)[3:]] == keys.keys
    assert [row["step"] for row in rows(tmp_path, 1)] == [2]


def test_without_being_asked_there_is_no_ledger(shards, tmp_path):
    train(tiny_config(shards, train__steps=2), tmp_path)
    assert not list(tmp_path.glob("ledger*"))


def test_damaged_ledger_names_file_and_place(tmp_path):
    (tmp_path / "ledger-0.jsonl").write_text('{"step": 1, "epoch": 0, "keys": []}\nnonsense\n')
    with pytest.raises(UserError, match=r"ledger-0.jsonl: damaged line at byte 36; remove the file"):
        ledger_entry(tmp_path, 2)
