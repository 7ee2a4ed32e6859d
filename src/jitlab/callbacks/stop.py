"""Stopping on request where a run can be resumed from."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(Exception):
    """The run was asked to stop (Ctrl-C or SIGTERM) and did."""


class StopRequest:
    """Remembers a Ctrl-C or SIGTERM until the training loop is at a place where it can stop and be resumed."""

    def __init__(self) -> None:
        self._signals = 0

    @property
    def requested(self) -> bool:
        """Say whether a stop was asked for."""
        return self._signals > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM over for a block; a second one stops at once, without a new checkpoint."""
        before = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def request(self) -> None:
        """Ask for a stop, as the first signal does."""
        self._signals = max(self._signals, 1)

    def raise_if_requested(self) -> None:
        """Raise StoppedError once a stop was asked for."""
        if self.requested:
            raise StoppedError

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first is remembered, the second raises, later ones let the clean-up finish."""
        self._signals += 1
        if self._signals == 1:
            # Not through the console: a handler may interrupt it anywhere.
            os.write(2, b"\nstopping after this step; once more to stop at once\n")
        elif self._signals == 2:
            raise StoppedError
