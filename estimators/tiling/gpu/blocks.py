"""Blocks of a GPU's kernels: how they share the multiprocessors, and the time of blocks of the float32 units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients, power_cap
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats
from shmoo.estimators.tiling.base import Blocks, TileShape, Value, ceil_div, hit_share

STAGES = 2
SLICE = 8
"""Extent of k that is staged at once; a reduction is padded to whole slices."""
_LEAST_OUTPUTS = 4096.0
"""Outputs that keep as many threads busy as the smallest blocks have: smaller tiles share a reduction among their threads."""
ACCUMULATOR_BYTES = 4.0
MOST_BLOCKS = 8.0
"""Blocks of at least 64 threads that hold their accumulators; more do not help a product that is bound by arithmetic."""
_REACH_BYTES = 64.0 * 2**20
"""Span of addresses that a multiprocessor's translations cover before it asks farther away: 32 MB were found on P100 and V100
(Jia et al., "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking", 2018); P100's products slow down at 64."""


NUMBERS_AT_ONCE = 2**15
"""Candidates x design points x kernels that are compared at once: arrays of 256 KiB. Of smaller ones the calls take longer than
the work."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The occupancy of the multiprocessors by blocks; (R,) each.

    Attributes:
        blocks, pieces: blocks in all, and parts of the reduction.
        resident: blocks that a multiprocessor holds at once.
        queue: blocks of the busiest multiprocessor: they share its rate, so it sets the time.
        padded_k: a block's reduction in whole slices.
        useful: share of the lanes' work that is neither padding nor idle.
        reuse, depth, at_work, filled: of `Blocks`; a slice is the least depth. Kernels of tensor cores ramp by whole slices
            (`padded_k`).
    """

    blocks: Floats
    pieces: Floats
    resident: Floats
    queue: Floats
    padded_k: Floats
    useful: Floats
    depth: Floats
    reuse: Floats
    at_work: Floats
    filled: Floats


Seconds = Callable[[TileShape, Occupancy], Floats]
"""Blocks and their occupancy -> (..., R) seconds."""
Offer = Callable[..., tuple[Floats, Floats]]
"""The numbers of C candidates, (C, ..., 1) each -> (C, ..., R) seconds of R kernels, infinite where a candidate is not offered,
and the extent of a block that follows from the kernel."""


@dataclass(frozen=True, slots=True)
class Products:
    """Batches of products (m, k) by (k, n); (R,) each.

    Attributes:
        size: bytes of an element.
        stored: bytes of an element of the second operand as it is staged: fewer where it is unpacked on the way to the units.
        slices, stages: extent of k that is staged at once, and such slices held at once.
    """

    batch: Floats
    m: Floats
    n: Floats
    k: Floats
    size: Floats
    stored: Floats
    slices: Floats | float = float(SLICE)
    stages: Floats | float = float(STAGES)

    def take(self, rows: np.ndarray) -> Products:
        """The products at the given rows."""
        return Products(*(np.broadcast_to(getattr(self, f.name), len(self.m))[rows] for f in fields(self)))

    @property
    def outputs(self) -> Floats:
        """(R,) elements of each product's result."""
        return self.batch * self.m * self.n

    def staged(self, tile_m: np.ndarray | float, tile_n: np.ndarray | float) -> Floats:
        """(..., R) bytes that a block of this size stages for an element of the reduction."""
        return self.size * tile_m + self.stored * tile_n

    def tlb_miss_share(self, tile_m: np.ndarray, tile_n: np.ndarray, occupancy: Occupancy) -> np.ndarray:
        """(R,) share of the staged elements whose address misses the TLB: the rows that a multiprocessor's blocks walk lie k
        elements apart."""
        blocks_at_once = np.minimum(occupancy.queue, occupancy.resident)
        rows = np.minimum(blocks_at_once * tile_m, self.m) + np.minimum(blocks_at_once * tile_n, self.n)
        return 1.0 - hit_share(rows * self.k * self.size, _REACH_BYTES)

    def occupancy(
        self, profile: ArchitectureProfile, tile_m: np.ndarray | float, tile_n: np.ndarray | float, part_length: np.ndarray
    ) -> Occupancy:
        """How blocks of this size, which sum over `part_length` of k each, occupy the multiprocessors."""
        multiprocessors = profile.value("count.sms")
        pieces = ceil_div(self.k, part_length)
        blocks = ceil_div(self.m, tile_m) * ceil_div(self.n, tile_n) * pieces * self.batch
        depth = np.maximum(ceil_div(self.k, pieces), self.slices)
        padded_depth = self.slices * ceil_div(depth, self.slices)
        queue = ceil_div(blocks, multiprocessors)
        resident = np.maximum(blocks_per_multiprocessor(profile, self, tile_m, tile_n), 1.0)
        useful = self.outputs * self.k / (queue * multiprocessors * tile_m * tile_n * padded_depth)
        reuse = tile_m * tile_n / (tile_m + tile_n) + np.zeros(len(self.m))
        at_work = queue / ceil_div(queue, resident) * np.maximum(tile_m * tile_n, _LEAST_OUTPUTS)
        filled = np.minimum(self.outputs * self.k / (blocks * tile_m * tile_n * padded_depth), 1.0)
        return Occupancy(blocks, pieces, resident, queue, padded_depth, np.minimum(useful, 1.0), depth, reuse, at_work, filled)


