"""A campaign: every case of a plan gets several short visits in random order over the whole time, so its standard error comes
from the spread between visits (docs/measuring.md). Each visit is on disk before the next begins; Ctrl-C, SIGTERM, a full disk or
a crash lose at most the visit in flight."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import msgspec

from shmoo.estimators.errors import InputError, StorageError
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.campaign.ahead import compile_ahead, helpers_for
from shmoo.harness.campaign.schedule import Schedule
from shmoo.harness.campaign.worker import CaseMeasurer, Worker
from shmoo.harness.machine.doctor import available_bytes, own_versions
from shmoo.harness.measuring.timing import MeasureSettings
from shmoo.runs.store.records import AxisValue, CaseSpec, Machine, RunManifest, Timing, utc_now
from shmoo.runs.store.store import Run, RunWriter, SkippedCase

LOCK = "shmoo-measuring.lock"
STAGE, COMPILING, WAITING = "measuring", "compiling", "machine in use"
"""Stages that a campaign reports: the second while it compiles ahead of first visits, the third while another campaign measures
on this machine."""
CASES_A_HELPER = 4
"""Cases to compile that justify another process."""
Compilers = Callable[[int], list[Worker]]
"""Number of cases -> processes that compile them ahead: the worker and its helpers; none if there is no room for a helper."""


class CampaignSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings of a campaign.

    Attributes:
        measure: how each visit is measured.
        visits: fewest visits to every case.
        most_visits: most visits to a case whose standard error stays large; networks may have more.
        precision: relative standard error below which a case needs no further visit.
        case_timeout_s: longest time for one visit in a worker, compilation included.
        budget_s: time after which no visit starts, including the wait for another campaign; unvisited cases are listed in
            skipped.json with the reason. `None` for no limit.
        details_share: share of the budget for visits with energy windows, memory and child times; later cases have none.
        seed: seed of the order of visits.
        shuffle: first visits in random order; otherwise in the given order.
        lock: file that excludes a second campaign on the machine, by default in the system's temporary directory.
        lock_wait_s: how long to wait for another campaign to end, within the budget.
    """

    measure: MeasureSettings = MeasureSettings()
    visits: int = 3
    most_visits: int = 8
    precision: float = 0.02
    case_timeout_s: float = 600.0
    budget_s: float | None = None
    details_share: float = 0.35
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
    measurer: CaseMeasurer | None = None,
    facts: Mapping[str, AxisValue | None] | None = None,
    versions: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    reserved_s: Callable[[], float] = lambda: 0.0,
) -> Path:
    """Measure `cases` into the run at `out`; cases that the budget does not reach are in `Run.skipped`.

    Args:
        cases: cases to visit; duplicates count once.
        machine: this machine; a resumed run must come from the same one.
        resume: continue the run at `out`, including its visits.
        progress: called before each visit and at the end.
        measurer: visits the cases instead of a worker process; the caller closes it.
        facts: further settings and findings about the machine for the manifest of a new run, such as `allocation.buffer_costs`.
        versions: versions of the measuring software, if it is not this process's.
        reserved_s: called before each visit; returns the part of the budget that is needed for other work.

    Raises:
        InputError: a run exists and `resume` is false, it is from another machine, or another campaign is measuring.
        StorageError: the disk is full or failing; finished visits are kept, as with Ctrl-C or SIGTERM (`KeyboardInterrupt`).
    """
    settings, report = settings or CampaignSettings(), progress or silent
    if settings.budget_s is not None and not 0 <= settings.budget_s < math.inf:
        raise InputError(f"the budget is {settings.budget_s} s; give a number of seconds, or None for no limit")
    path = Path(out)
    cases = tuple({case.identity: case for case in cases}.values())
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        time_spent = _TimeSpent(settings.budget_s, reserved_s, clock)
        stack.enter_context(machine_lock(settings, lambda text: report(Standing(WAITING, now=text))))
        manifest = manifest_of(settings, suite, machine, facts or {}, own_versions() if versions is None else versions)
        writer = stack.enter_context(RunWriter(path, manifest, resume=resume))
        schedule = Schedule(cases, settings)
        for line in Run.open(path).lines:
            schedule.add(line)
        compilers = None
        if measurer is None:
            measurer, compilers = stack.enter_context(_worker(settings, machine))
        _visit_all(schedule, writer, measurer, compilers, settings, time_spent, report)
    return path


