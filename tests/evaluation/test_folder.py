import shutil
from pathlib import Path

import pytest

from jitlab.errors import UserError
from jitlab.evaluation.folder import EvaluationFolder

ASKED = {"steps": 3, "seeds": [0]}


def begin(path, asked=ASKED, fresh=False):
    folder = EvaluationFolder(path)
    with folder.held(asked, fresh):
        return folder


def test_scores_are_there_again(tmp_path):
    folder = begin(tmp_path)
    folder.keep("cell", {"fid": 1.5})
    assert begin(tmp_path).scores("cell") == {"fid": 1.5}
    assert begin(tmp_path, ASKED | {"steps": 4}, fresh=True).scores("cell") is None


def test_killed_while_it_writes_what_was_asked_it_can_begin_again(tmp_path):
    (tmp_path / ".asked.json.partial").write_text("{")
    (tmp_path / ".lock").touch()
    begin(tmp_path)


def test_killed_while_it_is_cleared_it_can_be_cleared_again(tmp_path, monkeypatch):
    folder = begin(tmp_path)
    folder.keep("cell", {"fid": 1.5})
    folder.samples.mkdir()
    (folder.samples / "00000.png").touch()

    def killed(path):
        raise KeyboardInterrupt

    listed = Path.iterdir
    with monkeypatch.context() as patch:
        # In the order in which the file that says what was asked comes first.
        patch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path))))
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path, fresh=True)
    begin(tmp_path, ASKED | {"steps": 4}, fresh=True)
    assert not folder.samples.exists()


def test_the_file_of_another_kind_of_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".lock").write_text("theirs")
    with pytest.raises(UserError, match="holds something else than an evaluation"):
        begin(tmp_path, fresh=True)
    assert (tmp_path / ".lock").read_text() == "theirs"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to \(Not a directory\); name another folder with --out"):
        begin(tmp_path / "file" / "evaluation")
