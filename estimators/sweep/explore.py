"""Exploring a design space: the machines of a grid, or those that a search proposes, that no other is better than in everything.

Quantities of several workloads are weighted geometric means (Fleming and Wallace, CACM 29(3), 1986)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shmoo.estimators.errors import InputError, not_installed, unknown
from shmoo.estimators.machine.catalogue import is_count
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import Tabulated
from shmoo.estimators.sweep.controller import blocks_of, rows_of
from shmoo.estimators.units import counted, si
from shmoo.estimators.variants import Amount, added_area, tiling_parameters, variant

PREDICTED: Mapping[str, str] = {"latency": "s", "energy": "J", "power": "W", "edp": "J s", "throughput": "/s"}
"""Quantity of a call that is predicted -> its unit. Of throughput more is better, of everything else less."""
AREA = "area"
"""The machine's silicon: its dies, and what is added to them (`variants`)."""
MOST_POINTS = 5_000_000
"""Points of a grid; a larger space is one for a search."""
OTHERS = 2000
"""Designs beside a front that are kept, for its picture."""
SAME = 1e-9
"""Relative difference up to which two values are the same: what sums in another order differ by."""

Axes = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model on the machines of a space: its kernels as their runtime launches them, and its weight in means."""

    name: str
    work: Tabulated
    batch: int = 1
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a predicted quantity, for every workload, or on a coefficient of the machine."""

    quantity: str
    at_most: bool
    value: float


@dataclass(frozen=True, slots=True)
class Space:
    """Variants of a machine to choose from, by values of coefficients in their units (`axes`), to be better at once in quantities
    of `PREDICTED` and coefficients (`objectives`)."""

    profile: ArchitectureProfile
    runtime: str
    workloads: Sequence[Workload]
    axes: Axes
    objectives: Sequence[str]
    limits: Sequence[Limit] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for name in self.axes:
            if name in tiling_parameters(self.profile):
                raise InputError(
                    f"{name!r} is a parameter of the tiling; a design space is one of coefficients, such as count.tiles"
                )
        if not self.workloads or not self.axes or not self.objectives:
            raise InputError("a design space needs a workload, an axis such as count.tiles=64..1024, and an objective")
        names = [workload.name for workload in self.workloads]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"the workload {name!r} is named twice; name it once, and give it a weight of 2")
        for name in (*self.objectives, *(limit.quantity for limit in self.limits)):
            if name == AREA:
                self.area(self.profile)
            elif name not in PREDICTED and name not in self.profile.coefficients:
                raise unknown("quantity", name, {*PREDICTED, AREA, *self.profile.coefficients})

    def __len__(self) -> int:
        """Points of the grid."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def shown(self) -> list[str]:
        """Quantities to keep of every point: objectives first, then those with a limit."""
        return list(dict.fromkeys((*self.objectives, *(limit.quantity for limit in self.limits), "latency", "energy", "power")))

    def unit(self, name: str) -> str:
        """Unit of a quantity or of a coefficient."""
        return "m2" if name == AREA else PREDICTED.get(name) or self.profile.coefficients[name].unit

    def area(self, machine: ArchitectureProfile) -> Amount:
        """The area of a design; `InputError` where the profile lacks a number for it."""
        return self.profile.value("area.die") + added_area(self.profile, machine, self.axes)


@dataclass(frozen=True, slots=True)
class Front:
    """The designs that no other is better than in all objectives, best in the first objective first.

    Attributes:
        columns: as of `Evaluated`, (F,) each.
        alike: (F,) designs with the same objectives, of which the one with the smallest values of the first axes stands here.
        points: designs looked at. allowed: those within the limits.
        others: name of an objective -> values of some of the designs that are allowed and not on the front.
        hypervolume: of the objectives' logarithms, between the front and the worst allowed values, as a share of the box that the
            best and the worst allowed values span.
        nearest: where no design keeps all limits, the columns of the one that exceeds them least; otherwise empty.
    """

    columns: dict[str, np.ndarray]
    alike: np.ndarray
    points: int
    allowed: int
    others: dict[str, np.ndarray]
    hypervolume: float
    nearest: dict[str, float]

    def __len__(self) -> int:
        return len(self.alike)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Designs, in arrays of one shape: by axis its values, by quantity the mean of all workloads, and of several workloads by
    WORKLOAD_QUANTITY that of one; `excess` sums the relative amounts by which limits are exceeded."""

    columns: dict[str, np.ndarray]
    excess: np.ndarray

    @property
    def allowed(self) -> np.ndarray:
        """Which designs keep all limits."""
        kept: np.ndarray = self.excess <= 0.0
        return kept


