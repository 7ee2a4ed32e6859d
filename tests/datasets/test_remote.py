import gc
import io
import multiprocessing
import random
import sys
import tarfile
import threading
import time
from functools import partial
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.http import HTTPFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from jitlab.datasets import remote
from jitlab.datasets.remote import Patience, WrongFileError
from jitlab.errors import RunError, UserError
from tests.datasets.folders import one_line_error
from tests.datasets.server import FaultyServer, cut_after, stall_after, status

QUICK = Patience(silence_seconds=0.15, retries=4, first_wait_seconds=0.002, longest_wait_seconds=0.01)
CONTENT = random.Random(0).randbytes(2_000_000)
# What a connection that ends may take with it unread, in the buffers of both sides.
BUFFERED = 2**19

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FaultyServer()
    server.files["a.tar"] = CONTENT
    yield server
    server.kill()


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/a.tar", CONTENT)
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def fetched(url, start=0, expected_size=None, patience=QUICK):
    return b"".join(remote.read(url, start, expected_size, patience))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://b/k", True), ("https://h/x", True), ("data/x", False), ("/data/x", False), ("a/http://b", False)],
)
def test_a_url_is_told_from_a_path(path, expected):
    assert remote.is_remote(path) is expected


@pytest.mark.parametrize("start", [0, 1, 1_234_567, len(CONTENT) - 1, len(CONTENT)])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_is_read_from_any_byte(server, start, ranges):
    server.ranges = ranges
    assert fetched(server.url("a.tar"), start, len(CONTENT)) == CONTENT[start:]


FAULTS = st.one_of(
    st.integers(0, len(CONTENT)).map(cut_after),
    st.integers(0, len(CONTENT)).map(stall_after),
    st.sampled_from([500, 502, 503, 429, 408]).map(status),
)


@settings(deadline=None, max_examples=25)
@given(faults=st.lists(FAULTS, max_size=4), ranges=st.booleans(), start=st.integers(0, len(CONTENT)))
def test_whatever_happens_to_the_connection_the_bytes_are_those_of_the_file(faults, ranges, start):
    server = FaultyServer()
    server.files["a.tar"] = CONTENT
    server.faults, server.ranges = faults, ranges
    patience = Patience(silence_seconds=0.03, retries=4, first_wait_seconds=0.001)
    try:
        assert fetched(server.url("a.tar"), start, len(CONTENT), patience) == CONTENT[start:]
    finally:
        server.kill()


@pytest.mark.parametrize("fault", [cut_after, stall_after])
def test_a_broken_or_silent_connection_is_gone_on_with_by_range(server, fault):
    server.faults = [fault(800_000), fault(800_000)]
    assert fetched(server.url("a.tar")) == CONTENT
    first, *later = server.gets("a.tar")
    second, third = (int(wanted.removeprefix("bytes=")[:-1]) for wanted in later)
    assert first is None
    assert 0 < second <= 800_000
    assert second < third <= second + 800_000
    assert server.bytes_sent["a.tar"] <= len(CONTENT) + 2 * BUFFERED


def test_a_server_without_ranges_sends_again_only_what_a_broken_connection_lost(server):
    server.ranges = False
    server.faults = [cut_after(1_500_000)]
    assert fetched(server.url("a.tar")) == CONTENT
    assert server.bytes_sent["a.tar"] == 1_500_000 + len(CONTENT)


def test_bytes_that_were_there_before_are_no_progress(server):
    server.ranges = False
    server.always = cut_after(1_500_000)
    with pytest.raises(RunError, match=r"1,\d{3},\d{3} of 2,000,000 bytes came"):
        fetched(server.url("a.tar"))
    # The first attempts may each come a little further than the last.
    assert QUICK.retries < len(server.gets("a.tar")) < 4 * QUICK.retries


def test_any_progress_counts_the_faults_from_zero(server):
    server.faults = [cut_after(900_000), *[status(503)] * (QUICK.retries - 1)] * 2
    assert fetched(server.url("a.tar")) == CONTENT


