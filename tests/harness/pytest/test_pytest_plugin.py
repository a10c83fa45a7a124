"""The pytest plug-in in somebody else's project: the flag, the fixture, the table, the JSON and the run."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from shmoo.runs.store.records import CaseSpec, Measurement, Reason, Timing
from shmoo.runs.store.store import Run

pytest_plugins = ["pytester"]

PROJECT = """
import pytest

def test_plain():
    assert 1 + 1 == 2

def test_sum(shmoo_benchmark):
    assert shmoo_benchmark(sum, range(100)) == 4950

@pytest.mark.parametrize("n", [1, 2])
def test_sizes(shmoo_benchmark, n):
    shmoo_benchmark(sorted, [3, 1, 2] * n, key=lambda x: -x)
"""
QUICK = ("--shmoo-max-time=0.02", "--shmoo-out=out", "-p", "no:cacheprovider")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with one plain test and three that use the fixture."""
    pytester.makepyfile(test_theirs=PROJECT)
    return pytester


def test_without_the_flag_only_benchmarks_are_skipped(project: pytest.Pytester) -> None:
    """Everything else runs as ever, and no run is written."""
    result = project.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["*run it with --benchmark*"])
    assert not (project.path / "shmoo-runs").exists()


def test_help_lists_every_option_with_its_default(pytester: pytest.Pytester) -> None:
    """argparse formats the texts of all options of a session at once: one bare percent sign would end `pytest --help`."""
    result = pytester.runpytest_subprocess("--help", "-p", "no:cacheprovider")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*--shmoo-fail=CHANGE:P,...*", "*slower:3%.*"])


def test_with_the_flag_table_json_and_run_agree(project: pytest.Pytester) -> None:
    """pytest-benchmark's JSON carries our figures, the run has a row a test, and the terminal shows the noise."""
    result = project.runpytest_subprocess("--benchmark", "--benchmark-json=b.json", *QUICK)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["*benchmark: 3 tests*", "*test_sum*", "Noise*time*std. error*alone*visits*status", "test_sum *s *% *1  *"]
    )
    result.stdout.fnmatch_lines(["shmoo: 3 rows in out (*; 3 visits)*"])
    run = Run.open(project.path / "out")
    rows = {row.case.workload.split("::")[1]: row for row in run.rows}
    assert set(rows) == {"test_sum", "test_sizes[1]", "test_sizes[2]"}
    assert rows["test_sizes[2]"].case.axes == {"n": 2}
    shown = {b["name"]: b for b in json.loads((project.path / "b.json").read_text())["benchmarks"]}
    assert set(shown) == set(rows)
    info = shown["test_sum"]["extra_info"]
    assert info["latency_s"] == pytest.approx(shown["test_sum"]["stats"]["median"], rel=1e-6)
    assert info["samples"] == shown["test_sum"]["stats"]["rounds"] == len(rows["test_sum"].timing.samples_s)
    assert info["identity"] == rows["test_sum"].case.identity
    assert info["relative_se"] == rows["test_sum"].latency.relative_se
    assert info["alone_s"] is None or info["alone_s"] > 0


def test_a_target_of_ones_own_says_that_it_was_visited_once(pytester: pytest.Pytester) -> None:
    """It is timed in five windows with pauses, so that no two windows follow each other at once, and its row is one visit."""
    pytester.makepyfile(
        """
        import time
        starts = []
        def note():
            starts.append(time.perf_counter())
        def test_note(shmoo_benchmark):
            shmoo_benchmark(note)
            gaps = [b - a for a, b in zip(starts, starts[1:])]
            assert len([gap for gap in gaps if gap > 0.003]) >= 2
        """
    )
    arguments = ("--benchmark", "--benchmark-json=b.json", "--shmoo-out=out", "--shmoo-max-time=0.1")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
    (row,) = Run.open(pytester.path / "out").rows
    assert (row.latency.visits, len(Run.open(pytester.path / "out").lines)) == (1, 1)
    assert [reason.code for reason in row.reasons][-1] == "one visit"
    (shown,) = json.loads((pytester.path / "b.json").read_text())["benchmarks"]
    assert shown["extra_info"]["visits"] == 1
    assert any(reason.startswith("one visit: ") for reason in shown["extra_info"]["reasons"])