class _TimeSpent:
    """The time spent by a campaign from now on, and the rest of its budget."""

    def __init__(self, budget_s: float | None, reserved_s: Callable[[], float], clock: Callable[[], float]) -> None:
        self._budget_s, self._reserved_s, self._clock = budget_s, reserved_s, clock
        self._begin = clock()

    def __call__(self) -> float:
        """Seconds since the campaign began."""
        return self._clock() - self._begin

    def left_s(self) -> float | None:
        """Seconds left for visits; `None` without a limit."""
        return None if self._budget_s is None else self._budget_s - self._reserved_s() - self()


def manifest_of(
    settings: CampaignSettings, suite: str, machine: Machine, facts: Mapping[str, AxisValue | None], versions: Mapping[str, str]
) -> RunManifest:
    """The manifest (run.json) of a campaign that starts now; arguments as for `run_campaign`."""
    return RunManifest(
        machine=machine,
        suite=suite,
        versions=dict(versions),
        settings=_flat(msgspec.to_builtins(settings)) | {"visits": settings.visits, "isolate": True} | dict(facts),
        started_at=utc_now(),
    )


def _visit_all(
    schedule: Schedule,
    writer: RunWriter,
    measurer: CaseMeasurer,
    compilers: Compilers | None,
    settings: CampaignSettings,
    time_spent: _TimeSpent,
    report: Progress,
) -> None:
    details_s = 0.0
    compiled: dict[str, Timing] = {}
    while (case := schedule.next(time_spent.left_s())) is not None:
        if compilers is not None and (waiting := schedule.uncompiled(case)):
            processes, compilers = compilers(len(waiting)), None
            if processes:
                compiled = _compiled_ahead(processes, waiting, schedule, time_spent, report)
                schedule.put_back(case)  # if compiling used up its time, an uncompiled case has to wait
                continue
        left_s = time_spent.left_s()
        if left_s is not None and left_s <= 0:
            break
        begin_s = time_spent()
        report(_standing(schedule, case.label, begin_s, left_s))
        # Details take long, so they wait for the second visit, after the first visits of all cases. If the first visit was lost,
        # only they capture the graph.
        affordable = settings.budget_s is None or details_s < settings.details_share * settings.budget_s
        visits, number = schedule.visits_of(case), schedule.number_of(case)
        details = visits == min(1, settings.visits - 1) if affordable else visits <= 1 and number > visits
        row, graphs = measurer.measure(case, number, details)
        if row.timing is not None and (before := compiled.pop(case.identity, None)) is not None:
            timing = msgspec.structs.replace(row.timing, first_call_s=before.first_call_s, compile_s=before.compile_s)
            row = msgspec.structs.replace(row, timing=timing)
        with storing(writer):
            writer.append(row, graphs)
        taken_s = time_spent() - begin_s
        details_s += taken_s if details else 0.0
        schedule.add(row, taken_s)
    reason = f"time budget of {settings.budget_s or 0.0:.0f} s used up; continue with --resume"
    with storing(writer):
        writer.record_skipped(SkippedCase(case, reason) for case in schedule.unvisited())
    schedule.judge()
    report(_standing(schedule, "done", time_spent(), 0.0))


