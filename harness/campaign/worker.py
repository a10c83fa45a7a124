"""Worker processes: a crash, an out-of-memory kill, a hang or a segfault ends one case and not the campaign. A worker serves case
after case, in JSON lines over its pipes, and is replaced after anything of that or a failed case. What the measured code prints
goes to its error stream, whose end becomes the reason when it dies."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Protocol

import msgspec

from shmoo.estimators.graph.records import Graph
from shmoo.harness.campaign.sides import Side, environment
from shmoo.harness.runtimes.chatter import CHATTER
from shmoo.runs.store.records import AxisValue, CaseSpec, Measurement, Reason, utc_now

DEFAULT_ENTRY = "shmoo.harness.measuring.measure:Measurer"
START_S = 120.0
"""Importing torch from a cold disk takes tens of seconds; this much is added to the first case's time limit."""


class Request(msgspec.Struct, frozen=True):
    """One visit for the worker, or only what precedes it."""

    case: CaseSpec
    visit: int = 0
    details: bool = True
    prepare: bool = False


class Answer(msgspec.Struct, frozen=True):
    """The worker's row and the graphs it names."""

    row: Measurement
    graphs: tuple[Graph, ...] = ()


class CaseMeasurer(Protocol):
    """Visits cases: `harness.measuring.measure.Measurer`, a `Worker`, or a stand-in."""

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """Visit a case; its row and the graphs it ran. `details` asks for what one visit of a case suffices for."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A process that measures cases, started when first needed. Use as a context manager, or `close` it.

    Args:
        settings: JSON of the settings that the entry is called with; `None` for none.
        timeout_s: longest time for one case, compilation included.
        entry: "module:class" whose `from_settings` makes a `CaseMeasurer` that can `prepare` too.
        side: interpreter, folder and search path of a side of a duel; this process's own for `None`.
    """

    def __init__(
        self, settings: bytes | None = None, timeout_s: float = 600.0, entry: str = DEFAULT_ENTRY, side: Side | None = None
    ) -> None:
        self._side = side or Side("", sys.executable, "", tuple(path for path in sys.path if path))
        self._settings = settings or b"null"
        self._timeout_s = timeout_s
        self._entry = entry
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._errors: Path | None = None

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """The visit's row; a failed one with the reason if the process did not live to answer."""
        return self._asked(Request(case, visit, details))

    def prepare(self, case: CaseSpec) -> Measurement:
        """Build and compile a case for its first visit; a row without samples, or a failed one as of `measure`."""
        return self._asked(Request(case, prepare=True))[0]

    def interrupt(self) -> None:
        """End the process while another thread waits for its answer, which is then a failed row."""
        if (process := self._process) is not None:
            _kill_group(process)

    def _asked(self, request: Request) -> tuple[Measurement, tuple[Graph, ...]]:
        process, lines, limit_s = self._process, [msgspec.json.encode(request)], self._timeout_s
        if process is None:
            process, lines, limit_s = self._start(), [self._settings, *lines], limit_s + START_S
        host: dict[str, AxisValue | None] = {}
        try:
            if process.stdin is not None:
                process.stdin.writelines(line + b"\n" for line in lines)
                process.stdin.flush()
            answer = msgspec.json.decode(self._answer(process, limit_s), type=Answer)
            if answer.row.case == request.case:
                if answer.row.status == "failed":
                    self.close()
                return answer.row, answer.graphs
            reason = f"its process answered for another case ({answer.row.case.label})"
        except queue.Empty:
            reason = f"no answer within {limit_s:.0f} s; its process was ended"
        except msgspec.MsgspecError as error:
            reason = f"its process answered nonsense ({error})"
        except OSError:
            reason, host = self._exit_reason(process)
        except BaseException:
            # Interrupted: what the process is doing is of no use any more.
            self.close()
            raise
        self.close()
        reasons = (Reason("worker", reason),)
        return Measurement(request.case, "failed", reasons, visit=request.visit, measured_at=utc_now(), host=host), ()

    def close(self) -> None:
        """End the process and whatever it started, at once."""
        if self._process is not None:
            _kill_group(self._process)
            self._process.wait()
            for stream in filter(None, (self._process.stdin, self._process.stdout)):
                with contextlib.suppress(OSError):  # unsent bytes to a process that is gone
                    stream.close()
            self._process = None
        if self._errors is not None:
            self._errors.unlink(missing_ok=True)
            self._errors = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        descriptor, path = tempfile.mkstemp(prefix="shmoo-worker-")
        os.close(descriptor)
        self._errors = Path(path)
        with self._errors.open("wb") as errors:
            self._process = process = subprocess.Popen(
                # Isolated: what lies in the current directory is no module of ours.
                [self._side.python, "-P", "-m", "shmoo.harness.campaign.worker", self._entry],
                cwd=self._side.folder or None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(self._side.search) | {"PYTHONFAULTHANDLER": "1"},
                # Ctrl-C is for the campaign alone: it decides what becomes of the case in flight.
                start_new_session=True,
            )
        self._answers = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, self._answers), daemon=True).start()
        return process

    def _answer(self, process: subprocess.Popen[bytes], limit_s: float) -> bytes:
        """The next line of the process; `queue.Empty` where it lives and says nothing, `BrokenPipeError` where it ended, even if
        something that it started keeps the pipe open."""
        deadline, line = time.monotonic() + limit_s, None
        while line is None:
            ended = process.poll() is not None
            try:
                # What it wrote before it ended is in the pipe; a second is enough to move it here.
                line = self._answers.get(timeout=1.0 if ended else max(0.0, min(1.0, deadline - time.monotonic())))
            except queue.Empty:
                if ended:
                    break
                if time.monotonic() >= deadline:
                    raise
        if not line:
            raise BrokenPipeError
        return line

    def _exit_reason(self, process: subprocess.Popen[bytes]) -> tuple[str, dict[str, AxisValue | None]]:
        """Why the process ended, in words with the end of what it printed, and the signal that ended it, if one did."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output and lives on
            process.wait(timeout=5)
        code = process.returncode
        printed = [] if self._errors is None else self._errors.read_text(errors="replace").splitlines()
        words = [line.strip() for line in printed if line.strip() and not any(word in line for word in CHATTER)]
        said = f"; last words: {words[-1]}" if words else ""
        if code is None:
            return f"its process stopped answering{said}", {}
        if code >= 0:
            return f"its process ended with exit code {code}{said}", {}
        name = signal.Signals(-code).name
        likely = {"SIGKILL": ", most likely by the system for lack of memory", "SIGSEGV": " (segmentation fault)"}.get(name, "")
        return f"its process was ended by {name}{likely}{said}", {"signal": name}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and what it left behind in that session, which would keep its pipes open."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _pump(stream: IO[bytes], answers: queue.Queue[bytes]) -> None:
    """Move lines into a queue, where waiting has a time limit; an empty one marks the end."""
    try:
        for line in stream:
            answers.put(line)
    except (OSError, ValueError):
        pass  # closed under us by `close`: the end, like any other
    answers.put(b"")


def serve(entry: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """The worker's own loop: settings first, then a row for each request until the pipe closes."""
    module, _, name = entry.partition(":")
    measurer = getattr(import_module(module), name).from_settings(requests.readline())
    own = os.getpid()
    for line in requests:
        request = msgspec.json.decode(line, type=Request)
        try:
            if request.prepare:
                answer = Answer(measurer.prepare(request.case))
            else:
                answer = Answer(*measurer.measure(request.case, request.visit, request.details))
        finally:
            if os.getpid() != own:
                os._exit(0)  # a copy that the model forked: the answer is the first process's alone
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def main() -> None:
    """Entry point of the worker process."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever prints to the standard output, in Python or below, must not end up between two answers.
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