def test_cases_are_visited_again_when_all_tests_have_run(pytester: pytest.Pytester) -> None:
    """Two cases of a workload: first one visit each, then rounds over both; each visit is on disk when the next begins, and the
    table and the JSON show the samples of all of them."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    pytester.makepyfile(
        """
        import pytest
        from shmoo.runs.store.records import CaseSpec
        from shmoo.runs.store.store import Run
        @pytest.mark.parametrize("rows", [64, 128])
        def test_relu(shmoo_benchmark, rows):
            case = CaseSpec("relu", "operator", {"rows": rows, "cols": 64})
            assert shmoo_benchmark.case(case).visit == 0
            assert Run.open("out").lines[-1].case.axes["rows"] == rows
        """
    )
    result = pytester.runpytest_subprocess("--benchmark", "--benchmark-json=b.json", *QUICK)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*visiting 2 cases again*"])
    run = Run.open(pytester.path / "out")
    assert [line.case.axes["rows"] for line in run.lines[:2]] == [64, 128]
    assert sorted(line.case.axes["rows"] for line in run.lines[2:4]) == [64, 128]
    assert all(row.latency.visits >= 3 for row in run.rows)
    shown = {b["extra_info"]["identity"]: b for b in json.loads((pytester.path / "b.json").read_text())["benchmarks"]}
    for row in run.rows:
        benchmark, info = shown[row.case.identity], shown[row.case.identity]["extra_info"]
        assert benchmark["stats"]["rounds"] == len(row.timing.samples_s) == info["samples"]
        assert benchmark["stats"]["data"] == pytest.approx(row.timing.samples_s)
        assert (info["visits"], info["status"], info["relative_se"]) == (len(row.visits), row.status, row.latency.relative_se)
        assert info["latency_s"] == row.latency.value_s


def test_a_session_that_stops_early_visits_nothing_again(pytester: pytest.Pytester) -> None:
    """With -x a failing test ends the session: what was visited stays, and is shown."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    pytester.makepyfile(
        """
        from shmoo.runs.store.records import CaseSpec
        def test_relu(shmoo_benchmark):
            shmoo_benchmark.case(CaseSpec("relu", "operator", {"rows": 64, "cols": 64}))
        def test_bad():
            assert False
        """
    )
    result = pytester.runpytest_subprocess("--benchmark", "-x", *QUICK)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["shmoo: 1 row in out (*; 1 visit)*"])


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "soon"])
def test_a_longest_time_that_is_none_is_refused(project: pytest.Pytester, value: str) -> None:
    """The error names the option, what was given and what is allowed, and nothing is run."""
    result = project.runpytest_subprocess("--benchmark", f"--shmoo-max-time={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--shmoo-max-time*positive number of seconds*'{value}'*"])


def test_options_of_pytest_benchmark_still_work(project: pytest.Pytester) -> None:
    """--benchmark is not taken for an abbreviation of theirs, nor theirs for ours."""
    project.runpytest_subprocess("--benchmark", "--benchmark-only", *QUICK).assert_outcomes(passed=3, skipped=1)
    project.runpytest_subprocess("--benchmark-disable").assert_outcomes(passed=1, skipped=3)
    project.runpytest_subprocess("--benchmark", "--benchmark-skip", *QUICK).assert_outcomes(passed=1, skipped=3)


def test_a_failing_target_fails_its_test_and_leaves_a_row(pytester: pytest.Pytester) -> None:
    """The reason is in the row, and the next test is measured all the same."""
    pytester.makepyfile(
        """
        def boom():
            raise RuntimeError("no such kernel")
        def test_bad(shmoo_benchmark):
            shmoo_benchmark(boom)
        def test_good(shmoo_benchmark):
            shmoo_benchmark(len, "abc")
        """
    )
    pytester.runpytest_subprocess("--benchmark", *QUICK).assert_outcomes(passed=1, failed=1)
    bad, good = Run.open(pytester.path / "out").rows
    assert (bad.status, bad.reasons) == ("failed", (Reason("RuntimeError", "no such kernel"),))
    assert good.timing is not None


def test_a_coroutine_is_awaited_and_a_generator_exhausted(pytester: pytest.Pytester) -> None:
    """20 ms of work each, not the microseconds of making it; the test gets what the work gave."""
    pytester.makepyfile(
        """
        import asyncio, time
        async def work():
            await asyncio.sleep(0.02)
            return 7
        def lazily(n):
            for i in range(n):
                time.sleep(0.01)
                yield i
        async def both(n):
            for i in range(n):
                await asyncio.sleep(0.01)
                yield i
        def test_coroutine(shmoo_benchmark):
            assert shmoo_benchmark(work) == 7
        def test_generator(shmoo_benchmark):
            assert shmoo_benchmark(lazily, 2) == [0, 1]
        def test_async_generator(shmoo_benchmark):
            assert shmoo_benchmark(both, 2) == [0, 1]
        """
    )
    pytester.runpytest_subprocess("--benchmark", "--shmoo-max-time=0.1", *QUICK[1:]).assert_outcomes(passed=3)
    for row in Run.open(pytester.path / "out").rows:
        assert row.latency.value_s >= 0.02


def test_an_existing_run_is_not_overwritten(project: pytest.Pytester) -> None:
    """The second session into the same directory is refused and leaves the rows as they were."""
    project.runpytest_subprocess("--benchmark", *QUICK)
    before = (project.path / "out" / "rows.jsonl").read_bytes()
    result = project.runpytest_subprocess("--benchmark", *QUICK)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*never overwritten*"])
    assert (project.path / "out" / "rows.jsonl").read_bytes() == before


