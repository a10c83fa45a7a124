import errno
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time

import filelock
import msgspec
import pytest

from shmoo.estimators.errors import FormatError, InputError, ShmooError
from shmoo.harness.campaign.campaign import STAGE, WAITING, CampaignSettings, Standing, run_campaign
from shmoo.runs.store.records import CaseSpec, EnergyReading, Machine, Measurement, Reason, Timing
from shmoo.runs.store.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
CASES = [CaseSpec("relu", "operator", {"m": m}) for m in range(8)]


def ids(cases):
    return {case.identity for case in cases}


class FakeMeasurer:
    """Notes what it is asked for; `before` may raise or advance a clock, `seconds` is what a call of a case takes on a visit."""

    def __init__(self, before=lambda case: None, seconds=lambda case, visit: 1e-3):
        self.asked, self.details = [], []
        self._before, self._seconds = before, seconds

    def measure(self, case, visit=0, details=True):
        self._before(case)
        self.asked.append((case, visit))
        self.details.append(details)
        return Measurement(case, "ok", timing=Timing((self._seconds(case, visit),)), visit=visit), ()


@pytest.fixture
def campaign(tmp_path):
    def start(
        cases=CASES,
        measurer=None,
        machine=MACHINE,
        resume=False,
        visits=1,
        progress=None,
        clock=None,
        reserved_s=None,
        **settings,
    ):
        settings.setdefault("lock", str(tmp_path / "lock"))
        settings.setdefault("most_visits", visits)
        extra = {name: given for name, given in (("clock", clock), ("reserved_s", reserved_s)) if given}
        return run_campaign(
            cases,
            tmp_path / "run",
            suite="quick",
            machine=machine,
            settings=CampaignSettings(visits=visits, **settings),
            resume=resume,
            progress=progress,
            measurer=measurer or FakeMeasurer(),
            **extra,
        )

    return start


def test_every_case_has_a_line_for_each_visit_and_a_row_in_all(campaign):
    """Eight cases visited twice are sixteen lines and eight rows."""
    run = Run.open(campaign(visits=2))
    assert {(line.case.identity, line.visit) for line in run.lines} == {(identity, n) for identity in ids(CASES) for n in (0, 1)}
    assert (len(run.lines), len(run.rows)) == (16, 8)
    assert {len(row.visits) for row in run.rows} == {2}
    assert run.manifest.suite == "quick"
    assert run.manifest.settings["visits"] == 2
    assert run.skipped == ()


def test_first_visits_come_before_second_visits(campaign):
    """Whenever a campaign stops, no case is ahead of another by more than one visit."""
    measurer = FakeMeasurer()
    campaign(measurer=measurer, visits=3)
    assert [number for _, number in measurer.asked] == [0] * 8 + [1] * 8 + [2] * 8


def test_order_is_random_and_repeatable(campaign, tmp_path):
    """Each round has its own order, the same for the same seed; without shuffling first visits come as given."""
    first = FakeMeasurer()
    campaign(measurer=first, visits=2)
    orders = [[case for case, n in first.asked if n == number] for number in (0, 1)]
    assert orders[0] != CASES
    assert orders[0] != orders[1]
    (tmp_path / "run").rename(tmp_path / "first")
    again = FakeMeasurer()
    campaign(measurer=again, visits=2)
    assert again.asked == first.asked
    (tmp_path / "run").rename(tmp_path / "second")
    plain = FakeMeasurer()
    campaign(measurer=plain, visits=2, shuffle=False)
    assert [case for case, number in plain.asked if number == 0] == CASES
    assert [case for case, number in plain.asked if number == 1] != CASES


def test_cases_known_worst_are_visited_again(campaign):
    """Every second visit to two cases takes half as long again, the others repeat: those two get further visits, and no other."""

    def seconds(case, visit):
        return 1e-3 * (1.0 + (0.5 if case in CASES[:2] else 0.001) * (visit % 2))

    measurer = FakeMeasurer(seconds=seconds)
    run = Run.open(campaign(cases=CASES[:6], measurer=measurer, visits=3, most_visits=8))
    visits = {row.case.axes["m"]: len(row.visits) for row in run.rows}
    assert visits == {0: 8, 1: 8, 2: 3, 3: 3, 4: 3, 5: 3}
    assert [row.status for row in run.rows if row.case.axes["m"] > 1] == ["ok"] * 4


