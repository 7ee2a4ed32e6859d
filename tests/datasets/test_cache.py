import hashlib
import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from jitlab.datasets.cache import RemoteShard, ShardCache
from jitlab.datasets.prefetch import Prefetcher
from jitlab.datasets.remote import Patience, WrongFileError
from jitlab.errors import RunError, UserError
from tests.datasets.folders import one_line_error
from tests.datasets.server import FaultyServer, cut_after, stall_after, status, wrong_bytes

SIZE = 400_000
PATIENT = Patience(silence_seconds=20, retries=20, first_wait_seconds=0.01, longest_wait_seconds=0.1)
QUICK = Patience(silence_seconds=0.2, retries=2, first_wait_seconds=0.01)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FaultyServer()
    yield server
    server.kill()


@pytest.fixture
def shards(server):
    for number in range(8):
        server.files[f"train-{number}.tar"] = random.Random(number).randbytes(SIZE)
    return [
        RemoteShard(server.url(name), len(content), hashlib.sha256(content).hexdigest())
        for name, content in server.files.items()
    ]


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", 3 * SIZE, PATIENT)


def contents(cache, shard):
    descriptor = cache.open(shard)
    try:
        return os.pread(descriptor, 2 * shard.size, 0)
    finally:
        os.close(descriptor)


def is_right(cache, shard):
    return hashlib.sha256(contents(cache, shard)).hexdigest() == shard.sha256


def files(cache, part="shards"):
    folder = cache.folder / part
    return sorted(folder.iterdir()) if folder.is_dir() else []


