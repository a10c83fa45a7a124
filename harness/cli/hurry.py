"""The end of a long command: it keeps to its budget, a first Ctrl-C shortens it, a second stops it, and it says how to go on."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

import click

from shmoo.harness.cli import output

FINISHING_S, FINISHING_SHARE, MOST_FINISHING_SHARE = 35.0, 0.3, 0.5
"""Time kept for calibrating and reporting, the most of a short budget that it may be, and the most where previews took long."""
PREVIEWS_TO_FINISH = 3.0
"""Calibrating and reporting in short takes this many times as long as the longest preview, at most."""


class Reserve:
    """Time kept of a command's budget for calibrating and reporting; it grows with what previews of the fit take."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._first_s = self.finishing_s = min(FINISHING_S, FINISHING_SHARE * budget_s)

    def __call__(self) -> float:
        """Seconds by which it has grown."""
        return self.finishing_s - self._first_s

    def learn(self, preview_s: float) -> None:
        """Take note of the time that a preview took."""
        wanted_s = min(PREVIEWS_TO_FINISH * preview_s, MOST_FINISHING_SHARE * self.budget_s)
        self.finishing_s = max(self.finishing_s, wanted_s)


class Hurry:
    """Whether work has to end with what it has: after a deadline, or after a first Ctrl-C. Use as a context manager around the
    work, which asks by calling it.

    Args:
        deadline: on `time.monotonic`'s clock.
        interrupted: the first Ctrl-C came earlier, so that the next one stops the command.
    """

    def __init__(self, deadline: float, interrupted: bool = False) -> None:
        self._deadline = deadline
        # Where Ctrl-C is ignored, as in the background of a script, it stays so.
        heard = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        self._own_signals = heard and not interrupted
        self.interrupted = interrupted

    def __call__(self) -> bool:
        """Whether to end now."""
        return (self._own_signals and self.interrupted) or time.monotonic() >= self._deadline

    def __enter__(self) -> Hurry:
        if self._own_signals:
            self._before = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._own_signals:
            signal.signal(signal.SIGINT, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        output.message("interrupted: calibrating in short and reporting what there is (Ctrl-C again to stop)")


def resumed(out: Path) -> str:
    """The command that goes on with a run that the present command began in `out`: its name and the options it was given."""
    from click.core import ParameterSource

    ctx = click.get_current_context()
    words, places = ["shmoo", *ctx.command_path.split(" ")[1:]], []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in ("out", "resume", "as_json", "wide") or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if isinstance(parameter, click.Argument):
            places += ["--", *map(str, value)] if isinstance(value, tuple) else [str(value)]
            continue
        words.append(parameter.opts[-1])
        if not (isinstance(parameter, click.Option) and parameter.is_flag):
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join([*words, "--out", str(out), "--resume", *places])
