"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere; the same for every stage of every verb."""

from __future__ import annotations

import sys
import threading
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
"""Counted work that ends sooner shows no progress except on a terminal."""
LINE_EVERY_S = 10.0
"""Seconds between two plain lines, accurate to half the time between two reports."""


class Display:
    """Shows the progress that work reports (`estimators.progress.Progress`). Use as a context manager.

    Without a terminal, a stage with a count gets a line every `LINE_EVERY_S` and one at its end; a stage without a count gets a
    line per report. While the work reports nothing for that long, its last report is shown again.
    """

    def __init__(self) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        self._stage = ""
        self._started = self._last_line = self._last_report = 0.0
        self._under_way: Standing | None = None
        """The last report, unless it ended its stage."""
        self._shown = threading.Condition()
        """Held while anything is shown; notified of every line."""
        self._repeater: threading.Thread | None = None

    def __call__(self, standing: Standing) -> None:
        """Show a report."""
        with self._shown:
            self._show(standing, time.monotonic())

    def _show(self, standing: Standing, now_s: float) -> None:
        if standing.stage != self._stage:
            self._begin(standing, now_s)
        since_s, self._last_report = now_s - self._last_report, now_s
        left_s = self._left_s(standing, now_s)
        self._under_way = None if standing.done == standing.total and left_s == 0 else standing
        if self._bar is not None:
            (task,) = self._bar.task_ids
            left_text = _left_text(standing, left_s)
            self._bar.update(task, completed=standing.done, total=standing.total, left=left_text, note=_note(standing))
            if left_s:
                # A campaign continues visiting after each case has had its visits, and its clock goes on.
                self._bar.tasks[0].finished_time = None
            return
        line_due = now_s - self._started >= QUIET_S and (left_s == 0 or now_s - self._last_line >= LINE_EVERY_S - since_s / 2)
        if standing.total is None or line_due:
            self._line(standing, now_s)

    def _left_s(self, standing: Standing, now_s: float) -> float | None:
        """Time left, from the work's report or at the pace of the cases so far."""
        if standing.left_s is not None:
            return max(standing.left_s - (now_s - self._last_report), 0.0)
        if standing.done and standing.total:
            return (now_s - self._started) / standing.done * (standing.total - standing.done)
        return None

    def _line(self, standing: Standing, now_s: float) -> None:
        """Print a report as a line; a repeated report without a count also shows how long the work has been silent."""
        text, silent_s = f"{standing.stage}: {_note(standing)}", now_s - self._last_report
        if standing.total is not None:
            counted = f"{standing.stage}: {standing.done} of {standing.total}, {_clock(now_s - self._started)} spent"
            text = f"{counted}, {_left_text(standing, self._left_s(standing, now_s))}  {_note(standing)}".rstrip(" ,")
        elif silent_s:
            text = f"{text}, {_clock(silent_s)} so far"
        self._last_line = now_s
        output.message(text)
        self._shown.notify()

    def _repeat(self) -> None:
        """Show the last report again after each `LINE_EVERY_S` without a line, until the display is left."""
        with self._shown:
            while self._repeater is not None:
                if not self._shown.wait(LINE_EVERY_S) and self._under_way is not None:
                    self._line(self._under_way, time.monotonic())

    def _begin(self, standing: Standing, now_s: float) -> None:
        self._stage, self._started, self._last_report = standing.stage, now_s - standing.spent_s, now_s
        self._last_line = now_s - LINE_EVERY_S + QUIET_S
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(standing.stage, total=None, left="", note="")

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        else:
            self._repeater = threading.Thread(target=self._repeat, daemon=True)
            self._repeater.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if (repeater := self._repeater) is not None:
            with self._shown:
                self._repeater = None
                self._shown.notify()
            repeater.join()


def track(items: Iterable[T], total: int, stage: str, size: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
    """Iterate over `items` while showing progress; `size` is an item's part of the total."""
    done_count = 0
    with Display() as display:
        for item in items:
            yield item
            done_count += size(item)
            display(Standing(stage, done_count, total))


def _note(standing: Standing) -> str:
    """Numbers of cases by status, if known, and the current action."""
    if not standing.visits:
        return standing.now
    counts = f"{standing.ok} ok / {standing.noisy} noisy / {standing.suspect} suspect"
    failed = f" / {standing.failed} failed" if standing.failed else ""
    return f"{counts}{failed}, {standing.visits} visits  {standing.now}"


def _left_text(standing: Standing, left_s: float | None) -> str:
    if left_s is None:
        return ""
    out_of_time = round(left_s) <= 0 and standing.total is not None and standing.done < standing.total
    return "no time left" if out_of_time else f"about {_clock(left_s)} left"


def _clock(seconds: float) -> str:
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes}:{rest_s:02d}"


def _bar() -> Bar:
    """The progress bar; in a narrow terminal only the note is truncated."""
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
