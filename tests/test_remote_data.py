"""Runs on shards that a web server has, through the command line."""

import json
from functools import partial

import pytest

from jitlab import build
from jitlab.callbacks.ledger import ledger_entry
from jitlab.cli import main
from jitlab.datasets.cache import ShardCache
from jitlab.datasets.index import open_index
from jitlab.datasets.remote import Patience
from tests.datasets.server import FaultyServer, cut_after

RUN_ERROR, USER_ERROR = 1, 2
SHORT = ("train.steps=30", "train.checkpoint_every_steps=10", "data.ledger=true", "data.flip=true", "data.workers=2")
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def run(*words):
    return main(["run", "noise_vs_x", "--scale", "tiny", "--arms", "x", *SHORT, *words])


@pytest.fixture
def server():
    server = FaultyServer()
    yield server
    server.kill()


@pytest.fixture
def shards(repository):
    folder = repository / "data" / "digits16"
    assert main(["data", "build", "digits", "--image-size", "16", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def served(server, shards):
    server.files = {f"digits/{path.name}": path.read_bytes() for path in shards.iterdir() if path.is_file()}
    return server


def gone_through(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = {(row["step"], key): value for row in rows for key, value in row["metrics"].items()}
    batches = [ledger_entry(folder, step) for step in range(1, 31)]
    return {place: value for place, value in numbers.items() if not place[1].startswith("throughput")}, batches


def test_a_run_from_a_server_that_breaks_off_is_the_run_from_the_disk(repository, served, capsys):
    assert run("--name", "disk") == 0
    served.faults = [cut_after(1000), cut_after(50_000), cut_after(10)]
    assert run("--name", "web", f"data.path={served.url('digits')}") == 0
    disk, web = (gone_through(repository / "runs" / f"noise_vs_x-tiny-{name}" / "x") for name in ("disk", "web"))
    assert disk == web
    index = open_index(repository / "data" / "digits16", "")
    cached = {path.stat().st_size for path in (repository / "data" / "cache" / "shards").iterdir()}
    assert cached == {shard.bytes for shards in index.splits.values() for shard in shards}
    # A second run takes all of it from the cache.
    served.requests.clear()
    assert run("--name", "again", f"data.path={served.url('digits')}") == 0
    assert {name for method, name, _ in served.requests if method == "GET"} == {"digits/index.json"}


def test_a_server_that_stays_away_ends_the_run_with_the_url_and_the_same_command_goes_on(
    repository, served, capsys, monkeypatch
):
    def status_for_one(handler, body):
        if handler.name == "digits/train-00003.tar":
            handler.send_error(503)
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.send(body)
        return True

    impatient = Patience(connect_seconds=1, silence_seconds=1, retries=1, first_wait_seconds=0.01)
    monkeypatch.setattr(build, "ShardCache", partial(ShardCache, patience=impatient))
    served.always = status_for_one
    words = (f"data.path={served.url('digits')}", "data.window_shards=1", "data.workers=0")
    assert run(*words) == RUN_ERROR
    told = capsys.readouterr()
    line = next(line for line in told.out.splitlines() if line.startswith("failed x: "))
    assert f"{served.url('digits')}/train-00003.tar" in line
    assert "503" in line
    assert "Traceback" not in told.out + told.err
    served.always = None
    assert run(*words) == 0
    undisturbed = gone_through(repository / "runs" / "noise_vs_x-tiny" / "x")
    assert run("--name", "undisturbed", *words) == 0
    assert gone_through(repository / "runs" / "noise_vs_x-tiny-undisturbed" / "x") == undisturbed


def test_a_missing_shard_or_one_of_another_size_is_told_before_anything_is_trained(repository, served, capsys):
    url, whole = served.url("digits"), served.files["digits/train-00002.tar"]
    for content, told in ((None, "shard is missing"), (whole[:-512], f"its index says {len(whole)}")):
        served.files.pop("digits/train-00002.tar")
        if content:
            served.files["digits/train-00002.tar"] = content
        assert run(f"data.path={url}") == USER_ERROR
        line = capsys.readouterr().err
        assert line.startswith(f"jitlab: {url}/train-00002.tar: ")
        assert told in line
        assert line.count("\n") == 1
        served.files["digits/train-00002.tar"] = whole
    assert not (repository / "runs" / "noise_vs_x-tiny" / "x" / "metrics.jsonl").exists()


def test_a_shard_with_other_contents_is_named_or_tolerated_as_a_whole(repository, served, capsys):
    url, name = served.url("digits"), "digits/train-00002.tar"
    served.files[name] = served.files[name][:5000] + b"nonsense" + served.files[name][5008:]
    assert run(f"data.path={url}") == USER_ERROR
    line = capsys.readouterr().err
    assert f"{url}/train-00002.tar: has SHA-256" in line
    assert line.count("\n") == 1
    assert run(f"data.path={url}", "data.skip_damaged=400") == 0
    folder = repository / "runs" / "noise_vs_x-tiny" / "x"
    rows = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("data/damaged", 0) for row in rows) == 400
    assert "400 damaged samples were replaced by others so far" in capsys.readouterr().out


def test_without_an_index_on_the_server_one_can_be_written_here(repository, served, capsys):
    url = served.url("digits")
    index = json.loads(served.files.pop("digits/index.json"))
    served.files.pop("digits/samples.npy")
    assert run(f"data.path={url}") == USER_ERROR
    assert f"write one: jitlab data index {url} --out FOLDER" in capsys.readouterr().err
    listing = "".join(f'<a href="{name.removeprefix("digits/")}">x</a>' for name in served.files)
    served.files["digits/"] = listing.encode()
    assert main(["data", "index", url]) == USER_ERROR
    assert "name a folder for its index with --out" in capsys.readouterr().err
    here = repository / "data" / "theirs"
    assert main(["data", "index", url, "--out", str(here), "--workers", "1"]) == 0
    capsys.readouterr()
    assert open_index(here, "").fingerprint == index["fingerprint"]
    assert open_index(here, "").facts.location == url
    assert not list(here.glob("*.tar"))
    assert run("data.path=data/theirs") == 0
    assert main(["data", "verify", str(here)]) == 0
    assert main(["data", "info", str(here), "--sheet", str(repository / "sheet.png")]) == 0
    assert "48 training images" in capsys.readouterr().out


def test_a_cache_that_cannot_hold_what_is_in_use_is_refused_with_what_it_takes(served, capsys):
    assert run(f"data.path={served.url('digits')}", "data.cache_gb=0.001") == USER_ERROR
    line = capsys.readouterr().err
    assert "data.cache_gb = 0.001: 4 shards are in use at a time" in line
    assert "raise data.cache_gb or lower data.window_shards" in line
    assert run(f"data.path={served.url('digits')}", "data.cache_gb=0.005", "data.window_shards=1") == 0


def test_a_copy_that_its_disk_has_changed_is_named_with_the_folder_to_empty(repository, served, capsys):
    url = served.url("digits")
    assert run("--name", "first", f"data.path={url}") == 0
    folder = repository / "data" / "cache" / "shards"
    for copy in folder.glob("train-*"):
        copy.write_bytes(bytes(copy.stat().st_size))
    assert run("--name", "second", f"data.path={url}") == USER_ERROR
    line = capsys.readouterr().err
    assert "its checksum is not the index's" in line
    assert f"empty {folder}, whose disk has changed it" in line
    assert line.count("\n") == 1
    for copy in folder.iterdir():
        copy.unlink()
    assert run("--name", "second", f"data.path={url}") == 0


def test_a_cache_folder_that_cannot_be_is_told_with_its_setting(repository, served, capsys):
    (repository / "data" / "cache").write_text("a file")
    assert run(f"data.path={served.url('digits')}") == USER_ERROR
    line = capsys.readouterr().err
    assert line.startswith(f"jitlab: data.cache = {repository / 'data' / 'cache'}: ")
    assert line.count("\n") == 1
