"""Building ImageNet's shards with the real command, on small photographs in its layouts."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from jitlab import files
from jitlab.cli import main
from jitlab.datasets import workspace
from jitlab.datasets.crop import center_crop
from jitlab.datasets.decode import decode, rgb_image
from jitlab.datasets.index import open_index
from jitlab.datasets.order import Reference
from jitlab.datasets.shards import key_of
from jitlab.datasets.store import check_store, local_store
from jitlab.datasets.verify import verify
from jitlab.randomness import numpy_generator
from tests.datasets.archives import (
    CLASSES,
    SIZE,
    build,
    class_archives,
    contents,
    entries,
    image_folder,
    official_tar,
    words,
    write_tar,
)
from tests.datasets.folders import datamodule

KINDS = {"official": official_tar, "folder": image_folder, "class archives": class_archives}
USER_ERROR, INTERRUPTED = 2, 130


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return official_tar(tmp_path_factory.mktemp("official") / "train.tar")


@pytest.fixture(scope="module")
def built(official, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "shards"
    return folder, build(official, folder)


def samples_of(folder, split="train"):
    urls = [str(path) for path in sorted(folder.glob(f"{split}-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    return {sample["__key__"]: sample for sample in samples}


@pytest.mark.filterwarnings("ignore:unclosed file .*tar:ResourceWarning")
def test_webdataset_reads_untouched_images_labels_and_facts(built):
    folder, index = built
    found = samples_of(folder) | samples_of(folder, "held_out")
    assert len(found) == 60
    classes = sorted({name for name, _, _ in entries()})
    for name, file, jpeg in entries():
        sample = found[Path(file).stem]
        assert sample["jpeg"] == jpeg
        assert int(sample["cls"]) == classes.index(name)
        width, height = rgb_image(jpeg).size
        assert json.loads(sample["json"]) == {"synset": name, "file": file, "width": width, "height": height}
    assert index.facts.classes == classes
    assert index.facts.num_classes == CLASSES
    assert index.facts.image_size is None
    store = local_store(folder, index)
    assert list(verify(index, store, 1, lambda *_: None)) == []
    check_store(index, store)


def test_the_order_is_shuffled_seeded_and_splits_are_disjoint(built, official, tmp_path):
    _, index = built
    keys = {split: [key_of(row) for row in index.split(split)[1]] for split in index.splits}
    assert {split: len(own) for split, own in keys.items()} == {"train": 50, "held_out": 10}
    assert [shard.samples for shard in index.splits["train"]] == [10] * 5
    everything = keys["train"] + keys["held_out"]
    assert sorted(everything) == sorted(Path(file).stem for _, file, _ in entries())
    assert keys["train"] != sorted(keys["train"])
    other = build(official, tmp_path / "other", seed=1)
    assert {key_of(row) for row in other.split("held_out")[1]} != set(keys["held_out"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_and_any_number_of_processes_give_the_same_bytes(built, tmp_path, kind):
    folder, index = built
    again = build(KINDS[kind](tmp_path / "source"), tmp_path / "out", workers=2 if kind == "official" else 1)
    assert contents(tmp_path / "out") == contents(folder)
    assert again.fingerprint == index.fingerprint


def test_shards_are_a_source_and_can_be_held_out(built, tmp_path):
    folder, index = built
    again = build(folder / "train-*.tar", tmp_path / "out", held_out=folder / "held_out-*.tar", samples_per_shard=7)
    for split in index.splits:
        pairs = [
            sorted((key_of(row), int(row["label"]), int(row["crc32"])) for row in of.split(split)[1])
            for of in (index, again)
        ]
        assert pairs[0] == pairs[1]
    assert again.facts.classes == index.facts.classes
    assert len(again.splits["train"]) == 8


@pytest.mark.parametrize(("format", "extension"), [("webp", "webp"), ("raw", "ppm")])
def test_crops_are_adms_to_the_bit(official, tmp_path, format, extension):
    index = build(official, tmp_path, store="crop", format=format)
    assert index.facts.image_size == SIZE
    images = datamodule(tmp_path, batch_size=10, image_size=SIZE, num_classes=CLASSES).images
    jpegs = {Path(file).stem: jpeg for _, file, jpeg in entries()}
    for place in range(50):
        image, _, key = images[Reference(0, place)]
        expected = center_crop(rgb_image(jpegs[key]), SIZE)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))
        assert np.array_equal(image.numpy(), decode(jpegs[key], SIZE, "exact").numpy())
    assert f".{extension}".encode() in (tmp_path / "train-00000.tar").read_bytes()


def test_the_closing_lines_say_what_is_there_and_how_to_train(official, tmp_path, capsys):
    index = build(official, tmp_path / "out", image_size=44)
    lines = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert lines[-3] == (
        f"{tmp_path / 'out'}: 50 train, 10 held_out images as they came, 5 classes, {size / 1e9:.3g} GB, "
        f"fingerprint {index.fingerprint[:12]}"
    )
    assert lines[-2] == "60 images are smaller than 44 px and will be enlarged"
    assert f"data.path={tmp_path / 'out'} data.image_size=44 data.num_classes=5" in lines[-1]
    assert f"--image-size 44 --out {tmp_path / 'out'} --held-out 10 --samples-per-shard 10" in index.facts.command


def test_classes_that_are_held_out_whole_are_told(official, tmp_path, capsys):
    build(official, tmp_path / "shards", held_out=59)
    told = capsys.readouterr().out
    classes = len({name for name, _, _ in entries()})
    assert f"{classes - 1} of {classes} classes have no training image: set fewer aside with --held-out" in told


def test_the_closing_line_names_the_folder_whole_where_runs_would_not_find_it(official, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(official, "out")
    assert f"data.path={tmp_path / 'out'} " in capsys.readouterr().out.splitlines()[-1]


def test_info_shows_few_images_in_a_folder_of_any_name(official, tmp_path, capsys):
    out = tmp_path / "shards [x]"
    build(official, out)
    capsys.readouterr()
    assert main(["data", "info", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out}: imagenet, as they came, cropped when read, 5 classes"
    assert any("batches of 50," in line for line in lines)
    assert lines[-1] == f"{out / 'contact_sheet.png'}: 48 training images"
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > sheet.height > 0


def test_the_same_command_again_does_nothing_and_mends_what_is_missing(built, official, tmp_path, capsys):
    out = tmp_path / "out"
    build(official, out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    build(official, out)
    assert "was built already" in capsys.readouterr().out
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before
    (out / "train-00002.tar").unlink()
    os.truncate(out / "train-00003.tar", 5000)
    build(official, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == {path: old[1] for path, old in before.items()}
    assert (out / "train-00001.tar").stat().st_mtime_ns == before[out / "train-00001.tar"][0]


DAMAGED = {
    "truncated": entries()[0][2][:700],
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "scrambled": bytes(numpy_generator("scrambled").integers(0, 256, 900, dtype=np.uint8)),
    "header": b"\xff\xd8\xff\xe0" + bytes(50),
}


@pytest.mark.parametrize(("store", "workers"), [("original", 2), ("crop", 1)])
def test_unreadable_images_are_listed_counted_and_no_more_than_tolerated(tmp_path, capsys, store, workers):
    source = image_folder(tmp_path / "source")
    clean = build(source, tmp_path / "clean", store=store)
    name = entries()[0][0]
    for kind, content in DAMAGED.items():
        (source / name / f"{kind}.JPEG").write_bytes(content)
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(words(source, out, store=store, workers=workers)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(".JPEG: ")[0] for line in lines[:-1]) == sorted(f"{name}/{k}" for k in DAMAGED)
    assert lines[-1] == f"{out}: 5 images cannot be read: they are left out"
    index = open_index(out, "")
    assert index.facts.unreadable == lines[:-1]
    assert len(index.rows) == len(clean.rows) == 60
    # Nothing is built again, and the verdict stays.
    assert main(words(source, out, store=store)) == 1
    assert main(words(source, out, store=store, allow_errors=4)) == 1
    assert main(words(source, out, store=store, allow_errors=5)) == 0


def test_an_image_that_may_not_be_read_is_one_of_them(tmp_path, capsys, monkeypatch):
    source = image_folder(tmp_path / "source")
    whole = os.pread

    def failing(file, size, offset):
        if Path(f"/proc/self/fd/{file}").readlink().name.endswith("_7.JPEG"):
            raise OSError(5, "Input/output error")
        return whole(file, size, offset)

    monkeypatch.setattr("jitlab.datasets.sources.os.pread", failing)
    assert main(words(source, tmp_path / "out")) == 1
    assert "_7.JPEG: [Errno 5] Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "class archives"])
def test_files_that_are_no_images_by_name_are_passed_over_with_a_count(tmp_path, capsys, kind):
    tree = image_folder(tmp_path / "tree")
    first = sorted(folder for folder in tree.iterdir())[0]
    for name in ("a.txt", "b.txt", "LICENSE", ".hidden"):
        (first / name).write_text("nothing to see")
    source = tree
    if kind == "class archives":
        source = tmp_path / "archives"
        source.mkdir()
        for folder in tree.iterdir():
            with tarfile.open(source / f"{folder.name}.tar", "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.add(file, file.name)
    assert main(words(source, tmp_path / "shards")) == 0
    told = f"{source}: passed over what has no image's extension: 2 .txt, 1 no extension"
    assert told in capsys.readouterr().out.splitlines()


def test_a_link_that_leads_nowhere_is_one_of_them(tmp_path, capsys):
    source = image_folder(tmp_path / "source")
    name = entries()[0][0]
    (source / name / "link.JPEG").symlink_to(tmp_path / "nowhere")
    assert main(words(source, tmp_path / "out")) == 1
    assert f"{name}/link.JPEG: is a link that leads nowhere" in capsys.readouterr().err
    assert len(open_index(tmp_path / "out", "").rows) == 60


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"store": "crop"}, "store 'original', not 'crop'"),
        ({"samples_per_shard": 20}, "samples_per_shard 10, not 20"),
        ({"held_out": 11}, "held_out 10, not 11"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_build_into_the_folder_is_refused(official, tmp_path, capsys, options, expected, finished):
    out = tmp_path / "out"
    if finished:
        build(official, out)
    else:
        (out / ".build").mkdir(parents=True)
        recipe = {**build(official, tmp_path / "other").facts.recipe}
        files.write_json(out / ".build" / "recipe.json", recipe)
    capsys.readouterr()
    before = sorted(out.iterdir())
    assert main(words(official, out, **options)) == USER_ERROR
    line = capsys.readouterr().err
    assert f"jitlab: {out}: holds a build with {expected};" in line
    assert line.count("\n") == 1
    assert sorted(out.iterdir()) == before


def test_other_images_other_data_and_strange_shards_are_refused(built, tmp_path, capsys):
    folder, _ = built
    source = image_folder(tmp_path / "source")
    next(source.glob("*/*_7.JPEG")).unlink()
    assert main(words(source, folder)) == USER_ERROR
    assert "holds a build with other images;" in capsys.readouterr().err
    assert main(["data", "build", "digits", "--image-size", "8", "--out", str(folder)]) == USER_ERROR
    assert "source 'imagenet', not 'digits'" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00099.tar").touch()
    assert main(words(source, tmp_path / "out")) == USER_ERROR
    assert f"{tmp_path / 'out' / 'train-00099.tar'}: is no shard of this build" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train-00099.tar"]


@pytest.mark.parametrize("data", ["imagenet", "digits"])
def test_shards_of_somebody_else_under_the_same_names_are_not_overwritten(official, tmp_path, capsys, data):
    theirs = tmp_path / "out" / "train-00000.tar"
    theirs.parent.mkdir()
    theirs.write_bytes(b"somebody else's")
    command = ["data", "build", data, "--image-size", "8", "--out", str(theirs.parent)]
    assert main(words(official, theirs.parent) if data == "imagenet" else command) == USER_ERROR
    assert f"{theirs}: is no shard of this build" in capsys.readouterr().err
    assert theirs.read_bytes() == b"somebody else's"
    assert list(theirs.parent.iterdir()) == [theirs]


def test_a_second_build_at_the_same_time_is_refused(official, tmp_path, capsys):
    with workspace.workspace(tmp_path / "out"):
        assert main(words(official, tmp_path / "out")) == USER_ERROR
        assert "another build is at work here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    build(official, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": None}, "--source: missing"),
        ({"source": "nowhere"}, "nowhere: there is no such file or folder"),
        ({"format": "raw"}, "--format: belongs to --store crop"),
        ({"devkit": "kit"}, "--devkit: has the labels of --held-out ILSVRC2012_img_val.tar"),
        ({"held_out": 60}, "--held-out 60: {source} has 60 images; set fewer aside"),
        ({"image_size": 20_000, "store": "crop"}, "--image-size 20000: expected at most 4096 pixels"),
        ({"held_out": "nowhere"}, "nowhere: there is no such file or folder"),
    ],
)
def test_a_mistake_is_told_on_one_line_and_leaves_nothing(official, tmp_path, capsys, changes, expected):
    source = changes.pop("source", official)
    assert main(words(source, tmp_path / "out", **changes)) == USER_ERROR
    line = capsys.readouterr().err
    assert expected.format(source=official) in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("within", [".", "shards", "n/../shards/crops"])
@pytest.mark.parametrize("option", ["source", "held_out"])
def test_shards_do_not_become_a_part_of_their_own_source(official, tmp_path, capsys, within, option):
    folder = image_folder(tmp_path / "folder")
    before = sorted(folder.rglob("*"))
    given = {"source": official, option: folder}
    assert main(words(out=folder / within, **given)) == USER_ERROR
    assert f"lies in {folder}, where images are read from" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_file_where_the_folder_should_be_is_told(official, capsys):
    assert main(words(official, official)) == USER_ERROR
    assert f"--out {official}: is a file; name a folder" in capsys.readouterr().err


def test_the_closing_line_can_be_typed_whatever_the_folder_is_called(official, tmp_path, capsys):
    out = tmp_path / "my shards"
    build(official, out)
    assert f"ARGS=\"'data.path={out}' data.image_size=32" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"out": ""},
        {"source": ""},
        {"held_out": ""},
        {"held_out": "0"},
        {"samples_per_shard": "0"},
        {"workers": "-1"},
        {"seed": "x"},
        {"store": "jpeg"},
    ],
)
def test_a_value_out_of_range_is_a_mistake_of_usage(official, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as caught:
        main(words(**{"source": official, "out": tmp_path / "out", **options}))
    assert caught.value.code == USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["source", "store", "held-out", "workers", "allow-errors"])
def test_digits_have_none_of_imagenets_options(tmp_path, capsys, option):
    value = "crop" if option == "store" else "5"
    given = ["data", "build", "digits", "--image-size", "8", "--out", str(tmp_path), f"--{option}", value]
    assert main(given) == USER_ERROR
    assert f"--{option}: belongs to jitlab data build imagenet" in capsys.readouterr().err


def test_held_out_images_of_their_own_are_labelled_by_class_name(tmp_path, capsys):
    held_out = image_folder(tmp_path / "held_out", 20)
    for folder in sorted(held_out.iterdir())[:2]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    index = build(official_tar(tmp_path / "train.tar"), tmp_path / "out", held_out=held_out)
    assert set(index.split("held_out")[1]["label"].tolist()) == {2, 3, 4}
    assert len(index.split("train")[1]) == 60
    sorted(held_out.iterdir())[0].rename(held_out / "n01440765")
    assert main(words(tmp_path / "train.tar", tmp_path / "b", held_out=held_out)) == USER_ERROR
    line = capsys.readouterr().err
    assert "class n01440765 is none of the 5 of" in line
    assert "did you mean 'n01440764'?" in line


@pytest.mark.parametrize("fails_at", [1, 4, 9])
def test_a_full_disk_leaves_no_half_shard_and_the_same_command_goes_on(
    built, official, tmp_path, capsys, monkeypatch, fails_at
):
    synced, out, sync = 0, tmp_path / "out", os.fsync

    def full(file):
        nonlocal synced
        synced += 1
        if synced > fails_at:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr("jitlab.files.os.fsync", full)
    assert main(words(official, out)) == USER_ERROR
    line = capsys.readouterr().err
    assert f"jitlab: {out}: No space left on device: " in line
    assert "GB are free, about 0.0 GB more are needed; make room and type the same command again" in line
    assert line.count("\n") == 1
    whole = contents(built[0])
    left = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert left == {name: whole[name] for name in left}
    assert len(left) == fails_at // 2
    monkeypatch.undo()
    build(official, out)
    assert contents(out) == whole


SLOW_START = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
CALL = "from jitlab.cli import main; sys.exit(main(sys.argv[1:]))"


def test_a_limit_on_file_sizes_is_told_as_a_full_disk(official, tmp_path):
    command = [sys.executable, "-c", SLOW_START + CALL, *words(official, tmp_path / "out", workers=2)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == USER_ERROR
    assert f"jitlab: {tmp_path / 'out'}: File too large: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".build"]


def start(source, out, **options):
    command = [sys.executable, "-m", "jitlab.cli", *words(source, out, workers=2, **options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(process, out, count):
    while len(list((out / ".build").glob("*.tar.json"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def children(process):
    """Return the processes of the pool: those of the command that multiprocessing has spawned to work."""
    found = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            found.append(int(pid))
    return found


def gone(pids):
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def killed_and_restarted(tmp_path, count, shard_size, kills):
    source = official_tar(tmp_path / "train.tar", count)
    options = {"held_out": 2 * shard_size, "samples_per_shard": shard_size}
    build(source, tmp_path / "whole", **options)
    shards, out, generator = count // shard_size, tmp_path / "out", numpy_generator("kills", count)
    for moment in np.sort(generator.choice(np.arange(2, shards * 2 // 3), kills, replace=False)):
        process = start(source, out, **options)
        wait_for_shards(process, out, moment)
        time.sleep(generator.uniform(0, 0.02))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "index.json").exists()
    process = start(source, out, **options)
    _, fault = process.communicate()
    assert process.returncode == 0, fault
    assert contents(out) == contents(tmp_path / "whole")
    indices = [json.loads((folder / "index.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert {key for key in indices[0] if indices[0][key] != indices[1][key]} == {"command"}


def test_a_killed_build_ends_as_an_undisturbed_one(tmp_path):
    killed_and_restarted(tmp_path, count=600, shard_size=10, kills=1)


@pytest.mark.slow
def test_a_build_of_5000_images_killed_three_times_ends_as_an_undisturbed_one(tmp_path):
    killed_and_restarted(tmp_path, count=5000, shard_size=50, kills=3)


@pytest.mark.parametrize(("number", "everyone"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_all_processes_and_the_same_command_goes_on(tmp_path, number, everyone):
    source, out = official_tar(tmp_path / "train.tar", 600), tmp_path / "out"
    process = start(source, out)
    wait_for_shards(process, out, 5)
    workers = children(process)
    assert len(workers) == 2
    os.killpg(process.pid, number) if everyone else process.send_signal(number)
    _, fault = process.communicate()
    assert process.returncode == INTERRUPTED
    assert fault == f"{out}: stopped; the same command goes on with the shards that are missing\n"
    assert gone(workers)
    assert list(out.glob(".*.partial")) == []
    there = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert 5 <= len(there) < 60
    assert len(build(source, out).rows) == 600
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_a_killed_process_ends_the_build_with_one_line(tmp_path):
    source, out = official_tar(tmp_path / "train.tar", 600), tmp_path / "out"
    process = start(source, out)
    wait_for_shards(process, out, 5)
    workers = children(process)
    os.kill(workers[0], signal.SIGKILL)
    _, fault = process.communicate()
    assert process.returncode == 1
    assert fault.startswith(f"jitlab: {out}: a process of the build was killed, perhaps for want of memory; ")
    assert fault.count("\n") == 1
    assert gone(workers)
    assert len(build(source, out).rows) == 600


def test_processes_end_with_the_one_that_started_them(tmp_path):
    source, out = official_tar(tmp_path / "train.tar", 600), tmp_path / "out"
    process = start(source, out)
    wait_for_shards(process, out, 5)
    workers = children(process)
    process.kill()
    assert gone(workers)
    process.communicate()
    assert len(build(source, out).rows) == 600


# Not getrusage: its peak is that of the process that this one was forked from, too.
PEAK = """
import re, sys
from pathlib import Path
from jitlab.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path):
    noise = numpy_generator("noise").integers(0, 256, (375, 500, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).resize((250, 188)).save(path)
    image, peaks = path.read_bytes(), []
    for count in (1000, 4000):
        inner = write_tar(tmp_path / "inner.tar", [(f"{k}.png", image) for k in range(count)])
        source = write_tar(tmp_path / f"{count}.tar", [("n1.tar", inner.read_bytes())])
        command = words(source, tmp_path / f"out{count}", samples_per_shard=500)
        done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    megabytes = len(image) * 3000 / 2**20
    assert megabytes > 300
    assert peaks[1] - peaks[0] < 20, peaks
