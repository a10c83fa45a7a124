"""A campaign: every case of a plan is visited several times, for a moment each, in random order over the whole time.

    first visits of all cases -> further visits, round by round -> rounds of the cases that are known worst, until all are known

Visits spread over the campaign meet the machine in many states, so that a case's time is that of the machine as it is and its
standard error comes from the spread between visits. Whenever a campaign stops, its run is balanced. Each visit is on disk before
the next begins; Ctrl-C, SIGTERM, a full disk or a crash lose at most the visit in flight.
"""

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
from shmoo.harness.machine.doctor import own_versions
from shmoo.harness.machine.memory import available_bytes
from shmoo.harness.measuring.timing import MeasureSettings
from shmoo.runs.store.records import AxisValue, CaseSpec, Machine, Measurement, RunManifest, Timing, utc_now
from shmoo.runs.store.store import Run, RunWriter, SkippedCase

LOCK = "shmoo-measuring.lock"


STAGE, COMPILING, WAITING = "measuring", "compiling", "machine in use"
"""Stages that a campaign reports: the second while it compiles ahead of first visits, the third while another campaign measures
here."""
CASES_A_HELPER = 4
"""Cases to compile for which it pays to start a further process."""
Ahead = Callable[[Sequence[CaseSpec], Callable[[int], bool]], list[Measurement]]
"""Compiles as many of the cases as it can until the second argument, given their number so far, says that it is enough."""


class CampaignSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a campaign runs.

    Attributes:
        measure: how each visit is measured.
        visits: how often every case is visited at least.
        most_visits: how often a case whose standard error stays large is visited at most; networks more often.
        precision: relative standard error at which a case needs no further visit.
        case_timeout_s: longest time for one visit in a worker, compilation included.
        budget_s: no visit starts after this time, of which waiting for another campaign is a part; cases not visited by then
            are listed in skipped.json with the reason. `None` for no limit.
        details_share: part of the budget that visits with energy windows, memory and child times may take; cases beyond it go
            without.
        seed: of the order of the visits.
        shuffle: first visits in random order; otherwise in the order given.
        lock: file that keeps two campaigns on one machine apart, by default one in the system's temporary directory.
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


def nothing_reserved() -> float:
    """The whole budget is for visits."""
    return 0.0


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
    measurer: CaseMeasurer | None = None,
    facts: Mapping[str, AxisValue | None] | None = None,
    versions: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    reserved_s: Callable[[], float] = nothing_reserved,
) -> Path:
    """Measure `cases` into the run at `out`.

    Args:
        cases: one given twice counts once.
        machine: where we are; a resumed run must have been measured on the same.
        resume: go on with the run at `out`: visits that it has count.
        isolate: measure in a worker process; otherwise in this one.
        progress: told before each visit and at the end.
        measurer: visits the cases in place of a worker or this process; the caller closes it.
        facts: further settings and findings about the machine for the manifest of a new run, such as `allocation.buffer_costs`.
        versions: of the software that measures, where it is not this process's.
        reserved_s: asked before each visit for the part of the budget that turned out to be needed for something else.

    Returns:
        The run's directory. Cases that the budget left out are in `Run.skipped`.

    Raises:
        InputError: a run is there and `resume` is false, the run is of another machine, or another campaign is measuring.
        StorageError: the disk is full or failing; finished visits are kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished visits are kept.
    """
    settings, report = settings or CampaignSettings(), progress or silent
    if settings.budget_s is not None and not 0 <= settings.budget_s < math.inf:
        raise InputError(f"the budget is {settings.budget_s} s; give a number of seconds, or None for no limit")
    path = Path(out)
    cases = tuple({case.identity: case for case in cases}.values())
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        begin = clock()
        stack.enter_context(machine_lock(settings, lambda text: report(Standing(WAITING, now=text))))
        manifest = manifest_of(settings, suite, machine, facts or {}, own_versions() if versions is None else versions, isolate)
        writer = stack.enter_context(RunWriter(path, manifest, resume=resume))
        schedule = Schedule(cases, settings)
        for line in Run.open(path).lines:
            schedule.add(line)
        ahead = None
        if measurer is None:
            measurer, ahead = stack.enter_context(_measurer(settings, machine, isolate))
        _visit_all(schedule, writer, measurer, ahead, settings, report, clock, reserved_s, begin)
    return path


def manifest_of(
    settings: CampaignSettings,
    suite: str,
    machine: Machine,
    facts: Mapping[str, AxisValue | None],
    versions: Mapping[str, str],
    isolate: bool = True,
) -> RunManifest:
    """run.json of a campaign that starts now; arguments as for `run_campaign`."""
    return RunManifest(
        machine=machine,
        suite=suite,
        versions=dict(versions),
        settings=_flat(msgspec.to_builtins(settings)) | {"visits": settings.visits, "isolate": isolate} | dict(facts),
        started_at=utc_now(),
    )


