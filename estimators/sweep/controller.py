"""SweepController: graphs x machines x axes of the workload and of the machine -> one flat row a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.names import continues
from shmoo.estimators.machine.profile import RUNTIMES, ArchitectureProfile, check_runtime
from shmoo.estimators.predict.basis import time_basis
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import BOUNDS, Record, estimate_record, flatten, memory_record
from shmoo.estimators.predict.graph_table import ModelTable, tabulate_model
from shmoo.estimators.predict.pipeline import DRAWS, Prices, interval_ends, possible_watts
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import TilingStrategy
from shmoo.estimators.variants import tiling_parameters, variant

AxisValue = int | float | str | bool
T = TypeVar("T")
Columns = dict[str, list[Any]]
"""Rows as columns of equal length, by name."""
GraphSource = Callable[[Mapping[str, AxisValue]], Sequence[Graph]]
"""Values of the workload's axes in, the graphs of that workload out."""

DRAWN_POINTS = 256
"""Design points of one machine up to which each has its intervals: a draw costs as much as 200 values."""
BLOCK_NUMBERS = 2**16
"""Kernels x points estimated together: arrays of 512 KiB. Of smaller ones the calls take longer than the work."""
DRAWN_NUMBERS = 2**19
"""Draws x kernels x points estimated together, where each point has its intervals: enough to hide the overhead of arrays."""


