"""Progress of work that takes long: the work reports a `Standing`, and whoever started it shows it."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Standing(msgspec.Struct, frozen=True):
    """How far a stage of the work is.

    Attributes:
        stage: what is done, such as "measuring".
        done, total: cases, and all of them; `total` is `None` where they cannot be counted.
        visits: visits to cases so far.
        ok, noisy, suspect, failed: cases by status, as their visits so far say.
        now: what happens now.
        left_s: seconds left; `None` while unknown.
        spent_s: seconds since the stage began.
    """

    stage: str
    done: int = 0
    total: int | None = None
    visits: int = 0
    ok: int = 0
    noisy: int = 0
    suspect: int = 0
    failed: int = 0
    now: str = ""
    left_s: float | None = None
    spent_s: float = 0.0


class Progress(Protocol):
    """Receives a report now and then while work goes on, from the thread that does the work."""

    def __call__(self, standing: Standing, /) -> None:
        """Record how far the work is."""


def silent(standing: Standing) -> None:
    """Progress that is not shown."""
