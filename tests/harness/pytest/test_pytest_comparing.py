"""The comparison at the end of a session: what fails it, and what is too noisy to."""

from __future__ import annotations

import random

import pytest

from shmoo.harness.pytest.comparing import Referee
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter

pytest_plugins = ["pytester"]

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
PROJECT = """
import time

def test_wait(shmoo_benchmark):
    shmoo_benchmark(time.sleep, {seconds})
"""
QUICK = ("--benchmark", "--shmoo-max-time=0.05", "--shmoo-visits=6", "-p", "no:cacheprovider")


def run(path, factor=1.0, only=None, noise=0.005, visits=4, seed=1, suspect=()):
    """A run of ten cases on disk, slower by a factor, in one case or all."""
    draw = random.Random(seed)
    with RunWriter(path, RunManifest(MACHINE, "pytest")) as writer:
        for visit in range(visits):
            for m in range(10):
                call_s = 1e-3 * (factor if only in (None, m) else 1.0) * draw.lognormvariate(0, noise)
                status, reasons = ("suspect", (Reason("throttled", "3 events"),)) if m in suspect else ("ok", ())
                case = CaseSpec("test_it.py::test_it", "network", {"m": m})
                writer.append(Measurement(case, status, reasons, timing=Timing((call_s,) * 8), visit=visit))
    return path


def judged(tmp_path, asked=(), suspect="say", **given):
    base, new = run(tmp_path / "base"), run(tmp_path / "new", seed=2, **given)
    return {report.nodeid.partition("::")[2]: report for report in Referee([str(base)], asked, suspect).reports(new)}


def test_a_slower_case_fails_and_is_named(tmp_path):
    """By more than the threshold only; a faster one does not."""
    found = judged(tmp_path / "1", ["slower:5%"], factor=1.3, only=4)
    assert found["slower"].failed
    assert "[m=4]" in found["slower"].longrepr
    assert judged(tmp_path / "2", ["slower:50%"], factor=1.3, only=4)["slower"].passed
    assert judged(tmp_path / "3", factor=0.7)["slower"].passed
    both = judged(tmp_path / "4", ["slower,faster:10%"], factor=0.7)
    assert (both["slower"].outcome, both["faster"].outcome) == ("passed", "failed")


def test_too_noisy_is_no_pass(tmp_path):
    """It fails with what to do about it, and so does energy that nobody read."""
    found = judged(tmp_path / "1", ["slower:5%"], noise=0.3)
    assert found["slower"].failed
    assert "--shmoo-visits 5" in found["slower"].longrepr
    assert judged(tmp_path / "2", ["hungrier"])["hungrier"].failed


@pytest.mark.parametrize(("suspect", "fails"), [("say", False), ("fail", True), ("again", True)])
def test_suspect_rows_decide_nothing_or_fail_by_choice(tmp_path, suspect, fails):
    """Ten times slower while throttled is not slower; the row is said, and fails where that is asked for."""
    base, new = run(tmp_path / "base"), run(tmp_path / "new", factor=10.0, only=3, seed=2, suspect=(3,))
    found = {report.nodeid: report for report in Referee([str(base)], [], suspect).reports(new)}
    assert found["shmoo compare::slower"].passed
    assert "3 events" in found["shmoo compare::slower"].sections[0][1]
    assert ("shmoo compare::suspect rows" in found) is fails


def test_a_session_without_a_benchmark_does_not_pass(tmp_path):
    """Nothing was compared."""
    (report,) = Referee([str(run(tmp_path / "base"))], [], "say").reports(None)
    assert report.failed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shmoo-compare=base", "--shmoo-fail=slowr"], "slower"),
        (["--shmoo-compare=base", "--shmoo-fail=slower:5"], "3% or 0.03"),
        (["--shmoo-compare=nowhere"], "no run at nowhere"),
        (["--shmoo-fail=slower"], "needs --shmoo-compare"),
        (["--shmoo-visits=0"], "positive whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused(pytester, options, said):
    """As bad usage, before any test runs."""
    run(pytester.path / "base")
    result = pytester.runpytest_subprocess("--benchmark", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_a_session_fails_when_its_functions_got_slower(pytester):
    """Twice the time fails the session with one failed report more, and the report of CI systems has it; the same again does not
    end as slower."""
    pytester.makepyfile(test_theirs=PROJECT.format(seconds=0.002))
    pytester.runpytest_subprocess(*QUICK, "--shmoo-out=base").assert_outcomes(passed=1)
    assert len(Run.open(pytester.path / "base").lines) == 6
    assert Run.open(pytester.path / "base").rows[0].latency.visits == 6
    pytester.makepyfile(test_theirs=PROJECT.format(seconds=0.004))
    compared = ("--shmoo-compare=base", "--shmoo-fail=slower:20%")
    slower = pytester.runpytest_subprocess(*QUICK, "--shmoo-out=new", *compared, "--junitxml=r.xml")
    slower.assert_outcomes(passed=1, failed=1)
    assert slower.ret == pytest.ExitCode.TESTS_FAILED
    slower.stdout.fnmatch_lines(["*slower by more than 20.0 %? yes*", "*::test_wait float32 eager*: yes"])
    slower.stdout.no_re_match_line(r".*\[(?!100)\d{3,}%\]")  # the comparison is one of the tests collected
    assert "slower by more than" in (pytester.path / "r.xml").read_text()
    pytester.makepyfile(test_theirs=PROJECT.format(seconds=0.002))
    same = pytester.runpytest_subprocess(*QUICK, "--shmoo-out=same", *compared)
    same.stdout.no_fnmatch_line("*slower by more than 20.0 %? yes*")


def test_suspect_visits_are_repeated_where_asked(pytester):
    """The first two visits are throttled: with "again" a third one counts, and the session passes over it."""
    pytester.makeconftest(
        """
        from shmoo.harness.pytest import benchmarking
        from shmoo.runs.store.records import Reason
        seen, real = [], benchmarking.observed
        def observed(window, threads):
            timing, host, reasons = real(window, threads)
            seen.append(1)
            return timing, host, (Reason("throttled", "on purpose"),) if len(seen) < 3 else reasons
        benchmarking.observed = observed
        benchmarking.status_of = lambda reasons: "suspect" if any(r.code == "throttled" for r in reasons) else "ok"
        """
    )
    pytester.makepyfile(test_theirs=PROJECT.format(seconds=0.001))
    arguments = ("--benchmark", "--shmoo-max-time=0.02", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*arguments, "--shmoo-out=again", "--shmoo-suspect=again").assert_outcomes(passed=1)
    assert [line.status for line in Run.open(pytester.path / "again").lines] == ["suspect", "suspect", "ok"]
    pytester.runpytest_subprocess(*arguments, "--shmoo-out=once").assert_outcomes(passed=1)
    assert [line.status for line in Run.open(pytester.path / "once").lines] == ["suspect"]
