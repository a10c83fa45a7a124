"""Compiling ahead of first visits, by processes that share one queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shmoo.harness.campaign import ahead, campaign
from shmoo.harness.campaign.ahead import HELPER_BYTES, MOST_PROCESSES, compile_ahead, helpers_for
from shmoo.harness.campaign.campaign import COMPILING, CampaignSettings, run_campaign
from shmoo.harness.campaign.worker import DEFAULT_ENTRY, Worker
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, Timing
from shmoo.runs.store.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
KINDS = ("network", "operator", "synthetic")
CASES = [CaseSpec(f"{kind}{i}", kind, runtime="inductor") for kind in KINDS for i in range(4)]


class Process:
    """Compiles in no time, once all of `meet` are there; fails at the named cases as a process that died does."""

    def __init__(self, meet: threading.Barrier | None = None, dies_at: str = "", hangs: bool = False) -> None:
        self.taken: list[CaseSpec] = []
        self.closed = False
        self._meet, self._dies_at = meet, dies_at
        self._interrupted = threading.Event()
        self._hangs = hangs

    def prepare(self, case: CaseSpec) -> Measurement:
        self.taken.append(case)
        if self._meet is not None:
            self._meet.wait(10)
        if self._hangs:
            assert self._interrupted.wait(10)
        if self._hangs or case.workload == self._dies_at:
            return Measurement(case, "failed", (Reason("worker", "its process was ended by SIGKILL"),))
        if case.workload == "broken":
            return Measurement(case, "failed", (Reason("error", "on purpose"),))
        return Measurement(case, "ok", timing=Timing((), first_call_s=2.0, compile_s=1.0))

    def interrupt(self) -> None:
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        return self._interrupted.is_set()

    def close(self) -> None:
        self.closed = True


def never(done: int) -> bool:
    return False


def test_processes_take_cases_from_both_ends_and_networks_last() -> None:
    """In step with each other, two processes meet in the middle of the queue; every case is compiled once."""
    meet = threading.Barrier(2)
    worker, helper = Process(meet), Process(meet)
    rows = compile_ahead(worker, [helper], CASES, never)
    assert sorted(row.case.identity for row in rows) == sorted(case.identity for case in CASES)
    assert [case.kind for case in worker.taken] == ["synthetic"] * 4 + ["network"] * 2
    assert [case.kind for case in helper.taken] == ["operator"] * 4 + ["network"] * 2
    assert (worker.closed, helper.closed) == (False, True)


def test_a_process_that_dies_loses_its_case_alone() -> None:
    """The helper takes no other case, the worker all that are left; a case that cannot be compiled ends neither."""
    worker, helper = Process(), Process(dies_at="operator0")
    broken = CaseSpec("broken", "operator", runtime="inductor")
    rows = compile_ahead(worker, [helper], [CASES[4], broken, *CASES[5:8]], never)
    assert helper.taken in ([], [CASES[4]])
    assert {row.case.workload for row in rows} >= {f"operator{i}" for i in (1, 2, 3)}
    assert "broken" not in {row.case.workload for row in rows}


def test_nothing_is_begun_after_it_is_enough() -> None:
    """A third of the cases are done when the time is up; what is under way is finished."""

    class Slow(Process):
        def prepare(self, case: CaseSpec) -> Measurement:
            time.sleep(0.1)
            return super().prepare(case)

    rows = compile_ahead(Slow(), [Slow()], CASES * 4, lambda done: True)
    assert 0 < len(rows) < len(CASES) * 4


def test_an_interruption_ends_what_the_processes_do() -> None:
    """Ctrl-C while both hang: both are ended, and the helper is closed."""

    def interrupt(done: int) -> bool:
        raise KeyboardInterrupt

    worker, helper = Process(hangs=True), Process(hangs=True)
    with pytest.raises(KeyboardInterrupt):
        compile_ahead(worker, [helper], CASES, interrupt)
    assert len(worker.taken) == len(helper.taken) == 1
    assert helper.closed


def test_a_compilation_that_hangs_is_ended_soon_after_it_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a while when the time is up, and not for as long as a case may take."""
    monkeypatch.setattr(ahead, "LAST_S", 0.2)
    worker, helper = Process(hangs=True), Process(hangs=True)
    assert compile_ahead(worker, [helper], CASES, lambda done: True) == []
    assert worker.interrupted
    assert helper.interrupted


