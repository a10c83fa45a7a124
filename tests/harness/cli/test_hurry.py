"""The end of a long command: a deadline, and the first Ctrl-C beside the second."""

from __future__ import annotations

import signal
import time

import pytest

from shmoo.harness.cli.hurry import Hurry

pytestmark = pytest.mark.usefixtures("ctrl_c")


def test_work_hurries_after_its_deadline() -> None:
    """Before it there is time."""
    assert not Hurry(time.monotonic() + 60)()
    assert Hurry(time.monotonic() - 1)()


def test_the_first_ctrl_c_hurries_and_the_second_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """The first says what happens now; afterwards signals are whoever's they were."""
    before = signal.getsignal(signal.SIGINT)
    with Hurry(time.monotonic() + 60) as hurry:
        signal.raise_signal(signal.SIGINT)
        assert hurry()
        assert hurry.interrupted
        assert "Ctrl-C again to stop" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_after_an_interruption_the_next_ctrl_c_stops() -> None:
    """What was interrupted while measuring is fitted in full while there is time, and does not take a second Ctrl-C twice."""
    with Hurry(time.monotonic() + 60, interrupted=True) as hurry:
        assert not hurry()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