def test_xdist_is_refused(project: pytest.Pytester) -> None:
    """Workers side by side would time each other; without --benchmark they are welcome."""
    if find_spec("xdist") is None:
        option = "parser.addoption('--numprocesses', dest='numprocesses', type=int)"
        project.makeconftest(f"def pytest_addoption(parser):\n    {option}")
    result = project.runpytest_subprocess("--benchmark", "--numprocesses=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pytest-xdist*disturb*"])
    project.runpytest_subprocess("--numprocesses=2").assert_outcomes(passed=1, skipped=3)


def test_another_owner_of_the_flag_is_tolerated(project: pytest.Pytester) -> None:
    """Where a plug-in registered --benchmark first, its value counts, and --shmoo-benchmark is ours alone."""
    project.makepyfile(
        other="def pytest_addoption(parser):\n    parser.addoption('--benchmark', action='store_true', dest='benchmark')"
    )
    project.syspathinsert()
    first = ("-p", "other", *QUICK)
    project.runpytest_subprocess(*first).assert_outcomes(passed=1, skipped=3)
    project.runpytest_subprocess("--benchmark", *first).assert_outcomes(passed=4)
    project.runpytest_subprocess("--shmoo-benchmark", "--shmoo-out=second", *first[:2], QUICK[0]).assert_outcomes(passed=4)


def test_a_marked_test_needs_the_flag_too(pytester: pytest.Pytester) -> None:
    """The marker is for benchmarks that do without the fixture."""
    pytester.makepyfile("import pytest\n@pytest.mark.shmoo\ndef test_long():\n    pass")
    pytester.runpytest_subprocess("--strict-markers").assert_outcomes(skipped=1)
    pytester.runpytest_subprocess("--strict-markers", "--benchmark").assert_outcomes(passed=1)


def test_a_module_is_measured_as_a_network(pytester: pytest.Pytester) -> None:
    """Its graph is stored with the row, so that a report can set an estimate beside it."""
    if find_spec("torch") is None:  # importing it here would be undone after the test, which extension modules do not survive
        pytest.skip("torch is not installed")
    pytester.makepyfile(
        """
        import torch
        def test_net(shmoo_benchmark):
            assert shmoo_benchmark(torch.nn.Linear(16, 4).eval(), torch.rand(2, 16)).shape == (2, 4)
        """
    )
    pytester.runpytest_subprocess("--benchmark", *QUICK).assert_outcomes(passed=1)
    run = Run.open(pytester.path / "out")
    (row,) = run.rows
    assert [call.op for graph in run.graphs(row) for call in graph.calls] == ["aten.linear"]
    assert Path(pytester.path / "out" / "graphs").is_dir()


def test_parameters_that_json_cannot_hold_leave_the_run_readable(pytester: pytest.Pytester) -> None:
    """NaN, infinities, numbers of many digits and halves of characters are written as text."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("x", [float("nan"), float("inf"), 10**30, chr(0xDC80), 1.5], ids="abcde")
        def test_it(shmoo_benchmark, x):
            shmoo_benchmark(sum, range(10))
        """
    )
    pytester.runpytest_subprocess("--benchmark", *QUICK).assert_outcomes(passed=5)
    axes = [row.case.axes["x"] for row in Run.open(pytester.path / "out").rows]
    assert axes == ["nan", "inf", str(10**30), "\\udc80", 1.5]


def test_a_session_waits_for_another_campaign_and_says_that_it_measured_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock until it ends; one that still waits when its time is up goes on, and its summary says what that means."""
    from shmoo.harness.campaign.campaign import CampaignSettings
    from shmoo.harness.pytest import benchmarking

    settings = CampaignSettings(lock=str(tmp_path / "lock"), lock_wait_s=0.0)
    monkeypatch.setattr(benchmarking, "CAMPAIGN", settings)
    row = Measurement(CaseSpec("mine", "network"), "ok", timing=Timing((1e-3,) * 8))
    summaries, said = {}, []
    first = benchmarking.BenchmarkRun(str(tmp_path / "first"), tell=said.append)
    second = benchmarking.BenchmarkRun(str(tmp_path / "second"), tell=said.append)
    for name, run in (("first", first), ("second", second)):
        run.append(row)
        summaries[name] = "\n".join(run.summary())
        run.close()
    assert [text for text in said if "waiting up to 0 s for another campaign" in text] == said
    assert len(said) == 1
    assert "not measured alone" not in summaries["first"]
    assert "shmoo: not measured alone: another campaign is measuring on this machine" in summaries["second"]
    third = benchmarking.BenchmarkRun(str(tmp_path / "third"), tell=said.append)
    third.close()
    assert len(said) == 1
