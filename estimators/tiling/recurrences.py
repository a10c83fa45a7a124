"""Systems of uniform recurrence equations, which a domain-flow machine executes, and their schedules.

A recurrence computes one value at every integer point p of a box; the value at p needs those at p - d for each dependence
vector d, the same d everywhere. A linear schedule runs point p at time tau . p. It is valid when tau . d >= 1 for every d, and
takes L = 1 + max tau . (p - q) over the box. All points with one value of tau . p form the wavefront; their tokens are the
state that recirculates on the fabric. (Karp, Miller and Winograd, "The organization of computations for uniform recurrence
equations", JACM 14(3), 1967; Quinton, "Automatic synthesis of systolic arrays from uniform recurrent equations", ISCA 1984.)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from shmoo.estimators.errors import InputError

Vector = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One uniform recurrence over the box 0 <= p < extents, or its part in which no coordinate is below the first.

    Attributes:
        extents: size of the domain along each axis.
        dependences: vectors d: the value at p needs the one at p - d.
        shrinking: whether only the points with p[i] >= p[0] on every axis i belong to the domain: a factorization finishes a row
            and a column at each step of its first axis.
    """

    name: str
    extents: Vector
    dependences: tuple[Vector, ...] = ()
    shrinking: bool = False

    def __post_init__(self) -> None:
        if not self.extents or any(extent < 1 for extent in self.extents):
            raise InputError(f"domain of recurrence {self.name!r} is {self.extents}; every extent must be at least 1")
        for d in self.dependences:
            if len(d) != len(self.extents) or not any(d):
                raise InputError(
                    f"dependence {d} of recurrence {self.name!r} must be a non-zero vector of {len(self.extents)} integers"
                )

        if self.shrinking and self.extents[0] > min(self.extents):
            raise InputError(
                f"recurrence {self.name!r} shrinks along its first axis, of extent {self.extents[0]}; no other extent may be "
                f"smaller, got {self.extents}"
            )

    @property
    def points(self) -> int:
        """Number of points in the domain."""
        if not self.shrinking:
            return math.prod(self.extents)
        return sum(math.prod(extent - k for extent in self.extents[1:]) for k in range(self.extents[0]))

    @property
    def corners(self) -> list[Vector]:
        """Points among which any linear function has its extremes over the domain."""
        firsts = (0, self.extents[0] - 1)
        lower_bounds = [first_coordinate if self.shrinking else 0 for first_coordinate in firsts]
        return [
            (first_coordinate, *coordinates)
            for first_coordinate, low in zip(firsts, lower_bounds, strict=True)
            for coordinates in itertools.product(*((low, extent - 1) for extent in self.extents[1:]))
        ]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The linear schedule t = tau . p."""

    tau: Vector

    def is_valid(self, recurrence: Recurrence) -> bool:
        """True where every value is computed after its operands: tau . d >= 1."""
        return len(self.tau) == len(recurrence.extents) and all(_dot(self.tau, d) >= 1 for d in recurrence.dependences)

    def latency(self, recurrence: Recurrence) -> int:
        """Steps from the first point to the last, both included: 1 + max tau . (p - q)."""
        times = [_dot(self.tau, p) for p in recurrence.corners]
        return 1 + max(times) - min(times)

    def wavefront(self, recurrence: Recurrence) -> np.ndarray:
        """Points computed at each step, shape (latency,): the product over the axes of the polynomials sum of x^(|tau_i| p_i), or
        the sum of such products over the slices of a domain that shrinks."""
        if not recurrence.shrinking:
            return _box_wavefront(self.tau, recurrence.extents)
        begin = min(_dot(self.tau, p) for p in recurrence.corners)
        sizes = np.zeros(self.latency(recurrence), dtype=np.int64)
        for k in range(recurrence.extents[0]):
            sides = tuple(extent - k for extent in recurrence.extents[1:])
            lower = sum(min(0, t * (side - 1)) for t, side in zip(self.tau[1:], sides, strict=True))
            start = k * sum(self.tau) + lower - begin
            slice_sizes = _box_wavefront(self.tau[1:], sides)
            sizes[start : start + len(slice_sizes)] += slice_sizes
        return sizes

    def steps_on(self, recurrence: Recurrence, elements: int, copies: int = 1) -> int:
        """Steps on `elements` processing elements: the points of a wavefront do not depend on each other, so a wavefront larger
        than the fabric takes several steps of it, in any order, before the next one begins.

        Args:
            copies: independent recurrences of this domain that run side by side.
        """
        return int(np.ceil(self.wavefront(recurrence) * (copies / elements)).sum())

    def live_tokens(self, recurrence: Recurrence) -> int:
        """The most values that wait for a later step: each point's token along d lives tau . d steps."""
        return int(self.wavefront(recurrence).max()) * sum(_dot(self.tau, d) for d in recurrence.dependences)


