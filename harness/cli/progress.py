"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from shmoo.harness.campaign import Standing

T = TypeVar("T")

QUIET_S = 2.0
"""Work that ends sooner shows no progress off a terminal."""
LINE_EVERY_S = 10.0
"""Seconds between two plain lines."""


class Progress:
    """Counts steps of known number. Use as a context manager."""

    def __init__(self, total: int, label: str) -> None:
        self._total = total
        self._label = label
        self._done = 0
        self._started = time.monotonic()
        self._last_line = self._started - LINE_EVERY_S + QUIET_S
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = None if self._bar is None else self._bar.add_task(label, total=total, left="", note="")

    def step(self, note: str = "") -> None:
        """One step is done."""
        self.update(self._done + 1, self._total, note, None)

    def standing(self, standing: Standing) -> None:
        """How far a campaign is."""
        counts = f"{standing.ok} ok / {standing.noisy} noisy / {standing.suspect} suspect"
        failed = f" / {standing.failed} failed" if standing.failed else ""
        note = f"{counts}{failed}, {standing.visits} visits  {standing.now}"
        self.update(standing.done, standing.total, note, standing.left_s)

    def update(self, done: int, total: int, note: str, left_s: float | None) -> None:
        """`done` of `total` steps are done and `note` is happening.

        Args:
            left_s: seconds left where the caller knows better than the mean step.
        """
        self._done, self._total = done, total
        now = time.monotonic()
        spent = now - self._started
        if left_s is None and done:
            left_s = spent / done * (total - done)
        left = "" if left_s is None else f"about {_clock(left_s)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, left=left, note=note)
        elif now - self._last_line >= LINE_EVERY_S or (done == total and left_s == 0 and spent >= QUIET_S):
            self._last_line = now
            click.echo(f"{self._label}: {done} of {total}, {_clock(spent)} spent, {left}  {note}".rstrip(" ,"), err=True)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Hand out `items` while showing progress."""
    with Progress(total, label) as progress:
        for item in items:
            yield item
            progress.step()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
