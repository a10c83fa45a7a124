import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import msgspec
import pytest

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.harness.campaign import CampaignSettings, run_campaign
from shmoo.harness.worker import Worker
from shmoo.runs.records import CaseSpec, Machine, Measurement, Timing
from shmoo.runs.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
CASES = [CaseSpec("relu", "operator", {"m": m}) for m in range(8)]


def ids(cases):
    return {case.identity for case in cases}


class FakeMeasurer:
    """Notes what it is asked for; `before` may raise or advance a clock."""

    def __init__(self, before=lambda case: None):
        self.asked = []
        self._before = before

    def measure(self, case, pass_index=0):
        self._before(case)
        self.asked.append((case, pass_index))
        return Measurement(case, "ok", timing=Timing((1e-3,)), pass_index=pass_index), ()


@pytest.fixture
def campaign(tmp_path):
    def start(cases=CASES, measurer=None, machine=MACHINE, resume=False, passes=1, progress=None, clock=None, **settings):
        settings.setdefault("lock", str(tmp_path / "lock"))
        extra = {"clock": clock} if clock else {}
        return run_campaign(
            cases,
            tmp_path / "run",
            suite="quick",
            machine=machine,
            settings=CampaignSettings(**settings),
            resume=resume,
            passes=passes,
            progress=progress,
            measurer=measurer or FakeMeasurer(),
            **extra,
        )

    return start


def test_every_case_has_a_row_for_each_pass(campaign):
    """Eight cases in two passes are sixteen rows."""
    run = Run.open(campaign(passes=2))
    assert {(row.case.identity, row.pass_index) for row in run.rows} == {(identity, n) for identity in ids(CASES) for n in (0, 1)}
    assert len(run.rows) == 16
    assert run.manifest.suite == "quick"
    assert run.skipped == ()


def test_order_is_random_and_repeatable(campaign, tmp_path):
    """Each pass has its own order, the same for the same seed; without shuffling cases come as given."""
    first = FakeMeasurer()
    campaign(measurer=first, passes=2)
    orders = [[case for case, n in first.asked if n == number] for number in (0, 1)]
    assert orders[0] != CASES
    assert orders[0] != orders[1]
    (tmp_path / "run").rename(tmp_path / "first")
    again = FakeMeasurer()
    campaign(measurer=again, passes=2)
    assert again.asked == first.asked
    (tmp_path / "run").rename(tmp_path / "second")
    plain = FakeMeasurer()
    campaign(measurer=plain, shuffle=False)
    assert [case for case, _ in plain.asked] == CASES


def test_a_case_given_twice_is_measured_once(campaign):
    """Cases are known by what they ask."""
    assert len(Run.open(campaign(cases=CASES[:2] * 2)).rows) == 2


def test_an_interruption_keeps_finished_rows_and_resume_goes_on(campaign, tmp_path):
    """Ctrl-C at the fourth case leaves three rows; resuming measures the other five only."""

    def interrupt(case):
        if len(broken.asked) == 3:
            raise KeyboardInterrupt

    broken = FakeMeasurer(interrupt)
    with pytest.raises(KeyboardInterrupt):
        campaign(measurer=broken)
    assert len(Run.open(tmp_path / "run").rows) == 3
    rest = FakeMeasurer()
    campaign(measurer=rest, resume=True)
    assert len(rest.asked) == 5
    assert ids(case for case, _ in broken.asked + rest.asked) == ids(CASES)


def test_sigterm_ends_a_campaign_as_ctrl_c_does(campaign, tmp_path):
    """A polite kill keeps finished rows, and the old handler is back afterwards."""
    before = signal.getsignal(signal.SIGTERM)

    def terminate(case):
        if len(measurer.asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    measurer = FakeMeasurer(terminate)
    with pytest.raises(KeyboardInterrupt):
        campaign(measurer=measurer)
    assert len(Run.open(tmp_path / "run").rows) == 2
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu_model": "Other CPU"}, "cpu_model was 'Example CPU', is 'Other CPU'"),
        ({"gpu_model": "Example GPU"}, "gpu_model was None, is 'Example GPU'"),
        ({"driver": "555.42"}, "driver was None, is '555.42'"),
        ({"torch": "2.10.0"}, "torch was '2.9.0', is '2.10.0'"),
        ({"clock_policy": "performance, turbo off"}, "clock_policy was None, is 'performance, turbo off'"),
        ({"threads": 4}, "threads was 2, is 4"),
    ],
)
def test_resume_refuses_another_machine_driver_torch_or_clock_setting(campaign, change, said):
    """The differing field is named with both values and nothing is measured."""
    campaign(cases=CASES[:1])
    measurer = FakeMeasurer()
    with pytest.raises(InputError, match=re.escape(said)):
        campaign(measurer=measurer, machine=msgspec.structs.replace(MACHINE, **change), resume=True)
    assert measurer.asked == []


def test_an_existing_run_needs_resume(campaign):
    """Nothing measured is overwritten."""
    campaign(cases=CASES[:1])
    with pytest.raises(InputError, match="--resume"):
        campaign(cases=CASES[:1])


