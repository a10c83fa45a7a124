"""Timing with an eye on the host: a disturbed window is discarded and measured again, a few times; then it stands with its
reasons. The command line and pytest both time through `time_undisturbed`."""

from __future__ import annotations

from collections.abc import Callable

from shmoo.harness.corewatch import CoreWatch
from shmoo.harness.hostwatch import doubts, host_snapshot, observe
from shmoo.runs.records import AxisValue, Timing

Host = dict[str, AxisValue | None]
MAX_RETRIES = 3


def time_undisturbed(
    window: Callable[[], Timing],
    threads: int,
    *,
    retries: int = MAX_RETRIES,
    cores: CoreWatch | None = None,
    further: Callable[[], tuple[Host, tuple[str, ...]]] = lambda: ({}, ()),
) -> tuple[Timing, Host, tuple[str, ...]]:
    """Time until nothing disturbs, or the retries are used up.

    Args:
        window: times once.
        threads: that the timed work uses.
        retries: how often a disturbed window is discarded.
        cores: says when all cores run at their usual speed, which each window waits for, and whether they did beside it; the
            window calls its `beside` before each block.
        further: observations and doubts of one's own about the window that has just been timed, such as a GPU's.

    Returns:
        the timing kept; what was observed around it, with the number of `retries` and the reasons of windows `discarded`; and why
        it cannot be trusted (empty when it can).
    """
    discarded: list[str] = []
    while True:
        if cores is not None:
            cores.await_quiet()
        before = host_snapshot()
        timing = window()
        host = observe(before, host_snapshot(), threads)
        reasons = doubts(timing, host)
        for found in (further, cores.observe) if cores is not None else (further,):
            facts, more = found()
            host |= facts
            reasons += more
        if not reasons or len(discarded) >= retries:
            break
        discarded.append("; ".join(reasons))
    host["retries"] = len(discarded)
    if discarded:
        host["discarded"] = " | ".join(discarded)
    return timing, host, reasons