def evaluate(space: Space, designs: Mapping[str, np.ndarray]) -> Evaluated:
    """Price designs together: axis -> values, each of shape (..., 1) as `variants.variant` takes them; they broadcast. A machine
    whose memory does not hold a workload is not allowed. `InputError` for values that the machine does not take, and for a
    quantity of energy on a machine that knows none."""
    machine = variant(space.profile, designs)
    shape = np.broadcast_shapes(*(np.shape(values)[:-1] for values in designs.values()))
    capacity = machine.get(f"capacity.{machine.levels[-1]}")
    by_workload: dict[str, dict[str, np.ndarray]] = {}
    excess = np.zeros(shape)
    for workload in space.workloads:
        priced = AnalysisDirector(machine).price(workload.work.table, space.runtime)
        latency = np.broadcast_to(priced.latency_s.sum(axis=-1), shape)
        found = {"latency": latency, "throughput": workload.batch / latency}
        if priced.energy_j is not None:
            energy = np.broadcast_to(priced.energy_j.sum(axis=-1), shape)
            found |= {"energy": energy, "power": energy / latency, "edp": energy * latency}
        by_workload[workload.name] = found
        if capacity is not None:
            room = np.broadcast_to(np.asarray(capacity.value, dtype=np.float64).reshape(np.shape(capacity.value)[:-1]), shape)
            excess = excess + np.maximum(workload.work.peak_memory_bytes / room - 1.0, 0.0)
    weights = np.asarray([workload.weight for workload in space.workloads])
    weights = weights / weights.sum()
    quantities: dict[str, np.ndarray] = {}
    for name in space.shown:
        if name not in PREDICTED:
            value = np.asarray(space.area(machine) if name == AREA else machine.value(name), dtype=np.float64)
            quantities[name] = np.broadcast_to(value[..., 0] if value.ndim else value, shape)
        elif all(name in found for found in by_workload.values()):
            logs = [weight * np.log(found[name]) for weight, found in zip(weights, by_workload.values(), strict=True)]
            quantities[name] = np.exp(sum(logs))
        elif name in space.objectives or any(limit.quantity == name for limit in space.limits):
            raise InputError(f"profile {space.profile.name!r} has no energy coefficients, so {name!r} is not known of it")
    for limit in space.limits:
        for found in by_workload.values() if limit.quantity in PREDICTED else [quantities]:
            value = found[limit.quantity]
            beyond = value / limit.value if limit.at_most else limit.value / value
            excess = excess + np.maximum(beyond - 1.0, 0.0)
    columns = {name: np.broadcast_to(values[..., 0], shape) for name, values in designs.items()} | quantities
    if len(by_workload) > 1:
        columns |= {f"{w}_{name}": values for w, found in by_workload.items() for name, values in found.items()}
    return Evaluated(columns, excess)


def explore_grid(space: Space) -> Front:
    """The front of every combination of the axes' values; `InputError` for too many, or as of `evaluate`."""
    if len(space) > MOST_POINTS:
        raise InputError(f"the grid has {len(space):,} points, at most {MOST_POINTS:,} are allowed; give fewer, or --search N")
    place = np.arange(len(space)).reshape([len(values) for values in space.axes.values()])
    kernels = max(len(workload.work.table) for workload in space.workloads)
    seen, places = [], []
    for block, values in blocks_of(space.axes, kernels):
        seen.append(evaluate(space, values))
        places.append(place[block][seen[-1].allowed])
    return _front(space, seen, np.argsort(np.concatenate(places)))


def _front(space: Space, seen: Sequence[Evaluated], order: np.ndarray | None = None) -> Front:
    """The front among designs that are allowed; of equal ones the first in `order` stands."""
    columns = {name: np.concatenate([part.columns[name][part.allowed] for part in seen]) for name in seen[0].columns}
    if order is not None:
        columns = {name: values[order] for name, values in columns.items()}
    costs = np.stack([_cost(name, columns[name]) for name in space.objectives], axis=1)
    chosen, alike = pareto(costs)
    first = np.argsort(costs[chosen, 0], kind="stable")
    chosen, alike = chosen[first], alike[first]
    rest = np.setdiff1d(np.arange(len(costs)), chosen)
    some = rest[np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).astype(int)] if len(rest) else rest
    return Front(
        {name: values[chosen] for name, values in columns.items()},
        alike,
        sum(part.excess.size for part in seen),
        len(costs),
        {name: columns[name][some] for name in space.objectives},
        relative_hypervolume(costs, chosen),
        {} if len(costs) else _nearest(seen),
    )


def _nearest(seen: Sequence[Evaluated]) -> dict[str, float]:
    """The columns of the design that exceeds the limits least."""
    part = min(seen, key=lambda part: part.excess.min())
    place = np.unravel_index(part.excess.argmin(), part.excess.shape)
    return {name: float(values[place]) for name, values in part.columns.items()}


