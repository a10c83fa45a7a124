"""Exploring a design space: the Pareto front of the machines of a grid, or of those that a search proposes.

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
from shmoo.estimators.predict.graph_table import ModelTable
from shmoo.estimators.sweep.controller import blocks_of, rows_of
from shmoo.estimators.units import counted, si
from shmoo.estimators.variants import Amount, added_area, tiling_parameters, variant

PREDICTED_UNITS: Mapping[str, str] = {"latency": "s", "energy": "J", "power": "W", "edp": "J s", "throughput": "/s"}
"""Quantity of a call that is predicted -> its unit. Of throughput more is better, of everything else less."""
AREA = "area"
"""The machine's silicon: its dies, and what is added to them (`variants`)."""
MOST_POINTS = 5_000_000
"""Points of a grid; a larger space is one for a search."""
MOST_OTHERS = 2000
"""Designs beside a front that are kept, for its picture."""
ROUNDING = 1e-9
"""Relative difference up to which two values count as equal: sums in another order differ by less."""

Axes = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model on the machines of a space: its kernels as their runtime launches them, and its weight in means."""

    name: str
    work: ModelTable
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
    of `PREDICTED_UNITS` and coefficients (`objectives`)."""

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
            elif name not in PREDICTED_UNITS and name not in self.profile.coefficients:
                raise unknown("quantity", name, {*PREDICTED_UNITS, AREA, *self.profile.coefficients})

    def __len__(self) -> int:
        """Points of the grid."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def shown(self) -> list[str]:
        """Quantities to keep of every point: objectives first, then those with a limit."""
        return list(dict.fromkeys((*self.objectives, *(limit.quantity for limit in self.limits), "latency", "energy", "power")))

    def unit(self, name: str) -> str:
        """Unit of a quantity or of a coefficient."""
        return "m2" if name == AREA else PREDICTED_UNITS.get(name) or self.profile.coefficients[name].unit

    def area(self, machine: ArchitectureProfile) -> Amount:
        """The area of a design; `InputError` where the profile lacks a number for it."""
        return self.profile.value("area.die") + added_area(self.profile, machine, self.axes)


@dataclass(frozen=True, slots=True)
class Front:
    """The designs that no other is better than in all objectives, best in the first objective first.

    Attributes:
        columns: as of `EvaluatedDesigns`, (F,) each.
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
class EvaluatedDesigns:
    """Designs, in arrays of one shape: by axis its values, by quantity the mean of all workloads, and of several workloads by
    WORKLOAD_QUANTITY that of one; `excess` sums the relative amounts by which limits are exceeded."""

    columns: dict[str, np.ndarray]
    excess: np.ndarray

    @property
    def allowed(self) -> np.ndarray:
        """Which designs keep all limits."""
        within_limits: np.ndarray = self.excess <= 0.0
        return within_limits