def test_a_case_whose_visits_repeat_stops_at_the_wanted_number(campaign):
    """Noise of others does not ask for more: with the precision reached nothing is visited a fourth time."""
    measurer = FakeMeasurer()
    campaign(measurer=measurer, visits=3, most_visits=8)
    assert len(measurer.asked) == 24


def test_a_case_that_fails_is_not_visited_again(campaign):
    """A crash would only repeat; the others go on."""

    class Failing(FakeMeasurer):
        def measure(self, case, visit=0, details=True):
            row, graphs = super().measure(case, visit, details)
            if case == CASES[0]:
                row = Measurement(case, "failed", (Reason("error", "on purpose"),), visit=visit)
            return row, graphs

    measurer = Failing()
    run = Run.open(campaign(measurer=measurer, visits=3))
    assert sum(case == CASES[0] for case, _ in measurer.asked) == 1
    assert {row.status for row in run.rows if row.case == CASES[0]} == {"failed"}
    assert len(run.lines) == 1 + 7 * 3


def test_a_case_that_is_useless_three_times_is_left_alone(campaign):
    """Three suspect visits and no usable one: no further visit is spent on it."""

    class Throttled(FakeMeasurer):
        def measure(self, case, visit=0, details=True):
            row, graphs = super().measure(case, visit, details)
            suspect = msgspec.structs.replace(row, status="suspect", reasons=(Reason("throttled", "3 events"),))
            return suspect if case == CASES[0] else row, graphs

    run = Run.open(campaign(cases=CASES[:3], measurer=Throttled(), visits=5))
    assert len(run.visits[CASES[0].identity]) == 3
    assert [row.status for row in run.rows if row.case == CASES[0]] == ["suspect"]


def test_details_are_measured_on_the_second_visit_and_within_their_share(campaign):
    """Energy windows are long: first visits of all cases come first. A tenth of a budget of 100 s pays for two windows of 6 s."""
    measurer = FakeMeasurer()
    campaign(measurer=measurer, visits=3)
    assert [n for (_, n), details in zip(measurer.asked, measurer.details, strict=True) if details] == [1] * 8
    now = [0.0]

    class Windows(FakeMeasurer):
        def measure(self, case, visit=0, details=True):
            row, graphs = super().measure(case, visit, details)
            now[0] += 6.0 if details else 0.1
            reading = EnergyReading("package", 1.0, window_s=6.0, calls=10)
            return msgspec.structs.replace(row, energy=(reading,) if details else ()), graphs

    limited = Windows()
    campaign(
        cases=[CaseSpec("add", "operator", {"m": m}) for m in range(8)],
        measurer=limited,
        visits=2,
        resume=True,
        clock=lambda: now[0],
        budget_s=100.0,
        details_share=0.1,
    )
    assert sum(limited.details) == 2
    assert len(limited.asked) == 16


def test_a_single_visit_measures_details_too(campaign):
    """There is no second one that could."""
    measurer = FakeMeasurer()
    campaign(measurer=measurer)
    assert measurer.details == [True] * 8


def test_a_case_given_twice_is_measured_once(campaign):
    """Cases are known by what they ask."""
    assert len(Run.open(campaign(cases=CASES[:2] * 2)).rows) == 2


