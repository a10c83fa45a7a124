"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere; the same for every stage of every verb."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from shmoo.estimators.progress import Standing
from shmoo.harness.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")

QUIET_S = 2.0
"""Counted work that ends sooner shows no progress off a terminal."""
LINE_EVERY_S = 10.0
"""Seconds between two plain lines, to half the time between two reports."""


class Display:
    """Shows what work reports (`estimators.progress.Progress`). Use as a context manager.

    Off a terminal a stage whose cases are counted gets a line every `LINE_EVERY_S`, and one at its end; of a stage without a
    count every report is a line.
    """

    def __init__(self) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        self._stage = ""
        self._started = self._last_line = self._last_report = 0.0

    def __call__(self, standing: Standing) -> None:
        """Show how far the work is."""
        now = time.monotonic()
        if standing.stage != self._stage:
            self._begin(standing.stage, now)
        spent, left_s = now - self._started, standing.left_s
        if left_s is None and standing.done and standing.total:
            left_s = spent / standing.done * (standing.total - standing.done)
        out_of_time = left_s is not None and round(left_s) <= 0 and standing.total is not None and standing.done < standing.total
        left = "" if left_s is None else "no time left" if out_of_time else f"about {_clock(left_s)} left"
        since, self._last_report = now - self._last_report, now
        if self._bar is not None:
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=standing.done, total=standing.total, left=left, note=_note(standing))
            if left_s:
                # A campaign visits again after each case has had its visits, and its clock goes on.
                self._bar.tasks[0].finished_time = None
            return
        ended = standing.done == standing.total and left_s == 0 and spent >= QUIET_S
        if standing.total is None:
            output.message(f"{standing.stage}: {_note(standing)}")
        elif ended or (spent >= QUIET_S and now - self._last_line >= LINE_EVERY_S - since / 2):
            self._last_line = now
            count = f"{standing.stage}: {standing.done} of {standing.total}, {_clock(spent)} spent"
            output.message(f"{count}, {left}  {_note(standing)}".rstrip(" ,"))

    def _begin(self, stage: str, now: float) -> None:
        self._stage, self._started, self._last_report = stage, now, now
        self._last_line = now - LINE_EVERY_S + QUIET_S
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(stage, total=None, left="", note="")

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def track(items: Iterable[T], total: int, stage: str, size: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
    """Hand out `items` while showing progress; `size` says how many of the total each stands for."""
    done = 0
    with Display() as display:
        for item in items:
            yield item
            done += size(item)
            display(Standing(stage, done, total))


def _note(standing: Standing) -> str:
    """Cases by status where they have one, and what happens now."""
    if not standing.visits:
        return standing.now
    counts = f"{standing.ok} ok / {standing.noisy} noisy / {standing.suspect} suspect"
    failed = f" / {standing.failed} failed" if standing.failed else ""
    return f"{counts}{failed}, {standing.visits} visits  {standing.now}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _bar() -> Bar:
    """In a terminal too narrow for all of it, the note alone loses its end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(console.width // 10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        expand=True,
        transient=True,
    )
