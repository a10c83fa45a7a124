"""A campaign: many cases measured into one run, each row on disk before the next case begins.

Cases are shuffled, once for each pass, so that the drift of a machine shows as spread and not as bias. Ctrl-C, SIGTERM, a full
disk or a crash lose at most the case in flight.
"""

from __future__ import annotations

import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock
import msgspec

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.records import Graph
from shmoo.harness.machine import version_of
from shmoo.harness.settings import MeasureSettings
from shmoo.harness.worker import CaseMeasurer, Worker
from shmoo.runs.records import AxisValue, CaseSpec, Machine, Measurement, RunManifest
from shmoo.runs.store import Run, RunWriter, SkippedCase

Progress = Callable[[int, int, str, float | None], None]
"""Called with cases done, cases in all, what happens now, and seconds left (`None` while unknown)."""

VERSIONS = ("shmoo", "torch", "torchvision", "numpy", "triton", "nvidia-ml-py", "pyRAPL")
LOCK = "shmoo-measuring.lock"


class CampaignSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a campaign runs.

    Attributes:
        measure: how each case is measured.
        case_timeout_s: longest time for one case in a worker, compilation included.
        budget_s: no case starts after this time; those left are listed in skipped.json with the reason. `None` for no limit.
        seed: of the order of the cases.
        shuffle: measure in random order; otherwise in the order given.
        lock: file that keeps two campaigns on one machine apart, by default one in the system's temporary directory.
        lock_wait_s: how long to wait for another campaign to end.
    """

    measure: MeasureSettings = MeasureSettings()
    case_timeout_s: float = 600.0
    budget_s: float | None = None
    seed: int = 0
    shuffle: bool = True
    lock: str = ""
    lock_wait_s: float = 60.0


def run_campaign(
    cases: Sequence[CaseSpec],
    out: str | Path,
    *,
    suite: str,
    machine: Machine,
    settings: CampaignSettings | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    isolate: bool = True,
    passes: int = 1,
    measurer: CaseMeasurer | None = None,
    facts: Mapping[str, AxisValue | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Measure `cases` into the run at `out`.

    Args:
        cases: one given twice is measured once a pass.
        machine: where we are; a resumed run must have been measured on the same.
        resume: skip what the run at `out` has rows for.
        isolate: measure in a worker process; otherwise in this one.
        passes: how often every case is measured; each pass adds rows of its own.
        measurer: measures the cases in place of a worker or this process; the caller closes it.
        facts: further settings and findings about the machine for the manifest of a new run, such as `allocation.buffer_costs`.

    Returns:
        The run's directory. Cases that the budget left out are in `Run.skipped`.

    Raises:
        InputError: a run is there and `resume` is false, the run is of another machine, or another campaign is measuring.
        ShmooError: the disk is full or failing; finished rows are kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished rows are kept.
    """
    settings = settings or CampaignSettings()
    report = progress or _silent
    path = Path(out)
    cases = tuple({case.identity: case for case in cases}.values())
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        stack.enter_context(_alone(settings, lambda text: report(0, len(cases) * passes, text, None)))
        manifest = RunManifest(
            machine=machine,
            suite=suite,
            versions={name: version for name in VERSIONS if (version := version_of(name))},
            settings=_flat(msgspec.to_builtins(settings)) | {"passes": passes, "isolate": isolate} | dict(facts or {}),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        writer = stack.enter_context(RunWriter(path, manifest, resume=resume))
        run = Run.open(path)
        todo = [(case, number) for case, number in _order(cases, passes, settings) if not run.finished(case.identity, number)]
        if measurer is None:
            measurer = stack.enter_context(_measurer(settings, machine, isolate))
        _measure_all(todo, len(cases) * passes, writer, measurer, settings, report, clock)
    return path


def _measure_all(
    todo: list[tuple[CaseSpec, int]],
    total: int,
    writer: RunWriter,
    measurer: CaseMeasurer,
    settings: CampaignSettings,
    report: Progress,
    clock: Callable[[], float],
) -> None:
    begin = clock()
    finished = total - len(todo)
    pace = _Pace()
    for position, (case, number) in enumerate(todo):
        spent = clock() - begin
        if settings.budget_s is not None and spent >= settings.budget_s:
            reason = f"time budget of {settings.budget_s:.0f} s used up; go on with --resume"
            writer.record_skipped(SkippedCase(case, number, reason) for case, number in todo[position:])
            report(finished + position, total, f"{len(todo) - position} cases skipped: {reason}", None)
            return
        report(finished + position, total, case.label, pace.left([case for case, _ in todo[position:]]))
        started = clock()
        row, graphs = measurer.measure(case, number)
        _store(writer, row, graphs)
        pace.took(case, clock() - started)
    writer.record_skipped(())
    report(total, total, "done", 0.0)


def _store(writer: RunWriter, row: Measurement, graphs: Sequence[Graph]) -> None:
    try:
        writer.append(row, graphs)
    except OSError as error:
        raise ShmooError(
            f"cannot write to {writer.path}: {error}; rows before {row.case.label} are kept, make room and go on with --resume"
        ) from error


class _Pace:
    """Time left, from the mean time of the finished cases of the same kind and runtime."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], list[float]] = {}

    def took(self, case: CaseSpec, seconds: float) -> None:
        self._taken.setdefault((case.kind, case.runtime), []).append(seconds)

    def left(self, cases: Sequence[CaseSpec]) -> float | None:
        """Seconds for `cases`; kinds not met yet count as the mean of all. `None` before the first case."""
        times = [seconds for group in self._taken.values() for seconds in group]
        if not times:
            return None
        overall = sum(times) / len(times)
        means = {key: sum(group) / len(group) for key, group in self._taken.items()}
        return sum(means.get((case.kind, case.runtime), overall) for case in cases)


def _order(cases: Sequence[CaseSpec], passes: int, settings: CampaignSettings) -> Iterator[tuple[CaseSpec, int]]:
    """Every case once a pass, each pass in an order of its own that the seed decides."""
    for number in range(passes):
        ordered = list(cases)
        if settings.shuffle:
            random.Random(settings.seed * 1000 + number).shuffle(ordered)
        yield from ((case, number) for case in ordered)


@contextmanager
def _measurer(settings: CampaignSettings, machine: Machine, isolate: bool) -> Iterator[CaseMeasurer]:
    measure = settings.measure
    if measure.threads is None:
        # Rows and fingerprint must mean the same number of threads.
        measure = msgspec.structs.replace(measure, threads=machine.threads)
    if isolate:
        with Worker(msgspec.json.encode(measure), settings.case_timeout_s) as worker:
            yield worker
    else:
        from shmoo.harness.measure import Measurer

        yield Measurer(measure)


@contextmanager
def _alone(settings: CampaignSettings, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the machine's lock: two campaigns at once would measure each other."""
    path = Path(settings.lock) if settings.lock else Path(tempfile.gettempdir()) / LOCK
    # Every user of the machine must be able to take it.
    lock = filelock.FileLock(path, mode=0o666)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting(f"waiting up to {settings.lock_wait_s:.0f} s for another campaign on this machine ({path})")
            lock.acquire(timeout=settings.lock_wait_s)
    except filelock.Timeout:
        raise InputError(
            f"another campaign is measuring on this machine (it holds {path}) and both would disturb each other; "
            "wait until it has ended, then start again"
        ) from None
    except OSError as error:
        raise InputError(f"cannot take the measuring lock {path}: {error}; remove the file or name another one") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a campaign as Ctrl-C does. Signals can be handled in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _flat(settings: dict, prefix: str = "") -> dict[str, AxisValue | None]:
    """{"measure": {"retries": 2}} as {"measure.retries": 2}: what differs from the defaults, for the manifest."""
    found: dict[str, AxisValue | None] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _silent(done: int, total: int, label: str, left_s: float | None) -> None:
    """The progress of a campaign that nobody watches."""