def optimal_schedule(recurrence: Recurrence, bound: int = 2) -> Schedule:
    """The valid linear schedule of least latency with components in -bound..bound; of equal ones, the smallest vector.

    Raises:
        InputError: no such schedule is valid: dependences contradict each other, or `bound` is too small.
    """
    candidates = sorted(
        itertools.product(range(-bound, bound + 1), repeat=len(recurrence.extents)),
        key=lambda tau: (sum(map(abs, tau)), tuple(-t for t in tau)),
    )
    valid = [schedule for tau in candidates if (schedule := Schedule(tau)).is_valid(recurrence)]
    if not valid:
        raise InputError(
            f"recurrence {recurrence.name!r} has no linear schedule with components up to {bound}: its dependences "
            f"{recurrence.dependences} contradict each other or need a larger bound"
        )
    return min(valid, key=lambda schedule: schedule.latency(recurrence))


@dataclass(frozen=True, slots=True)
class RecurrenceSystem:
    """An operator as recurrences that run one after the other on unbounded processing elements.

    Attributes:
        phases: the recurrences in order; each begins when the one before has ended.
        schedules: one for each phase.
        copies: independent systems of these phases side by side, such as the groups of a convolution.
        skew: steps by which the last row starts after the first where rows enter one a step.
        buffer_values: values kept beside the wavefront: lines of an image, rows between passes.

    Raises:
        InputError: a phase without a schedule, or a schedule that runs a point before one it needs.
    """

    name: str
    phases: tuple[Recurrence, ...]
    schedules: tuple[Schedule, ...]
    skew: int = 0
    buffer_values: int = 0
    copies: int = 1

    def __post_init__(self) -> None:
        if len(self.phases) != len(self.schedules):
            raise InputError(f"system {self.name!r} has {len(self.phases)} phases and {len(self.schedules)} schedules; one each")
        for recurrence, schedule in zip(self.phases, self.schedules, strict=True):
            if not schedule.is_valid(recurrence):
                raise InputError(
                    f"schedule {schedule.tau} of {recurrence.name!r} in system {self.name!r} is not valid: tau . d must "
                    f"be at least 1 for each dependence d in {recurrence.dependences}; `optimal_schedule` finds one"
                )

    @property
    def latency(self) -> int:
        """Steps with unbounded processing elements."""
        return self.skew + sum(s.latency(r) for r, s in zip(self.phases, self.schedules, strict=True))

    def steps_on(self, elements: int, copies: int = 1) -> int:
        """Steps on `elements` processing elements, for `copies` of the whole system side by side."""
        copies *= self.copies
        return self.skew + sum(s.steps_on(r, elements, copies) for r, s in zip(self.phases, self.schedules, strict=True))

    @property
    def live_values(self) -> int:
        """Values that must stay on the fabric: the largest wavefront's tokens, and the buffer."""
        tokens = max(s.live_tokens(r) for r, s in zip(self.phases, self.schedules, strict=True))
        return self.buffer_values + self.copies * tokens


