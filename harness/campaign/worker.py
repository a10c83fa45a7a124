"""Worker processes: a crash, an out-of-memory kill, a hang or a segfault ends one case and not the campaign. A worker serves one
case after another, in JSON lines over its pipes, and is replaced after any of these or a failed case. Output of the measured code
goes to the worker's stderr; its last lines become the reason if the worker dies."""

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
"""Time added to the first case's limit, since importing torch from a cold disk takes tens of seconds."""


class Request(msgspec.Struct, frozen=True):
    """One visit for the worker, or only its preparation."""

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
        """Visit a case; returns its row and its graphs. `details` requests measurements that one visit of a case suffices for."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A process that measures cases, started when first needed. Use as a context manager, or `close` it.

    Args:
        settings: JSON of the settings passed to the entry, or `None`.
        timeout_s: longest time for one case, including compilation.
        entry: "module:class" whose `from_settings` makes a `CaseMeasurer` that can `prepare` too.
        side: interpreter, folder and search path of a side of a duel; by default those of this process.
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
        """The visit's row; a failed row with the reason if the process died before answering."""
        return self._send(Request(case, visit, details))

    def prepare(self, case: CaseSpec) -> Measurement:
        """Build and compile a case for its first visit; returns a row without samples, or a failed row as in `measure`."""
        return self._send(Request(case, prepare=True))[0]

    def interrupt(self) -> None:
        """Kill the process while another thread waits for its answer, which is then a failed row."""
        if (process := self._process) is not None:
            _kill_group(process)

    def _send(self, request: Request) -> tuple[Measurement, tuple[Graph, ...]]:
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
            reason = f"its process sent an invalid answer ({error})"
        except OSError:
            reason, host = self._exit_reason(process)
        except BaseException:
            # Interrupted: the process's current work is useless.
            self.close()
            raise
        self.close()
        reasons = (Reason("worker", reason),)
        return Measurement(request.case, "failed", reasons, visit=request.visit, measured_at=utc_now(), host=host), ()

    def close(self) -> None:
        """Kill the process and its children at once."""
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
                # Isolated, so that files in the current directory are not imported as our modules.
                [self._side.python, "-P", "-m", "shmoo.harness.campaign.worker", self._entry],
                cwd=self._side.folder or None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(self._side.search) | {"PYTHONFAULTHANDLER": "1"},
                # Ctrl-C goes only to the campaign, which decides about the running case.
                start_new_session=True,
            )
        self._answers = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, self._answers), daemon=True).start()
        return process

    def _answer(self, process: subprocess.Popen[bytes], limit_s: float) -> bytes:
        """The next line of the process; `queue.Empty` if it is alive and silent, `BrokenPipeError` if it ended, even if a child
        keeps the pipe open."""
        deadline, line = time.monotonic() + limit_s, None
        while line is None:
            ended = process.poll() is not None
            try:
                # Its last output may still be in the pipe; a second is enough to read it.
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
        """The reason for the end of the process, with its last output, and the signal that killed it, if any."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output but is still alive
            process.wait(timeout=5)
        code = process.returncode
        printed = [] if self._errors is None else self._errors.read_text(errors="replace").splitlines()
        words = [line.strip() for line in printed if line.strip() and not any(word in line for word in CHATTER)]
        last_words = f"; last words: {words[-1]}" if words else ""
        if code is None:
            return f"its process stopped answering{last_words}", {}
        if code >= 0:
            return f"its process ended with exit code {code}{last_words}", {}
        name = signal.Signals(-code).name
        likely = {"SIGKILL": ", most likely by the system for lack of memory", "SIGSEGV": " (segmentation fault)"}.get(name, "")
        return f"its process was ended by {name}{likely}{last_words}", {"signal": name}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads its own session, and its children there, which would keep its pipes open."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _pump(stream: IO[bytes], answers: queue.Queue[bytes]) -> None:
    """Move lines into a queue, which supports a timeout; an empty line marks the end."""
    try:
        for line in stream:
            answers.put(line)
    except (OSError, ValueError):
        pass  # closed meanwhile by `close`, which also is the end
    answers.put(b"")


def serve(entry: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """The worker's loop: reads the settings, then answers each request with a row until the pipe closes."""
    module, _, name = entry.partition(":")
    measurer = getattr(import_module(module), name).from_settings(requests.readline())
    worker_pid = os.getpid()
    for line in requests:
        request = msgspec.json.decode(line, type=Request)
        try:
            if request.prepare:
                answer = Answer(measurer.prepare(request.case))
            else:
                answer = Answer(*measurer.measure(request.case, request.visit, request.details))
        finally:
            if os.getpid() != worker_pid:
                os._exit(0)  # a process forked by the model; only the worker answers
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def main() -> None:
    """Entry point of the worker process."""
    answers = os.fdopen(os.dup(1), "wb")
    # Output to stdout, in Python or below, must not appear between two answers.
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