@pytest.mark.parametrize(
    ("cores", "helpers_bytes", "count"),
    [(1, 9.0, 0), (2, 9.0, 1), (2, 0.9, 0), (64, 2.5, 2), (64, 90.0, MOST_PROCESSES - 1), (2, 0.0, 0)],
)
def test_cores_and_memory_limit_the_helpers(cores: int, helpers_bytes: float, count: int) -> None:
    """One core, or too little memory for a further process, leave all to the worker."""
    assert helpers_for(cores, helpers_bytes * HELPER_BYTES) == count


@pytest.fixture
def run_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A campaign over twelve compiled and two eager cases in stand-in processes, which keep a journal of what they do."""
    journal = tmp_path / "journal"
    monkeypatch.setenv("SHMOO_TEST_JOURNAL", str(journal))
    entry = "tests.harness.campaign.worker_stand_in:Compiling"
    monkeypatch.setattr(campaign, "Worker", lambda settings, timeout_s: Worker(settings, timeout_s, entry))
    eager = [CaseSpec("relu", "operator", {"m": m}) for m in (1, 2)]

    def start(
        available: float = 9.0, clock: Callable[[], float] = time.monotonic, **settings: float
    ) -> tuple[Run, list[list[str]], list]:
        monkeypatch.setattr(campaign, "available_bytes", lambda: available * HELPER_BYTES)
        said: list = []
        run_campaign(
            [*eager, *CASES],
            tmp_path / "run",
            suite="quick",
            machine=MACHINE,
            settings=CampaignSettings(visits=2, most_visits=2, shuffle=False, lock=str(tmp_path / "lock"), **settings),
            progress=said.append,
            clock=clock,
        )
        return Run.open(tmp_path / "run"), [line.split() for line in journal.read_text().splitlines()], said

    return start


def test_a_campaign_compiles_in_two_processes_while_it_measures_nothing(run_compiled) -> None:
    """After the eager first visits all cases are compiled, each once, by the worker and a helper, then visited; rows say how long
    their compilation took and not how long the cache did."""
    run, journal, said = run_compiled()
    compiled = [(pid, workload) for what, pid, workload in journal if what == "prepare"]
    assert sorted(workload for _, workload in compiled) == sorted(case.workload for case in CASES)
    assert len({pid for pid, _ in compiled}) == 2
    words = [what for what, _, _ in journal]
    assert words == ["measure"] * 2 + ["prepare"] * 12 + ["measure"] * (2 * 14 - 2)
    assert {pid for what, pid, _ in journal if what == "measure"} == {journal[0][1]}
    assert {row.timing.compile_s for row in run.rows if row.case.runtime == "inductor"} == {7.0}
    assert any(standing.stage == COMPILING and standing.total == 12 for standing in said)
    assert (said[-1].done, said[-1].ok) == (14, 14)


def test_without_memory_for_a_helper_visits_compile(run_compiled) -> None:
    """Nothing is compiled ahead."""
    run, journal, _ = run_compiled(available=0.5)
    assert {what for what, _, _ in journal} == {"measure"}
    assert {row.timing.compile_s for row in run.rows if row.case.runtime == "inductor"} == {0.1}


def test_what_was_not_compiled_in_time_waits(run_compiled, monkeypatch) -> None:
    """Both processes die at once after 70 of 100 s, more than compiling may take: the case that was to come next waits, as the
    others that are not compiled do, until all that is eager has had its visits."""
    now = [0.0]

    def die(*given: object) -> list[Measurement]:
        now[0] += 70.0
        return []

    monkeypatch.setattr(campaign, "compile_ahead", die)
    run, journal, _ = run_compiled(clock=lambda: now[0], budget_s=100.0)
    assert {workload for _, _, workload in journal[:4]} == {"relu"}
    assert len(run.rows) == 14


def test_a_measurer_prepares_what_its_first_visit_finds() -> None:
    """Building counts once, and the row has no samples."""
    pytest.importorskip("torch")
    settings = msgspec.json.encode(None)
    case = CaseSpec("relu", "operator", {"rows": 8, "cols": 8})
    with Worker(settings, entry=DEFAULT_ENTRY) as worker:
        row = worker.prepare(case)
        assert (row.status, row.timing.samples_s, row.case) == ("ok", (), case)
        first, _ = worker.measure(case)
    assert first.timed
    assert first.timing.first_call_s == row.timing.first_call_s
