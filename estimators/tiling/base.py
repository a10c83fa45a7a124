"""The interface of tiling strategies, and functions that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from functools import reduce
from numbers import Real
from typing import Any, ClassVar, Protocol

import numpy as np

from shmoo.estimators.costs.reductions import BATCH_NORMS
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import BITS, COMPUTE_DTYPES, COMPUTED_AS
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.registry import Registry
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, Floats, KernelTable, Masks

MIN_OVERLAP_EXPONENT = 0.1
"""Smaller exponents of overlap count as this one."""
Value = Callable[[str], float | np.ndarray]
"""Stem of a coefficient -> its values for the kernels at hand."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """Tile extents in the iteration space (m, n, k), arrays of length K."""

    m: Floats
    n: Floats
    k: Floats


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks that a multiprocessor works on at once; arrays of length K.

    Attributes:
        reuse: multiply-adds per element that a block stages near the units.
        depth: extent of the reduction in one block.
        at_work: outputs on the busiest multiprocessor, which hide the latency of its units.
        filled: useful share of the multiply-adds that the blocks issue; the rest overhangs the edges.
        tlb_miss_share: share of the staged elements whose addresses miss the TLB.
        staged, in_flight: bytes that the busiest multiprocessor copies in all, and those that its blocks ask for at once; 0 and
            infinity where copies are not counted by multiprocessor.
        pieces: parts of the reduction, whose sums are added up at the end.
        skipped: share of the counted work that the kernel leaves out (scores behind a causal mask).
        stored: bytes of new keys and values that go to a cache first.
        regrouped: bytes of queries that are brought into the order of their groups, and their results back into that of heads.
        walked: bytes from main memory that come a few at a time, down rows that lie pages apart.
        pace: rate of a multiprocessor's units relative to the one that its kernels were written for. Slower units lose less to
            filling and draining a block, issuing copies and hiding latency.
    """

    reuse: Floats
    depth: Floats
    at_work: Floats
    filled: Floats
    tlb_miss_share: Floats | float = 0.0
    staged: Floats | float = 0.0
    in_flight: Floats | float = np.inf
    pieces: Floats | float = 1.0
    skipped: Floats | float = 0.0
    stored: Floats | float = 0.0
    regrouped: Floats | float = 0.0
    pace: Floats | float = 1.0
    walked: Floats | float = 0.0

    def replaced(self, rows: Masks, other_blocks: Blocks) -> Blocks:
        """These blocks, with `other_blocks` at the rows of a mask."""
        names = [field.name for field in fields(Blocks)]
        return Blocks(*(np.where(rows, getattr(other_blocks, name), getattr(self, name)) for name in names))

    def ramp(self, value: Value) -> Floats:
        """Factor by which a contraction takes longer than at its full rate: each part doubles where its extent is
        `half.<part>`, at pace 1."""
        ramp = 1.0 + self.pace * (value("half.tile") + value("half.far") * self.tlb_miss_share) / self.reuse
        ramp = ramp * (1.0 + self.pace * value("half.k") / self.depth)
        return ramp * (1.0 + self.pace * value("half.fill") / self.at_work)

    def fetch_seconds(self, value: Value, clock: float | Floats) -> Floats:
        """Seconds in which the busiest multiprocessor copies its operands: at most `fetch.width` bytes a clock, and at most the
        bytes that its blocks have in flight per latency of a copy (Little's law)."""
        return np.asarray(self.staged / np.minimum(value("fetch.width") * clock, self.in_flight / value("fetch.latency")))

    def split_seconds(self, value: Value) -> Floats:
        """Seconds to add up the parts of a split reduction, beside their traffic."""
        return value("split_overhead") * np.greater(self.pieces, 1.0)

    def store_seconds(self, value: Value, bandwidth: float | Floats) -> Floats:
        """Seconds of the kernel that writes new keys and values to the cache in main memory."""
        copy_s = 2.0 * self.stored / (bandwidth * value("efficiency.append"))
        return copy_s + value("device_launch.append") * np.greater(self.stored, 0.0)

    def regroup_seconds(self, value: Value, bandwidth: float | Floats) -> Floats:
        """Seconds of the two kernels that read and write queries and results once more."""
        return 2.0 * (2.0 * self.regrouped / bandwidth + value("device_launch.regroup") * np.greater(self.regrouped, 0.0))