def evaluate(space: Space, designs: Mapping[str, np.ndarray]) -> EvaluatedDesigns:
    """Price designs together. A machine whose memory does not hold a workload exceeds its limits.

    Args:
        designs: axis -> values of shape (..., 1) as `variants.variant` takes them; they broadcast.

    Raises:
        InputError: invalid values, or a quantity of energy on a machine without energy coefficients.
    """
    machine = variant(space.profile, designs)
    shape = np.broadcast_shapes(*(np.shape(values)[:-1] for values in designs.values()))
    capacity = machine.get(f"capacity.{machine.main_memory}")
    by_workload: dict[str, dict[str, np.ndarray]] = {}
    excess = np.zeros(shape)
    for workload in space.workloads:
        prices = AnalysisDirector(machine).price(workload.work.table, space.runtime)
        latency = np.broadcast_to(prices.latency_s.sum(axis=-1), shape)
        quantities_of_call = {"latency": latency, "throughput": workload.batch / latency}
        if prices.energy_j is not None:
            energy = np.broadcast_to(prices.energy_j.sum(axis=-1), shape)
            quantities_of_call |= {"energy": energy, "power": energy / latency, "edp": energy * latency}
        by_workload[workload.name] = quantities_of_call
        if capacity is not None:
            room = np.broadcast_to(np.asarray(capacity.value, dtype=np.float64).reshape(np.shape(capacity.value)[:-1]), shape)
            excess = excess + np.maximum(workload.work.peak_memory_bytes / room - 1.0, 0.0)
    weights = np.asarray([workload.weight for workload in space.workloads])
    weights = weights / weights.sum()
    quantities: dict[str, np.ndarray] = {}
    for name in space.shown:
        if name not in PREDICTED_UNITS:
            value = np.asarray(space.area(machine) if name == AREA else machine.value(name), dtype=np.float64)
            quantities[name] = np.broadcast_to(value[..., 0] if value.ndim else value, shape)
        elif all(name in quantities_of_call for quantities_of_call in by_workload.values()):
            logs = [
                weight * np.log(quantities_of_call[name])
                for weight, quantities_of_call in zip(weights, by_workload.values(), strict=True)
            ]
            quantities[name] = np.exp(sum(logs))
        elif name in space.objectives or any(limit.quantity == name for limit in space.limits):
            raise InputError(f"profile {space.profile.name!r} has no energy coefficients, so {name!r} is not known of it")
    for limit in space.limits:
        for quantities_of_call in by_workload.values() if limit.quantity in PREDICTED_UNITS else [quantities]:
            value = quantities_of_call[limit.quantity]
            excess_ratio = value / limit.value if limit.at_most else limit.value / value
            excess = excess + np.maximum(excess_ratio - 1.0, 0.0)
    columns = {name: np.broadcast_to(values[..., 0], shape) for name, values in designs.items()} | quantities
    if len(by_workload) > 1:
        columns |= {
            f"{w}_{name}": values for w, quantities_of_call in by_workload.items() for name, values in quantities_of_call.items()
        }
    return EvaluatedDesigns(columns, excess)


def explore_grid(space: Space) -> Front:
    """The front of every combination of the axes' values; `InputError` for too many, or as of `evaluate`."""
    if len(space) > MOST_POINTS:
        raise InputError(f"the grid has {len(space):,} points, at most {MOST_POINTS:,} are allowed; give fewer, or --search N")
    place = np.arange(len(space)).reshape([len(values) for values in space.axes.values()])
    kernels = max(len(workload.work.table) for workload in space.workloads)
    evaluated, places = [], []
    for block, values in blocks_of(space.axes, kernels):
        evaluated.append(evaluate(space, values))
        places.append(place[block][evaluated[-1].allowed])
    return _front(space, evaluated, np.argsort(np.concatenate(places)))


def _front(space: Space, evaluated: Sequence[EvaluatedDesigns], order: np.ndarray | None = None) -> Front:
    """The front of the designs within the limits; of equal ones the first in `order` is kept."""
    columns = {name: np.concatenate([batch.columns[name][batch.allowed] for batch in evaluated]) for name in evaluated[0].columns}
    if order is not None:
        columns = {name: values[order] for name, values in columns.items()}
    costs = np.stack([_log_cost(name, columns[name]) for name in space.objectives], axis=1)
    pareto_rows, counts = pareto(costs)
    by_first_cost = np.argsort(costs[pareto_rows, 0], kind="stable")
    pareto_rows, counts = pareto_rows[by_first_cost], counts[by_first_cost]
    other_rows = np.setdiff1d(np.arange(len(costs)), pareto_rows)
    sample_rows = (
        other_rows[np.linspace(0, len(other_rows) - 1, min(MOST_OTHERS, len(other_rows))).astype(int)]
        if len(other_rows)
        else other_rows
    )
    return Front(
        {name: values[pareto_rows] for name, values in columns.items()},
        counts,
        sum(batch.excess.size for batch in evaluated),
        len(costs),
        {name: columns[name][sample_rows] for name in space.objectives},
        relative_hypervolume(costs, pareto_rows),
        {} if len(costs) else _nearest_design(evaluated),
    )


def _nearest_design(evaluated: Sequence[EvaluatedDesigns]) -> dict[str, float]:
    """The columns of the design that exceeds the limits least."""
    batch = min(evaluated, key=lambda batch: batch.excess.min())
    place = np.unravel_index(batch.excess.argmin(), batch.excess.shape)
    return {name: float(values[place]) for name, values in batch.columns.items()}


