"""The microbenchmarks as tests: `pytest --benchmark` times every case of a suite and writes a run."""

from __future__ import annotations

import pytest

from shmoo.harness.pytest.plugin import benchmarking
from shmoo.runs.store.records import CaseSpec


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case. Without --benchmark nothing is planned, and a single skipped test stands for all."""
    if not benchmarking(metafunc.config):
        metafunc.parametrize("case", [pytest.param(None, id="needs --benchmark")])
        return
    from shmoo.harness.machine.doctor import probe_machine
    from shmoo.harness.workloads.suites import plan_suite

    cases = plan_suite(metafunc.config.getoption("shmoo_suite"), probe_machine())
    metafunc.parametrize("case", cases, ids=[_short(case) for case in cases])


def _short(case: CaseSpec) -> str:
    """The workload and those of its axes that are not the usual, so that tables stay narrow."""
    from shmoo.harness.workloads import find_workload

    usual = find_workload(case.workload).resolve()
    axes = [f"{name}={value}" for name, value in case.axes.items() if value != usual.get(name)]
    setting = [case.dtype] * (case.dtype != "float32") + [case.runtime] * (case.runtime != "eager")
    return " ".join([case.workload, *axes, *setting])


def test_microbenchmark(shmoo_benchmark, case: CaseSpec) -> None:
    """The case can be measured."""
    row = shmoo_benchmark.case(case)
    assert row.timing is not None
    assert min(row.timing.samples_s) > 0