def test_a_server_that_fails_for_ever_is_given_up_with_one_line(server):
    server.always = status(500)
    with pytest.raises(RunError) as caught:
        fetched(server.url("a.tar"), 0, len(CONTENT))
    for part in (server.url("a.tar"), "0 of 2,000,000 bytes", "HTTP 500", "5 times in a row", "start the command"):
        assert part in str(caught.value)
    assert len(server.gets("a.tar")) == QUICK.retries + 1


def test_a_silent_server_is_given_up_in_time(server):
    server.always = stall_after(0)
    begin = time.monotonic()
    with pytest.raises(RunError, match=r"nothing came for 0\.15 s"):
        fetched(server.url("a.tar"))
    assert time.monotonic() - begin < 3


def test_the_waits_double_up_to_the_longest(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=waits.append))
    server.always = status(503)
    patience = Patience(retries=8, first_wait_seconds=1, longest_wait_seconds=60)
    with pytest.raises(RunError):
        fetched(server.url("a.tar"), patience=patience)
    for expected, wait in zip([1, 2, 4, 8, 16, 32, 60, 60], waits, strict=True):
        assert expected <= wait <= 1.25 * expected
    assert len({wait / 2**n for n, wait in enumerate(waits)}) > 1


def test_readers_of_several_files_come_back_at_different_moments():
    waits = {Patience().wait(f"http://host/{number}.tar", 3) for number in range(20)}
    assert len(waits) == 20


@pytest.mark.parametrize(
    ("code", "error", "part"),
    [(404, WrongFileError, "no such file"), (403, UserError, "HTTP 403"), (400, UserError, "HTTP 400")],
)
def test_what_will_not_pass_is_not_tried_again(server, code, error, part):
    server.always = status(code)
    with pytest.raises(error, match=part) as caught:
        fetched(server.url("a.tar"), 0, len(CONTENT))
    assert server.url("a.tar") in str(caught.value)
    assert len(server.gets("a.tar")) == 1


def test_a_server_that_is_killed_and_comes_back_is_gone_on_with(server):
    server.faults = [stall_after(900_000)]

    def restart():
        while not server.bytes_sent["a.tar"]:
            time.sleep(0.005)
        server.kill()
        time.sleep(0.2)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    patience = Patience(silence_seconds=5, retries=8, first_wait_seconds=0.02, longest_wait_seconds=0.1)
    assert fetched(server.url("a.tar"), patience=patience) == CONTENT
    thread.join()
    assert server.bytes_sent["a.tar"] <= len(CONTENT) + BUFFERED


def test_a_server_that_does_not_come_back_is_an_error(server):
    server.kill()
    begin = time.monotonic()
    with pytest.raises(RunError, match="Connect call failed"):
        fetched(server.url("a.tar"))
    assert time.monotonic() - begin < 2
    server.start()


