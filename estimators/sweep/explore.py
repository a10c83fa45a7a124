"""Exploring a design space: the machines of a grid, or those that a search proposes, that no other is better than in everything.

Every quantity of several workloads is their geometric mean, weighted: a ratio of one workload counts as much as the same ratio of
another, however long they take (Fleming and Wallace, CACM 29(3), 1986). Limits on predicted quantities hold for every workload.
A machine whose memory does not hold a workload is out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shmoo.estimators.errors import InputError, not_installed, unknown
from shmoo.estimators.machine.area import Amount, added_area
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.tabulated import Tabulated
from shmoo.estimators.sweep.pareto import pareto, relative_hypervolume
from shmoo.estimators.sweep.points import blocks_of
from shmoo.estimators.variants import is_count, tiling_parameters, variant

PREDICTED: Mapping[str, str] = {"latency": "s", "energy": "J", "power": "W", "edp": "J s", "throughput": "/s"}
"""Quantity of a call that is predicted -> its unit. Of throughput more is better, of everything else less."""
AREA = "area"
"""The machine's silicon: its dies, and what is added to them (`machine.area`)."""
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
    """A bound on a predicted quantity, of every workload, or on a coefficient of the machine."""

    quantity: str
    at_most: bool
    value: float


@dataclass(frozen=True, slots=True)
class Space:
    """Machines to choose from.

    Attributes:
        profile: the machine that is varied. axes: coefficient -> its values, in its unit.
        objectives: quantities of `PREDICTED` or coefficients, all to be made better at once.
    """

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
        designs: axis -> (F,) values. quantities: name -> (F,) of the mean of all workloads.
        by_workload: workload -> name -> (F,) of `PREDICTED`.
        alike: (F,) designs with the same objectives, of which the one with the smallest values of the first axes stands here.
        points: designs looked at. allowed: those within the limits.
        others: name of an objective -> values of some of the designs that are allowed and not on the front.
        hypervolume: of the objectives' logarithms, between the front and the worst allowed values, as a share of the box that the
            best and the worst allowed values span.
    """

    designs: dict[str, np.ndarray]
    quantities: dict[str, np.ndarray]
    by_workload: dict[str, dict[str, np.ndarray]]
    alike: np.ndarray
    points: int
    allowed: int
    others: dict[str, np.ndarray]
    hypervolume: float

    def __len__(self) -> int:
        return len(self.alike)


@dataclass(slots=True)
class Evaluated:
    """P designs: their values by axis, their quantities, those of each workload, and whether they are allowed."""

    designs: dict[str, np.ndarray]
    quantities: dict[str, np.ndarray]
    by_workload: dict[str, dict[str, np.ndarray]]
    allowed: np.ndarray
    excess: np.ndarray


def evaluate(space: Space, designs: Mapping[str, np.ndarray]) -> Evaluated:
    """Price designs together: axis -> values, each of shape (..., 1) as `variants.variant` takes them; they broadcast.
    `InputError` for values that the machine does not take, and for a quantity of energy on a machine that knows none."""
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
        values = (
            [found[limit.quantity] for found in by_workload.values()]
            if limit.quantity in PREDICTED
            else [quantities[limit.quantity]]
        )
        for value in values:
            beyond = value / limit.value if limit.at_most else limit.value / value
            excess = excess + np.maximum(beyond - 1.0, 0.0)
    settled = {name: np.broadcast_to(values[..., 0], shape) for name, values in designs.items()}
    return Evaluated(settled, quantities, by_workload, excess <= 0.0, excess)


def explore_grid(space: Space) -> Front:
    """The front of every combination of the axes' values; `InputError` for too many, or as of `evaluate`."""
    if len(space) > MOST_POINTS:
        raise InputError(f"the grid has {len(space):,} points, at most {MOST_POINTS:,} are allowed; give fewer, or --search N")
    sides = tuple(len(values) for values in space.axes.values())
    kernels = max(len(workload.work.table) for workload in space.workloads)
    grid: dict[str, np.ndarray] = {}
    own: dict[str, dict[str, np.ndarray]] = {workload.name: {} for workload in space.workloads}
    allowed = np.zeros(sides, dtype=bool)
    for block, values in blocks_of(space.axes, kernels):
        found = evaluate(space, values)
        allowed[block] = found.allowed
        for name, numbers in found.quantities.items():
            grid.setdefault(name, np.empty(sides))[block] = numbers
        for workload, quantities in found.by_workload.items():
            for name in quantities.keys() & {"latency", "energy"}:
                own[workload].setdefault(name, np.empty(sides))[block] = quantities[name]
    places = np.flatnonzero(allowed.ravel())
    values = {name: numbers.ravel()[places] for name, numbers in grid.items()}
    designs = {
        name: np.asarray(axis, dtype=np.float64)[index]
        for (name, axis), index in zip(space.axes.items(), np.unravel_index(places, sides), strict=True)
    }
    by_workload = {w: {name: numbers.ravel()[places] for name, numbers in found.items()} for w, found in own.items()}
    return front_of(space, designs, values, by_workload, len(space))


def front_of(
    space: Space,
    designs: Mapping[str, np.ndarray],
    quantities: Mapping[str, np.ndarray],
    by_workload: Mapping[str, Mapping[str, np.ndarray]],
    points: int,
) -> Front:
    """The front among designs that are allowed, in order of preference among equal ones, of all `points` that were looked at."""
    costs = np.stack([_cost(name, quantities[name]) for name in space.objectives], axis=1)
    chosen, alike = pareto(costs)
    order = np.argsort(costs[chosen, 0], kind="stable")
    chosen, alike = chosen[order], alike[order]
    rest = np.setdiff1d(np.arange(len(costs)), chosen)
    some = rest[np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).astype(int)] if len(rest) else rest
    return Front(
        {name: values[chosen] for name, values in designs.items()},
        {name: values[chosen] for name, values in quantities.items()},
        {w: {name: values[chosen] for name, values in found.items()} for w, found in by_workload.items()},
        alike,
        points,
        len(costs),
        {name: quantities[name][some] for name in space.objectives},
        relative_hypervolume(costs, chosen),
    )


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
            out["F"] = np.stack([_cost(name, found.quantities[name]) for name in space.objectives], axis=1)
            out["G"] = found.excess[:, None]

    population = max(8, min(100, evaluations // 10))
    minimize(Designs(), NSGA2(pop_size=population), ("n_eval", evaluations), seed=seed, verbose=False)
    return _front_of_seen(space, seen)


def _front_of_seen(space: Space, seen: Sequence[Evaluated]) -> Front:
    allowed = np.concatenate([part.allowed for part in seen])

    def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in parts])[allowed] for name in parts[0]}

    by_workload = {w.name: joined([part.by_workload[w.name] for part in seen]) for w in space.workloads}
    designs, quantities = joined([part.designs for part in seen]), joined([part.quantities for part in seen])
    return front_of(space, designs, quantities, by_workload, len(allowed))


def front_rows(space: Space, front: Front) -> list[dict[str, float | int]]:
    """One row a design of the front: its axes, its quantities in SI units, those of each workload, and how many are alike."""
    several = len(space.workloads) > 1
    columns: dict[str, np.ndarray] = {**front.designs, **front.quantities}
    if several:
        columns |= {f"{w}_{name}": values for w, found in front.by_workload.items() for name, values in found.items()}
    columns["alike"] = front.alike
    return [dict(zip(columns, row, strict=True)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
