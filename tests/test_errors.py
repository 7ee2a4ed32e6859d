import pytest
from IPython.core.interactiveshell import InteractiveShell
from torch._utils import ExceptionWrapper
from traitlets.config import Config

from jitlab.datasets.remote import WrongFileError
from jitlab.errors import RunError, UserError, nearest

KNOWN = ["train.steps", "train.batch_size", "model.patch_size"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("train.stesp", "train.steps"), ("batch_size", "train.batch_size"), ("model.patchsize", "model.patch_size")],
)
def test_a_near_name_is_offered(name, expected):
    assert nearest(name, KNOWN) == f"did you mean '{expected}'?"


def test_all_names_are_listed_where_none_is_near():
    assert nearest("qqq", KNOWN) == "expected one of train.steps, train.batch_size, model.patch_size"


def test_the_nearest_of_several_is_offered():
    assert nearest("noise_vs_y", ["noise_vs_xy", "noise", "noise_vs_x"]) == "did you mean 'noise_vs_xy'?"


def test_the_advice_says_something_where_there_is_no_name():
    assert not nearest("qqq", []).endswith("expected one of ")


def test_a_failed_run_is_not_the_users_mistake():
    # exit code 1 and exit code 2 must not be mixed up by an `except`
    assert not issubclass(RunError, UserError)
    assert not issubclass(UserError, RunError)


def test_a_notebook_shows_a_users_mistake_on_one_line(tmp_path, capsys):
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}), ipython_dir=str(tmp_path))
    shell.push({"mistake": UserError("train.steps = 0:\nexpected a value in [1, inf)")})
    shell.run_cell("raise mistake")
    assert capsys.readouterr().out.strip() == "jitlab: train.steps = 0: expected a value in [1, inf)"


@pytest.mark.parametrize("error", [UserError, RunError, WrongFileError])
def test_a_loader_workers_error_comes_back_on_one_line(error):
    try:
        raise error("http://host/a.tar:\nis gone")
    except error:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(error) as caught:
        wrapped.reraise()
    assert str(caught.value) == "http://host/a.tar: is gone"