@dataclass(frozen=True, slots=True)
class SweepController:
    """Estimates every combination of axis values on every machine.

    Attributes:
        model: name for the rows. source: called once per combination of workload axes.
        axes: workload axis -> its values.
        profile_axes: coefficient, such as "capacity.l3", or parameter of the tiling strategy, such as "tile_m" -> its values.
            Coefficients also change what depends on them (`variants`). Every profile must have them.
        fixed: workload axes with one value; they reach `source` and the rows. "batch" is the number of samples of a call, 1
            without such an axis.
        runtimes: runtimes to estimate on each machine that has them; each machine's default when empty.
        fusion: whether calls are fused as the runtime does (`True`) or every call is a kernel (`False`).
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

    def rows(self, *, compute_dtype: str | None = None, threads: int | None = None) -> Iterator[Record]:
        """One row a point: the axes' values, then what `flatten` gives for the estimate. Workload axes vary slowest, then
        machines, runtimes and fusion, then the machine's axes, coefficients after tiling parameters and the last one fastest.

        Beyond `DRAWN_POINTS` variants of a machine rows hold values without intervals, and say so in "interval_reason".

        Args:
            compute_dtype: as `AnalysisDirector.estimate` takes it. threads: likewise; for the CPUs among the machines.

        Raises:
            InputError: an axis without values, a profile axis that one of the profiles lacks, or what an estimate refuses.
        """
        for block in self.blocks(compute_dtype=compute_dtype, threads=threads):
            yield from rows_of(block)

    def blocks(
        self, *, compute_dtype: str | None = None, threads: int | None = None, part: int = 0, parts: int = 1
    ) -> Iterator[Columns]:
        """The same rows as columns, many at a time, of one of several consecutive parts; arguments and errors as of `rows`."""
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
            tables: dict[tuple[str, str, bool], ModelTable] = {}
            for (profile, runtime), is_fused in itertools.product(targets, self.fusion):
                cores = threads if profile.family == "cpu" else None
                fusion_setting = {"fusion": "on" if is_fused else "off"} if len(self.fusion) > 1 or not is_fused else {}
                for tiles, coefficients in variants[profile.name]:
                    in_part = number * parts // units == part
                    number += 1
                    if not in_part:
                        continue
                    graphs = graphs or tuple(self.source(settings))
                    key = (profile.family, runtime, is_fused)
                    if key not in tables:
                        tables[key] = tabulate_model(graphs, runtime, profile.family, compute_dtype, is_fused)
                    machine = variant(profile, tiles) if tiles else profile
                    block = self._block(machine, runtime, tables[key], cores, batch, tiles, coefficients)
                    count = len(block["model"])
                    yield {name: [value] * count for name, value in {**settings, **fusion_setting}.items()} | block

    def _variants(
        self, profile: ArchitectureProfile, threads: int | None
    ) -> list[tuple[dict[str, AxisValue], dict[str, Sequence[AxisValue]]]]:
        """The changes to a machine, in pairs: tiling parameters, and values of coefficients whose combinations are priced
        together."""
        by_hand = {name: values for name, values in self.profile_axes.items() if name in tiling_parameters(profile)}
        numbers = {name: values for name, values in self.profile_axes.items() if name not in by_hand}
        coefficient_axes = [numbers]
        if (profile.family == "cpu" and threads is not None) or (self._has_intervals() and not _shares_draws(numbers)):
            coefficient_axes = [{name: (value,) for name, value in combination.items()} for combination in product_of(numbers)]
        return [(tiles, axes) for tiles in product_of(by_hand) for axes in coefficient_axes]

    def _has_intervals(self) -> bool:
        """True where variants of a machine are few enough for intervals."""
        return math.prod(len(values) for values in self.profile_axes.values()) <= DRAWN_POINTS

    def _block(
        self,
        machine: ArchitectureProfile,
        runtime: str,
        work: ModelTable,
        threads: int | None,
        batch: int,
        tiles: Mapping[str, AxisValue],
        axes: Mapping[str, Sequence[AxisValue]],
    ) -> Columns:
        """Rows of all combinations of a machine's coefficients: the first one's row, and the columns that differ."""
        combinations, has_intervals = list(product_of(axes)), threads is not None or self._has_intervals()
        count, seed = len(combinations), 0 if has_intervals else None
        points: dict[str, np.ndarray] = {}
        if count > 1:
            points = estimate_points(machine, work.table, runtime, axes, batch=batch, strategy=self.strategy, seed=seed)
        director = AnalysisDirector(variant(machine, combinations[0]) if axes else machine, self.strategy)
        first_estimate = director.estimate_table(work, runtime, threads=threads, batch=batch, by_kernel=False)
        common_columns = flatten(estimate_record(first_estimate, self.model))
        if not has_intervals:
            common_columns |= dict.fromkeys(BOUNDS)
            common_columns["interval_reason"] = f"left out of sweeps over more than {DRAWN_POINTS} variants of a machine"
        columns = {name: [value] * count for name, value in tiles.items()}
        columns |= {name: [values[name] for values in combinations] for name in axes}
        columns |= {name: [value] * count for name, value in common_columns.items()}
        columns |= {name: numbers.tolist() for name, numbers in points.items()}
        capacity = f"capacity.{machine.main_memory}"
        if capacity in axes:
            rooms = [msgspec.structs.replace(first_estimate.memory, capacity_bytes=values[capacity]) for values in combinations]
            records = [flatten(memory_record(room)) for room in rooms]
            columns |= {name: [record[name] for record in records] for name in records[0]}
        return columns


def _shares_draws(axes: Mapping[str, Sequence[AxisValue]]) -> bool:
    """True where intervals of all points over these axes can share one set of draws: a coefficient of 0 is not drawn, and rates
    of units and spreads change from point to point which types count as measured."""
    return bool(axes) and all(
        entry(name).role != "spread" and not continues(name, "peak") and all(not isinstance(v, str) and v > 0 for v in values)
        for name, values in axes.items()
    )


def rows_of(block: Columns) -> Iterator[Record]:
    """The rows of a block of columns."""
    names = list(block)
    return (dict(zip(names, row, strict=True)) for row in zip(*block.values(), strict=True))


def product_of(axes: Mapping[str, Sequence[T]]) -> Iterator[dict[str, T]]:
    """Every combination of axis values; one empty combination where there are no axes."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def estimate_points(
    profile: ArchitectureProfile,
    table: KernelTable,
    runtime: str,
    axes: Mapping[str, Sequence[float | str]],
    *,
    batch: int = 1,
    strategy: TilingStrategy | None = None,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """One call of a model on every combination of a machine's coefficients, the last axis fastest: (P,) columns of a sweep's rows
    that differ from point to point. Every axis is a dimension of its own, so that terms it does not change are computed once.

    Args:
        axes: coefficient -> values, in its unit, as of `variants.variant`, whose errors are raised, too.
        seed: of the draws behind intervals; no intervals for `None`.
    """
    sides = tuple(len(values) for values in axes.values())
    columns: dict[str, np.ndarray] = {}
    for block, values in blocks_of(axes, len(table), BLOCK_NUMBERS if seed is None else DRAWN_NUMBERS // DRAWS):
        director = AnalysisDirector(variant(profile, values), strategy)
        prices = director.price(table, runtime, seed=seed)
        basis = time_basis(table, prices.prediction, Coefficients(director.profile), runtime)
        numbers = _numbers(prices.total(), batch, director.profile) | {f"basis_{name}": share for name, share in basis.items()}
        for name, number in numbers.items():
            columns.setdefault(name, np.empty(sides))[block] = number
    return {name: column.reshape(math.prod(sides)) for name, column in columns.items()}


def _numbers(totals: Prices, batch: int, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """Quantities of a block of points, and the ends of their intervals where there are draws."""
    numbers = {"device_s": totals.device_s}
    for name, (values, draws) in totals.quantities_with_draws().items():
        numbers[name] = values
        if draws is not None:
            low, high = interval_ends(values, draws)
            ends = possible_watts(profile, low, values, high) if name == "average_power_w" else (low, high)
            numbers[f"{name}_low"], numbers[f"{name}_high"] = ends
    for end, throughput_end in (("", ""), ("_low", "_high"), ("_high", "_low")):
        if f"latency_s{end}" in numbers:
            numbers[f"throughput_per_s{throughput_end}"] = batch / numbers[f"latency_s{end}"]
    return {"tiles": totals.tiling.tiles.sum(axis=-1), **{name: number[..., 0] for name, number in numbers.items()}}


def blocks_of(
    axes: Mapping[str, Sequence[float | str]], kernels: int, numbers: int = BLOCK_NUMBERS
) -> Iterator[tuple[tuple[slice, ...], dict[str, np.ndarray]]]:
    """A grid of design points cut into blocks that are estimated together: the place of each in the grid, and its values, every
    axis along a dimension of its own, and a last one of extent 1 for the kernels. A block holds about `numbers` kernels x points.
    """
    step = max(1, int((numbers / max(kernels, 1)) ** (1.0 / max(len(axes), 1))))
    for corner in itertools.product(*(range(0, len(values), step) for values in axes.values())):
        block = tuple(slice(start, start + step) for start in corner)
        mesh = np.ix_(
            *(np.asarray(axis[axis_slice], dtype=np.float64) for axis, axis_slice in zip(axes.values(), block, strict=True))
        )
        yield block, {name: values[..., None] for name, values in zip(axes, mesh, strict=True)}