@pytest.mark.parametrize("tells_size", [True, False])
@pytest.mark.parametrize("expected", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_than_expected_is_an_error(server, expected, tells_size):
    server.tells_size = tells_size
    with one_line_error(server.url("a.tar"), f"expected {expected:,}", "copy it there again"):
        fetched(server.url("a.tar"), 0, expected)
    assert len(server.gets("a.tar")) <= 2


@pytest.mark.parametrize("length", [1000, 1_999_999])
def test_a_file_that_changes_on_the_way_is_an_error(server, length):
    def replace(handler, body):
        cut_after(1_500_000)(handler, body)
        server.files["a.tar"] = CONTENT[:length]
        return True

    server.faults = [replace]
    with one_line_error(server.url("a.tar"), "2,000,000", "copy it there again"):
        fetched(server.url("a.tar"), 0, len(CONTENT))
    assert len(server.gets("a.tar")) == 2


def test_a_small_file_without_a_size_is_read_to_its_end(server):
    server.tells_size = False
    assert remote.read_small(server.url("a.tar"), QUICK) == CONTENT
    with one_line_error(server.url("a.tar"), "does not tell its size"):
        remote.size(server.url("a.tar"), QUICK)


@pytest.mark.parametrize("knows_head", [True, False])
def test_the_sizes_of_many_files_tell_missing_ones(server, knows_head):
    server.knows_head = knows_head
    expected: dict[str, int | None] = {}
    for number in range(100):
        server.files[f"{number}.tar"] = bytes(number)
        expected[server.url(f"{number}.tar")] = number
    expected[server.url("none.tar")] = None
    assert remote.sizes(list(expected), QUICK) == expected
    assert not server.bytes_sent or not knows_head


def test_sizes_are_asked_for_side_by_side(server):
    server.delay_seconds = 0.1
    urls = [server.url(f"a.tar?{number}") for number in range(64)]
    begin = time.monotonic()
    remote.sizes(urls, QUICK)
    assert time.monotonic() - begin < 64 * 0.1 / 3


def test_sizes_on_a_server_that_is_away_are_an_error_at_once(server):
    urls = [server.url(f"{number}.tar") for number in range(1000)]
    server.kill()
    begin = time.monotonic()
    with pytest.raises(RunError, match="Connect call failed"):
        remote.sizes(urls, QUICK)
    assert time.monotonic() - begin < 3
    server.start()


def test_the_size_of_a_missing_file_is_an_error(server):
    with one_line_error(server.url("none.tar"), "no such file"):
        remote.size(server.url("none.tar"), QUICK)


def test_shards_are_listed_by_braces():
    found = remote.list_shards("https://host/train-{000..011}.tar")
    assert len(found) == 12
    assert found[11] == "https://host/train-011.tar"


def test_shards_are_listed_from_a_web_page(server):
    names = ["b.tar", "a.tar", "index.json", "more/", "/top/c.tar", "../"]
    page = "".join(f'<li><a href="{name}">{name}</a></li>' for name in names)
    server.files["top/"] = page.encode()
    assert remote.list_shards(server.url("top"), QUICK) == [server.url(f"top/{name}.tar") for name in "abc"]


@pytest.mark.parametrize("page", [b"nothing", b'<a href="index.json">', None])
def test_a_folder_without_shards_is_an_error(server, page):
    if page is not None:
        server.files["top/"] = page
    with one_line_error(server.url("top/"), "no .tar files", "{000000..000123}.tar"):
        remote.list_shards(server.url("top"), QUICK)


def read_member(archive, member):
    return archive.extractfile(member).read()


def test_a_tar_is_read_in_one_pass_through_a_broken_connection(server):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.bin")
            member.size = 100_000
            archive.addfile(member, io.BytesIO(CONTENT[number * 100_000 :]))
    server.files["packed.tar"] = packed.getvalue()
    server.faults = [cut_after(777_777)]
    with remote.open_stream(server.url("packed.tar"), QUICK) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        contents = [read_member(archive, member) for member in archive]
    assert b"".join(contents) == CONTENT


def test_a_bucket_is_read_by_ranges(bucket, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK_BYTES", 300_000)
    url = f"{bucket}/a.tar"
    assert fetched(url) == CONTENT
    assert fetched(url, 1_234_567, len(CONTENT)) == CONTENT[1_234_567:]
    assert remote.sizes([url, f"{bucket}/none.tar"]) == {url: len(CONTENT), f"{bucket}/none.tar": None}
    assert [name.endswith("bucket/a.tar") and fetched(name) == CONTENT for name in remote.list_shards(bucket)] == [True]
    with one_line_error(url, "2,000,001"):
        fetched(url, 0, len(CONTENT) + 1)
    with one_line_error(f"{bucket}/none.tar", "no such file"):
        fetched(f"{bucket}/none.tar")


def test_a_bucket_that_fails_is_gone_on_with(bucket, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK_BYTES", 300_000)
    asked = []
    whole = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def fails_at_times(self, path, start, end):
        asked.append(start)
        if len(asked) % 3 == 0:
            raise TimeoutError
        return whole(self, path, start, end)[: 200_000 if len(asked) == 2 else None]

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", fails_at_times)
    assert fetched(f"{bucket}/a.tar") == CONTENT
    assert asked[:4] == [0, 300_000, 500_000, 500_000]


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_names_the_extra(scheme, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with one_line_error(f"{scheme}://bucket/a.tar", f"pip install 'jitlab[{scheme}]'"):
        fetched(f"{scheme}://bucket/a.tar")


def test_an_unknown_scheme_names_those_that_are_known():
    with one_line_error("foo://bucket/a.tar", "s3://"):
        fetched("foo://bucket/a.tar")


def test_a_password_is_not_shown(server):
    server.always = status(403)
    with pytest.raises(UserError) as caught:
        fetched(server.url("a.tar").replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)
    assert server.url("a.tar") in str(caught.value)


def test_a_fault_of_this_program_is_not_taken_for_the_servers(server, monkeypatch):
    def broken(*_):
        raise TypeError("wrong")

    monkeypatch.setattr(remote, "_place", broken)
    with pytest.raises(TypeError):
        fetched(server.url("a.tar"))
    assert len(server.gets("a.tar")) == 1


@pytest.fixture(params=["web server", "bucket"])
def as_what(request, server, monkeypatch):
    """Let the server be read as a web server, and as a bucket whose filesystem has connections of its own."""
    if request.param == "bucket":
        monkeypatch.setattr(remote, "_HttpFiles", partial(remote._OtherFiles, server.url("")))


@pytest.mark.usefixtures("as_what")
def test_a_forked_process_has_nothing_to_close(server, monkeypatch):
    closings = []

    def close_session(loop, session):
        closings.append(session)
        closed(loop, session)

    def closings_by_collection():
        closings.clear()
        gc.collect()
        return len(closings)

    closed = HTTPFileSystem.close_session
    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(close_session))
    gc.collect()
    gc.disable()
    try:
        server.faults = [cut_after(500_000), stall_after(0)]
        assert fetched(server.url("a.tar")) == CONTENT
        next(remote.read(server.url("a.tar"), patience=QUICK))
        remote.size(server.url("a.tar"))
        assert in_a_fork(closings_by_collection) == 0
    finally:
        gc.enable()


def in_a_fork(function):
    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe()
    process = context.Process(target=lambda: theirs.send(function()))
    process.start()
    process.join(20)
    assert ours.poll()
    return ours.recv()


class Remote(Dataset[bool]):
    def __init__(self, url, patience=QUICK):
        self.url = url
        self.patience = patience

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return fetched(self.url, number * 1000, len(CONTENT), self.patience) == CONTENT[number * 1000 :]


@pytest.mark.usefixtures("as_what")
def test_forked_loader_workers_read_after_the_main_process_has_and_while_it_does(server):
    data = Remote(server.url("a.tar"))
    assert data[0]
    halfway = remote.read(server.url("a.tar"), patience=QUICK)
    start = next(halfway)
    context = multiprocessing.get_context("fork")
    assert all(batch.all() for batch in DataLoader(data, 2, num_workers=2, multiprocessing_context=context))
    assert start + b"".join(halfway) == CONTENT
    assert data[1]
    # Nothing had to be asked for twice.
    assert len(server.gets("a.tar")) == 8 + 3
    assert server.bytes_sent["a.tar"] == 11 * len(CONTENT) - sum(range(0, 8000, 1000)) - 1000


def test_a_training_run_bears_with_a_server_for_four_minutes():
    patience = remote.THROUGHOUT
    assert 230 < sum(patience.wait("http://host/a.tar", fault + 1) for fault in range(patience.retries)) < 310
