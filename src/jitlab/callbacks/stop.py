"""Stopping on request where a run can be resumed from."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(Exception):
    """The run was asked to stop (Ctrl-C or SIGTERM) and did."""


class StopRequest:
    """Remembers a Ctrl-C or SIGTERM until the training loop is at a place where it can stop and be resumed."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM over for a block; a second one stops at once, without a new checkpoint."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_if_requested(self) -> None:
        """Raise StoppedError once a stop was asked for."""
        if self.requested:
            raise StoppedError

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise StoppedError
        self.requested = True
