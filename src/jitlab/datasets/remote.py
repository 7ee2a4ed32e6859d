"""Files of a web server or a bucket, read whole and in order, whatever happens to the connection in between.

fsspec's thread and connections do not survive a fork, and loader workers are forked: so every call has its own
filesystem, which is closed at its end. One that is left to the garbage collector would be closed once more by every
worker, which waits a second for a thread that it does not have.
"""

import io
import re
import time
import zlib
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from traceback import clear_frames
from typing import IO, Any, Protocol, TypeVar

import aiohttp
import fsspec
from braceexpand import braceexpand
from fsspec.asyn import get_loop, sync

from jitlab.errors import RunError, UserError

CHUNK_BYTES = 8 * 2**20
READ_BYTES = 2**17
PARALLEL_QUESTIONS = 32
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# Whose errors are about the network or the server, and no subclass of OSError.
CLIENT_PACKAGES = {"aiohttp", "aiobotocore", "botocore", "gcsfs", "google"}
# HTTP: request timeout, too early, too many requests.
STATUS_THAT_MAY_PASS = {408, 425, 429}


T = TypeVar("T")


class WrongFileError(UserError):
    """A remote file that is not there, or is another one than was expected."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, and how often it is asked again after a fault.

    Any byte that is new counts the faults from zero again. The wait doubles from `first_wait` to `longest_wait`; the
    defaults bear with a server for four minutes.
    """

    connect_seconds: float = 20.0
    silence_seconds: float = 60.0
    retries: int = 9
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0

    def wait(self, url: str, fault: int) -> float:
        """Return the seconds to wait after the `fault`-th fault in a row, counted from 1.

        Up to a quarter more, which depends on the URL, so that not all readers come back at the same moment.
        """
        seconds = min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (fault - 1))
        return seconds * (1 + zlib.crc32(f"{url} {fault}".encode()) / 2**34)


THROUGHOUT = Patience()
AT_THE_START = Patience(retries=2)
"""For what is asked before the first step, while somebody watches."""