def test_cases_beyond_the_budget_are_listed_and_not_dropped(campaign):
    """At 10 s a case, a budget of 25 s starts three cases; the other five are named with the reason, and resume takes them."""
    now = [0.0]

    def advance(case):
        now[0] += 10

    said = []
    path = campaign(
        measurer=FakeMeasurer(advance), clock=lambda: now[0], budget_s=25.0, progress=lambda *event: said.append(event)
    )
    run = Run.open(path)
    assert len(run.rows) == 3
    assert ids(skipped.case for skipped in run.skipped) == ids(CASES) - ids(row.case for row in run.rows)
    assert "budget of 25 s" in run.skipped[0].reason
    assert "5 cases skipped" in said[-1][2]
    campaign(resume=True)
    assert Run.open(path).skipped == ()
    assert len(Run.open(path).rows) == 8


def test_progress_counts_and_estimates_the_time_left(campaign):
    """After one case of 10 s, the seven left take 70 s."""
    now = [0.0]

    def advance(case):
        now[0] += 10

    said = []
    campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], progress=lambda *event: said.append(event))
    assert said[0][:2] == (0, 8)
    assert said[0][3] is None
    assert said[1][:2] == (1, 8)
    assert said[1][3] == pytest.approx(70)
    assert said[-1] == (8, 8, "done", 0.0)


def test_a_full_disk_says_what_is_kept(campaign, tmp_path, monkeypatch):
    """The error names the directory and the remedy; the rows before stay."""

    def fill(case):
        if len(measurer.asked) == 2:
            monkeypatch.setattr(os, "fsync", full)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    measurer = FakeMeasurer(fill)
    with pytest.raises(ShmooError, match=r"No space left.*--resume"):
        campaign(measurer=measurer)
    monkeypatch.undo()
    assert len(Run.open(tmp_path / "run").rows) == 2


def test_findings_about_the_machine_are_in_the_manifest(tmp_path):
    """Facts stand beside the settings of a new run."""
    facts = {"measured.fresh_s_per_byte": 2e-10}
    settings = CampaignSettings(lock=str(tmp_path / "lock"))
    run_campaign(
        CASES[:1], tmp_path / "run", suite="quick", machine=MACHINE, settings=settings, measurer=FakeMeasurer(), facts=facts
    )
    assert Run.open(tmp_path / "run").manifest.settings["measured.fresh_s_per_byte"] == 2e-10


def test_two_campaigns_do_not_measure_at_once(campaign, tmp_path):
    """The second refuses when the first does not end in time, and names the lock."""
    said = []
    with filelock.FileLock(tmp_path / "lock"), pytest.raises(InputError, match="another campaign is measuring"):
        campaign(lock_wait_s=0.0, progress=lambda *event: said.append(event))
    assert "waiting" in said[0][2]
    assert not (tmp_path / "run").exists()


def test_campaigns_run_outside_the_main_thread(campaign, tmp_path):
    """Without a main thread there is no signal to handle, and the campaign runs."""
    thread = threading.Thread(target=campaign)
    thread.start()
    thread.join()
    assert len(Run.open(tmp_path / "run").rows) == 8


# worker processes


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with Worker(entry="worker_stand_in:StandIn", timeout_s=30.0) as worker:
        yield worker


def ask(worker, workload):
    row, _ = worker.measure(CaseSpec(workload, "operator"), 1)
    assert row.pass_index == 1
    return row


def test_a_worker_is_used_for_case_after_case(worker):
    """Two cases, one process; what they print is kept out of the answers."""
    first, second = ask(worker, "noisy"), ask(worker, "plain")
    assert (first.status, second.status) == ("ok", "ok")
    assert first.host["pid"] == second.host["pid"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        ("crash", "its process ended with exit code 3; last words: out of luck"),
        ("segfault", "its process was ended by SIGSEGV (segmentation fault)"),
        ("killed", "its process was ended by SIGKILL, most likely by the system for lack of memory"),
        ("other", "its process answered for another case"),
    ],
)
def test_a_worker_that_dies_or_misbehaves_costs_its_case_only(worker, workload, reason):
    """The case fails with the reason and the next one gets a new process."""
    row = ask(worker, workload)
    assert row.status == "failed"
    assert row.reasons[0].startswith(reason)
    assert ask(worker, "plain").status == "ok"


def test_a_worker_that_hangs_is_ended(worker, monkeypatch):
    """After its time limit the process is killed, the case fails, and the next one runs."""
    pid = ask(worker, "plain").host["pid"]
    worker._timeout_s = 0.3
    assert "no answer within 0 s" in ask(worker, "hang").reasons[0]
    worker._timeout_s = 30.0
    assert ask(worker, "plain").host["pid"] != pid


def test_a_failed_case_is_followed_by_a_fresh_process(worker):
    """What a failure leaves behind, such as a poisoned device, does not reach the next case."""
    failed, after = ask(worker, "failing"), ask(worker, "plain")
    assert failed.reasons == ("on purpose",)
    assert failed.host["pid"] != after.host["pid"]


def test_starting_a_campaign_does_not_import_torch():
    """torch is imported by the worker, not by the command that owns it."""
    code = "import sys; import shmoo.harness.campaign; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