def _visit_all(
    schedule: Schedule,
    writer: RunWriter,
    measurer: CaseMeasurer,
    ahead: Ahead | None,
    settings: CampaignSettings,
    report: Progress,
    clock: Callable[[], float],
    reserved_s: Callable[[], float],
    begin: float,
) -> None:
    details_s = 0.0
    compiled: dict[str, Timing] = {}

    def budget_s() -> float | None:
        return None if settings.budget_s is None else settings.budget_s - reserved_s()

    def left_s() -> float | None:
        return None if (budget := budget_s()) is None else budget - (clock() - begin)

    while (case := schedule.next(left_s())) is not None:
        if ahead is not None and (waiting := schedule.uncompiled(case)):
            compiled, ahead = _compiled_ahead(ahead, waiting, schedule, report, clock), None
        spent, budget = clock() - begin, budget_s()
        if budget is not None and spent >= budget:
            break
        report(_standing(schedule, case.label, spent, budget))
        # Details take long; on the second visit they let the first visits of all cases come first.
        number = schedule.number_of(case)
        affordable = settings.budget_s is None or details_s < settings.details_share * settings.budget_s
        details = schedule.visits_of(case) == min(1, settings.visits - 1) and affordable
        row, graphs = measurer.measure(case, number, details)
        if row.timing is not None and (before := compiled.pop(case.identity, None)) is not None:
            timing = msgspec.structs.replace(row.timing, first_call_s=before.first_call_s, compile_s=before.compile_s)
            row = msgspec.structs.replace(row, timing=timing)
        with storing(writer):
            writer.append(row, graphs)
        taken = clock() - begin - spent
        details_s += taken if details else 0.0
        schedule.add(row, taken)
    spent = clock() - begin
    reason = f"time budget of {settings.budget_s or 0.0:.0f} s used up; go on with --resume"
    with storing(writer):
        writer.record_skipped(SkippedCase(case, reason) for case in schedule.unvisited())
    schedule.judge()
    report(_standing(schedule, "done", spent, spent))


def _compiled_ahead(
    ahead: Ahead, cases: Sequence[CaseSpec], schedule: Schedule, report: Progress, clock: Callable[[], float]
) -> dict[str, Timing]:
    """Compile ahead for as long as first visits may take; how long each compilation took."""
    begin, limit_s = clock(), schedule.compiling_left_s()

    def enough(done: int) -> bool:
        spent = clock() - begin
        report(Standing(COMPILING, done, len(cases), spent_s=spent))
        return spent >= limit_s

    rows = ahead(cases, enough)
    schedule.add_compiled((row.case for row in rows), clock() - begin)
    return {row.case.identity: row.timing for row in rows if row.timing is not None}


def _standing(schedule: Schedule, now: str, spent: float, budget_s: float | None) -> Standing:
    left = schedule.left_s()
    if budget_s is not None:
        left = budget_s - spent if left is None else min(left, budget_s - spent)
    counts = schedule.counts()
    return Standing(
        STAGE,
        done=sum(counts.values()),
        total=len(schedule.cases),
        visits=schedule.visits_in_all,
        **counts,
        now=now,
        left_s=None if left is None else max(left, 0.0),
        spent_s=spent,
    )


@contextmanager
def storing(writer: RunWriter) -> Iterator[None]:
    """`StorageError` with the remedy where the system refuses what is written into a run."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to {writer.path}: {error.strerror or error}; finished visits are kept, make room and go on with "
            "--resume"
        ) from error


@contextmanager
def _measurer(settings: CampaignSettings, machine: Machine, isolate: bool) -> Iterator[tuple[CaseMeasurer, Ahead | None]]:
    """What visits the cases, and what compiles ahead where that is done by processes."""
    measure = settings.measure
    if measure.threads is None:
        # Rows and fingerprint must mean the same number of threads.
        measure = msgspec.structs.replace(measure, threads=machine.threads)
    if not isolate:
        from shmoo.harness.measuring.measure import Measurer

        yield Measurer(measure), None
        return
    with Worker(msgspec.json.encode(measure), settings.case_timeout_s) as worker:

        def ahead(cases: Sequence[CaseSpec], enough: Callable[[int], bool]) -> list[Measurement]:
            # A card's compiler has processes of its own.
            on_cpu = [case for case in cases if case.device == "cpu"]
            alone = msgspec.json.encode(msgspec.structs.replace(measure, kept_share=0.0))
            count = min(helpers_for(machine.cores_physical, available_bytes()), len(on_cpu) // CASES_A_HELPER)
            helpers = [Worker(alone, settings.case_timeout_s) for _ in range(count)]
            return compile_ahead(worker, helpers, on_cpu, enough) if helpers else []

        yield worker, ahead


@contextmanager
def machine_lock(settings: CampaignSettings, waiting: Callable[[str], object]) -> Iterator[None]:
    """Hold the machine's lock: two campaigns at once would measure each other.

    Args:
        waiting: is told, where another campaign holds it, for how long and for whom we wait.

    Raises:
        InputError: it is still held after that time, or cannot be taken.
    """
    path = Path(settings.lock) if settings.lock else Path(tempfile.gettempdir()) / LOCK
    # Every user of the machine must be able to take it.
    lock = filelock.FileLock(path, mode=0o666)
    wait_s = min(settings.lock_wait_s, math.inf if settings.budget_s is None else settings.budget_s)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            holder = _holder(path)
            who = "another campaign" + (f" (process {holder})" if holder else "")
            waiting(f"waiting up to {wait_s:.0f} s for {who}, which holds {path}")
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
    """The process that holds a lock, where the system tells: Linux does, of processes of the same container."""
    try:
        status, held = path.stat(), Path("/proc/locks").read_text()
    except OSError:
        return None
    where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = [int(fields[-4]) for line in held.splitlines() if (fields := line.split())[-3] == where and "->" not in fields]
    return next((process for process in holders if process > 0), None)


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
    """{"measure": {"threads": 2}} as {"measure.threads": 2}: what differs from the defaults, for the manifest."""
    found: dict[str, AxisValue | None] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found
