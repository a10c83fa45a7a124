"""Support for a long command: previews of its results, keeping to its budget, Ctrl-C that first shortens and then stops it, and
the command that resumes it."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path
from types import FrameType, TracebackType

import click
from click.core import ParameterSource

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.progress import Standing
from shmoo.estimators.units import percent, si
from shmoo.harness.campaign.campaign import COMPILING, WAITING
from shmoo.harness.cli import output
from shmoo.runs.analysis.errors import error_report
from shmoo.runs.store.store import Run

FINISHING_S, FINISHING_SHARE, MOST_FINISHING_SHARE = 35.0, 0.3, 0.5
"""Time reserved for calibrating and reporting; its largest share of a short budget; and its largest share after slow previews."""
PREVIEWS_TO_FINISH = 3.0
"""Time of a shortened calibration and report, in multiples of the longest preview, at most."""
PREVIEWS_S = (50.0, 180.0, 900.0)
"""Times of previews in seconds since the start. A preview estimates the networks measured so far and takes up to 15 s."""


class Previews:
    """Estimates the networks measured so far into `out` at some times during a campaign, and shows them with their measurements.
    `begin` is on `time.monotonic`'s clock.

    Attributes:
        finishing_s: the part of the command's budget reserved for calibrating and reporting; it grows with the time that previews
            take.
    """

    def __init__(self, out: Path, begin: float, budget_s: float) -> None:
        self._out, self._begin, self._budget_s = out, begin, budget_s
        self._first_s = self.finishing_s = min(FINISHING_S, FINISHING_SHARE * budget_s)
        self._times = list(PREVIEWS_S)

    def grown_s(self) -> float:
        """Seconds by which the reserved part has grown."""
        return self.finishing_s - self._first_s

    def learn(self, preview_s: float) -> None:
        """Grow the reserved part according to the time of a preview."""
        wanted_s = min(PREVIEWS_TO_FINISH * preview_s, MOST_FINISHING_SHARE * self._budget_s)
        self.finishing_s = max(self.finishing_s, wanted_s)

    def __call__(self, standing: Standing) -> None:
        """Show a preview when one is due and there is a run."""
        now_s = time.monotonic()
        later = [after_s for after_s in self._times if now_s - self._begin < after_s]
        if standing.stage == WAITING or later == self._times:
            return
        self._times = later
        self.show()
        if standing.stage != COMPILING:
            # While compilers run it takes longer than at the end.
            self.learn(time.monotonic() - now_s)

    def show(self) -> None:
        """Fit quickly, and print a line for each network."""
        from shmoo.calibrate.calibration import quick_profile

        run = Run.open(self._out)
        if not any(row.estimable and row.case.kind == "network" for row in run.rows):
            return
        try:
            profile = quick_profile(run)
        except ShmooError as error:
            output.message(f"no estimate yet: {error}")
            return
        for network in error_report(run, profile).networks:
            case = network.whole
            output.message(
                f"so far: {network.name} measured {si(case.measured_s, 's')} ± {percent(case.standard_error)}, estimated "
                f"{si(case.estimate_s.value, 's')} ({percent(case.error, signed=True)}) from {len(run.rows)} cases"
            )


class Hurry:
    """Tells work to finish early: after a deadline, or after a first Ctrl-C. Use as a context manager around the work, which
    calls it to check.

    Args:
        deadline: on `time.monotonic`'s clock.
        interrupted: whether the first Ctrl-C came earlier, so that the next one stops the command.
    """

    def __init__(self, deadline: float, interrupted: bool = False) -> None:
        self._deadline = deadline
        # If Ctrl-C is ignored, as in the background of a script, it stays ignored.
        heard = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        self._own_signals = heard and not interrupted
        self.interrupted = interrupted

    def __call__(self) -> bool:
        """Whether to finish now."""
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
    """The command that resumes the current command's run in `out`, with its name and options."""
    words, places = given_again(("out", "resume", "as_json", "wide"))
    name = click.get_current_context().command_path.split(" ")[1:]
    return shlex.join(["shmoo", *name, *words, "--out", str(out), "--resume", *places])


def given_again(left_out: Collection[str]) -> tuple[list[str], list[str]]:
    """The current command's options and arguments as given, without some parameters."""
    ctx = click.get_current_context()
    words, places = [], []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in left_out or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        is_list = isinstance(ctx.params[name], tuple)
        values = list(map(str, ctx.params[name])) if is_list else [str(ctx.params[name])]
        if isinstance(parameter, click.Argument):
            places += ["--", *values] if is_list else values
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1])
        elif parameter.callback is not None:
            # Lists are joined by commas, other options are repeated.
            words += [parameter.opts[-1], ",".join(values)]
        else:
            words += [word for value in values for word in (parameter.opts[-1], value)]
    return words, places
