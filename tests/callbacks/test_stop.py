import contextlib
import os
import signal

import pytest

from jitlab.callbacks.stop import StoppedError, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_flag_and_the_second_one_raises(number):
    stop = StopRequest()
    with stop.listening():
        stop.raise_if_requested()
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), number)
        with pytest.raises(StoppedError):
            stop.raise_if_requested()


def test_signals_are_given_back_even_where_the_block_raises():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with contextlib.suppress(ZeroDivisionError), stop.listening():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not stop.requested