def is_remote(path: str) -> bool:
    """Return whether `path` is a URL and not a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def read_small(url: str, patience: Patience = AT_THE_START) -> bytes:
    """Return a whole file, such as an index; raises as `read` does."""
    return b"".join(read(url, patience=patience))


def size(url: str, patience: Patience = AT_THE_START) -> int:
    """Return the size of a file in bytes; raises WrongFileError where there is none, and as `read` does."""
    found = sizes([url], patience)[url]
    if found is None:
        raise _missing(url)
    return found


def sizes(urls: Collection[str], patience: Patience = AT_THE_START) -> dict[str, int | None]:
    """Return the sizes of files of one server in bytes, None for each that is not there.

    Raises:
        UserError: where the server refuses to tell.
        RunError: where it cannot be reached.
    """
    if not urls:
        return {}
    with _files_of(next(iter(urls)), patience) as files, ThreadPoolExecutor(PARALLEL_QUESTIONS) as pool:
        try:
            return dict(zip(urls, pool.map(lambda url: _size(files, url, patience), urls), strict=True))
        finally:
            # After a fault nobody waits for the rest.
            pool.shutdown(wait=False, cancel_futures=True)


def list_shards(url: str, patience: Patience = AT_THE_START) -> list[str]:
    """Return the URLs of tar files, sorted.

    Args:
        url: a folder, which the server must list; or webdataset's notation, `https://host/train-{000000..001281}.tar`.
        patience: with the server.

    Raises:
        UserError: where there are none, or the server does not list them.
        RunError: where it cannot be reached.
    """
    if "{" in url:
        return list(braceexpand(url))
    if url.endswith(".tar"):
        return [url]
    folder = url.rstrip("/") + "/"
    names: list[str] = []
    with _files_of(folder, patience) as files, suppress(WrongFileError):
        names = _answer(folder, patience, lambda: files.names(folder))
    found = sorted({name for name in names if name.endswith(".tar")})
    if not found:
        raise UserError(
            f"{_shown(folder)}: lists no .tar files; name the shards as {_shown(folder)}NAME-{{000000..000123}}.tar"
        )
    return found


def open_stream(url: str, patience: Patience = THROUGHOUT) -> IO[bytes]:
    """Open a file to be read once from its beginning to its end, without keeping it; reading raises as `read` does."""
    return io.BufferedReader(_Stream(read(url, 0, size(url, patience), patience)), READ_BYTES)


def read(
    url: str, start: int = 0, expected_size: int | None = None, patience: Patience = THROUGHOUT
) -> Generator[bytes, None, None]:
    """Yield the bytes of a file in order, going on where the last one came after a broken or silent connection.

    A server that knows no ranges sends everything again; what has been yielded is passed over.

    Args:
        url: of the file.
        start: the first byte wanted.
        expected_size: of the whole file; None for whatever the server has.
        patience: with the server.

    Raises:
        WrongFileError: where there is no such file, or it has another size.
        UserError: where the server refuses it, or a package for it is missing.
        RunError: where the server stays away or silent.
    """
    attempts = _Attempts(url, patience)
    position, total = start, expected_size
    while total is None or position < total:
        try:
            with _files_of(url, attempts.patience) as files:
                if total is None:
                    total = files.size(url)
                with closing(files.read(url, position, total)) as chunks:
                    for chunk in chunks:
                        attempts.succeeded()
                        position += len(chunk)
                        yield chunk
            if total is None:
                return
            if position < total:
                raise ConnectionError("the connection was closed")
            if position > total:
                raise _changed(url, total, "more")
        except Exception as error:
            attempts.failed(error, f"{position:,} of {total:,} bytes came" if total else f"{position:,} bytes came")


class _Attempts:
    """Counts the faults in a row, waits after each, and tells the last."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self.faults = 0

    def succeeded(self) -> None:
        self.faults = 0

    def failed(self, error: Exception, so_far: str) -> None:
        """Return after a wait where it is worth another attempt; raises what `read` raises otherwise."""
        if isinstance(error, UserError):
            raise error
        if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
            raise _missing(self.url) from error
        if isinstance(error, PermissionError) or _status(error) in (401, 403):
            raise UserError(
                f"{_shown(self.url)}: the server refuses it ({self._cause(error)}); see that it is public, or that the "
                "credentials of this machine allow reading it"
            ) from error
        status = _status(error)
        if isinstance(error, aiohttp.InvalidURL) or (status and status < 500 and status not in STATUS_THAT_MAY_PASS):
            raise UserError(f"{_shown(self.url)}: {self._cause(error)}; correct the URL") from error
        if not _may_pass(error):
            raise error
        self.faults += 1
        if self.faults > self.patience.retries:
            raise RunError(
                f"{_shown(self.url)}: {so_far}, then, {self.faults} times in a row: {self._cause(error)}; see that the "
                "server is up, and start the command again: it goes on from there"
            ) from error
        _release(error)
        time.sleep(self.patience.wait(self.url, self.faults))

    def _cause(self, error: Exception) -> str:
        if isinstance(error.__cause__, aiohttp.ConnectionTimeoutError):
            return f"no connection within {self.patience.connect_seconds:g} s"
        if isinstance(error, TimeoutError):
            return f"nothing came for {self.patience.silence_seconds:g} s"
        if isinstance(error, aiohttp.ClientResponseError):
            return f"HTTP {error.status} {error.message}".strip()
        return str(error) or type(error).__name__


class _Files(Protocol):
    """The files of one server; each method asks it once."""

    def size(self, url: str) -> int | None: ...
    def names(self, folder: str) -> list[str]: ...
    def read(self, url: str, start: int, size: int | None) -> Generator[bytes, None, None]: ...
    def close(self) -> None: ...


class _HttpFiles:
    """Files of a web server, through fsspec's session.

    Its own reading cannot be used: it takes every fault for a missing file, and the whole of a file for the part that
    was asked for where a server knows no ranges.
    """

    def __init__(self, patience: Patience) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=patience.connect_seconds, sock_read=patience.silence_seconds
        )
        self.loop = get_loop()
        self.fs = fsspec.filesystem(
            "http",
            skip_instance_cache=True,
            asynchronous=True,  # nothing is left to the garbage collector
            client_kwargs={
                "timeout": timeout,
                "trust_env": True,  # proxies and .netrc are honoured
                "auto_decompress": False,
                # Ranges are of the file as it is stored.
                "headers": {"Accept-Encoding": "identity"},
            },
        )
        self.session: aiohttp.ClientSession = sync(self.loop, self.fs.set_session)

    def size(self, url: str) -> int | None:
        with self._response("HEAD", url, 0) as response:
            if response.status not in (405, 501):
                _check_status(response)
                return response.content_length
        with self._response("GET", url, 0) as response:
            _check_status(response)
            return response.content_length

    def names(self, folder: str) -> list[str]:
        return [str(name) for name in sync(self.loop, self.fs._ls, folder, detail=False)]

    def read(self, url: str, start: int, size: int | None) -> Generator[bytes, None, None]:
        with self._response("GET", url, start) as response:
            if response.status == 416:
                raise _changed(url, size, "fewer")
            _check_status(response)
            first, total = _place(response)
            if first > start:
                raise ConnectionError(f"asked for what follows byte {start}, the server sent what follows {first}")
            if None not in (total, size) and total != size:
                raise _changed(url, size, f"{total:,}")
            known = start - first
            while chunk := sync(self.loop, response.content.read, READ_BYTES):
                if fresh := chunk[known:]:
                    yield fresh
                known = max(0, known - len(chunk))

    def close(self) -> None:
        # A timeout: nobody answers while Python is shutting down.
        with suppress(TimeoutError):
            sync(self.loop, self.session.close, timeout=1)

    @contextmanager
    def _response(self, method: str, url: str, start: int) -> Iterator[aiohttp.ClientResponse]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        request: Callable[..., Any] = self.session.request
        response: aiohttp.ClientResponse = sync(
            self.loop, request, method, self.fs.encode_url(url), headers=headers, allow_redirects=True
        )
        try:
            yield response
        finally:
            self.loop.call_soon_threadsafe(response.close)