def held(cache):
    """Return which of the shards are there, by the numbers in their names."""
    return [int(path.name.split("-")[1]) for path in files(cache)]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def forked(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_a_shard_is_fetched_once_and_needs_no_server_then(cache, server, shards):
    assert is_right(cache, shards[0])
    server.always = status(500)
    assert is_right(cache, shards[0])
    assert len(server.gets("train-0.tar")) == 1
    assert files(cache, "partial") == []


def test_names_tell_which_shard_it_is_and_never_collide():
    first = RemoteShard("https://host/a/train-000001.tar?signature=x/y", 1, "0" * 64)
    names = {first.name, RemoteShard("https://host/b/train-000001.tar", 1, "0" * 64).name}
    names.add(RemoteShard(first.url, 1, "1" * 64).name)
    assert len(names) == 3
    assert all(name.startswith("train-000001-") and name.endswith(".tar") for name in names)
    assert "/" not in RemoteShard("s3://b/%2F" + "ü" * 300, 1, "").name
    assert len(RemoteShard("s3://b/" + "ü" * 300, 1, "").name.encode()) < 200


def test_the_least_recently_opened_goes_first(cache, shards):
    for number in (0, 1, 2, 0, 3, 4):
        assert is_right(cache, shards[number])
    assert held(cache) == [0, 3, 4]


def test_a_shard_stays_readable_when_it_goes(cache, shards):
    descriptor = cache.open(shards[0])
    for number in (1, 2, 3):
        os.close(cache.open(shards[number]))
    assert 0 not in held(cache)
    assert hashlib.sha256(os.pread(descriptor, SIZE, 0)).hexdigest() == shards[0].sha256
    os.close(descriptor)


def test_a_shard_that_can_never_fit_is_refused_before_it_is_asked_for(tmp_path, server, shards):
    with one_line_error(shards[0].url, f"{SIZE:,}", f"{SIZE - 1:,}", "data.cache_gb"):
        ShardCache(tmp_path, SIZE - 1, QUICK).open(shards[0])
    assert server.requests == []


def test_contents_that_were_damaged_on_the_way_are_fetched_once_more(cache, server, shards):
    server.faults = [wrong_bytes]
    assert is_right(cache, shards[0])
    assert len(server.gets("train-0.tar")) == 2


def test_contents_that_are_not_the_indexs_are_an_error_and_leave_nothing(cache, server, shards):
    server.always = wrong_bytes
    found = hashlib.sha256(bytes(255 - byte for byte in server.files["train-0.tar"])).hexdigest()
    with pytest.raises(WrongFileError) as caught:
        cache.open(shards[0])
    for part in (shards[0].url, shards[0].sha256, found):
        assert part in str(caught.value)
    assert len(server.gets("train-0.tar")) == 2
    assert files(cache) == files(cache, "partial") == []


def test_what_came_before_an_error_is_gone_on_with(cache, server, shards):
    server.faults = [stall_after(SIZE - 10), *[status(503)] * 2]
    with pytest.raises(RunError, match="HTTP 503"):
        ShardCache(cache.folder, SIZE, QUICK).open(shards[0])
    assert files(cache) == []
    assert is_right(cache, shards[0])
    assert server.gets("train-0.tar")[-1] == f"bytes={SIZE - 10}-"
    assert server.bytes_sent["train-0.tar"] == SIZE


@pytest.mark.parametrize("garbage", [b"x" * 1000, b"x" * (SIZE + 1), b"x" * SIZE])
def test_a_partial_file_of_other_bytes_is_fetched_again(cache, shards, garbage):
    os.close(cache.open(shards[0]))
    files(cache)[0].unlink()
    (cache.folder / "partial" / f"{shards[0].name}.{SIZE}").write_bytes(garbage)
    assert is_right(cache, shards[0])


def test_a_shard_that_a_disk_cut_short_is_fetched_again(cache, shards):
    os.close(cache.open(shards[0]))
    os.truncate(files(cache)[0], 10)
    assert is_right(cache, shards[0])


OPEN = """
import json, os, sys
from pathlib import Path
from jitlab.datasets.cache import RemoteShard, ShardCache
from jitlab.datasets.remote import Patience
shard, folder, size = json.loads(sys.argv[1])
os.close(ShardCache(Path(folder), size, Patience()).open(RemoteShard(**shard)))
"""


def opening(cache, shard):
    settings = json.dumps([vars(shard), str(cache.folder), cache.max_bytes])
    return subprocess.Popen([sys.executable, "-c", OPEN, settings])


def files_of(cache, shard):
    return [path for path in files(cache, "partial") if path.stem == shard.name]


def killed_while_fetching(cache, server, shard, after):
    server.faults = [stall_after(after)]
    process = opening(cache, shard)
    wait_for(lambda: (partial := files_of(cache, shard)) and partial[0].stat().st_size == after and server.requests)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_what_a_killed_process_fetched_is_gone_on_with(cache, server, shards):
    killed_while_fetching(cache, server, shards[0], 300_000)
    assert files(cache) == []
    assert is_right(cache, shards[0])
    assert server.gets("train-0.tar") == [None, "bytes=300000-"]
    assert server.bytes_sent["train-0.tar"] == SIZE
    assert files(cache, "partial") == []


def test_what_a_killed_process_left_takes_up_room_and_goes_like_the_rest(cache, server, shards):
    os.close(cache.open(shards[1]))
    killed_while_fetching(cache, server, shards[0], 0)
    os.close(cache.open(shards[2]))
    assert held(cache) == [1, 2]
    assert len(files(cache, "partial")) == 1
    os.close(cache.open(shards[3]))
    # It counts with its full size: one had to go, and that was the one opened first.
    assert held(cache) == [2, 3]
    assert len(files(cache, "partial")) == 1
    os.close(cache.open(shards[4]))
    assert held(cache) == [2, 3, 4]
    assert files(cache, "partial") == []


def test_two_that_wait_do_not_keep_room_from_each_other(cache, server, shards):
    for shard in shards[:2]:
        killed_while_fetching(cache, server, shard, 1000)
    assert len(files(cache, "partial")) == 2
    smaller = ShardCache(cache.folder, SIZE, PATIENT)
    locks = cache.folder / "locks"
    with FileLock(locks / "room.lock"):
        processes = [forked(open_and_close, smaller, shard) for shard in shards[:2]]
        # Both have begun: each with the partial file of the other in its way.
        wait_for(lambda: all(is_taken(locks / f"{shard.name}.lock") for shard in shards[:2]))
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]