@dataclass(frozen=True, slots=True)
class AlternativeAlgorithm:
    """An algorithm for the same contraction with fewer multiplications (Winograd), which a library uses where it is faster.

    Attributes:
        name: last part of its coefficients' names (`efficiency.<name>`, `half.<what>.<name>`).
        offered: (K,) kernels to which it applies.
        share: (K,) its multiplications, relative to the direct algorithm.
        utilisation: (K,) useful share of the lanes of its products.
        blocks: blocks of its products.
        moved: memory level -> (K,) bytes that the transforms move on top.
        kernels: number of launches.
    """

    name: str
    offered: np.ndarray
    share: np.ndarray
    utilisation: np.ndarray
    blocks: Blocks
    moved: dict[str, np.ndarray]
    kernels: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of kernels on an architecture; arrays of length K.

    Attributes:
        shape: tile extents.
        tiles: number of tiles.
        waves: rounds in which the tiles run on all units at once (waves on a GPU, folds on a systolic array).
        utilisation: useful share of the units' lanes over the whole kernel, in (0, 1].
        level_bytes: memory level -> (K,) bytes that cross from that level towards the units. A level nearer than the one that
            holds the data sees its bytes too.
        state_bytes: (K,) bytes that must stay on chip while a tile runs.
        cycles: (K,) clock cycles of the matrix unit where the strategy counts them (systolic arrays, recurrences), NaN where the
            kernel does not use it; `None` for strategies that only give a utilisation.
        alternatives: algorithms with fewer multiplications for the same contractions.
        blocks: thread blocks, where the blocks of a contraction share multiprocessors.
        early_bytes: (K,) bytes of the main memory that may move before the kernel's program begins; `None` where none do.
    """

    shape: TileShape
    tiles: np.ndarray
    waves: np.ndarray
    utilisation: np.ndarray
    level_bytes: dict[str, np.ndarray]
    state_bytes: np.ndarray
    cycles: np.ndarray | None = None
    alternatives: tuple[AlternativeAlgorithm, ...] = ()
    blocks: Blocks | None = None
    early_bytes: np.ndarray | None = None


class TilingStrategy(Protocol):
    """A strategy chooses tiles (`choose`) and accounts for them (`apply`). To set tile sizes by hand, pass `apply` another
    shape."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Tile extents for every kernel."""

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Tiles, waves, utilisation and bytes per level for the given extents."""


TILINGS: Registry[type[TilingStrategy]] = Registry("tiling strategy")
"""Strategy name -> class; instances take the keyword parameters of the profile's `tiling.parameters`."""


def overlapped(times: list[np.ndarray], exponent: float | np.ndarray) -> np.ndarray:
    """(sum of t^p)^(1/p), scaled by the largest so that large exponents do not underflow. An exponent of 1 is no overlap; draws
    of an undetermined coefficient may lie far below it, where the sum would exceed all bounds."""
    scale, powers, exponent = _powers(times, exponent)
    return np.asarray(scale * reduce(np.add, powers) ** (1.0 / exponent))


