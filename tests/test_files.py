import json
import math
import os
from pathlib import Path

import pytest

from jitlab.files import write_bytes, write_json, write_text


def failing(*arguments, **keywords) -> None:
    raise OSError("no space left on device")


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"old and long", b"new"):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é".encode()


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_keeps_the_old_file_and_no_part_of_the_new_one(tmp_path, monkeypatch, owner, name, old):
    path = tmp_path / "a.json"
    if old:
        path.write_bytes(old)
    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert names(tmp_path) == (["a.json"] if old else [])
    assert not old or path.read_bytes() == old


def test_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, events = tmp_path / "a.json", []
    path.write_bytes(b"old")
    sync, replace = os.fsync, Path.replace

    def recorded_sync(descriptor):
        events.append(("sync", os.fstat(descriptor).st_size, path.read_bytes()))
        sync(descriptor)

    def recorded_replace(self, target):
        events.append(("replace", self.stat().st_size, path.read_bytes()))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    write_bytes(path, b"newer")
    assert events[:2] == [("sync", 5, b"old"), ("replace", 5, b"old")]
    assert path.read_bytes() == b"newer"


def test_what_json_cannot_say_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_json_is_read_back(tmp_path):
    content = {"text": "é\n", "list": [1, 2.5, None, True], "inner": {"a": 1e-300}}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content
    assert (tmp_path / "a.json").read_text().endswith("}\n")


def test_nan_is_not_written_as_something_that_is_not_json(tmp_path):
    try:
        write_json(tmp_path / "a.json", {"a": math.nan})
    except ValueError:
        return
    assert "NaN" not in (tmp_path / "a.json").read_text()
