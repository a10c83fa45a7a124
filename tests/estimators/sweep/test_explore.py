"""Design spaces: the front against brute force, ties, limits, weights, and the search against the grid."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.sweep.explore import (
    Limit,
    Space,
    Workload,
    explore_grid,
    front_rows,
    hypervolume,
    pareto,
    relative_hypervolume,
    search,
)
from shmoo.estimators.variants import variant
from tests.build import GraphBuilder

PROFILE = load_profile("kpu_t64")
AXES = {"count.tiles": (16.0, 64.0, 256.0), "bandwidth.dram": (3e10, 1e11, 4e11), "capacity.l3": (2.0**22, 2.0**24, 2.0**26)}


def workload(name: str = "mlp", rows: int = 64, width: int = 512, weight: float = 1.0) -> Workload:
    b = GraphBuilder()
    x = b.relu(b.linear(b.tensor((rows, width)), 4 * width))
    return Workload(name, tabulate_model((b.graph(b.linear(x, width)),), "domainflow", "kpu"), rows, weight)


def space(*workloads: Workload, objectives: tuple[str, ...] = ("latency", "energy"), limits: tuple[Limit, ...] = ()) -> Space:
    return Space(PROFILE, "domainflow", workloads or (workload(),), AXES, objectives, limits)


def one_by_one(space: Space) -> list[dict[str, float]]:
    """Every design of the grid, priced alone."""
    found = []
    for values in itertools.product(*space.axes.values()):
        design = dict(zip(space.axes, values, strict=True))
        machine = variant(space.profile, design)
        logs = {"latency": 0.0, "energy": 0.0}
        for w in space.workloads:
            priced = AnalysisDirector(machine).price(w.work.table, space.runtime)
            share = w.weight / sum(other.weight for other in space.workloads)
            logs["latency"] += share * np.log(priced.latency_s.sum())
            logs["energy"] += share * np.log(priced.energy_j.sum())
        found.append(
            design | {name: float(np.exp(log)) for name, log in logs.items()} | {"power.tdp": machine.value("power.tdp")}
        )
    return found


def brute_force(rows: np.ndarray) -> set[int]:
    """Places of rows that no other row dominates."""
    return {
        i
        for i, row in enumerate(rows)
        if not any(np.all(other <= row) and np.any(other < row) for j, other in enumerate(rows) if j != i)
    }


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_brute_force(columns: int, seed: int) -> None:
    """Small whole numbers, so that many rows tie in one column or in all; equal rows count once, with their number."""
    rows = np.random.default_rng(seed).integers(0, 6, (200, columns)).astype(float)
    places, alike = pareto(rows)
    truth = brute_force(rows)
    assert {tuple(rows[i]) for i in places} == {tuple(rows[i]) for i in truth}
    assert len({tuple(rows[i]) for i in places}) == len(places)
    assert alike.sum() == len(truth)
    assert all(not np.any(np.all(rows[:i] == rows[i], axis=1)) for i in places)


def test_no_clock_is_best_in_everything() -> None:
    """A faster clock takes more energy and power, so that a front over clocks has several designs."""
    axes = {"clock": (5e8, 9e8, 1.3e9, 2e9)}
    front = explore_grid(Space(PROFILE, "domainflow", (workload(rows=4096),), axes, ("latency", "energy", "power.tdp"), ()))
    assert len(front) > 1
    assert {row["clock"] for row in front_rows(front)} >= {9e8, 2e9}


def test_a_front_of_many_rows_is_that_of_a_chunk_at_a_time() -> None:
    """More rows than are compared at once."""
    rows = np.random.default_rng(1).random((9000, 3))
    places, _ = pareto(rows)
    worse = np.setdiff1d(np.arange(len(rows)), places)
    front = rows[places]
    assert all(np.any(np.all(front <= rows[i], axis=1)) for i in worse)
    assert not any(np.any(np.all(np.delete(front, k, axis=0) <= front[k], axis=1)) for k in range(len(front)))


def test_nothing_allowed_is_an_empty_front() -> None:
    """A limit that no design keeps."""
    front = explore_grid(space(limits=(Limit("latency", True, 1e-12),)))
    assert (len(front), front.allowed, front.points, front.hypervolume) == (0, 0, 27, 0.0)
    assert front_rows(front) == []


def test_hypervolume_by_arithmetic() -> None:
    """Steps of a staircase; a box; a corner in three dimensions; points beyond the reference count for nothing."""
    assert hypervolume(np.asarray([[0.5]]), np.ones(1)) == 0.5
    assert hypervolume(np.asarray([[0.0, 0.5], [0.5, 0.0]]), np.ones(2)) == pytest.approx(0.75)
    assert hypervolume(np.asarray([[0.0, 0.5], [0.5, 0.0], [0.6, 0.6], [2.0, 0.0]]), np.ones(2)) == pytest.approx(0.75)
    assert hypervolume(np.asarray([[0.5, 0.5, 0.5]]), np.ones(3)) == pytest.approx(0.125)
    assert hypervolume(np.asarray([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]), np.ones(3)) == pytest.approx(0.375)


def test_hypervolume_is_that_of_random_points() -> None:
    """The share of random points of the box that some row dominates."""
    rng = np.random.default_rng(3)
    rows, points = rng.random((12, 3)), rng.random((20000, 3))
    dominated = np.any(np.all(rows[None] <= points[:, None], axis=2), axis=1).mean()
    assert hypervolume(rows, np.ones(3)) == pytest.approx(dominated, abs=0.015)


def test_one_row_best_in_everything_holds_the_whole_box() -> None:
    """And a diagonal of two rows holds nothing of it."""
    assert relative_hypervolume(np.asarray([[1.0, 1.0], [2.0, 3.0]]), np.asarray([0])) == 1.0
    assert relative_hypervolume(np.asarray([[1.0, 2.0], [2.0, 1.0]]), np.asarray([0, 1])) == 0.0


def test_the_grid_gives_what_machines_one_by_one_give() -> None:
    """Two models with weights: the same front with the same numbers, in the order of the first objective."""
    one, two = workload(), workload("wide", 256, 1024, 3.0)
    asked = space(one, two)
    designs = one_by_one(asked)
    costs = np.round(np.log([[d["latency"], d["energy"]] for d in designs]), 9)
    rows = front_rows(explore_grid(asked))
    assert [r["latency"] for r in rows] == sorted(r["latency"] for r in rows)
    assert {(round(np.log(r["latency"]), 9), round(np.log(r["energy"]), 9)) for r in rows} == {
        (round(costs[i][0], 9), round(costs[i][1], 9)) for i in brute_force(costs)
    }
    for row in rows:
        (same,) = [d for d in designs if all(d[name] == row[name] for name in AXES)]
        assert row["latency"] == pytest.approx(same["latency"])
        assert row["energy"] == pytest.approx(same["energy"])
        mean = row["mlp_latency"] ** 0.25 * row["wide_latency"] ** 0.75
        assert row["latency"] == pytest.approx(mean)


def test_equal_designs_stand_once_as_the_smallest() -> None:
    """All fits the smallest L3, so larger ones change nothing: one of three stands, the smallest."""
    small = workload(rows=8, width=64)
    rows = front_rows(explore_grid(space(small, objectives=("latency",))))
    (row,) = front_rows(explore_grid(space(small, objectives=("latency",))))
    assert rows[0]["capacity.l3"] == row["capacity.l3"] == 2.0**22
    assert row["alike"] % 3 == 0


def test_limits_hold_coefficients_and_every_workload() -> None:
    """power.tdp grows with the tiles: at most 64 are left. A latency that one of two models misses excludes a design."""
    cap = PROFILE.value("power.tdp")
    front = explore_grid(space(limits=(Limit("power.tdp", True, cap),), objectives=("latency", "count.tiles")))
    assert front.allowed == 18
    assert set(front.columns["count.tiles"]) <= {16.0, 64.0}
    one, two = workload(), workload("wide", 256, 1024)
    times = sorted(float(w["latency"]) for w in one_by_one(space(two)))
    limit = Limit("latency", True, times[5])
    assert explore_grid(space(one, two, limits=(limit,))).allowed == 6
    assert explore_grid(space(one, two, limits=(Limit("throughput", False, 256 / times[5] * 0.999999),))).allowed <= 6


def test_more_throughput_is_better() -> None:
    """Its front of one design is the fastest."""
    fastest = min(d["latency"] for d in one_by_one(space()))
    front = explore_grid(space(objectives=("throughput",)))
    assert front.columns["throughput"][0] == pytest.approx(64 / fastest)


def test_a_model_that_does_not_fit_excludes_a_design() -> None:
    """The weights take 8 MiB in float32; main memories of 4 and 64 MiB."""
    asked = Space(PROFILE, "domainflow", (workload(),), {"capacity.dram": (2.0**22, 2.0**26)}, ("latency",))
    front = explore_grid(asked)
    assert front.allowed == 1
    assert front.columns["capacity.dram"].tolist() == [2.0**26]


def test_what_is_not_known_is_refused() -> None:
    """A quantity that is no coefficient, a parameter of the tiling as an axis, a grid that is too large."""
    with pytest.raises(InputError, match=r"power\.tdp"):
        space(objectives=("power.tpd",))
    with pytest.raises(InputError, match="tiling"):
        Space(PROFILE, "domainflow", (workload(),), {"tile_m": (16.0,)}, ("latency",))
    many = {name: tuple(np.linspace(1e9, 2e9, 300)) for name in ("bandwidth.dram", "clock", "bandwidth.l3")}
    with pytest.raises(InputError, match="--search"):
        explore_grid(Space(PROFILE, "domainflow", (workload(),), many, ("latency",)))


def test_a_search_without_pymoo_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of every other missing package."""
    monkeypatch.setitem(sys.modules, "pymoo.optimize", None)
    with pytest.raises(InputError, match=r"need pymoo.*not installed here; install it with: pip install 'pymoo"):
        search(space(), 400)