def is_taken(path):
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def open_and_close(cache, shard):
    os.close(cache.open(shard))


def limited(cache, shard, connection):
    # A real limit of the kernel: writing past it fails with EFBIG, as on a full disk with ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
    try:
        cache.open(shard)
    except UserError as error:
        connection.send(str(error))


def test_a_full_disk_is_one_line_and_leaves_nothing(cache, shards):
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = forked(limited, cache, shards[0], theirs)
    process.join(60)
    message = ours.recv()
    for part in (cache.folder, shards[0].url, f"needs {SIZE:,} bytes", "are free", "data.cache_gb"):
        assert str(part) in message
    assert files(cache) == files(cache, "partial") == []
    assert is_right(cache, shards[0])


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, shards):
    (tmp_path / "file").write_text("")
    with one_line_error(tmp_path / "file", "data.cache"):
        ShardCache(tmp_path / "file", SIZE, QUICK).open(shards[0])


def test_it_can_be_sent_to_another_process(cache):
    assert pickle.loads(pickle.dumps(cache)) == cache


def test_many_processes_that_ask_for_one_shard_fetch_it_once(cache, server, shards):
    server.delay_seconds = 0.1
    processes = [forked(open_and_close, cache, shards[0]) for _ in range(8)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(server.gets("train-0.tar")) == 1


def open_many(cache, shards, seed):
    generator = random.Random(seed)
    opened = []
    for _ in range(12):
        shard = generator.choice(shards)
        descriptor = cache.open(shard)
        opened.append((shard, descriptor))
    # Some are long gone from the folder by now.
    wrong = [s for s, d in opened if hashlib.sha256(os.pread(d, SIZE + 1, 0)).hexdigest() != s.sha256]
    sys.exit(len(wrong))


@pytest.mark.parametrize("room", [1, 3, 8])
def test_many_processes_share_a_cache_that_is_too_small(tmp_path, server, shards, room):
    cache = ShardCache(tmp_path / "cache", room * SIZE, PATIENT)
    server.faults = [wrong_bytes, *[cut_after(150_000), status(503)] * 6]
    processes = [forked(open_many, cache, shards, seed) for seed in range(6)]
    most, peak = time.monotonic() + 60, 0
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < most
        # One listing after the other: what moves in between may be seen twice, never more of either than there is room.
        for part in ("shards", "partial"):
            peak = max(peak, bytes_in(files(cache, part)))
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0] * 6
    assert SIZE <= peak <= cache.max_bytes
    if room == 8:
        # Nothing has to go, so nothing is asked for twice but for the faults.
        assert sum(len(server.gets(f"train-{number}.tar")) for number in range(8)) <= 8 + 13


