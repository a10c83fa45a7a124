"""Systems of uniform recurrence equations: what a domain-flow machine executes, and when.

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
    """One uniform recurrence over the box 0 <= p < extents.

    Attributes:
        name: for people.
        extents: size of the domain along each axis.
        dependences: vectors d: the value at p needs the one at p - d.
    """

    name: str
    extents: Vector
    dependences: tuple[Vector, ...] = ()

    def __post_init__(self) -> None:
        if not self.extents or any(extent < 1 for extent in self.extents):
            raise InputError(f"domain of recurrence {self.name!r} is {self.extents}; every extent must be at least 1")
        for d in self.dependences:
            if len(d) != len(self.extents) or not any(d):
                raise InputError(
                    f"dependence {d} of recurrence {self.name!r} must be a non-zero vector of {len(self.extents)} integers"
                )

    @property
    def points(self) -> int:
        return math.prod(self.extents)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The linear schedule t = tau . p."""

    tau: Vector

    def is_valid(self, recurrence: Recurrence) -> bool:
        """Whether every value is computed after those it needs: tau . d >= 1."""
        return len(self.tau) == len(recurrence.extents) and all(_dot(self.tau, d) >= 1 for d in recurrence.dependences)

    def latency(self, recurrence: Recurrence) -> int:
        """Steps from the first point to the last, both included: 1 + max tau . (p - q)."""
        return 1 + sum(abs(t) * (extent - 1) for t, extent in zip(self.tau, recurrence.extents, strict=True))

    def wavefront(self, recurrence: Recurrence) -> np.ndarray:
        """Points computed at each step, shape (latency,): the product over the axes of the polynomials sum of x^(|tau_i| p_i)."""
        sizes = np.ones(1, dtype=np.int64)
        for t, extent in zip(self.tau, recurrence.extents, strict=True):
            axis = np.zeros(abs(t) * (extent - 1) + 1, dtype=np.int64)
            np.add.at(axis, abs(t) * np.arange(extent), 1)
            sizes = np.convolve(sizes, axis)
        return sizes

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
        skew: steps by which the last row starts after the first where rows enter one a step.
        buffer_values: values kept beside the wavefront: lines of an image, rows between passes.
    """

    name: str
    phases: tuple[Recurrence, ...]
    schedules: tuple[Schedule, ...]
    skew: int = 0
    buffer_values: int = 0

    @property
    def latency(self) -> int:
        """Steps with unbounded processing elements."""
        return self.skew + sum(s.latency(r) for r, s in zip(self.phases, self.schedules, strict=True))

    @property
    def live_values(self) -> int:
        """Values that must stay on the fabric: the largest wavefront's tokens, and the buffer."""
        return self.buffer_values + max(s.live_tokens(r) for r, s in zip(self.phases, self.schedules, strict=True))


def matmul(m: int, n: int, k: int) -> RecurrenceSystem:
    """C = A B with A (m, k) and B (k, n): a moves along j, b along i, c along k; tau = [1, 1, 1], latency m + n + k - 2."""
    recurrence = Recurrence("matmul", (m, n, k), ((0, 1, 0), (1, 0, 0), (0, 0, 1)))
    return _system("matmul", (recurrence,))


def conv2d(batch: int, height: int, width: int, c_out: int, c_in: int, kernel: Vector, padded_width: int) -> RecurrenceSystem:
    """A convolution as the product that im2col makes of it, with the lines of input that windows share.

    Args:
        height, width: of the output.
        kernel: extents (kh, kw) of the window.
        padded_width: of an input line, padding included.
    """
    kh, kw = kernel
    product = matmul(batch * height * width, c_out, c_in * kh * kw)
    return RecurrenceSystem("conv2d", product.phases, product.schedules, buffer_values=kh * padded_width * c_in)


def elementwise(n: int) -> RecurrenceSystem:
    """n independent values: no dependences, one step."""
    return RecurrenceSystem("elementwise", (Recurrence("map", (n,)),), (Schedule((0,)),))


def reduction(rows: int, length: int) -> RecurrenceSystem:
    """Rows summed along a chain z[i, j] = z[i, j - 1] + x[i, j]: `length` steps, one value a row."""
    return _system("reduction", (_chain("reduce", rows, length),))


def softmax(rows: int, length: int, skewed: bool = False) -> RecurrenceSystem:
    """Maximum, then exponentials and their sum, then scaling, each a chain along the row: 3 x length steps; rows are kept
    between."""
    phases = tuple(_chain(name, rows, length) for name in ("maximum", "exponential and sum", "scale"))
    return _system("softmax", phases, rows - 1 if skewed else 0, rows * length)


def layer_norm(rows: int, length: int, skewed: bool = False) -> RecurrenceSystem:
    """Sums, then normalisation, each a chain along the row: 2 x length steps; rows are kept between."""
    phases = tuple(_chain(name, rows, length) for name in ("sums", "normalise"))
    return _system("layer_norm", phases, rows - 1 if skewed else 0, rows * length)


def matmul_wavefront(m: int, n: int, k: int) -> np.ndarray:
    """Points live at each step of a matmul under tau = [1, 1, 1], shape (m + n + k - 2,), in closed form.

    Inclusion and exclusion over the three upper faces of the box, with C(t + 2, 2) points on the plane i + j + k = t of the
    octant. The peak is about 3/4 n^2 for a cube, and the product of the two smaller sides when the third is at least their sum
    less 1.
    """
    t = np.arange(m + n + k - 2, dtype=np.int64)

    def plane(steps: np.ndarray) -> np.ndarray:
        return np.where(steps >= 0, (steps + 2) * (steps + 1) // 2, 0)

    sides = (m, n, k)
    singles = sum(plane(t - x) for x in sides)
    pairs = sum(plane(t - x - y) for x, y in itertools.combinations(sides, 2))
    return plane(t) - singles + pairs - plane(t - sum(sides))


def _chain(name: str, rows: int, length: int) -> Recurrence:
    return Recurrence(name, (rows, length), ((0, 1),))


def _system(name: str, phases: tuple[Recurrence, ...], skew: int = 0, buffer_values: int = 0) -> RecurrenceSystem:
    return RecurrenceSystem(name, phases, tuple(optimal_schedule(phase, bound=1) for phase in phases), skew, buffer_values)


def _dot(a: Vector, b: Vector) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
