import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.errors import UserError
from jitlab.training.checkpoints import AtomicCheckpointIO

CONTENT: dict[str, Any] = {"weights": torch.arange(6.0), "step": 7, "loops": {"a": [1, 2.5, None, "b"]}}


class Code:
    def __reduce__(self):
        return os.system, ("echo the checkpoint ran this",)


@pytest.fixture
def path(tmp_path):
    AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def refused(path):
    with pytest.raises(UserError) as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_what_is_saved_is_loaded(path):
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded.pop("weights"), CONTENT["weights"])
    assert loaded == {key: value for key, value in CONTENT.items() if key != "weights"}


@pytest.mark.parametrize("place", ["torch.save", "os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_other_file(path, monkeypatch, place, error):
    def fails(*args, **kwargs):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(place, fails)
        with pytest.raises(type(error)):
            AtomicCheckpointIO().save_checkpoint({"step": 8}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["step"] == 7
    assert list(path.parent.iterdir()) == [path]


def test_a_save_into_a_folder_that_is_missing_makes_it(tmp_path):
    path = tmp_path / "new" / "run" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["step"] == 7


def test_missing_checkpoint_is_a_user_error(tmp_path):
    refused(tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint", b"\x80\x05.", b"\x80\x02]q\x00."])
def test_other_files_are_a_user_error(path, content):
    path.write_bytes(content)
    refused(path)


def test_file_with_code_in_it_is_a_user_error_and_the_code_is_not_run(path, capfd):
    torch.save({"step": Code()}, path)
    refused(path)
    assert "the checkpoint ran this" not in capfd.readouterr().out


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=40)
def test_checkpoint_cut_anywhere_is_a_user_error(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


def test_checkpoint_with_any_flipped_byte_loads_or_is_a_user_error(path):
    whole, lines = path.read_bytes(), []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            AtomicCheckpointIO().load_checkpoint(path)
        except UserError as error:
            lines.append(len(str(error).splitlines()))
    assert set(lines) == {1}