def _log_cost(name: str, values: np.ndarray) -> np.ndarray:
    """A quantity to minimize, as a logarithm rounded to `ROUNDING`."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    rounded: np.ndarray = np.round(logs / ROUNDING) * ROUNDING
    return -rounded if name == "throughput" else rounded


def search(space: Space, evaluations: int, seed: int = 0) -> Front:
    """The front of the designs that NSGA-II (Deb et al., 2002) evaluates between the ends of the axes, on a logarithmic scale;
    counts are rounded. For spaces too large for a grid. `InputError` without pymoo, or as of `evaluate`."""
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize
    except ImportError as error:
        raise not_installed("searches of a design space", "pymoo>=0.6.1.5") from error
    names = list(space.axes)
    low, high = (np.log([end(space.axes[name]) for name in names]) for end in (min, max))
    is_whole = np.asarray([is_count(name) for name in names])
    evaluated: list[EvaluatedDesigns] = []

    class Designs(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(names), n_obj=len(space.objectives), n_ieq_constr=1, xl=low, xu=high)

        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
            values = np.where(is_whole, np.maximum(np.round(np.exp(x)), 1.0), np.exp(x))
            designs = evaluate(space, {name: values[:, i, None] for i, name in enumerate(names)})
            evaluated.append(designs)
            out["F"] = np.stack([_log_cost(name, designs.columns[name]) for name in space.objectives], axis=1)
            out["G"] = designs.excess[:, None]

    population = max(8, min(100, evaluations // 10))
    minimize(Designs(), NSGA2(pop_size=population), ("n_eval", evaluations), seed=seed, verbose=False)
    return _front(space, evaluated)


def front_rows(front: Front) -> list[dict[str, float | int]]:
    """One row a design of the front: its columns, in SI units, and how many are alike."""
    return list(rows_of({name: column.tolist() for name, column in {**front.columns, "alike": front.alike}.items()}))


def nearest_text(space: Space, front: Front) -> str:
    """Where no design keeps all limits: that, and the numbers of the nearest one; otherwise ""."""
    if not front.nearest:
        return ""
    nearest = ", ".join(f"{name} {si(front.nearest[name], space.unit(name))}" for name in (*space.axes, *space.shown))
    return f"None of {counted(front.points, 'design')} keeps all limits and holds every model; the nearest has {nearest}."


def pareto(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (P, J) costs that no other row dominates, by being at most as large in every column and smaller in one. The first
    of equal rows is kept.

    Returns:
        their places, ascending, and how many rows equal each.
    """
    if not len(costs):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    # Ascending in the first column, then in the others: only an earlier row can dominate a later one.
    distinct, first_rows, counts = np.unique(costs, axis=0, return_index=True, return_counts=True)
    if distinct.shape[1] == 2:
        least_before = np.concatenate(([np.inf], np.minimum.accumulate(distinct[:, 1])[:-1]))
        front = np.flatnonzero(distinct[:, 1] < least_before)
    else:
        front = _non_dominated(distinct)
    order = np.argsort(first_rows[front])
    return first_rows[front][order], counts[front][order]


def _non_dominated(rows: np.ndarray) -> np.ndarray:
    """Places of the rows, sorted and distinct, that no earlier row is at most as large as in every column."""
    candidates, front = np.arange(len(rows)), []
    while len(candidates):
        front.append(candidates[0])
        is_smaller = np.any(rows < rows[0], axis=1)
        candidates, rows = candidates[is_smaller], rows[is_smaller]
    return np.asarray(front, dtype=int)


def relative_hypervolume(costs: np.ndarray, front: np.ndarray) -> float:
    """Share of the box between the best and the worst values in every column that the front dominates: 1 where one row is best
    in everything."""
    if not len(costs):
        return 0.0
    lower, upper = costs.min(axis=0), costs.max(axis=0)
    span = upper - lower
    if not np.any(span > 0):
        return 1.0
    rows = (costs[front][:, span > 0] - lower[span > 0]) / span[span > 0]
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
        running_min = np.minimum.accumulate(rows[:, 0])
        heights = np.diff(np.append(rows[:, 1], reference[1]))
        return float(np.sum((reference[0] - running_min) * heights))
    ends = np.append(rows[1:, -1], reference[-1])
    slices = (
        hypervolume(rows[: i + 1, :-1], reference[:-1]) * (end - row[-1])
        for i, (row, end) in enumerate(zip(rows, ends, strict=True))
        if end > row[-1]
    )
    return float(sum(slices))