def overlapped_but(
    times: list[np.ndarray], main_s: np.ndarray | None, exponent: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`overlapped` of all times with a last one, if there is one, and without it. Rounding errors of the second lie far below the
    first."""
    scale, powers, exponent = _powers([*times, *([] if main_s is None else [main_s])], exponent)
    clocked_sum = reduce(np.add, powers[: len(times)])
    clocked_s = np.asarray(scale * clocked_sum ** (1.0 / exponent))
    return (clocked_s if main_s is None else np.asarray(scale * (clocked_sum + powers[-1]) ** (1.0 / exponent))), clocked_s


def _powers(times: list[np.ndarray], exponent: float | np.ndarray) -> tuple[np.ndarray, list[np.ndarray], float | np.ndarray]:
    exponent = np.maximum(exponent, MIN_OVERLAP_EXPONENT)
    longest = reduce(np.maximum, times)
    scale = np.where(longest > 0, longest, 1.0)
    return scale, [(time / scale) ** exponent for time in times], exponent


def clip_shape(table: KernelTable, m: float | np.ndarray, n: float | np.ndarray, k: float | np.ndarray) -> TileShape:
    """Extents no larger than the iteration space and no smaller than 1."""

    def clip(extent: float | np.ndarray, limit: np.ndarray) -> Floats:
        return np.clip(np.asarray(extent, dtype=np.float64), 1.0, np.maximum(limit, 1.0))

    return TileShape(clip(m, table.m), clip(n, table.n), clip(k, table.k))


HIT_SHARPNESS = 4.0
"""Exponent of the hit share. Real caches neither hit fully up to their capacity nor miss fully beyond; 4 takes the share from
94 % at half the capacity to 6 % at twice it."""


def hit_share(distance: np.ndarray, capacity: float) -> Floats:
    """Share of bytes with this reuse distance that a level of this capacity still holds: 1 / (1 + (distance / capacity)^4)."""
    holds = np.greater(capacity, 0.0)
    ratio = np.where(holds, np.asarray(distance) / np.where(holds, capacity, 1.0), np.inf)
    return 1.0 / (1.0 + ratio**HIT_SHARPNESS)


def resident(profile: ArchitectureProfile) -> dict[str, float]:
    """Level on chip -> bytes in it that survive from one kernel to the next.

    Private caches count for all cores together. A GPU's shared memory and a KPU's stream buffers start every kernel empty.
    """
    of_each_core = ("l1", "l2") if profile.family == "cpu" else ()
    volatile_levels = {"gpu": ("shared",), "kpu": ("l1", "l2")}.get(profile.family, ())
    cores = profile.value("count.cores", 1.0)
    capacities = {}
    for level in profile.levels[:-1]:
        capacity = profile.value(f"capacity.{level}", 0.0)
        capacities[level] = 0.0 if level in volatile_levels else capacity * cores if level in of_each_core else capacity
    return capacities


def compulsory_traffic(table: KernelTable, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """(K,) bytes per level when every operand is moved once: an access reaches a level with the share that nearer levels miss."""
    capacities = resident(profile)
    miss_share = np.ones_like(table.access_bytes)
    traffic = {}
    for level in profile.levels:
        traffic[level] = per_kernel(table, table.access_bytes * miss_share)
        if np.any(np.greater(capacities.get(level, 0.0), 0.0)):
            miss_share = miss_share * (1.0 - hit_share(table.access_distance, capacities[level]))
    return traffic


def per_kernel(table: KernelTable, amounts: np.ndarray) -> np.ndarray:
    """(..., K) sums over each kernel of an amount per access, (..., A)."""
    if amounts.ndim == 1:
        return np.bincount(table.access_kernel, weights=amounts, minlength=len(table))
    points = amounts.reshape(-1, amounts.shape[-1])
    rows = table.access_kernel + len(table) * np.arange(len(points))[:, None]
    sums = np.bincount(rows.ravel(), weights=points.ravel(), minlength=len(points) * len(table))
    return sums.reshape(*amounts.shape[:-1], len(table))


_ELEMENT_BYTES: Floats = np.array([BITS[name] / 8 for name in COMPUTE_DTYPES])


def element_bytes(table: KernelTable) -> Floats:
    """(K,) bytes of one element of the kernel's type."""
    return _ELEMENT_BYTES[table.dtype]


def ceil_div(a: np.ndarray | float, b: np.ndarray | float) -> Floats:
    """Number of pieces of size `b` that cover `a`, as floats, at least 1."""
    return np.maximum(np.ceil(np.asarray(a, dtype=np.float64) / b - 1e-9), 1.0)


@dataclass(frozen=True, slots=True)
class Operands:
    """Bytes of the operands of a contraction (m, k) by (k, n) -> (m, n), summed over the batch; arrays of length K.

    `a` is what is really stored: a convolution's input and not its im2col matrix. All are 0 for kernels without a contraction.
    """

    a: Floats
    b: Floats
    c: Floats


def operands(table: KernelTable) -> Operands:
    """The operands of every kernel, sized by its iteration space and bounded by the bytes that it reads."""
    size = element_bytes(table) * table.batch * (table.matrix_flops > 0)
    reads, weights = table.bytes_of_kind(READ_WEIGHT, READ_ACTIVATION), table.bytes_of_kind(READ_WEIGHT)
    b = size * table.k * table.n
    # A weight may be stored in as few as 4 bits where its product computes in 16.
    b = np.minimum(b, np.where(weights > b / 5.0, weights, reads))
    a = np.minimum(size * table.m * table.k, reads - b)
    return Operands(a, b, size * table.m * table.n)


def passes(table: KernelTable) -> np.ndarray:
    """(K,) matrix flops as a multiple of one contraction over the kernel's iteration space: 1 for a matrix product, 2 for
    attention (scores and values), 1/3 for an LU factorization, 0 without a contraction."""
    return table.matrix_flops / (2.0 * table.batch * table.m * table.n * table.k)


def dependent_steps(table: KernelTable) -> np.ndarray:
    """(K,) steps of a kernel that depend on each other: a factorization's columns, a triangular system's rows; 0 for others."""
    return np.where(table.is_family("linalg") & (table.matrix_flops > 0), table.k, 0.0)


_WITH_STATISTICS = tuple(f"aten.{name}" for name in (*BATCH_NORMS.split(), "instance_norm"))
_STATISTICS_FLOPS = 8.0
"""Operations an element of a batch norm that computes its statistics (`costs.reductions.normalize`, weight and bias included).
With running statistics there are two, and fused operators (hardswish: 5) do not bring them to eight."""


def takes_statistics(table: KernelTable) -> np.ndarray:
    """(K,) True where a kernel computes statistics of its rows before it applies them: softmax, and norms without running
    statistics."""
    work = table.vector_flops + table.special_flops
    has_running_statistics = table.is_op(*_WITH_STATISTICS) & (work < _STATISTICS_FLOPS * table.batch * table.m * table.n)
    return table.is_family("normalization", "softmax") & ~has_running_statistics


LARGEST_TILE = 2**40
"""Larger extents are typing errors: no machine holds such a tensor."""


def check_tile(**extents: float | None) -> None:
    """Refuse a tile size set by hand that is no number, below 1, or beyond any tensor.

    Raises:
        InputError: naming the parameter and its value.
    """
    for name, extent in extents.items():
        if extent is not None and (isinstance(extent, bool) or not isinstance(extent, Real) or not 1 <= extent <= LARGEST_TILE):
            raise InputError(
                f"tiling parameter {name!r} is {extent!r}; a tile spans at least 1 element, or null to let the strategy choose"
            )


def structural_rate(table: KernelTable, profile: ArchitectureProfile, flops_per_cycle: float) -> np.ndarray:
    """(K,) factor that turns counted cycles of an array into cycles at the published rate of the kernel's type.

    An array of `flops_per_cycle` is counted at one multiply-add per element and cycle. A type that runs at twice the rate (int8)
    takes half the cycles, and a chip whose published peak does not follow from its structure keeps its peak.
    """
    structural_flops, coefficients = flops_per_cycle * profile.value("clock"), Coefficients(profile)
    rate = np.ones(len(table))
    for code in np.unique(table.dtype):
        published_rate = coefficients.find(*(f"peak.matrix.{name}" for name in COMPUTED_AS[COMPUTE_DTYPES[code]]))
        rate = np.where(table.dtype == code, structural_flops if published_rate is None else published_rate, rate)
    return structural_flops / rate
