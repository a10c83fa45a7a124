"""One timing, and what disturbed the host meanwhile. The command line and pytest both time through `observed`."""

from __future__ import annotations

from collections.abc import Callable

from shmoo.harness.measuring.watch.hostwatch import disturbances, host_snapshot, observe
from shmoo.runs.store.records import AxisValue, Reason, Status, Timing
from shmoo.runs.store.statistics import median
from shmoo.runs.store.visits import NOISE

Host = dict[str, AxisValue | None]
THROTTLED = 2.0
"""A machine that runs this many times slower than it can while it throttles is another machine than the one asked about."""
UNUSABLE = ("throttled", "GPU clock", "GPU throttled", "shared GPU", "recompiled")
"""Codes of reasons for which a timing cannot be used at all."""


def observed(
    window: Callable[[], Timing],
    threads: int,
    further: Callable[[], tuple[Host, tuple[Reason, ...]]] = lambda: ({}, ()),
    *,
    device_time: bool = False,
) -> tuple[Timing, Host, tuple[Reason, ...]]:
    """Time once and say what went on meanwhile.

    Args:
        threads: that the timed work uses.
        further: observations and doubts of one's own about the timing, such as a GPU's.
        device_time: a device's own clock took the time, which the host's neighbours do not change.

    Returns:
        the timing, what was observed around it, and the reasons to doubt it (empty when there are none).
    """
    before = host_snapshot()
    timing = window()
    host = observe(before, host_snapshot(), threads)
    reasons = () if device_time else tuple(r for r in disturbances(host) if r.code != "throttled" or _another_machine(timing))
    facts, doubts = further()
    return timing, host | facts, reasons + doubts


def status_of(reasons: tuple[Reason, ...]) -> Status:
    """The status of one visit that these reasons give; reasons of other codes are remarks."""
    codes = {reason.code for reason in reasons}
    if codes & set(UNUSABLE):
        return "suspect"
    return "noisy" if codes & set(NOISE) else "ok"


def _another_machine(timing: Timing) -> bool:
    return bool(timing.slowdowns) and median(timing.slowdowns) >= THROTTLED