def bytes_in(paths):
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_threads_share_it_too(cache, server, shards):
    server.delay_seconds = 0.02
    right = []
    threads = [
        threading.Thread(target=lambda number=number: right.append(is_right(cache, shards[number % 3])))
        for number in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 9
    assert [len(server.gets(f"train-{number}.tar")) for number in range(3)] == [1, 1, 1]


@pytest.fixture
def prefetcher(cache):
    roomy = ShardCache(cache.folder, 4 * SIZE, PATIENT)
    prefetcher = Prefetcher(roomy)
    yield prefetcher
    prefetcher.close()


def test_shards_are_fetched_in_the_background_as_many_as_the_cache_can_hold(prefetcher, server, shards):
    prefetcher.prefetch(shards)
    wait_for(lambda: held(prefetcher.cache) == [0, 1, 2, 3])
    server.always = status(500)
    assert all(is_right(prefetcher.cache, shard) for shard in shards[:4])
    assert server.gets("train-4.tar") == []


def test_the_latest_wish_replaces_what_was_not_begun(prefetcher, server, shards):
    server.delay_seconds = 1
    prefetcher.prefetch(shards[:1])
    wait_for(lambda: server.requests)
    server.faults = [stall_after(0)] * 3
    prefetcher.prefetch(shards[1:4])
    wait_for(lambda: len(server.requests) == 4)
    prefetcher.prefetch(shards[4:6])
    prefetcher.prefetch(shards[6:7])
    server.delay_seconds = 0
    wait_for(lambda: 6 in held(prefetcher.cache))
    assert not {4, 5} & set(held(prefetcher.cache))


def test_a_fault_there_is_met_by_who_opens_the_shard_and_stops_nothing_else(prefetcher, server, shards):
    missing = RemoteShard(server.url("none.tar"), SIZE, "0" * 64)
    prefetcher.prefetch([missing, *shards[:2]])
    wait_for(lambda: held(prefetcher.cache) == [0, 1])
    with one_line_error(missing.url, "no such file"):
        prefetcher.cache.open(missing)


def test_a_prefetcher_that_was_killed_is_started_again(prefetcher, shards):
    prefetcher.prefetch(shards[:1])
    wait_for(lambda: held(prefetcher.cache) == [0])
    prefetcher._process.kill()
    prefetcher._process.wait()
    prefetcher.prefetch(shards[1:2])
    wait_for(lambda: held(prefetcher.cache) == [0, 1])


def test_loader_workers_that_are_forked_while_it_fetches_open_shards_and_leave_it_alone(prefetcher, server, shards):
    server.delay_seconds = 0.05
    prefetcher.prefetch(shards[:4])
    processes = [forked(open_and_close, prefetcher.cache, shard) for shard in shards[:4]]
    # What a worker does with its copy of the object is nothing to the process.
    processes.append(forked(prefetcher.close))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 5
    assert prefetcher._process.poll() is None
    assert all(len(server.gets(f"train-{number}.tar")) == 1 for number in range(4))


def test_closing_ends_it_even_while_a_forked_process_holds_its_pipe(prefetcher, server, shards):
    server.always = stall_after(1000)
    prefetcher.prefetch(shards[:1])
    process = prefetcher._process
    sleeper = forked(time.sleep, 10)
    wait_for(lambda: server.requests)
    prefetcher.close()
    assert process.returncode == -signal.SIGKILL
    sleeper.kill()
    sleeper.join()
    # What it left is nobody's: it is gone on with.
    server.always = None
    assert is_right(prefetcher.cache, shards[0])


PREFETCH = """
import json, os, sys, time
from pathlib import Path
from jitlab.datasets.cache import RemoteShard, ShardCache
from jitlab.datasets.prefetch import Prefetcher
shard, folder, size = json.loads(sys.argv[1])
prefetcher = Prefetcher(ShardCache(Path(folder), 2 * size))
prefetcher.prefetch([RemoteShard(**shard)])
# As a loader worker does, the second holds the pipe, too.
worker = os.fork() if sys.argv[2] == "killed" else 0
if worker or sys.argv[2] == "by itself":
    print(prefetcher._process.pid, worker, flush=True)
if sys.argv[2] == "killed":
    time.sleep(120)
"""


@pytest.mark.parametrize("end", ["killed", "by itself"])
def test_it_ends_with_the_process_that_started_it(cache, server, shards, end):
    server.always = stall_after(1000)
    settings = json.dumps([vars(shards[0]), str(cache.folder), cache.max_bytes])
    parent = subprocess.Popen([sys.executable, "-c", PREFETCH, settings, end], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, worker = map(int, parent.stdout.readline().split())
    if end == "killed":
        wait_for(lambda: server.requests)
        parent.kill()
    assert parent.wait(10) == (-signal.SIGKILL if end == "killed" else 0)
    parent.stdout.close()
    wait_for(lambda: is_gone(pid))
    if worker:
        assert not is_gone(worker)
        os.kill(worker, signal.SIGKILL)


def is_gone(pid):
    try:
        # A process that ended and that nobody waits for is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_process_that_fetches_is_a_small_one():
    code = "import sys, jitlab.datasets.prefetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
