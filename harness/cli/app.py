"""The `shmoo` command: its verbs, and how errors become messages and exit codes."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import threading
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from shmoo.estimators.errors import NothingMeasuredError, ShmooError, not_installed, unknown
from shmoo.harness.cli import output

BAD_INPUT, NOTHING_MEASURED, INTERRUPTED = 2, 3, 130
LOG_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""Levels shown without -v, with -v and with -vv."""


class Refused(click.ClickException):
    """An error of Shmoo, shown as one message on stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # to click a class variable

    def show(self, file: Any = None) -> None:
        """Write the message to stderr, after the command's name."""
        click.echo(f"shmoo: {output.printable(self.message)}", file=file, err=True)


class VerbGroup(click.Group):
    """Suggests the nearest verb, and turns `ShmooError`, system errors and Ctrl-C into exit codes."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click; an unknown verb's error suggests the nearest. An empty value, as from an unset shell variable, is
        refused."""
        name = args[0]
        for flag, value in zip(args, [*args[1:], None], strict=True):
            if flag.startswith("-") and (value == "" or (flag.startswith("--") and flag.endswith("="))):
                raise click.UsageError(f"{flag.removesuffix('=')} has an empty value; give one, or leave the option out", ctx)
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown("command", name, self.list_commands(ctx))), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with what they do."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """As in click; errors that a user can fix become one line on stderr and an exit code."""
        try:
            with _rare_collections():
                try:
                    return super().invoke(ctx)
                except KeyboardInterrupt:
                    # A second Ctrl-C while this one is answered would end the command without its message and exit code.
                    ctx.with_resource(_deaf_to_interruptions())
                    raise
        except NothingMeasuredError as error:
            raise Refused(str(error), NOTHING_MEASURED) from error
        except ShmooError as error:
            raise Refused(str(error), BAD_INPUT) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader closed the pipe: click ends silently
            raise Refused(_refusal(error), BAD_INPUT) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", "shmoo"):
                raise
            raise Refused(str(not_installed("parts of this command", package)), BAD_INPUT) from error
        except UnicodeEncodeError as error:
            text = error.object.encode("utf-8", "backslashreplace").decode()
            words = f"{text[:200]!r} is not valid UTF-8, so it cannot be stored in a file; use another name"
            raise Refused(words, BAD_INPUT) from error
        except RecursionError as error:
            raise Refused("the input is nested too deeply", BAD_INPUT) from error
        except KeyboardInterrupt as error:
            # Of a second Ctrl-C during cleaning up, the first one has the message.
            raise Refused(str(error) or str(error.__context__ or "") or "interrupted", INTERRUPTED) from error


@contextmanager
def _deaf_to_interruptions() -> Iterator[None]:
    """While active, Ctrl-C has no effect; signals are the main thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """While active, garbage collections are a thousand times rarer. Imports, graphs and runs create many objects and no cycles,
    and collections would take a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(1000 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _refusal(error: OSError) -> str:
    """The system's refusal as a message, with the file if it names one."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refused: {why}"
    return f"cannot use {str(error.filename)!r}: {why}; check that it exists, its permissions, and the free space"


class StderrHandler(logging.Handler):
    """Shows log records on the current `sys.stderr`, which `output.only_results_on_stdout` and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to the current stderr."""
        output.message(self.format(record))


@contextmanager
def shown_log(verbosity: int) -> Iterator[None]:
    """While active, Shmoo's log is shown on stderr: warnings, with 1 also actions, with 2 or more also details."""
    logger = logging.getLogger("shmoo")
    handler, level = StderrHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s" if verbosity else "%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(LOG_LEVELS[min(verbosity, len(LOG_LEVELS) - 1)])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Verbs(UserDict[str, Any]):
    """The verbs by name, each imported on first access."""

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            self.data[name] = getattr(import_module(f"shmoo.harness.cli.verbs.{name}"), name)
        return self.data[name]


VERBS = {
    "doctor": "This machine, and what can be measured on it.",
    "measure": "Time models and operators here, with their energy.",
    "show": "The rows of a run.",
    "check": "Problems of a run, and what to do next.",
    "compare": "Changes between runs beyond noise; fails a build.",
    "duel": "Two commits or environments side by side on one machine.",
    "gate": "Fails where a model's estimates grew; needs no hardware.",
    "history": "Cases over many runs; the first run that differs.",
    "calibrate": "Fit a model of one machine to its measurements.",
    "estimate": "Latency, energy and memory of models on architectures.",
    "advise": "What to change, ranked, with intervals.",
    "explore": "The Pareto front of a design space.",
    "fusion": "Operators that share a kernel, and the savings.",
    "generate": "A language model: time to first token, per token, energy.",
    "inspect": "A model by module and operator.",
    "sweep": "Estimates over axes of the model and of the machine.",
    "trace": "When each kernel runs: predicted, and measured here.",
    "report": "Estimates compared with the measurements of a run.",
    "profiles": "Architecture profiles: every coefficient and its source.",
    "cache": "Cached graphs of models: list them, clear them.",
    "characterize": "Measure, calibrate, predict, report: all of it.",
    "fleet": "One command on many machines; their state, rows and report.",
}
"""Verb -> what it does in a few words, so that listing them imports none."""


@click.group(cls=VerbGroup, commands=Verbs(dict.fromkeys(VERBS)), context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", "verbosity", count=True, help="Log actions on stderr; -vv with details.")
@click.version_option(package_name="shmoo", message="shmoo %(version)s")
@click.pass_context
def cli(ctx: click.Context, verbosity: int) -> None:
    """Measure DNN operators and models on this machine, calibrate a physical model of it, and estimate latency, energy and memory
    on CPUs, GPUs, TPUs and the Stillwater KPU.

    \b
    Start with:
      shmoo doctor                       what this machine is and what it can measure
      shmoo estimate resnet18            a model on every built-in architecture
      shmoo characterize                 measure, calibrate, predict, report: all of it
    """
    ctx.with_resource(shown_log(verbosity))