def unit_seconds(profile: ArchitectureProfile, shape: TileShape, occupancy: Occupancy, blocks: Blocks, value: Value) -> Floats:
    """(..., R) seconds of blocks of the float32 units: whole rounds at the tile's efficiency, by an algorithm's coefficients."""
    rate = profile.value("peak.matrix.float32", 1.0) * value("efficiency") / profile.value("count.sms") / 2.0
    return occupancy.queue * shape.m * shape.n * occupancy.padded_k * blocks.ramp(value) / rate


def level_shares(profile: ArchitectureProfile, value: Value, share: float | Floats) -> dict[str, float | Floats]:
    """Share of each memory level's bandwidth that kernels reach, given that of main memory. Shared memory delivers a word of each
    bank at every clock; accesses to main memory and L2 are slowed down outside of a multiprocessor."""
    near_shares = {"l2": share * value("efficiency.l2"), "shared": 1.0}
    return {level: near_shares.get(level, share) for level in profile.levels}


def level_speeds(profile: ArchitectureProfile, value: Value) -> dict[str, float | Floats]:
    """Bytes per second of each memory level, with the coefficients of each kernel's algorithm."""
    shares = level_shares(profile, value, value("efficiency.bandwidth"))
    return {level: value(f"bandwidth.{level}") * share for level, share in shares.items()}


def capped_seconds(seconds: Floats, joules: Floats, profile: ArchitectureProfile) -> Floats:
    """Seconds of kernels that a power cap slows, each by itself on a warm board, as `predict.energy.capped` gives them where all
    joules are the chip's. The voltage falls with the clock down to a floor."""
    c = Coefficients(profile)
    if c.find("power.tdp") is None or c.find("power.static") is None:
        return seconds
    seconds = np.maximum(seconds, 1e-12)
    demand = joules / (power_cap(c)[1] * seconds)
    slowdown = np.maximum(demand * c.value("energy.floor"), demand ** (1.0 / (1.0 + c.value("energy.clock"))))
    factor: Floats = 1.0 + (np.maximum(slowdown, 1.0) - 1.0) / (1.0 + (c.value("throttle.time") / seconds) ** 2)
    return seconds * factor


def blocks_per_multiprocessor(
    profile: ArchitectureProfile, work: Products, tile_m: float | np.ndarray, tile_n: float | np.ndarray
) -> np.ndarray:
    """(K,) blocks that shared memory and the register file hold at once; below 1 where not even one fits."""
    shared_bytes, registers = profile.value("capacity.shared"), profile.value("capacity.register", np.inf)
    by_shared = np.floor(shared_bytes / (work.stages * work.staged(tile_m, tile_n) * work.slices))
    by_registers = np.floor(registers / (1.5 * ACCUMULATOR_BYTES * tile_m * tile_n))
    return np.minimum(np.minimum(by_shared, by_registers), MOST_BLOCKS)


def longest_extent(profile: ArchitectureProfile, work: Products, *, along_m: bool) -> float:
    """The largest extent of a block, beside one of 1, that shared memory and the register file hold for every product."""
    own_bytes, other_bytes = (work.size, work.stored) if along_m else (work.stored, work.size)
    by_shared = np.min((profile.value("capacity.shared") / (work.stages * work.slices) - other_bytes) / own_bytes)
    return float(np.floor(min(by_shared, np.min(profile.value("capacity.register", np.inf)) / (1.5 * ACCUMULATOR_BYTES))))


def fastest(
    candidates: Sequence[tuple[float, ...]], default: Floats, profile: ArchitectureProfile, offer: Offer
) -> tuple[Floats, ...]:
    """For each of R kernels the numbers of the fastest candidate, the first of equals, and its extent, (..., R) each; ones and
    the (R,) `default` where none is offered."""
    points = np.broadcast_shapes(*(np.shape(c.value) for c in profile.coefficients.values() if isinstance(c.value, np.ndarray)))
    step = max(1, NUMBERS_AT_ONCE // (math.prod(points) * max(len(default), 1)))
    numbers = np.asarray(candidates, dtype=np.float64)
    least_s, place, extent = np.full(len(default), np.inf), np.full(len(default), -1), default
    for start in range(0, len(numbers), step):
        columns = numbers[start : start + step].T.reshape(numbers.shape[1], -1, *(1,) * max(len(points), 1))
        seconds, extents = offer(*columns)
        first_place = seconds.argmin(axis=0)[None]
        taken_s, extents = (
            np.take_along_axis(values, first_place, axis=0)[0] for values in (seconds, np.broadcast_to(extents, seconds.shape))
        )
        is_faster = taken_s < least_s
        least_s, extent = np.where(is_faster, taken_s, least_s), np.where(is_faster, extents, extent)
        place = np.where(is_faster, start + first_place[0], place)
    return (*np.vstack([numbers, np.ones(numbers.shape[1])]).T[:, place], extent)
