"""The planner: the largest size of a model that stays on a machine's chip. Everything alive at once must fit what the chip keeps
from one kernel to the next, and tiles must not make the main memory serve much twice (`spill_bytes`)."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Literal

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.director import AnalysisDirector, room_on
from shmoo.estimators.predict.graph_table import Tabulated, tabulated
from shmoo.estimators.sweep.controller import AxisValue, SweepController, product_of
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import TileShape, resident
from shmoo.estimators.variants import variant

Settings = tuple[tuple[str, AxisValue], ...]
Limit = Literal["memory", "tiling", "none"]
SPILL_SHARE = 0.01
"""Share of a model's external bytes that may be served twice before it counts as spilled: caches never hit all of the time."""


class OnChip(msgspec.Struct, frozen=True):
    """The largest size on one machine.

    Attributes:
        settings: the other axes, of the workload and of the machine.
        value: of the axis that is maximised; `None` where not even the smallest fits.
        footprint_bytes: alive at once at `value`, at the smallest size where none fits.
        capacity_bytes: what the chip holds.
        limit: what the next larger size exceeds: "memory", "tiling" (its tiles spill), or "none" at the end of the axis.
        memory: of the size that `footprint_bytes` belongs to, beside the machine's main memory.
    """

    arch: str
    dtype: str
    runtime: str
    settings: dict[str, AxisValue]
    value: AxisValue | None
    footprint_bytes: float
    capacity_bytes: float
    limit: Limit
    memory: MemoryRoom


def on_chip_bytes(profile: ArchitectureProfile) -> float:
    """Bytes that a chip keeps from one kernel to the next: scratchpads add up, caches may hold copies of each other's lines and
    count by the largest."""
    held = resident(profile).values()
    return float(max(held, default=0.0) if profile.family == "cpu" else sum(held))


def spill_bytes(director: AnalysisDirector, table: KernelTable) -> float:
    """Bytes that main memory moves only because kernels are cut into tiles: more than it would for tiles of any size."""
    last = director.profile.levels[-1]
    cut = director.tile(table).level_bytes[last]
    whole = director.strategy.apply(table, director.profile, TileShape(table.m, table.n, table.k)).level_bytes[last]
    return float(np.maximum(cut - whole, 0.0).sum())


def largest_on_chip(sweep: SweepController, *, compute_dtype: str | None = None) -> Iterator[OnChip]:
    """The largest value of the sweep's first workload axis that stays on chip, for each machine, each variant of it and each
    combination of the other axes. Halves the list of values, so a model must not shrink along it. `InputError` without a workload
    axis of numbers."""
    name, values = next(iter(sweep.axes.items()), ("", ()))
    if not values or any(isinstance(value, str | bool) for value in values):
        raise InputError("--largest-on-chip needs a first --axis of numbers to maximise, such as --axis hidden=64..65536:101")
    sizes = sorted(values)
    others = {other: members for other, members in sweep.axes.items() if other != name}

    @cache
    def graphs(settings: Settings) -> tuple[Graph, ...]:
        return tuple(sweep.source(dict(settings)))

    @cache
    def work(settings: Settings, family: str, runtime: str) -> Tabulated:
        return tabulated(graphs(settings), runtime, family, compute_dtype)

    for rest in product_of(others):
        for (profile, runtime), changed in itertools.product(sweep.targets(), list(product_of(sweep.profile_axes))):
            machine = AnalysisDirector(variant(profile, changed) if changed else profile, sweep.strategy)
            points = [{**sweep.fixed, **rest, name: size} for size in sizes]
            works = [partial(work, tuple(point.items()), profile.family, runtime) for point in points]
            batches = [int({**point, **changed}.get("batch", 1)) for point in points]
            yield _largest(machine, runtime, {**rest, **changed}, sizes, batches, works)


def _largest(
    director: AnalysisDirector,
    runtime: str,
    settings: dict[str, AxisValue],
    sizes: Sequence[AxisValue],
    batches: Sequence[int],
    works: Sequence[Callable[[], Tabulated]],
) -> OnChip:
    """By bisection; `batches` and `works` are the samples and the kernels of a call of each of the `sizes`."""
    capacity = on_chip_bytes(director.profile)
    limits: dict[int, Limit] = {len(sizes): "none"}

    def leaves(position: int) -> bool:
        work = works[position]()
        fits = work.peak_memory_bytes <= capacity
        spills = fits and spill_bytes(director, work.table) > SPILL_SHARE * work.table.bytes.sum()
        limits[position] = "tiling" if spills else "none" if fits else "memory"
        return limits[position] != "none"

    above = bisect_left(range(len(sizes)), True, key=leaves)
    value, shown = sizes[above - 1] if above else None, max(above - 1, 0)
    work = works[shown]()
    room = room_on(director.profile, work.memory, batches[shown])
    return OnChip(
        director.profile.name, work.dtype, runtime, settings, value, work.peak_memory_bytes, capacity, limits[above], room
    )