class _OtherFiles:
    """Files of anything else that fsspec knows, by ranges."""

    def __init__(self, url: str, patience: Patience) -> None:
        scheme = url.partition("://")[0]
        try:
            self.fs = fsspec.core.url_to_fs(url, skip_instance_cache=True)[0]
        except ImportError as error:
            extra = EXTRAS.get(scheme)
            remedy = f"pip install 'jitlab[{extra}]'" if extra else "install it"
            raise UserError(f"{_shown(url)}: a package for {scheme}:// is missing ({error}); {remedy}") from error
        except ValueError as error:
            raise UserError(f"{_shown(url)}: {error}; use http(s)://, s3:// or gs://") from error
        self.limit = {"timeout": patience.silence_seconds} if self.fs.async_impl else {}

    def size(self, url: str) -> int | None:
        found: int | None = self.fs.info(url, **self.limit)["size"]
        return found

    def names(self, folder: str) -> list[str]:
        return [str(self.fs.unstrip_protocol(name)) for name in self.fs.ls(folder, detail=False, **self.limit)]

    def read(self, url: str, start: int, size: int | None) -> Generator[bytes, None, None]:
        found = self.size(url)
        if found is None or found != size:
            raise _changed(url, size, str(found))
        for begin in range(start, found, CHUNK_BYTES):
            end = min(begin + CHUNK_BYTES, found)
            chunk: bytes = self.fs.cat_file(url, start=begin, end=end, **self.limit)
            yield chunk
            if len(chunk) != end - begin:
                raise ConnectionError(f"{len(chunk):,} bytes came where {end - begin:,} were asked for")

    def close(self) -> None:
        # fsspec closes the connections with the last reference, and most filesystems refer to themselves.
        vars(self.fs).clear()


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = memoryview(next(self.chunks, b""))
        count = min(len(buffer), len(self.rest))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


@contextmanager
def _files_of(url: str, patience: Patience) -> Iterator[_Files]:
    files: _Files = _HttpFiles(patience) if re.match("https?:", url) else _OtherFiles(url, patience)
    with closing(files):
        yield files


def _size(files: _Files, url: str, patience: Patience) -> int | None:
    try:
        found = _answer(url, patience, lambda: files.size(url))
    except WrongFileError:
        return None
    if found is None:
        raise UserError(f"{_shown(url)}: the server does not tell its size; use another server")
    return found


def _answer(url: str, patience: Patience, ask: Callable[[], T]) -> T:
    attempts = _Attempts(url, patience)
    while True:
        try:
            return ask()
        except Exception as error:
            attempts.failed(error, "no answer came")


def _check_status(response: aiohttp.ClientResponse) -> None:
    # The response's own check closes its connection, and that must happen in the thread of the loop.
    if response.status >= 400:
        raise aiohttp.ClientResponseError(
            response.request_info, response.history, status=response.status, message=response.reason or ""
        )


def _place(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return the first byte of the file that a response holds, and the file's size."""
    if response.status != 206:
        return 0, response.content_length
    match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match:
        raise ConnectionError("the server sent a part of the file without saying which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _status(error: Exception) -> int | None:
    return error.status if isinstance(error, aiohttp.ClientResponseError) else None


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENT_PACKAGES


def _release(error: BaseException | None) -> None:
    """Let go of the filesystem, which the frames of an error hold, as fsspec's frames hold the error."""
    while error:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _missing(url: str) -> WrongFileError:
    return WrongFileError(f"{_shown(url)}: the server has no such file; correct the URL, or copy the file there")


def _changed(url: str, expected: int | None, found: str) -> WrongFileError:
    return WrongFileError(
        f"{_shown(url)}: has {found} bytes on the server, expected {expected:,}; it was replaced or only half copied: "
        "copy it there again, or write the index anew"
    )


def _shown(url: str) -> str:
    # Nobody's password belongs in a log.
    return re.sub(r"//[^/@]*@", "//", url)
