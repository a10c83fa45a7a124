"""pytest plug-in: `--benchmark` and the fixture `shmoo_benchmark`, on pytest-benchmark (docs/measuring.md, "Under pytest").

It is imported in every pytest run of every project that has shmoo installed, so it imports next to nothing."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from shmoo.harness.pytest.benchmarking import BenchmarkRun, ShmooBenchmark
    from shmoo.harness.pytest.comparing import Referee

FIXTURE = "shmoo_benchmark"
MARKER = "shmoo"
RUN: pytest.StashKey[BenchmarkRun] = pytest.StashKey()
REFEREE: pytest.StashKey[Referee] = pytest.StashKey()
OFF = "a benchmark of shmoo; run it with --benchmark"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of benchmarks."""
    group = parser.getgroup("shmoo", "benchmarks of shmoo")
    text = "Run the tests that use the fixture shmoo_benchmark, and write a run."
    group.addoption("--shmoo-benchmark", dest="shmoo_benchmark", action="store_true", default=False, help=text)
    try:
        # On the parser, not the group, where pytest notices a second registration.
        parser.addoption("--benchmark", dest="shmoo_benchmark", action="store_true", default=False, help=text)
    except (ValueError, argparse.ArgumentError):
        # Another plug-in owns --benchmark: `benchmarking` reads its value, and --shmoo-benchmark is ours alone.
        return
    finally:
        group.addoption("--shmoo-out", metavar="DIR", help="Run directory to write. Default: a new one under ./shmoo-runs.")
        group.addoption(
            "--shmoo-suite", metavar="NAME", default="quick", help="Suite of the microbenchmarks: quick or micro. Default: quick."
        )
        group.addoption("--shmoo-max-time", metavar="SECONDS", type=_seconds, help="Longest timing of one visit to a benchmark.")
        text = "Visits to a function or module of a test, all within its test. Default: 1, which cannot show noise."
        group.addoption("--shmoo-visits", metavar="N", type=_count, default=1, help=text)
        text = "Compare with this run; may be repeated. The session fails where the new run changed as --shmoo-fail names it."
        group.addoption("--shmoo-compare", metavar="RUN", action="append", default=[], help=text)
        text = "Changes that fail a comparison: slower, faster, hungrier, thriftier, each with a threshold. Default: slower:3%%."
        group.addoption("--shmoo-fail", metavar="CHANGE:P,...", action="append", default=[], help=text)
        text = "Treatment of suspect rows in a comparison: report them, fail the session, or measure again first. Default: say."
        group.addoption("--shmoo-suspect", choices=("say", "fail", "again"), default="say", help=text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds such as 0.1 (got {text!r})")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number (got {text!r})")
    return int(text)


def benchmarking(config: pytest.Config) -> bool:
    """Whether benchmarks run: `--benchmark` (ours, or a plug-in's that registered it first) or `--shmoo-benchmark`."""
    return bool(config.getoption("shmoo_benchmark", False) or config.getoption("benchmark", False))


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse parallel benchmarks and impossible comparisons."""
    config.addinivalue_line("markers", f"{MARKER}: a benchmark of shmoo, skipped without --benchmark")
    distributed = config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no"
    if benchmarking(config) and (distributed or hasattr(config, "workerinput")):
        raise pytest.UsageError(
            "--benchmark and pytest-xdist (-n, --dist) exclude each other: workers that run side by side disturb each other's "
            "timings; leave -n out, or pass -n 0"
        )
    bases, questions = config.getoption("shmoo_compare", []), config.getoption("shmoo_fail", [])
    if questions and not bases:
        raise pytest.UsageError("--shmoo-fail needs --shmoo-compare RUN, the run to compare with")
    if bases and benchmarking(config):
        from shmoo.harness.pytest.comparing import Referee

        config.stash[REFEREE] = Referee(bases, questions, config.getoption("shmoo_suspect"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip benchmarks without `--benchmark`."""
    on = benchmarking(config)
    for item in items:
        uses_fixture = FIXTURE in getattr(item, "fixturenames", ())
        if not on and (uses_fixture or item.get_closest_marker(MARKER)):
            item.add_marker(pytest.mark.skip(reason=OFF))
        elif uses_fixture:
            from shmoo.harness.pytest.showing import ReplayClock

            # pytest-benchmark takes a test's clock from this marker before it creates the fixture.
            item.add_marker(pytest.mark.benchmark(timer=ReplayClock()))


@pytest.fixture
def shmoo_benchmark(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> ShmooBenchmark:
    """Times a callable, or a case of a workload, as `shmoo measure` does. Call it once in a test.

    `shmoo_benchmark(function, *args, **kwargs)` returns what the function returns; `shmoo_benchmark.case(case_spec)` visits a
    registered workload and returns the row of this visit. The test fails, with the reason, where the case does.
    """
    from shmoo.harness.pytest.benchmarking import BenchmarkRun, ShmooBenchmark

    config = request.config
    if RUN not in config.stash:
        run = config.stash[RUN] = BenchmarkRun(
            config.getoption("shmoo_out"),
            config.getoption("shmoo_max_time"),
            config.getoption("shmoo_visits"),
            config.getoption("shmoo_suspect") == "again",
            _teller(config),
        )
        config.add_cleanup(run.close)
    return ShmooBenchmark(request.node, benchmark, config.stash[RUN])


def _teller(config: pytest.Config) -> Callable[[str], object]:
    """A function that writes a line on pytest's terminal, if there is one."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    return terminal.write_line if terminal is not None else lambda text: None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """After all tests, visit cases again and compare the run, unless the session stopped early."""
    result = yield
    run = session.config.stash.get(RUN, None)
    if run is not None:
        run.visit_again(_teller(session.config))
    referee = session.config.stash.get(REFEREE, None)
    if referee is not None:
        # At this point a failed report still affects the session's exit code.
        reports = list(referee.reports(None if run is None else run.path))
        # The terminal shows progress as a share of the tests collected.
        session.testscollected += len(reports)
        for report in reports:
            session.config.hook.pytest_runtest_logreport(report=report)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Update the figures first, since pytest-benchmark saves its JSON and makes its table in this hook."""
    run = session.config.stash.get(RUN, None)
    if run is not None:
        run.show_merged()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the path of the run and a summary of its rows."""
    run = config.stash.get(RUN, None)
    if run is not None:
        for line in run.summary():
            terminalreporter.write_line(line)
