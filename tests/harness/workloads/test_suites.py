"""Suites: plans that follow the machine's caches, vary sizes independently and are always the same."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise
from math import log
from random import Random
from statistics import median

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.progress import Standing
from shmoo.harness.campaign.cases import most_telling_first
from shmoo.harness.workloads import NETWORKS, SUITES, WORKLOADS, find_workload, plan_suite
from shmoo.harness.workloads.shapes import FAMILIES
from shmoo.harness.workloads.suites import Work, _Limits, _nearest, _PowerLaw, work_of
from shmoo.runs.store.records import CaseSpec, Machine

KIB, MIB, GIB = 2**10, 2**20, 2**30
DESKTOP = Machine("desktop", 8, 16, 32 * GIB, {"l1": 48 * KIB, "l2": 2 * MIB, "l3": 24 * MIB})
SERVER = Machine("server", 64, 64, 256 * GIB, {"l1": 32 * KIB, "l2": 1 * MIB, "l3": 256 * MIB})


def footprint(case: CaseSpec) -> float:
    return work_of(case.workload, case.axes, case.dtype).bytes


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
        assert work_of(case.workload, case.axes, case.dtype).flops <= 3e9


def test_work_is_that_of_the_captured_graph() -> None:
    """Every tensor once, by its size and type: a (4, 3) weight and a bias of 3 beside (2, 4) and (2, 3); an embedding has its
    whole table, though few of its rows are read, and 8-byte indices; a model also what lies between its operators."""
    linear = {"b": 1, "m": 2, "n": 3, "k": 4, "bias": True}
    assert work_of("linear", linear, "bfloat16") == (2 * (2 * 4 + 3 * 4 + 3 + 2 * 3), 2 * 2 * 3 * 4 + 2 * 3)
    assert work_of("embedding", {"rows": 100, "cols": 8, "tokens": 5}, "float32").bytes == 4 * (100 * 8 + 5 * 8) + 8 * 5
    mlp = find_workload("mlp").resolve({"in_features": 4, "hidden": 4, "out_features": 4, "depth": 2, "softmax": False})
    assert work_of("mlp", mlp, "float32").bytes == 4 * (2 * (4 * 4 + 4) + 4 * 4)


@pytest.mark.parametrize("name", ["conv depthwise", "linear", "conv_transpose", "attention"])
def test_the_shape_nearest_to_a_target_is_found_with_few_captures(name: str) -> None:
    """Of 64 shapes the nearest one to a target is found, or one that is about as near, though most of them are not captured."""
    (family,) = (family for family in FAMILIES if family.name == name)
    module, rng, law, captured = find_workload(family.workload), Random(1), _PowerLaw(), []
    limits = _Limits((), 1e9, 1e12, 2.0)

    def work(axes: dict) -> Work:
        captured.append(axes)
        return work_of(module.name, axes, "float32")

    further = []
    for target in (3e4, 1e5, 3e5, 1e6, 3e6):
        shapes = [module.resolve(family.draw(rng)) for _ in range(64)]
        found = _nearest(target, list(shapes), limits, work, law)
        distances = [abs(log(work_of(module.name, axes, "float32").bytes / target)) for axes in shapes]
        further.append(distances[shapes.index(found)] - min(distances))
    assert median(further) <= 0.1
    assert max(further) < 1.0
    assert len(captured) <= 0.15 * 5 * 64


def test_shapes_beyond_the_limits_are_not_planned() -> None:
    """A target beyond what may be planned gets a shape below it, and none where every shape takes too much."""
    shapes = [{"rows": 64, "cols": cols} for cols in (16, 64, 256)]
    work = partial(work_of, "relu", dtype="float32")
    assert _nearest(1e6, list(shapes), _Limits((), 4 * 64 * 256, 1e9, 2.0), work, _PowerLaw()) == shapes[1]
    assert _nearest(1e6, list(shapes), _Limits((), 1000, 1e9, 2.0), work, _PowerLaw()) is None
    assert _nearest(1e6, list(shapes), _Limits((), 1e9, 64 * 128, 2.0), work, _PowerLaw()) == shapes[1]


def test_the_planned_order_holds_every_case_once() -> None:
    """Cases are put in order without a measurement, recurrent layers of a few small sequences among them."""
    axes = {
        "lstm": {"in_features": 112, "hidden": 64, "seq_len": 8}, "linear": {"m": 8, "n": 64, "k": 64}, "relu": {"rows": 64},
        "mlp": {"hidden": 64},
    }  # fmt: skip
    cases = [CaseSpec(name, find_workload(name).kind, find_workload(name).resolve(given)) for name, given in axes.items()]
    ordered = most_telling_first(cases, DESKTOP)
    assert {case.identity for case in ordered} == {case.identity for case in cases}
    assert len(ordered) == len(cases)


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


@pytest.mark.parametrize("machine", [DESKTOP, SERVER])
def test_kinds_that_libraries_treat_apart_are_measured(machine: Machine) -> None:
    """Convolutions of sequences, plain, dilated, grouped and depthwise; of images also depthwise ones of several; recurrent
    layers, one of them two deep."""
    cases = plan_suite("micro", machine)
    sequences = [case.axes for case in cases if case.workload == "conv1d"]
    images = [case.axes for case in cases if case.workload == "conv"]
    for axes, dilated, grouped, depthwise in ((sequences, 2, 1, 3), (images, 4, 10, 15)):
        assert sum(x["dilation"] > 1 for x in axes) >= dilated
        assert sum(1 < x["groups"] < x["c_in"] for x in axes) >= grouped
        assert sum(1 < x["groups"] == x["c_in"] for x in axes) >= depthwise
    assert sum(x["groups"] == x["c_in"] > 1 and x["n"] > 2 for x in images) >= 4
    recurrent = [case.axes["layers"] for case in cases if case.workload in ("lstm", "gru")]
    assert len(recurrent) >= 12
    assert 2 in recurrent


def test_a_sweep_is_dense_and_passes_every_level() -> None:
    """The shmoo has two points for each doubling, from inside the first cache to beyond the last."""
    sizes = sorted(case.axes["rows"] for case in plan_suite("shmoo", DESKTOP) if case.workload == "relu")
    assert all(b / a <= 2 for a, b in pairwise(sizes))
    assert {level(case, DESKTOP) for case in plan_suite("shmoo", DESKTOP) if case.workload == "relu"} == {0, 1, 2, 3}


def test_planning_says_how_far_it_is() -> None:
    """Sizes are captured, which takes seconds, so that each family of cases is a step of the progress."""
    told: list[Standing] = []
    plan_suite("quick", DESKTOP, progress=told.append)
    assert {standing.stage for standing in told} == {"planning"}
    assert [standing.now for standing in told] == [family.name for family in FAMILIES]
    assert [standing.done for standing in told] == list(range(told[-1].total))


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