def test_an_interruption_keeps_finished_visits_and_resume_goes_on(campaign, tmp_path):
    """Ctrl-C at the fourth visit leaves three lines; resuming visits the other five cases first and repeats nothing."""

    def interrupt(case):
        if len(broken.asked) == 3:
            raise KeyboardInterrupt

    broken = FakeMeasurer(interrupt)
    with pytest.raises(KeyboardInterrupt):
        campaign(measurer=broken, visits=2)
    assert len(Run.open(tmp_path / "run").lines) == 3
    rest = FakeMeasurer()
    campaign(measurer=rest, visits=2, resume=True)
    assert ids(case for case, _ in rest.asked[:5]) == ids(CASES) - ids(case for case, _ in broken.asked)
    assert sorted(number for _, number in broken.asked + rest.asked) == [0] * 8 + [1] * 8


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
    path = campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], budget_s=25.0, progress=said.append)
    run = Run.open(path)
    assert len(run.rows) == 3
    assert ids(skipped.case for skipped in run.skipped) == ids(CASES) - ids(row.case for row in run.rows)
    assert "budget of 25 s" in run.skipped[0].reason
    assert (said[-1].done, said[-1].total) == (3, 8)
    campaign(resume=True)
    assert Run.open(path).skipped == ()
    assert len(Run.open(path).rows) == 8


def test_what_turns_out_to_be_needed_later_is_left_of_the_budget(campaign):
    """At 10 s a case, 75 s start eight; 40 s of them that are reserved from the third on leave four."""
    now = [0.0]

    def advance(case):
        now[0] += 10

    def reserved_s():
        return 40.0 if now[0] >= 25 else 0.0

    run = Run.open(campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], budget_s=75.0, reserved_s=reserved_s))
    assert len(run.rows) == 4


def test_a_budget_that_ends_in_a_later_round_leaves_nothing_out(campaign):
    """At 10 s a visit, 95 s reach every case, and two of them twice: no case is skipped."""
    now = [0.0]

    def advance(case):
        now[0] += 10

    run = Run.open(campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], visits=3, budget_s=95.0))
    assert len(run.lines) == 10
    assert run.skipped == ()


def test_progress_counts_cases_by_status_and_estimates_the_time_left(campaign):
    """A visit takes 10 s. After the first of sixteen, 150 s are left, and less than the budget; at the end all eight are ok."""
    now = [0.0]

    def advance(case):
        now[0] += 10

    said = []
    campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], visits=2, progress=said.append)
    assert (said[0].done, said[0].total, said[0].left_s) == (0, 8, None)
    assert (said[1].done, said[1].visits, said[1].left_s) == (1, 1, pytest.approx(150))
    assert said[-1] == Standing("measuring", done=8, total=8, visits=16, ok=8, now="done", left_s=0.0, spent_s=160.0)
    (now[0], limited) = 0.0, []
    campaign(measurer=FakeMeasurer(advance), clock=lambda: now[0], visits=4, budget_s=100.0, progress=limited.append, resume=True)
    assert [standing.left_s for standing in limited[:2]] == pytest.approx([100.0, 90.0])


def test_a_full_disk_says_what_is_kept(campaign, tmp_path, monkeypatch):
    """The error names the directory and the remedy; the visits before stay."""

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
        campaign(lock_wait_s=0.0, progress=said.append)
    holder = f"waiting up to 0 s for another campaign (process {os.getpid()})" if sys.platform == "linux" else "another campaign"
    assert said[0].now.startswith(holder)
    assert said[0].stage != STAGE  # nothing is measured
    assert said[0].total is None  # so that a log says it at once
    assert not (tmp_path / "run").exists()


def test_waiting_for_another_campaign_is_part_of_the_budget(campaign, tmp_path):
    """A budget of 50 ms is over long before a wait of a minute; and of ten seconds the wait for a campaign that ends has used
    seven, so that two visits of two seconds each are left."""
    said, begin = [], time.monotonic()
    with filelock.FileLock(tmp_path / "lock"), pytest.raises(InputError, match="another campaign is measuring"):
        campaign(budget_s=0.05, progress=said.append)
    assert time.monotonic() - begin < 30
    now, other = [0.0], filelock.FileLock(tmp_path / "lock")

    def pass_time(case):
        now[0] += 2.0

    def end(standing):
        if standing.stage == WAITING:
            now[0] += 7.0
            other.release()

    other.acquire()
    measurer = FakeMeasurer(pass_time)
    campaign(budget_s=10.0, progress=end, measurer=measurer, clock=lambda: now[0])
    assert len(measurer.asked) == 2


