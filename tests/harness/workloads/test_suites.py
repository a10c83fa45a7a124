"""Suites: plans that follow the machine's caches, vary sizes independently and are always the same."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log

import pytest

from shmoo.estimators.errors import InputError
from shmoo.harness.workloads import NETWORKS, SUITES, WORKLOADS, find_workload, plan_suite
from shmoo.runs.store.records import CaseSpec, Machine

KIB, MIB, GIB = 2**10, 2**20, 2**30
DESKTOP = Machine("desktop", 8, 16, 32 * GIB, {"l1": 48 * KIB, "l2": 2 * MIB, "l3": 24 * MIB})
SERVER = Machine("server", 64, 64, 256 * GIB, {"l1": 32 * KIB, "l2": 1 * MIB, "l3": 256 * MIB})


def footprint(case: CaseSpec) -> float:
    return WORKLOADS[case.workload].footprint_bytes(case.axes, case.dtype)


def level(case: CaseSpec, machine: Machine) -> int:
    """How many cache levels the case spills out of."""
    return sum(footprint(case) > size for size in machine.cache_bytes.values())


def correlation(xs: list[float], ys: list[float]) -> float:
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    cov = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return cov / (sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys)) ** 0.5


@pytest.mark.parametrize("name", SUITES)
def test_a_plan_is_always_the_same_and_has_no_twins(name: str) -> None:
    """The same machine gives the same cases in the same order, each once."""
    cases = plan_suite(name, DESKTOP)
    assert cases == plan_suite(name, DESKTOP)
    assert len({case.identity for case in cases}) == len(cases)


@pytest.mark.parametrize("name", [name for name in SUITES if name != "nets"])
@pytest.mark.parametrize("machine", [DESKTOP, SERVER, Machine("unknown caches", 2, 2, 4 * GIB)])
def test_every_case_can_be_built(name: str, machine: Machine) -> None:
    """Every planned shape is valid, small enough for the memory, and short."""
    for case in plan_suite(name, machine):
        assert find_workload(case.workload).kind == case.kind
        assert WORKLOADS[case.workload].build(case.axes, case.dtype, "meta")() is not None
        assert footprint(case) <= machine.memory_bytes / 16
        assert WORKLOADS[case.workload].flops(case.axes) <= 3e9


def test_sizes() -> None:
    """About 40 quick cases, about 340 operators and 60 synthetic models in micro, nine networks."""
    assert 35 <= len(plan_suite("quick", DESKTOP)) <= 45
    kinds = Counter(case.kind for case in plan_suite("micro", DESKTOP))
    assert 310 <= kinds["operator"] <= 380
    assert 55 <= kinds["synthetic"] <= 70
    assert {case.workload for case in plan_suite("nets", DESKTOP)} == set(NETWORKS)
    assert all(case.kind == "network" and case.axes == {"batch": 1} for case in plan_suite("nets", DESKTOP))


def test_micro_measures_every_workload() -> None:
    """No registered operator or synthetic model is left out."""
    assert {case.workload for case in plan_suite("micro", DESKTOP)} == set(WORKLOADS)


@pytest.mark.parametrize("machine", [DESKTOP, SERVER])
def test_footprints_lie_in_every_cache_level_and_beyond(machine: Machine) -> None:
    """Each third level of the machine holds cases of its own, and some spill out of the last."""
    levels = Counter(level(case, machine) for case in plan_suite("micro", machine))
    assert all(levels[i] >= 20 for i in range(3))
    assert levels[3] >= 10
    for name in ("add", "relu", "copy", "layer_norm", "softmax"):
        assert {level(case, machine) for case in plan_suite("micro", machine) if case.workload == name} == {0, 1, 2, 3}


def test_sizes_vary_independently() -> None:
    """m, n and k of linear layers, and channels of convolutions, do not move together."""
    cases = plan_suite("micro", SERVER)
    linear = [case.axes for case in cases if case.workload == "linear"]
    conv = [case.axes for case in cases if case.workload == "conv" and case.axes["groups"] == 1]
    for a, b, axes in (
        ("m", "n", linear),
        ("m", "k", linear),
        ("n", "k", linear),
        ("c_in", "c_out", conv),
        ("c_in", "size", conv),
    ):
        assert abs(correlation([log(x[a]) for x in axes], [log(x[b]) for x in axes])) < 0.75
    kinds = Counter((x["kernel"], x["stride"], x["groups"] > 1) for x in (c.axes for c in cases if c.workload == "conv"))
    assert kinds[1, 1, False] >= 15
    assert kinds[3, 1, False] >= 15
    assert sum(count for (_, _, grouped), count in kinds.items() if grouped) >= 25


def test_a_sweep_is_dense_and_passes_every_level() -> None:
    """The shmoo has two points for each doubling, from inside the first cache to beyond the last."""
    sizes = sorted(case.axes["rows"] for case in plan_suite("shmoo", DESKTOP) if case.workload == "relu")
    assert all(b / a <= 2 for a, b in pairwise(sizes))
    assert {level(case, DESKTOP) for case in plan_suite("shmoo", DESKTOP) if case.workload == "relu"} == {0, 1, 2, 3}


def test_every_combination_is_asked_for() -> None:
    """Each shape in each dtype and runtime; the shapes stay the same, so that they can be compared."""
    one = plan_suite("quick", DESKTOP)
    four = plan_suite("quick", DESKTOP, dtypes=("float32", "bfloat16"), runtimes=("eager", "inductor"))
    assert len(four) == 4 * len(one)
    assert {str(case.axes) for case in four} == {str(case.axes) for case in one}


def test_a_wrong_suite_names_the_nearest() -> None:
    """An unknown suite is refused with a suggestion, and so is a plan of nothing."""
    with pytest.raises(InputError, match="did you mean 'micro'"):
        plan_suite("micr", DESKTOP)
    with pytest.raises(InputError, match="at least one dtype"):
        plan_suite("quick", DESKTOP, dtypes=())
