"""SweepController: graphs x machines x axes of the workload and of the machine -> one flat row a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import RUNTIMES, ArchitectureProfile, check_runtime
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.tabular import BOUNDS, Record, estimate_record, flatten, memory_record
from shmoo.estimators.predict.tabulated import Tabulated, tabulated
from shmoo.estimators.sweep.points import PointEstimates, estimate_points
from shmoo.estimators.tiling import TilingStrategy
from shmoo.estimators.variants import tiling_parameters, variant

AxisValue = int | float | str | bool
T = TypeVar("T")
GraphSource = Callable[[Mapping[str, AxisValue]], Sequence[Graph]]
"""Values of the workload's axes in, the graphs of that workload out."""

DRAWN_POINTS = 256
"""Design points of one machine up to which each has its intervals: a draw costs as much as 200 values."""


@dataclass(frozen=True, slots=True)
class SweepController:
    """Estimates every combination of axis values on every machine.

    Attributes:
        model: name for the rows.
        source: asked once per combination of workload axes.
        profiles: machines.
        axes: workload axis -> its values.
        profile_axes: what is changed about the machine -> its values: a coefficient such as "capacity.l3", in its unit, with
            what follows from it (`variants`), or a parameter of the tiling strategy such as "tile_m". Every profile must have it.
        fixed: workload axes that keep one value; they reach `source` and the rows. "batch" (1 where no axis is called so) is
            the number of samples a call processes.
        runtimes: runtimes to estimate on each machine that has them; each machine's own default when empty.
        fusion: whether calls are fused as the runtime does (`True`) or every call is a kernel of its own.
        strategy: tiling strategy to use in place of each profile's own.

    Example:
        >>> sweep = SweepController("mlp", graphs_of, profiles, axes={"hidden": (256, 4096)})  # doctest: +SKIP
        >>> pandas.DataFrame(sweep.rows())  # doctest: +SKIP
    """

    model: str
    source: GraphSource
    profiles: Sequence[ArchitectureProfile]
    axes: Mapping[str, Sequence[AxisValue]] = field(default_factory=dict)
    profile_axes: Mapping[str, Sequence[AxisValue]] = field(default_factory=dict)
    fixed: Mapping[str, AxisValue] = field(default_factory=dict)
    runtimes: Sequence[str] = ()
    fusion: Sequence[bool] = (True,)
    strategy: TilingStrategy | None = None

    def __len__(self) -> int:
        """Number of rows."""
        points = len(self.targets()) * len(self.fusion)
        for values in (*self.axes.values(), *self.profile_axes.values()):
            points *= len(values)
        return points

    def targets(self) -> list[tuple[ArchitectureProfile, str]]:
        """Machines with the runtimes to estimate on each.

        Raises:
            InputError: a runtime that no machine of the sweep has.
        """
        for runtime in self.runtimes:
            if not any(runtime in RUNTIMES[profile.family] for profile in self.profiles):
                check_runtime(self.profiles[0], runtime)
        return [
            (profile, runtime)
            for profile in self.profiles
            for runtime in self.runtimes or (profile.default_runtime,)
            if runtime in RUNTIMES[profile.family]
        ]

    def rows(
        self, *, compute_dtype: str | None = None, threads: int | None = None, part: int = 0, parts: int = 1
    ) -> Iterator[Record]:
        """One row a point: the axes' values, then what `tabular.flatten` gives for the estimate. Workload axes vary slowest, then
        machines, runtimes and fusion, then the machine's axes, coefficients after tiling parameters and the last one fastest.

        Beyond `DRAWN_POINTS` variants of a machine rows hold values without intervals, and say so in "interval_reason".

        Args:
            compute_dtype: as `AnalysisDirector.estimate` takes it. threads: likewise; for the CPUs among the machines.
            part, parts: only the rows of this part of so many, which follow each other: all parts in order are all rows.

        Raises:
            InputError: an axis without values, a profile axis that one of the profiles lacks, or what an estimate refuses.
        """
        for name, values in (*self.axes.items(), *self.profile_axes.items()):
            if not values:
                raise InputError(f"axis {name!r} has no values; give at least one")
        targets = self.targets()
        variants = {profile.name: self._variants(profile, threads) for profile, _ in targets}
        points = list(product_of(self.axes))
        units = len(points) * len(self.fusion) * sum(len(variants[profile.name]) for profile, _ in targets)
        number = 0
        for point in points:
            settings = {**self.fixed, **point}
            batch = int(settings.get("batch", 1))
            graphs: tuple[Graph, ...] = ()
            launched: dict[tuple[str, str, bool], Tabulated] = {}
            for (profile, runtime), fused in itertools.product(targets, self.fusion):
                cores = threads if profile.family == "cpu" else None
                told = {"fusion": "on" if fused else "off"} if len(self.fusion) > 1 or not fused else {}
                for tiles, changed in variants[profile.name]:
                    mine = number * parts // units == part
                    number += 1
                    if not mine:
                        continue
                    graphs = graphs or tuple(self.source(settings))
                    key = (profile.family, runtime, fused)
                    if key not in launched:
                        launched[key] = tabulated(graphs, runtime, profile.family, compute_dtype, fused)
                    for row in self._machine_rows(profile, runtime, launched[key], cores, batch, tiles, changed):
                        yield {**settings, **told, **row}

    def _variants(
        self, profile: ArchitectureProfile, threads: int | None
    ) -> list[tuple[dict[str, AxisValue], dict[str, AxisValue] | None]]:
        """What is changed about a machine, variant by variant: tiling parameters and coefficients. `None` stands for all values
        of the coefficients, priced together."""
        handled = tiling_parameters(profile)
        by_hand = {name: values for name, values in self.profile_axes.items() if name in handled}
        numbers = {name: values for name, values in self.profile_axes.items() if name not in handled}
        alone = profile.family == "cpu" and threads is not None
        drawn = math.prod(len(values) for values in self.profile_axes.values()) <= DRAWN_POINTS or alone
        return [(tiles, values) for tiles in product_of(by_hand) for values in (product_of(numbers) if drawn else (None,))]

    def _machine_rows(
        self,
        profile: ArchitectureProfile,
        runtime: str,
        work: Tabulated,
        threads: int | None,
        batch: int,
        tiles: Mapping[str, AxisValue],
        values: Mapping[str, AxisValue] | None,
    ) -> Iterator[Record]:
        """Rows of one of a machine's `_variants`."""
        machine = variant(profile, tiles) if tiles else profile
        if values is None:
            numbers = {name: axis for name, axis in self.profile_axes.items() if name not in tiles}
            yield from self._values(machine, runtime, work, tiles, numbers, batch)
            return
        director = AnalysisDirector(variant(machine, values) if values else machine, self.strategy)
        estimate = director.estimate_tabulated(work, runtime, threads=threads, batch=batch, by_kernel=False)
        yield {**tiles, **values, **flatten(estimate_record(estimate, self.model))}

    def _values(
        self,
        machine: ArchitectureProfile,
        runtime: str,
        work: Tabulated,
        tiles: Mapping[str, AxisValue],
        axes: Mapping[str, Sequence[float | str]],
        batch: int,
    ) -> Iterator[Record]:
        """Rows of many variants, priced together: the first one's row with the columns that differ."""
        points = estimate_points(machine, work.table, runtime, axes, self.strategy)
        first = AnalysisDirector(machine, self.strategy).estimate_tabulated(work, runtime, batch=batch)
        common = flatten(estimate_record(first, self.model)) | dict.fromkeys(BOUNDS)
        common["interval_reason"] = f"left out of sweeps over more than {DRAWN_POINTS} variants of a machine"
        columns = _columns(points, batch)
        names = list(columns)
        capacity = f"capacity.{machine.levels[-1]}"
        for values, numbers in zip(product_of(axes), zip(*columns.values(), strict=True), strict=True):
            row = {**tiles, **values, **common, **dict(zip(names, numbers, strict=True))}
            if capacity in values:
                row |= flatten(memory_record(msgspec.structs.replace(first.memory, capacity_bytes=float(values[capacity]))))
            yield row


def product_of(axes: Mapping[str, Sequence[T]]) -> Iterator[dict[str, T]]:
    """Every combination of axis values; one empty combination where there are no axes."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _columns(points: PointEstimates, batch: int) -> dict[str, list[float]]:
    """What differs from point to point, as rows hold it."""
    columns: dict[str, np.ndarray] = {
        "tiles": points.tiles,
        "latency_s": points.latency_s,
        "throughput_per_s": batch / points.latency_s,
    }
    if points.energy_j is not None:
        columns["energy_j"] = points.energy_j
        columns["average_power_w"] = points.energy_j / points.latency_s
        columns["edp_js"] = points.energy_j * points.latency_s
    columns |= {f"basis_{name}": share for name, share in points.basis.items()}
    return {name: column.tolist() for name, column in columns.items()}
