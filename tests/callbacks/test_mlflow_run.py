import logging
import os
import socket
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from jitlab.callbacks.mlflow_run import FOLDER_TAG, PATIENCE, URI_VARIABLE, MlflowRun, Tracking, chart_link
from jitlab.callbacks.run_log import RunFolder
from jitlab.errors import UserError

# MLflow's own store uses what its SQLAlchemy calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PARAMS = {"objective.prediction": "x"}
TAGS = {"train.steps": 600, "arm": "x"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(URI_VARIABLE, raising=False)
        for variable, value in PATIENCE.items():
            patched.setenv(variable, value)
        yield Tracking(tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="module")
def experiment(tracking):
    return tracking.experiment("noise_vs_x-digits", "What is asked? (source)")


@pytest.fixture
def opened(tracking, experiment, monkeypatch):
    # Every point is sent at once.
    monkeypatch.setattr("jitlab.callbacks.mlflow_run.FLUSH_SECONDS", -1.0)

    def open_run(run_id=None, name="x", **tags):
        return MlflowRun(tracking, experiment, name, run_id, PARAMS, {**TAGS, **tags})

    return open_run


def history(tracking, run, key):
    found = [(metric.step, metric.value) for metric in tracking.client.get_metric_history(run.id, key)]
    assert len(found) == len({step for step, _ in found}), Counter(step for step, _ in found).most_common(3)
    return dict(found)


def pictures(tracking, run):
    return [f.path for f in tracking.client.list_artifacts(run.id, "images") if f.path.endswith(".png")]


def test_store_lies_in_the_repository_and_nothing_is_left_beside_it(tracking):
    assert tracking.uri == f"sqlite:///{tracking.root / 'mlflow.db'}"
    assert [p.name for p in tracking.root.iterdir() if p.name.endswith(".partial")] == []
    assert (tracking.root / "mlflow.db").is_file()


def test_experiment_is_found_again_even_when_it_was_deleted(tracking):
    first = tracking.experiment("deleted", "Is it?")
    assert tracking.experiment("deleted", "Is it?") == first
    tracking.client.delete_experiment(first)
    assert tracking.experiment("deleted", "Is it?") == first
    found = tracking.client.get_experiment(first)
    assert found.lifecycle_stage == "active"
    assert found.tags["mlflow.note.content"] == "Is it?"
    assert str(tracking.root) in found.artifact_location


def test_parameters_are_the_given_ones_and_the_rest_are_tags(tracking, opened):
    run = opened()
    run.log_hyperparams({"huge": "thing"})
    data = tracking.client.get_run(run.id)
    assert data.data.params == PARAMS
    assert data.data.tags["train.steps"] == "600"
    assert data.info.run_name == "x"
    assert data.info.status == "RUNNING"
    assert "mlflow.parentRunId" not in data.data.tags


def test_history_is_complete_and_without_doubles_after_a_run_is_opened_again(tracking, opened, tmp_path):
    folder, run = RunFolder(tmp_path), opened()
    for step in range(1, 6):
        folder.log_metrics({"train/loss": 1 / step, "eval/fd_pixels": float(step)}, step)
        if step <= 3:  # the server missed the last two
            run.log_metrics({"train/loss": 1 / step, "eval/fd_pixels": float(step)}, step)
    run.end("KILLED", {"jitlab.status": "stopped"})
    again = opened(run.id)
    assert again.id == run.id
    assert tracking.client.get_run(run.id).info.status == "RUNNING"
    again.catch_up(folder.rows())
    again.catch_up(folder.rows())
    again.log_metrics({"train/loss": 1 / 6}, 6)
    again.end("FINISHED", {"jitlab.status": "complete"})
    assert history(tracking, run, "train/loss") == pytest.approx({step: 1 / step for step in range(1, 7)})
    assert history(tracking, run, "eval/fd_pixels") == {step: float(step) for step in range(1, 6)}
    closed = tracking.client.get_run(run.id)
    assert closed.info.status == "FINISHED"
    assert closed.data.tags["jitlab.status"] == "complete"


def test_steps_trained_again_after_a_crash_are_not_logged_twice(tracking, opened, tmp_path):
    folder, run = RunFolder(tmp_path), opened()
    for step in (2, 4, 6):
        for log in (folder, run):
            log.log_metrics({"train/loss": float(step)}, step)
    # Killed after step 6, resumed from a checkpoint of step 3.
    folder, again = RunFolder(tmp_path), opened(run.id)
    again.catch_up(folder.rows())
    for step in (4, 6, 8):
        for log in (folder, again):
            log.log_metrics({"train/loss": float(step)}, step)
    again.end("FINISHED", {})
    assert [row["step"] for row in folder.rows()] == [2, 4, 6, 8]
    assert history(tracking, run, "train/loss") == {step: float(step) for step in (2, 4, 6, 8)}


def test_points_are_sent_in_batches_that_the_server_takes(tracking, opened):
    run = opened()
    rows = [{"step": step, "time": 1e9 + step, "metrics": {"a": float(step), "b": 0.0}} for step in range(1, 1201)]
    run.catch_up(rows)
    assert len(history(tracking, run, "a")) == 1200


def test_a_run_that_was_deleted_on_the_server_is_created_anew_with_everything(tracking, opened, tmp_path):
    folder, run = RunFolder(tmp_path), opened()
    for log in (folder, run):
        log.log_metrics({"a": 1.0}, 1)
    tracking.delete(run.id)
    tracking.delete("0" * 32)
    again = opened(run.id)
    assert again.id != run.id
    again.catch_up(folder.rows())
    assert history(tracking, again, "a") == {1: 1.0}


def test_a_picture_is_sent_once_per_key_and_step_over_attempts(tracking, opened):
    run = opened()
    picture = Image.effect_noise((128, 32), 50).convert("RGB")
    for key, step in (("raw", 2), ("raw", 2), ("ema0.995", 2), ("raw", 4)):
        run.log_image(key, picture, step)
    again = opened(run.id)
    again.catch_up([])
    for key, step in (("raw", 2), ("ema0.995", 2), ("raw", 4), ("ema0.995", 4)):
        again.log_image(key, picture, step)
    names = pictures(tracking, run)
    assert len(names) == 4
    assert sum("ema0.995" in name for name in names) == 2


@pytest.mark.parametrize(("width", "shown"), [(1024, 256), (257, 256), (256, 256), (128, 128)])
def test_pictures_are_shrunk_to_the_width_that_the_ui_shows(tracking, opened, tmp_path, width, shown):
    run = opened()
    run.log_image("raw", Image.new("RGB", (width, width // 2), "red"), 1)
    (name,) = pictures(tracking, run)
    with Image.open(tracking.client.download_artifacts(run.id, name, str(tmp_path))) as stored:
        assert stored.size == (shown, round((width // 2) * shown / width))


def fail(client, monkeypatch, *, after_taking):
    taken = client.log_batch

    def log_batch(*args, **kwargs):
        if after_taking:
            taken(*args, **kwargs)
        raise MlflowException("the server went away")

    monkeypatch.setattr(client, "log_batch", log_batch)


@pytest.mark.parametrize("after_taking", [False, True])
def test_points_that_a_server_did_not_confirm_are_sent_later_and_once(
    tracking, opened, monkeypatch, caplog, after_taking
):
    run = opened()
    run.log_metrics({"a": 1.0}, 1)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        fail(tracking.client, patched, after_taking=after_taking)
        for step in (2, 3):
            run.log_metrics({"a": float(step)}, step)
    assert "they are sent later" in caplog.text
    run.log_metrics({"a": 4.0}, 4)
    assert history(tracking, run, "a") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


def test_a_run_ends_without_a_server(tracking, opened, monkeypatch, caplog):
    run = opened()
    with caplog.at_level(logging.WARNING):
        fail(tracking.client, monkeypatch, after_taking=False)
        run.log_metrics({"a": 1.0}, 1)
        run.finalize()
        run.end("FINISHED", {"jitlab.status": "complete"})
    assert "not told that the run ended" in caplog.text


def test_a_picture_that_the_server_refuses_does_not_end_the_run(tracking, opened, monkeypatch, caplog):
    run = opened()
    picture = Image.new("RGB", (8, 8))

    def refuse(*args, **kwargs):
        raise MlflowException("no space")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(tracking.client, "log_image", refuse)
        run.log_image("raw", picture, 1)
    assert "no space" in caplog.text
    run.log_image("raw", picture, 1)
    assert len(pictures(tracking, run)) == 1


def refuse_connection(*args, **kwargs):
    raise MlflowException("the server went away")


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("log_text", lambda run: run.log_text("a: 1", "config.yaml")),
        ("get_metric_history", lambda run: run.catch_up([])),
        ("list_artifacts", lambda run: run.catch_up([])),
    ],
)
def test_a_server_that_goes_away_while_a_run_is_opened_again_does_not_end_it(
    tracking, opened, monkeypatch, method, call
):
    run = opened()
    run.log_metrics({"a": 1.0}, 1)
    again = opened(run.id)
    monkeypatch.setattr(tracking.client, method, refuse_connection)
    call(again)


def test_points_of_two_seconds_go_in_one_request(tracking, experiment, monkeypatch):
    run = MlflowRun(tracking, experiment, "x", None, {}, {})
    sent: list[int] = []
    real = tracking.client.log_batch

    def counted(run_id, metrics=(), **kwargs):
        sent.append(len(metrics))
        return real(run_id, metrics=metrics, **kwargs)

    monkeypatch.setattr(tracking.client, "log_batch", counted)
    monkeypatch.setattr("jitlab.callbacks.mlflow_run.FLUSH_SECONDS", 1e9)
    for step in range(1, 51):
        run.log_metrics({"a": 0.0}, step)
    assert sent == []
    run.finalize()
    assert sent == [50]


def test_runs_of_this_folder_alone_are_found_running(tracking, opened, tmp_path):
    def make(name, folder, status=None):
        run = opened(None, name, **{FOLDER_TAG: folder})
        if status:
            run.end(status, {})
        return run

    experiment_folder = tmp_path / "noise_vs_x-digits"
    mine = [make(name, experiment_folder / name) for name in ("x", "v-s1")]
    others = [
        make("x", tmp_path / "elsewhere" / "x"),
        make("x", tmp_path / "noise_vs_x-digits-try" / "x"),
    ]
    done = make("eps", experiment_folder / "eps", "FINISHED")
    experiment_id = tracking.client.get_run(done.id).info.experiment_id
    left = tracking.left_running(experiment_id, experiment_folder)
    folders = [experiment_folder / name for name in ("x", "v-s1")]
    assert sorted(left) == sorted(zip([run.id for run in mine], folders, strict=True))
    for run_id, _ in left:
        tracking.mark_killed(run_id)
    assert tracking.left_running(experiment_id, experiment_folder) == []

    def status(run):
        return tracking.client.get_run(run.id).info.status

    assert {status(run) for run in mine} == {"KILLED"}
    assert {status(run) for run in others} == {"RUNNING"}
    assert status(done) == "FINISHED"


def test_a_server_that_cannot_be_reached_is_told_at_once(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(URI_VARIABLE, address)
    for variable in PATIENCE:
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
        monkeypatch.delenv(variable)
    started = time.monotonic()
    with pytest.raises(UserError, match=address) as caught:
        Tracking(tmp_path)
    assert time.monotonic() - started < 8
    assert len(str(caught.value).splitlines()) == 1
    assert URI_VARIABLE in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(UserError, match=r"mlflow\.db") as caught:
        Tracking(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_chart_link_opens_the_chart_view():
    link = chart_link("http://host:5000", "7")
    assert link == "http://host:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"


def test_a_run_that_the_server_refuses_is_a_user_error(tracking, monkeypatch):
    broken = SimpleNamespace(client=tracking.client, uri=tracking.uri)
    monkeypatch.setattr(tracking.client, "create_run", refuse_connection)
    with pytest.raises(UserError, match="tracking server"):
        MlflowRun(broken, "1", "x", None, {}, {})  # type: ignore[arg-type]