def _compiled_ahead(
    processes: Sequence[Worker], cases: Sequence[CaseSpec], schedule: Schedule, time_spent: _TimeSpent, report: Progress
) -> dict[str, Timing]:
    """Compile ahead within the time for first visits; returns the timing of each compilation."""
    begin_s, limit_s = time_spent(), schedule.compiling_left_s()

    def enough(done_count: int) -> bool:
        spent_s = time_spent() - begin_s
        report(Standing(COMPILING, done_count, len(cases), spent_s=spent_s))
        return spent_s >= limit_s

    rows = compile_ahead(processes[0], processes[1:], cases, enough)
    schedule.add_compiled((row.case for row in rows), time_spent() - begin_s)
    return {row.case.identity: row.timing for row in rows if row.timing is not None}


def _standing(schedule: Schedule, current_action: str, spent_s: float, left_s: float | None) -> Standing:
    known_s = schedule.left_s()
    if known_s is not None:
        left_s = known_s if left_s is None else min(known_s, left_s)
    counts = schedule.counts()
    return Standing(
        STAGE,
        done=sum(counts.values()),
        total=len(schedule.cases),
        visits=schedule.visits_in_all,
        **counts,
        now=current_action,
        left_s=None if left_s is None else max(left_s, 0.0),
        spent_s=spent_s,
    )


@contextmanager
def storing(writer: RunWriter) -> Iterator[None]:
    """While active, a failed write into a run becomes a `StorageError` with the remedy."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to {writer.path}: {error.strerror or error}; finished visits are kept, make room and continue with "
            "--resume"
        ) from error


@contextmanager
def _worker(settings: CampaignSettings, machine: Machine) -> Iterator[tuple[Worker, Compilers]]:
    """The process that visits the cases, and the function that starts helpers for compiling ahead."""
    measure = settings.measure
    if measure.threads is None:
        # Rows and fingerprint must mean the same number of threads.
        measure = msgspec.structs.replace(measure, threads=machine.threads)

    def compilers(cases: int) -> list[Worker]:
        keeps_nothing = msgspec.json.encode(msgspec.structs.replace(measure, kept_share=0.0))
        count = min(helpers_for(machine.cores_physical, available_bytes()), cases // CASES_A_HELPER)
        helpers = [Worker(keeps_nothing, settings.case_timeout_s) for _ in range(count)]
        return [worker, *helpers] if helpers else []

    with Worker(msgspec.json.encode(measure), settings.case_timeout_s) as worker:
        yield worker, compilers


@contextmanager
def machine_lock(settings: CampaignSettings, waiting: Callable[[str], object]) -> Iterator[None]:
    """Hold the machine's lock, since two campaigns at once would disturb each other. If another campaign holds it, `waiting` is
    called with a message; `InputError` where it is still held after the waiting time, or cannot be taken."""
    path = Path(settings.lock) if settings.lock else Path(tempfile.gettempdir()) / LOCK
    # Every user of the machine must be able to take it.
    lock = filelock.FileLock(path, mode=0o666)
    wait_s = min(settings.lock_wait_s, math.inf if settings.budget_s is None else settings.budget_s)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            holder = _holder(path)
            holder_text = "another campaign" + (f" (process {holder})" if holder else "")
            waiting(f"waiting up to {wait_s:.0f} s for {holder_text}, which holds {path}")
            lock.acquire(timeout=wait_s)
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


def _holder(path: Path) -> int | None:
    """The process that holds a lock, on Linux and for processes in the same container; otherwise `None`."""
    try:
        status, locks = path.stat(), Path("/proc/locks").read_text()
    except OSError:
        return None
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = [int(fields[-4]) for line in locks.splitlines() if (fields := line.split())[-3] == inode and "->" not in fields]
    return next((process for process in holders if process > 0), None)


@contextmanager
def _terminable() -> Iterator[None]:
    """While active, SIGTERM ends a campaign as Ctrl-C does. Signals can only be handled in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _flat(settings: dict, prefix: str = "") -> dict[str, AxisValue | None]:
    """{"measure": {"threads": 2}} as {"measure.threads": 2}: the settings that differ from the defaults, for the manifest."""
    flat: dict[str, AxisValue | None] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
