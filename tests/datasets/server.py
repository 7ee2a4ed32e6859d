"""A web server on 127.0.0.1 that can be told to fail."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

Fault = Callable[["Handler", bytes], bool]
"""Does something else with a body than sending it; returns whether it did."""


class FaultyServer:
    """Serves `files` by path; `faults` are used up one per GET, `always` is for each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.ranges = True
        self.tells_size = True
        self.knows_head = True
        self.delay_seconds = 0.0
        self.requests: list[tuple[str, str, str | None]] = []
        self.bytes_sent: Counter[str] = Counter()
        self.lock = Lock()
        self.released = Event()
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the port of before where there was one."""
        self.released.clear()
        self.server = _Server(("127.0.0.1", self.port), Handler)
        self.server.owner = self
        self.port = self.server.server_address[1]
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def kill(self) -> None:
        """Stop listening and cut every connection."""
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.server.cut_all()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def gets(self, path: str) -> list[str | None]:
        """Return the ranges of the GETs of a path."""
        return [wanted for method, name, wanted in self.requests if method == "GET" and name == path]

    def fault(self) -> Fault | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: FaultyServer

    def __init__(self, *arguments: Any) -> None:
        self.open_sockets: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are part of the tests."""

    def cut_all(self) -> None:
        for each in list(self.open_sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        owner, wanted = self.server.owner, self.headers.get("Range")
        self.name = self.path.lstrip("/")
        with owner.lock:
            owner.requests.append((self.command, self.name, wanted))
        time.sleep(owner.delay_seconds)
        if self.command == "HEAD" and not owner.knows_head:
            self.send_error(405)
            return
        content = owner.files.get(self.name)
        if content is None:
            self.send_error(404)
            return
        fault = owner.fault() if self.command == "GET" else None
        if fault and fault.__name__.startswith("status"):
            fault(self, content)
            return
        size = len(content)
        start, end = 0, size
        if wanted and owner.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(size, int(last) + 1) if last else size
        if start and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and owner.ranges else 200)
        if wanted and owner.ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if self.name.endswith("/"):
            self.send_header("Content-Type", "text/html")
        if owner.tells_size:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET" and not (fault and fault(self, content[start:end])):
            self.send(content[start:end])

    def send(self, body: bytes) -> None:
        with self.server.owner.lock:
            self.server.owner.bytes_sent[self.name] += len(body)
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


def cut_after(count: int) -> Fault:
    def cut(handler: Handler, body: bytes) -> bool:
        handler.send(body[:count])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    return cut


def stall_after(count: int) -> Fault:
    def stall(handler: Handler, body: bytes) -> bool:
        handler.send(body[:count])
        handler.wfile.flush()
        handler.server.owner.released.wait(20)
        handler.close_connection = True
        return True

    return stall


def status(code: int) -> Fault:
    def status_instead(handler: Handler, body: bytes) -> bool:
        handler.send_error(code)
        return True

    return status_instead


def wrong_bytes(handler: Handler, body: bytes) -> bool:
    handler.send(bytes(255 - byte for byte in body))
    return True
