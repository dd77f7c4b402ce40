"""Ctrl-C once is a request, twice is Ctrl-C."""

import os
import signal

import pytest

from genret_jax.training.stopping import Interruption


@pytest.fixture
def _python_handles_sigint():
    """A process started in the background of a shell ignores SIGINT; Python's own handler is what is tested."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.mark.usefixtures("_python_handles_sigint")
def test_first_signal_is_noted_and_the_second_acts():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert interruption.signal_name is None
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal_name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_come_back_when_nothing_happened():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before