def test_campaigns_run_outside_the_main_thread(campaign, tmp_path):
    """Without a main thread there is no signal to handle, and the campaign runs."""
    thread = threading.Thread(target=campaign)
    thread.start()
    thread.join()
    assert len(Run.open(tmp_path / "run").rows) == 8


# worker processes


def test_a_removed_line_is_measured_again(campaign, tmp_path):
    """As the message about a damaged line says: the run opens, and no two visits have one number."""
    rows = campaign(visits=3) / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join([lines[0][: len(lines[0]) // 2] + b"\n", *lines[1:]]))
    with pytest.raises(FormatError, match=r"line 1.*remove line 1, and --resume measures what it held again"):
        Run.open(tmp_path / "run")
    rows.write_bytes(b"".join(lines[1:]))
    campaign(visits=3, resume=True)
    run = Run.open(tmp_path / "run")
    assert len(run.lines) == len({(line.case.identity, line.visit) for line in run.lines}) == 24


class Killed(FakeMeasurer):
    """A worker whose process somebody ends on its first visits to one case."""

    def __init__(self, case, times, name="SIGKILL"):
        super().__init__()
        self._case, self._times, self._name = case, times, name

    def measure(self, case, visit=0, details=True):
        row, graphs = super().measure(case, visit, details)
        if case == self._case and self._times:
            self._times -= 1
            row = Measurement(case, "failed", (Reason("worker", "killed"),), visit=visit, host={"signal": self._name})
        return row, graphs


@pytest.mark.parametrize("visits", [1, 3])
def test_a_visit_that_was_killed_from_outside_is_made_again(campaign, tmp_path, visits):
    """Only that visit is lost: the case has all the visits it was to have, one of them with details."""
    measurer = Killed(CASES[2], 1)
    run = Run.open(campaign(measurer=measurer, visits=visits))
    assert {len(row.visits) for row in run.rows} == {visits}
    assert all(row.timed for row in run.rows)
    asked = [(n, details) for (case, n), details in zip(measurer.asked, measurer.details, strict=True) if case == CASES[2]]
    assert asked == {1: [(0, True), (1, True)], 3: [(0, False), (1, False), (2, True), (3, False)]}[visits]


@pytest.mark.parametrize("visits", [1, 2])
def test_a_case_whose_first_visit_was_lost_has_details_beyond_their_share(campaign, visits):
    """Its graph comes with them; the other cases go without where the share is used up."""
    measurer = Killed(CASES[2], 1)
    campaign(measurer=measurer, visits=visits, budget_s=100.0, details_share=0.0)
    detailed = {case.identity for (case, number), details in zip(measurer.asked, measurer.details, strict=True) if details}
    assert detailed == {CASES[2].identity}


@pytest.mark.parametrize(("name", "asked"), [("SIGKILL", 2), ("SIGSEGV", 1)])
def test_a_case_that_is_killed_again_is_left_alone(campaign, name, asked):
    """As it may be the system that lacks memory for it; a segmentation fault is the case's own and would repeat at once."""
    measurer = Killed(CASES[2], 9, name)
    run = Run.open(campaign(measurer=measurer, visits=2))
    assert sum(case == CASES[2] for case, _ in measurer.asked) == asked
    assert [row.status for row in run.rows if row.case == CASES[2]] == ["failed"]
    assert run.skipped == ()


@pytest.mark.parametrize("budget_s", [math.nan, math.inf, -1.0])
def test_a_budget_is_a_time(campaign, budget_s):
    """NaN is never used up."""
    with pytest.raises(InputError, match="budget"):
        campaign(budget_s=budget_s)


def test_starting_a_campaign_does_not_import_torch():
    """torch is imported by the worker, not by the command that owns it."""
    code = "import sys; import shmoo.harness.campaign.campaign; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