def _box_wavefront(tau: Vector, extents: Vector) -> np.ndarray:
    sizes = np.ones(1, dtype=np.int64)
    for t, extent in zip(tau, extents, strict=True):
        if abs(t) == 1:
            # Sums of `extent` neighbours, as the difference of running sums.
            total = np.cumsum(np.concatenate([sizes, np.zeros(extent - 1, dtype=np.int64)]))
            sizes = total - np.concatenate([np.zeros(extent, dtype=np.int64), total])[: len(total)]
        else:
            axis = np.zeros(abs(t) * (extent - 1) + 1, dtype=np.int64)
            np.add.at(axis, abs(t) * np.arange(extent), 1)
            sizes = np.convolve(sizes, axis)
    return sizes


def matmul(m: int, n: int, k: int, parts: int = 1) -> RecurrenceSystem:
    """C = A B with A (m, k) and B (k, n): a moves along j, b along i, c along k; tau = [1, 1, 1], latency m + n + k - 2.

    Args:
        parts: of k that are summed side by side before a chain across adds them up: latency m + n + parts + k / parts - 3.
    """
    if parts == 1:
        recurrence = Recurrence("matmul", (m, n, k), ((0, 1, 0), (1, 0, 0), (0, 0, 1)))
    else:
        units = tuple(tuple(int(axis == axis_of_unit) for axis in range(4)) for axis_of_unit in (1, 0, 2, 3))
        recurrence = Recurrence("matmul", (m, n, parts, -(-k // parts)), units)
    return _system("matmul", (recurrence,))


def conv2d(batch: int, height: int, width: int, c_out: int, c_in: int, kernel: Vector, padded_width: int,
           stride: int = 1, dilation: int = 1, groups: int = 1) -> RecurrenceSystem:  # fmt: skip
    """A convolution as the product that im2col makes of each group, with the lines of input that windows share.

    A line stays from its arrival to the last window that reads it. While windows of one line of outputs are complete, those stay
    that this or a later window reads: all of its lines, and the lines between where it is dilated and its stride hits them.

    Args:
        height, width: of the output.
        kernel: extents (kh, kw) of the window.
        padded_width: of an input line, padding included.
        stride, dilation: of the window, along its lines and across them.
        groups: of channels, each convolved with its own filters.

    Raises:
        InputError: channels that do not divide into the groups, or a stride, dilation or number of groups below 1.
    """
    if min(stride, dilation, groups) < 1 or c_in % groups or c_out % groups:
        raise InputError(
            f"conv2d of {c_in} to {c_out} channels with stride {stride}, dilation {dilation} and {groups} groups; all are at "
            f"least 1, and the groups divide both numbers of channels"
        )
    kh, kw = kernel
    product = matmul(batch * height * width, c_out // groups, c_in // groups * kh * kw)
    span = (kh - 1) * dilation
    rows_read = {row * stride + tap * dilation for row in range(span // stride + 1) for tap in range(kh)}
    lines = sum(line <= span for line in rows_read)
    return RecurrenceSystem("conv2d", product.phases, product.schedules, buffer_values=lines * padded_width * c_in, copies=groups)


def elementwise(n: int) -> RecurrenceSystem:
    """N independent values: no dependences, one step."""
    return RecurrenceSystem("elementwise", (Recurrence("map", (n,)),), (Schedule((0,)),))


def reduction(rows: int, length: int, parts: int = 1) -> RecurrenceSystem:
    """Rows summed along a chain z[i, j] = z[i, j - 1] + x[i, j]: `length` steps, one value a row.

    Args:
        parts: that each row is re-indexed in, z[i, p, j]: their chains run side by side, each a step behind the one before, and
            one across adds up their ends. Latency parts + length / parts - 1, about twice the root of the length at best.
    """
    return _system("reduction", (_chain("reduce", rows, length, parts),))


def softmax(rows: int, length: int, is_skewed: bool = False, parts: int = 1) -> RecurrenceSystem:
    """Maximum, then exponentials and their sum, then scaling, each a chain along the row, in parts as of `reduction`: 3 x length
    steps in one part; rows are kept between."""
    phases = tuple(_chain(name, rows, length, parts) for name in ("maximum", "exponential and sum", "scale"))
    return _system("softmax", phases, rows - 1 if is_skewed else 0, rows * length)


def layer_norm(rows: int, length: int, is_skewed: bool = False, parts: int = 1) -> RecurrenceSystem:
    """Sums, then normalization, each a chain along the row, in parts as of `reduction`: 2 x length steps in one part; rows are
    kept between."""
    phases = tuple(_chain(name, rows, length, parts) for name in ("sums", "normalize"))
    return _system("layer_norm", phases, rows - 1 if is_skewed else 0, rows * length)


def attention(queries: int, keys: int, depth: int, parts: int = 1) -> RecurrenceSystem:
    """softmax(Q K^T) V of one head: a product over the depth, the softmax of its rows, a product over the keys. The scores stay
    on the fabric between them.

    Args:
        parts: of the keys, in the softmax and in the second product.
    """
    products = matmul(queries, keys, depth), matmul(queries, depth, keys, parts)
    phases = (*products[0].phases, *softmax(queries, keys, parts=parts).phases, *products[1].phases)
    return _system("attention", phases, buffer_values=queries * keys)


def lu(m: int, n: int) -> RecurrenceSystem:
    """A = L U without pivoting, A (m, n): a[k, i, j] = a[k-1, i, j] - l[i, k] u[k, j] for i, j >= k; u moves along i, l along j.

    tau = [1, 1, 1], latency m + n + min(m, n) - 2: 3 n - 2 when square (Kung and Leiserson, "Systolic arrays for VLSI", 1978).
    Pivoting would need a maximum over a column before each step, which no uniform recurrence holds.
    """
    return _system("lu", (_factorization("lu", m, n),))


def qr(m: int, n: int) -> RecurrenceSystem:
    """A = Q R by Givens rotations, A (m, n): step (k, i) turns rows k and i so that a[i, k] vanishes; the row k that is made
    moves along i, the rotation along j. Domain and schedule are those of `lu` (Gentleman and Kung, "Matrix triangularization by
    systolic arrays", SPIE 298, 1981); Householder's reflections sum over a column first and are no uniform recurrence."""
    return _system("qr", (_factorization("qr", m, n),))


def cholesky(n: int) -> RecurrenceSystem:
    """A = L L' of a symmetric matrix: `lu` in the half of its domain with j <= i, whose longest chain goes through the diagonal
    as that of `lu` does, 3 n - 2. The domain here is the whole of `lu`, of which half the points do nothing."""
    return _system("cholesky", (_factorization("cholesky", n, n),))


def triangular_solve(n: int, columns: int = 1) -> RecurrenceSystem:
    """L x = b for each column of right-hand sides: y[j, i] = y[j - 1, i] - l[i, j] x[j] for i >= j; x moves along i.

    tau = [1, 1], latency 2 n - 1 (Kung and Leiserson, 1978).
    """
    recurrence = Recurrence("triangular solve", (n, n), ((1, 0), (0, 1)), shrinking=True)
    system = _system("triangular_solve", (recurrence,))
    return RecurrenceSystem(system.name, system.phases, system.schedules, copies=columns)


def _factorization(name: str, m: int, n: int) -> Recurrence:
    return Recurrence(name, (min(m, n), m, n), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), shrinking=True)


def _chain(name: str, rows: int, length: int, parts: int = 1) -> Recurrence:
    if parts == 1:
        return Recurrence(name, (rows, length), ((0, 1),))
    return Recurrence(name, (rows, parts, -(-length // parts)), ((0, 1, 0), (0, 0, 1)))


def _system(name: str, phases: tuple[Recurrence, ...], skew: int = 0, buffer_values: int = 0) -> RecurrenceSystem:
    return RecurrenceSystem(name, phases, tuple(optimal_schedule(phase, bound=1) for phase in phases), skew, buffer_values)


def _dot(a: Vector, b: Vector) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
