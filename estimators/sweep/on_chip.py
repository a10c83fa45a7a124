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
from shmoo.estimators.predict.graph_table import ModelTable, tabulate_model
from shmoo.estimators.sweep.controller import AxisValue, SweepController, product_of
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import TileShape, resident
from shmoo.estimators.variants import variant

Settings = tuple[tuple[str, AxisValue], ...]
Limit = Literal["memory", "tiling", "none"]
SPILL_SHARE = 0.01
"""Share of a model's external bytes that may be read again before it counts as spilled: caches never hit all of the time."""


class OnChip(msgspec.Struct, frozen=True):
    """The largest size on one machine.

    Attributes:
        settings: values of the other axes, of the workload and of the machine.
        value: largest value of the maximised axis; `None` where not even the smallest fits.
        footprint_bytes: peak memory at `value`, or at the smallest size where none fits.
        capacity_bytes: capacity of the chip.
        limit: limit that the next larger size exceeds: "memory", "tiling" (its tiles spill), or "none" at the end of the axis.
        memory: memory at the size of `footprint_bytes`, beside the machine's main memory.
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
    """Bytes that a chip keeps from one kernel to the next: the sum of scratchpads, or the largest cache, as caches may hold
    copies of each other's lines."""
    capacities = resident(profile).values()
    return float(max(capacities, default=0.0) if profile.family == "cpu" else sum(capacities))


def spill_bytes(director: AnalysisDirector, table: KernelTable) -> float:
    """Bytes that main memory moves only because kernels are tiled, beyond those of kernels in one tile."""
    main_memory = director.profile.main_memory
    tiled_bytes = director.tile(table).level_bytes[main_memory]
    untiled_bytes = director.strategy.apply(table, director.profile, TileShape(table.m, table.n, table.k)).level_bytes[
        main_memory
    ]
    return float(np.maximum(tiled_bytes - untiled_bytes, 0.0).sum())


def largest_on_chip(sweep: SweepController, *, compute_dtype: str | None = None) -> Iterator[OnChip]:
    """The largest value of the sweep's first workload axis that stays on chip, for each machine, each variant of it and each
    combination of the other axes. Halves the list of values, so a model must not shrink along it. `InputError` without a workload
    axis of numbers."""
    name, values = next(iter(sweep.axes.items()), ("", ()))
    if not values or any(isinstance(value, str | bool) for value in values):
        raise InputError("--largest-on-chip needs a first --axis of numbers to maximise, such as --axis hidden=64..65536:101")
    sizes = sorted(values)
    other_axes = {axis: members for axis, members in sweep.axes.items() if axis != name}

    @cache
    def graphs(settings: Settings) -> tuple[Graph, ...]:
        return tuple(sweep.source(dict(settings)))

    @cache
    def work(settings: Settings, family: str, runtime: str) -> ModelTable:
        return tabulate_model(graphs(settings), runtime, family, compute_dtype)

    for settings_of_axes in product_of(other_axes):
        for (profile, runtime), profile_settings in itertools.product(sweep.targets(), list(product_of(sweep.profile_axes))):
            machine = AnalysisDirector(variant(profile, profile_settings) if profile_settings else profile, sweep.strategy)
            points = [{**sweep.fixed, **settings_of_axes, name: size} for size in sizes]
            works = [partial(work, tuple(point.items()), profile.family, runtime) for point in points]
            batches = [int({**point, **profile_settings}.get("batch", 1)) for point in points]
            yield _largest_size(machine, runtime, {**settings_of_axes, **profile_settings}, sizes, batches, works)


def _largest_size(
    director: AnalysisDirector,
    runtime: str,
    settings: dict[str, AxisValue],
    sizes: Sequence[AxisValue],
    batches: Sequence[int],
    works: Sequence[Callable[[], ModelTable]],
) -> OnChip:
    """By bisection; `batches` and `works` are the samples and the kernels of a call of each of the `sizes`."""
    capacity = on_chip_bytes(director.profile)
    limits: dict[int, Limit] = {len(sizes): "none"}

    def leaves_chip(position: int) -> bool:
        work = works[position]()
        fits = work.peak_memory_bytes <= capacity
        spills = fits and spill_bytes(director, work.table) > SPILL_SHARE * work.table.bytes.sum()
        limits[position] = "tiling" if spills else "none" if fits else "memory"
        return limits[position] != "none"

    first_too_large = bisect_left(range(len(sizes)), True, key=leaves_chip)
    value, position_reported = sizes[first_too_large - 1] if first_too_large else None, max(first_too_large - 1, 0)
    work = works[position_reported]()
    room = room_on(director.profile, work.memory, batches[position_reported])
    return OnChip(
        director.profile.name,
        work.dtype,
        runtime,
        settings,
        value,
        work.peak_memory_bytes,
        capacity,
        limits[first_too_large],
        room,
    )