def _cost(name: str, values: np.ndarray) -> np.ndarray:
    """A quantity as something to make small; equal where values differ by rounding only."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    settled: np.ndarray = np.round(logs / SAME) * SAME
    return -settled if name == "throughput" else settled


def search(space: Space, evaluations: int, seed: int = 0) -> Front:
    """The front of the designs that NSGA-II (Deb et al., 2002) looks at between the ends of the axes, on a logarithmic scale;
    counts are rounded. For spaces of too many points for a grid. `InputError` without pymoo, or as of `evaluate`."""
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize
    except ImportError as error:
        raise not_installed("searches of a design space", "pymoo>=0.6.1.5") from error
    names = list(space.axes)
    low, high = (np.log([end(space.axes[name]) for name in names]) for end in (min, max))
    whole = np.asarray([is_count(name) for name in names])
    seen: list[Evaluated] = []

    class Designs(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(names), n_obj=len(space.objectives), n_ieq_constr=1, xl=low, xu=high)

        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
            values = np.where(whole, np.maximum(np.round(np.exp(x)), 1.0), np.exp(x))
            found = evaluate(space, {name: values[:, i, None] for i, name in enumerate(names)})
            seen.append(found)
            out["F"] = np.stack([_cost(name, found.columns[name]) for name in space.objectives], axis=1)
            out["G"] = found.excess[:, None]

    population = max(8, min(100, evaluations // 10))
    minimize(Designs(), NSGA2(pop_size=population), ("n_eval", evaluations), seed=seed, verbose=False)
    return _front(space, seen)


def front_rows(front: Front) -> list[dict[str, float | int]]:
    """One row a design of the front: its columns, in SI units, and how many are alike."""
    return list(rows_of({name: column.tolist() for name, column in {**front.columns, "alike": front.alike}.items()}))


def none_allowed(space: Space, front: Front) -> str:
    """Where no design keeps all limits: that, and the numbers of the nearest one; otherwise ""."""
    if not front.nearest:
        return ""
    nearest = ", ".join(f"{name} {si(front.nearest[name], space.unit(name))}" for name in (*space.axes, *space.shown))
    return f"None of {counted(front.points, 'design')} keeps all limits and holds every model; the nearest has {nearest}."


def pareto(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (P, J) costs that no other row dominates: none is at most as large in every column and smaller in one. Of equal
    rows the first stands for all.

    Returns:
        their places, ascending, and how many rows equal each.
    """
    if not len(costs):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    # Ascending in the first column, then in the others: only an earlier row can dominate a later one.
    distinct, first, counts = np.unique(costs, axis=0, return_index=True, return_counts=True)
    if distinct.shape[1] == 2:
        before = np.concatenate(([np.inf], np.minimum.accumulate(distinct[:, 1])[:-1]))
        kept = np.flatnonzero(distinct[:, 1] < before)
    else:
        kept = _undominated(distinct)
    order = np.argsort(first[kept])
    return first[kept][order], counts[kept][order]


def _undominated(rows: np.ndarray) -> np.ndarray:
    """Places of the rows, sorted and distinct, that no earlier row is at most as large as in every column."""
    left, kept = np.arange(len(rows)), []
    while len(left):
        kept.append(left[0])
        smaller = np.any(rows < rows[0], axis=1)
        left, rows = left[smaller], rows[smaller]
    return np.asarray(kept, dtype=int)


def relative_hypervolume(costs: np.ndarray, front: np.ndarray) -> float:
    """Share of the box between the best and the worst values in every column that the front dominates: 1 where one row is best
    in everything."""
    if not len(costs):
        return 0.0
    best, worst = costs.min(axis=0), costs.max(axis=0)
    span = worst - best
    if not np.any(span > 0):
        return 1.0
    rows = (costs[front][:, span > 0] - best[span > 0]) / span[span > 0]
    return hypervolume(rows, np.ones(rows.shape[1]))


def hypervolume(rows: np.ndarray, reference: np.ndarray) -> float:
    """Volume that is dominated by rows of costs, up to a reference point, by slices along the last column (Fonseca, Paquete and
    López-Ibáñez, CEC 2006, without their bookkeeping)."""
    rows = rows[np.all(rows < reference, axis=1)]
    if not len(rows):
        return 0.0
    if rows.shape[1] == 1:
        return float(reference[0] - rows[:, 0].min())
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    if rows.shape[1] == 2:
        lowest = np.minimum.accumulate(rows[:, 0])
        heights = np.diff(np.append(rows[:, 1], reference[1]))
        return float(np.sum((reference[0] - lowest) * heights))
    ends = np.append(rows[1:, -1], reference[-1])
    slices = (
        hypervolume(rows[: i + 1, :-1], reference[:-1]) * (end - row[-1])
        for i, (row, end) in enumerate(zip(rows, ends, strict=True))
        if end > row[-1]
    )
    return float(sum(slices))