def test_a_search_comes_near_the_front_of_a_grid() -> None:
    """Of the same box it finds a front that dominates nearly as much, keeps the limits, and gives whole numbers of tiles."""
    pytest.importorskip("pymoo")
    cap = 2 * PROFILE.value("power.tdp")
    asked = space(limits=(Limit("power.tdp", True, cap),))
    grid, found = explore_grid(asked), search(asked, 400, seed=1)
    assert found.points >= 400
    assert np.all(found.columns["power.tdp"] <= cap)
    assert np.all(found.columns["count.tiles"] == np.round(found.columns["count.tiles"]))
    costs = [np.log(np.stack([f.columns["latency"], f.columns["energy"]], axis=1)) for f in (grid, found)]
    worst = np.concatenate(costs).max(axis=0) + 0.1
    assert hypervolume(costs[1], worst) > 0.9 * hypervolume(costs[0], worst)


def test_the_area_of_designs() -> None:
    """An A100 with more or less L2 and bandwidth: the die, and for each byte and byte a second what the profile states. A design
    space that varies something without a number is refused at once."""
    profile = load_profile("gpu_a100_40g")
    b = GraphBuilder()
    work = Workload("linear", tabulate_model((b.graph(b.linear(b.tensor((64, 512)), 512)),), "inductor", "gpu"))
    axes = {"capacity.l2": (2.0**25, 2.0**26), "bandwidth.dram": (1e12, 2e12)}
    front = explore_grid(Space(profile, "inductor", (work,), axes, ("latency", "area"), (Limit("area", True, 850e-6),)))
    v = profile.value
    expected = (
        v("area.die")
        + v("area.byte") * (front.columns["capacity.l2"] - v("capacity.l2"))
        + v("area.bandwidth") * (front.columns["bandwidth.dram"] - v("bandwidth.dram"))
    )
    assert front.columns["area"] == pytest.approx(expected)
    assert max(front.columns["area"]) <= 850e-6
    with pytest.raises(InputError, match=r"area\.die"):
        space(objectives=("latency", "area"))
    with pytest.raises(InputError, match=r"peak\.matrix\.float32"):
        Space(profile, "inductor", (work,), {"peak.matrix.float32": (1e13, 2e13)}, ("area",))
