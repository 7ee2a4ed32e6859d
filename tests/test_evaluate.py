"""`jitlab evaluate`: from a run or checkpoint to a certificate."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from jitlab import cli
from jitlab.callbacks.mlflow_run import MlflowRun, Tracking
from jitlab.evaluation import generator
from jitlab.evaluation.observation import Observer
from jitlab.evaluation.truth import RealImages
from jitlab.metrics.feature_table import FeatureTable
from jitlab.report.certificate import read_certificate
from tests.conftest import make_repository
from tests.inception import write_inception

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")
SEARCH = ("--search", "ema=all", "cfg=1,2,3")
AMOUNTS = ("--images", "30", "--final", "45", "--batch-size", "16")
RUN = "runs/noise_vs_x-tiny/x"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a repository with a run."""
    root = make_repository(tmp_path_factory.mktemp("evaluated"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JITLAB_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        command = [
            "run",
            "noise_vs_x",
            "--scale",
            "tiny",
            "--arms",
            "x",
            "train.steps=30",
            "sampler.guidance_scale=1.5",
        ]
        assert cli.main(command) == 0
    return root


@pytest.fixture
def root(trained, monkeypatch):
    monkeypatch.setenv("JITLAB_ROOT", str(trained))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(trained)
    return trained


def evaluate(out, *words, code=0, target=RUN):
    assert cli.main(["evaluate", target, "--out", str(out), *AMOUNTS, *words]) == code
    return read_certificate(out / "evaluation.json") if code == 0 else None


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JITLAB_ROOT", str(trained))
        patch.chdir(trained)
        evaluate(out, *SEARCH, "--full", "--seeds", "2", "--save", "12")
    return out


def test_certificate_holds_the_winner_of_the_whole_grid_and_all_that_it_rests_on(undisturbed):
    found = read_certificate(undisturbed / "evaluation.json")
    assert found.search is not None
    cells = {(cell.weights, cell.guidance_scale): cell.metrics for cell in found.search.cells}
    assert set(cells) == {(weights, scale) for weights in ("ema0.9", "ema0.5") for scale in (1.0, 2.0, 3.0)}
    best = min(cells, key=lambda cell: cells[cell]["fd_pixels"])
    assert (found.weights, found.guidance_scale) == best
    assert found.metric == "fd_pixels"
    expected = {"fd_pixels", "off_manifold", "seams", "class_structure", "kid", "kid_std"}
    assert set(found.values) == expected | {"precision", "recall", "density", "coverage"}
    assert all(len(values) == 2 and np.isfinite(values).all() for values in found.values.values())
    assert found.values["fd_pixels"][0] != found.values["fd_pixels"][1]
    protocol = found.protocol
    assert protocol["steps"] == 3
    assert protocol["images"] == 45
    assert protocol["search_scales"] == [1.0, 2.0, 3.0]
    assert protocol["reference_images"] == 1600
    assert found.checkpoint["file"] == f"{RUN}/last.ckpt"
    assert any("45 images of the final evaluation have no covariance" in warning for warning in found.warnings)


def test_training_measured_the_same_images_as_having_the_same_figures(root, tmp_path):
    logged = dict[str, float]()
    for line in (root / RUN / "metrics.jsonl").read_text().splitlines():
        logged |= json.loads(line)["metrics"]
    # Twenty images, of the first average at the run's own guidance scale and seed.
    found = evaluate(tmp_path / "out", "--final", "20")
    for name in ("fd_pixels", "off_manifold", "seams", "class_structure"):
        assert found.values[name][0] == pytest.approx(logged[f"eval/{name}"], rel=1e-4)


def test_the_images_that_choose_the_winner_are_not_those_that_judge_it(root, tmp_path):
    found = evaluate(tmp_path / "out", "--search", "ema=0.9", "cfg=1", "--images", "45")
    assert found is not None
    assert found.search is not None
    assert found.search.cells[0].metrics["fd_pixels"] != found.values["fd_pixels"][0]


def test_saved_images_are_those_of_the_final_evaluation_by_number_and_class(undisturbed):
    names = sorted(path.name for path in (undisturbed / "samples").iterdir())
    assert names == [*(f"{number:05d}-class{number % 10}.png" for number in range(12)), "grid.png"]
    assert not (undisturbed / "unfinished").exists()


def test_the_same_command_again_does_nothing_and_shows_the_same(root, undisturbed, monkeypatch, capsys):
    before = (undisturbed / "evaluation.json").read_bytes()
    monkeypatch.setattr(generator, "Generator", None)
    evaluate(undisturbed, *SEARCH, "--full", "--seeds", "2", "--save", "12")
    assert (undisturbed / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize("after", [1, 5, 11, 14])
def test_stopped_at_any_moment_it_goes_on_to_the_same_certificate(root, undisturbed, tmp_path, monkeypatch, after):
    observed, looks = Observer.__call__, []

    def observe(self, images):
        looks.append(len(images))
        if len(looks) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return observed(self, images)

    out = tmp_path / "out"
    command = (*SEARCH, "--full", "--seeds", "2", "--save", "12")
    with monkeypatch.context() as patch:
        patch.setattr(Observer, "__call__", observe)
        evaluate(out, *command, code=130)
    assert not (out / "evaluation.json").exists()
    evaluate(out, *command)
    assert (out / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()
    assert len(list((out / "samples").iterdir())) == 13


@pytest.mark.slow
def test_killed_three_times_it_gives_the_same_certificate(root, undisturbed, tmp_path):
    out = tmp_path / "out"
    words = [*SEARCH, "--full", "--seeds", "2", "--save", "12"]
    command = [sys.executable, "-m", "jitlab.cli", "evaluate", RUN, "--out", str(out), *AMOUNTS, *words]
    for rows in (16, 60, 200):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and _written(out) < rows:
            time.sleep(0.005)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert (out / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()


def _written(out: Path) -> int:
    scores = out / "scores.json"
    done = len(json.loads(scores.read_text())) * 30 if scores.exists() else 0
    for table in out.glob("unfinished/*/*.features"):
        rows = np.fromfile(table, np.float32)
        done += int((rows.reshape(-1, 1 + 64 + 4)[:, 0] == 1).sum()) if len(rows) % 69 == 0 else 0
    return done


def test_two_processes_give_the_same_figures(root, undisturbed, tmp_path):
    found = evaluate(tmp_path / "out", *SEARCH, "--full", "--seeds", "2", "--save", "12", "--devices", "2")
    alone = read_certificate(undisturbed / "evaluation.json")
    assert replace(found, hardware=alone.hardware) == alone
    for path in (undisturbed / "samples").iterdir():
        assert (tmp_path / "out" / "samples" / path.name).read_bytes() == path.read_bytes()


def test_coarse_to_fine_looks_at_fewer_cells(root, tmp_path):
    found = evaluate(tmp_path / "out", "--search", "cfg=1:5:0.25", "--images", "10", "--final", "20")
    assert 5 <= len(found.search.cells) < 17
    assert found.search.cells[0].guidance_scale == 1.0
    assert not found.search.full


def test_without_a_search_the_checkpoints_own_scale_is_evaluated(root, tmp_path):
    found = evaluate(tmp_path / "out", "sampler.steps=2")
    assert found.search is None
    assert (found.weights, found.guidance_scale, found.protocol["steps"]) == ("ema0.9", 1.5, 2)


def test_one_average_is_evaluated_without_a_search(root, tmp_path):
    found = evaluate(tmp_path / "out", "--ema", "raw", "sampler.guidance_scale=2")
    assert (found.weights, found.guidance_scale, found.search) == ("raw", 2.0, None)


def test_features_are_computed_in_float32_whatever_the_networks_precision(root, tmp_path, monkeypatch):
    content = torch.load(root / RUN / "last.ckpt", weights_only=True)
    content["config"] = content["config"].replace("precision: auto", "precision: bf16")
    torch.save(content, tmp_path / "bf16.ckpt")
    looked, observed = [], Observer.__call__

    def observe(self, images):
        looked.append(torch.is_autocast_enabled("cpu"))
        return observed(self, images)

    monkeypatch.setattr(Observer, "__call__", observe)
    assert evaluate(tmp_path / "out", target=str(tmp_path / "bf16.ckpt")).protocol["precision"] == "bf16"
    assert looked == [False, False, False]


def test_in_bf16_every_average_is_its_own_whatever_is_searched_beside_it(root, tmp_path):
    content = torch.load(root / RUN / "last.ckpt", weights_only=True)
    content["config"] = content["config"].replace("precision: auto", "precision: bf16")
    torch.save(content, tmp_path / "bf16.ckpt")
    target = str(tmp_path / "bf16.ckpt")
    all_of_them = evaluate(tmp_path / "all", "--search", "ema=all", "cfg=1,2", "--full", target=target).search.cells
    one = evaluate(tmp_path / "one", "--search", "ema=0.5", "cfg=1,2", "--full", target=target).search.cells
    assert [cell for cell in all_of_them if cell.weights == "ema0.5"] == list(one)


def test_a_checkpoint_that_is_replaced_meanwhile_is_told(root, tmp_path, monkeypatch, capsys):
    file = Path(shutil.copy(root / RUN / "last.ckpt", tmp_path / "mine.ckpt"))
    patches = RealImages.patches

    def replaced(self, device):
        file.write_bytes(file.read_bytes())
        return patches(self, device)

    monkeypatch.setattr(RealImages, "patches", replaced)
    evaluate(tmp_path / "out", target=str(file), code=2)
    assert "mine.ckpt: was replaced while it is evaluated" in capsys.readouterr().err


def test_every_cell_is_a_run_in_mlflow_once(root, undisturbed):
    evaluate(undisturbed, *SEARCH, "--full", "--seeds", "2", "--save", "12")
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("noise_vs_x-tiny-evaluation")
    certificate = read_certificate(undisturbed / "evaluation.json")
    key = f"{certificate.checkpoint['sha256'][:16]}-{certificate.protocol_hash[:16]}"
    runs = client.search_runs([experiment.experiment_id], f"tags.`jitlab.certificate` = '{key}'")
    logged = {
        (run.data.params["stage"], run.data.params["weights"], float(run.data.params["guidance_scale"])): run
        for run in runs
    }
    assert len(logged) == len(runs) == 7
    assert certificate.search is not None
    for cell in certificate.search.cells:
        assert logged["search", cell.weights, cell.guidance_scale].data.metrics["eval/fd_pixels"] == pytest.approx(
            cell.metrics["fd_pixels"], rel=1e-12
        )
    final = logged["final", certificate.weights, certificate.guidance_scale]
    assert final.data.metrics["eval/fd_pixels"] == pytest.approx(np.mean(certificate.values["fd_pixels"]), rel=1e-12)
    assert [artifact.path for artifact in client.list_artifacts(final.info.run_id)] == ["evaluation.json"]


def shown(root, key):
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("noise_vs_x-tiny-evaluation")
    return client.search_runs([experiment.experiment_id], f"tags.`jitlab.certificate` = '{key}'")


def test_a_server_that_goes_away_meanwhile_gets_its_runs_later_and_no_cut_off_one_stays(
    root, tmp_path, monkeypatch, caplog
):
    def away(self, *names):
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "experiment", away)
        found = evaluate(tmp_path / "out", "sampler.steps=5")
    assert "took no evaluation; the same command sends it later (connection refused)" in caplog.text
    key = f"{found.checkpoint['sha256'][:16]}-{found.protocol_hash[:16]}"
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "end", away)
        evaluate(tmp_path / "out", "sampler.steps=5")
    assert [run.info.status for run in shown(root, key)] == ["RUNNING"]
    evaluate(tmp_path / "out", "sampler.steps=5")
    assert [run.info.status for run in shown(root, key)] == ["FINISHED"]


@pytest.mark.parametrize("what", [(FeatureTable, "write"), (generator, "write_png")])
def test_a_full_disk_is_told_and_what_was_done_stays(root, undisturbed, tmp_path, monkeypatch, capsys, what):
    real, calls = getattr(*what), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    out = tmp_path / "out"
    command = (*SEARCH, "--full", "--seeds", "2", "--save", "12")
    with monkeypatch.context() as patch:
        patch.setattr(*what, full)
        evaluate(out, *command, code=2)
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert said.count("\n") == 1
    evaluate(out, *command)
    assert (out / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()


def foreign(root, path, dimensions=64):
    own = dict(np.load(next((root / "data").glob("*/reference-pixels-16.npz"))))
    np.savez(path, mu=np.resize(own["mu"], dimensions), sigma=np.resize(own["sigma"], (dimensions, dimensions)))
    return path


def test_reference_of_another_codebase_is_taken_and_called_unverified(root, undisturbed, tmp_path):
    found = evaluate(tmp_path / "out", "--reference", str(foreign(root, tmp_path / "adm.npz")))
    assert any("unverified" in warning for warning in found.warnings)
    # It holds no features to compare one by one, and no classes; patches are the training images' own.
    assert set(found.values) == {"fd_pixels", "off_manifold", "seams"}


def test_with_a_reference_the_training_images_may_be_missing(root, undisturbed, tmp_path):
    own = shutil.copy(next((root / "data").glob("*/reference-pixels-16.npz")), tmp_path / "own.npz")
    found = evaluate(tmp_path / "out", "--reference", str(own), "--data", str(tmp_path / "nowhere"))
    assert "off_manifold" not in found.values
    assert "precision" in found.values


def test_a_runs_evaluation_lies_in_its_folder_and_is_shown_in_its_experiments_report(root, undisturbed, capsys):
    command = ["evaluate", RUN, *AMOUNTS, "--search", "ema=0.9", "cfg=1,2,3", "--seeds", "2"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    folder = Path(RUN) / "evaluation"
    for file in (folder / "evaluation.json", folder / "evaluation.html", Path("runs/noise_vs_x-tiny/report.html")):
        assert str(file) in said
        assert file.exists()
    assert "<h2>Evaluations</h2>" in Path("runs/noise_vs_x-tiny/report.html").read_text()
    assert "fd_pixels" in said
    assert "warning" in said
    # The run can go on, or be reported, with an evaluation in its folder.
    assert cli.main(["report", "noise_vs_x", "--scale", "tiny"]) == 0


def test_a_device_without_the_memory_is_told_what_to_do(root, tmp_path, monkeypatch, capsys):
    def full(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Observer, "__call__", full)
    evaluate(tmp_path / "out", code=2)
    assert "--batch-size 16: the device has too little memory" in capsys.readouterr().err


def test_a_checkpoint_of_its_own_is_evaluated_beside_it(root, tmp_path):
    file = shutil.copy(root / RUN / "last.ckpt", tmp_path / "mine.ckpt")
    assert cli.main(["evaluate", str(file), *AMOUNTS]) == 0
    assert read_certificate(tmp_path / "mine-evaluation" / "evaluation.json").name == "mine"


@pytest.mark.slow
def test_inception_gives_a_fid_and_an_inception_score(root, tmp_path):
    weights = write_inception(tmp_path / "inception.pth")
    words = ["--features", "inception", "--weights", str(weights)]
    reference = tmp_path / "reference.npz"
    data = str(root / "data/digits16")
    assert cli.main(["evaluate", "reference", "--data", data, *words, "--images", "64", "--out", str(reference)]) == 0
    found = evaluate(tmp_path / "out", *words, "--reference", str(reference), "--final", "32")
    assert found.metric == "fid"
    assert {"fid", "kid", "inception_score", "inception_score_std", "recall"} < set(found.values)
    assert any("not the published ones" in warning for warning in found.warnings)


REFUSED = {
    "target": (["runs/nothing"], "runs/nothing: no such run or checkpoint; expected a run's folder"),
    "experiment": (
        ["runs/noise_vs_x-tiny"],
        "is no run's folder; name one of its runs, such as runs/noise_vs_x-tiny/x",
    ),
    "average": ([RUN, "--search", "ema=0.7"], "--search ema=0.7: 0.7: no such weights; did you mean 'ema0.9'?"),
    "one average": ([RUN, "--ema", "0.7"], "--ema 0.7: no such weights; did you mean 'ema0.9'?"),
    "average of a search": ([RUN, "--ema", "raw", "--search", "cfg=1"], "--ema raw: a search chooses the average"),
    "scale": ([RUN, "--search", "cfg=1:x"], "--search cfg=1:x: expected 1.0:4.0:0.1"),
    "few": (
        [RUN, "--final", "9"],
        "--final 9: fewer than one image of each class; runs/noise_vs_x-tiny/x/last.ckpt knows",
    ),
    "few searched": ([RUN, "--search", "cfg=1,2", "--images", "3"], "--images 3: fewer than one image of each class"),
    "many": ([RUN, "--final", str(10**20)], f"--final {10**20}: expected 10000000 or fewer"),
    "many seeds": ([RUN, "--seeds", "100000000000"], "--seeds 100000000000: expected 1000 or fewer"),
    "save": ([RUN, "--save", "46"], "--save 46: more than the 45 images of --final"),
    "devices": ([RUN, "--devices", "999"], "--devices 999: this machine has"),
    "features": ([RUN, "--features", "incepton"], "features incepton: unknown; did you mean 'inception'?"),
    "weights": ([RUN, "--features", "inception", "--weights", "no.pth"], "no.pth: no such file"),
    "data": ([RUN, "--data", "nowhere"], "/nowhere/index.json: there is no such index of shards"),
    "reference": ([RUN, "--reference", "no.npz"], "no.npz: no such file"),
    "word": ([RUN, "train.steps=3"], "train.steps = 3: does not belong to sampling"),
    "setting": ([RUN, "sampler.steps=0"], "sampler.steps = 0: expected a value in [1, inf)"),
    "no scale": ([RUN, "--search", "cfg="], "--search cfg=: expected"),
    "file": ([RUN, "--out", "mlflow.db"], "--out mlflow.db: is a file; name a folder"),
    "other folder": ([RUN, "--out", "runs"], "runs: holds something else than an evaluation; choose another --out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_generated(root, undisturbed, tmp_path, monkeypatch, capsys, case):
    words, message = REFUSED[case]
    monkeypatch.setattr(generator, "Generator", None)
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", words[0], *AMOUNTS, *out, *words[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampler.steps=4",), "holds an evaluation with steps = 3, and 4 was asked for; --out FOLDER keeps both"),
        (("--final", "50"), "holds an evaluation with images = 45, and 50 was asked for"),
        (("--search", "cfg=1,9"), "search_scales = [1.0, 2.0, 3.0], and [1.0, 9.0] was asked for"),
    ],
)
def test_a_folder_holds_one_evaluation(root, undisturbed, capsys, words, message):
    evaluate(undisturbed, *SEARCH, "--full", "--seeds", "2", "--save", "12", *words, code=2)
    assert message in capsys.readouterr().err


def test_what_an_unfinished_evaluation_needed_is_deleted_after_a_kill_behind_the_certificate(root, undisturbed):
    (undisturbed / "unfinished").mkdir()
    evaluate(undisturbed, *SEARCH, "--full", "--seeds", "2", "--save", "12")
    assert not (undisturbed / "unfinished").exists()


def test_images_that_are_not_finite_are_told_with_their_guidance_scale(root, tmp_path, capsys):
    evaluate(tmp_path / "out", "sampler.guidance_scale=1e308", code=1)
    assert "sampling with guidance scale 1e+308 gave non-finite values; try" in capsys.readouterr().err


def test_fresh_starts_over(root, tmp_path):
    evaluate(tmp_path / "out", "--save", "5")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    found = evaluate(tmp_path / "out", "sampler.steps=2", "--fresh")
    assert found.protocol["steps"] == 2
    assert not (tmp_path / "out" / "samples").exists()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_damaged_checkpoint_is_refused(root, tmp_path, capsys):
    content = (root / RUN / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(content[: len(content) // 2])
    assert cli.main(["evaluate", str(tmp_path / "half.ckpt"), *AMOUNTS]) == 2
    assert "half.ckpt: checkpoint is damaged" in capsys.readouterr().err


def test_other_data_than_the_runs_are_refused(root, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    shutil.copy(root / RUN / "last.ckpt", tmp_path / "x")
    record = json.loads((root / RUN / "status.json").read_text())
    (tmp_path / "x" / "status.json").write_text(json.dumps(record | {"data_fingerprint": "0" * 64}))
    evaluate(tmp_path / "out", target=str(tmp_path / "x"), code=2)
    # A file of its own holds what it was trained on.
    content = torch.load(root / RUN / "last.ckpt", weights_only=True)
    content["ShardDataModule"]["fingerprint"] = "0" * 64
    torch.save(content, tmp_path / "mine.ckpt")
    evaluate(tmp_path / "out", target=str(tmp_path / "mine.ckpt"), code=2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    for line in said:
        assert "digits16: the data are not those that the checkpoint was trained on; name their folder or URL" in line
