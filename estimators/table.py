"""Kernels as arrays: the work of each launch, and the reuse distance of its operands.

`KernelTable` is the structure of arrays that tiling, prediction and fitting work on. Rows are kernels in execution order; memory
accesses are a second, longer set of arrays, one entry for each operand that a kernel exchanges with its outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shmoo.estimators.costs import COSTS
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES, STORED_AS
from shmoo.estimators.graph.records import FAMILIES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Masks = NDArray[np.bool_]
READ_WEIGHT, READ_ACTIVATION, WRITE = 0, 1, 2
"""Codes of `KernelTable.access_kind`."""

WEIGHT_COPIES = 6
"""Copies of the weights that take turns in a measurement with cold weights, as the layers of a model do."""
FAMILY_CODE = {name: code for code, name in enumerate(FAMILIES)}
DTYPE_CODE = {name: code for code, name in enumerate(COMPUTE_DTYPES)}
NO_KERNEL = "there is nothing to estimate: no kernel is launched; the model only views its inputs or returns constants"


def op_names() -> list[str]:
    """Names of all costed operators, in order of registration; a table's `op` codes are indices into them, -1 for an unknown
    one."""
    return list(COSTS)


def op_code(op: str) -> int:
    """The code of an operator in this process; never stored, as a user's registration may add to the list."""
    return _op_codes(len(COSTS)).get(op, -1)


@cache
def _op_codes(count: int) -> dict[str, int]:
    return {name: code for code, name in enumerate(list(COSTS)[:count])}


@cache
def code_mask(codes: tuple[int, ...], count: int) -> Masks:
    """(count,) mask of some codes. Indexing it with a column of codes takes a tenth of the time of `np.isin`."""
    mask = np.zeros(count, dtype=bool)
    mask[list(codes)] = True
    return mask


def distinct_rows(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(U,) first row of each kind of K rows with equal numbers, ascending, and (K,) the kind of each row."""
    numbers = np.ascontiguousarray(np.stack([column.astype(np.float64) for column in columns], axis=1))
    row_bytes = numbers.view(np.dtype((np.void, numbers.dtype.itemsize * numbers.shape[1]))).ravel()
    _, first_rows, kind = np.unique(row_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first_rows)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first_rows[order], place[kind]


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Kernels as arrays of length K (rows) and A (accesses).

    Attributes:
        family, dtype, op: (K,) codes into `FAMILIES`, `COMPUTE_DTYPES` and `op_names()`: of the call with the most work.
        matrix_flops, vector_flops, special_flops: (K,) summed over the kernel's calls.
        batch, m, n, k, window, stride, dilation, images, group, causal: (K,) iteration space of the dominant call, as in `Cost`;
            channels_in to image_elements: of its images, as in `Geometry`.
        calls: (K,) operator calls that the launch executes. views: (K,) free calls since the previous kernel, which a framework
            still dispatches when it runs a graph call by call; modules: (K,) modules that it enters on the way.
        code_distance: (K,) bytes touched since the same operator last ran on the same shapes, a measure of how far its code and
            its library's state are.
        mapped_bytes, grown_bytes: (K,) new memory from the system for the kernel's results and its library's copies, mapped
            separately or at the end of a trimmed heap (`heap.py`).
        entering_bytes: (K,) bytes of the graph's own inputs that the kernel reads.
        result_bytes: (K,) bytes of the graph's results that the kernel writes.
        leaving_bytes: (K,) bytes of images among the graph's results that the kernel writes, where the graph convolves.
        strided_bytes: (K,) bytes of a convolution's image and result that are not stored channels-last, of operands that a
            framework copies or converts first, of results made from operands of several shapes, and of images in rows that
            running statistics normalize (`graph_rows`).
        segment: (K,) which case or graph the row belongs to; ascending.
        warm: (K,) warmth of the board (`predict/energy.py`) while the segment runs; NaN where it is unknown.
        other_library: (K,) 1 where the kernel is named as one of another library than the machine was measured with, else 0.
        access_kernel: (A,) row; access_bytes: (A,) bytes; access_distance: (A,) bytes touched since the same memory was last
            touched; access_kind: (A,) `READ_WEIGHT`, `READ_ACTIVATION` or `WRITE`.
        labels: K names for people.
    """

    family: Ints
    dtype: Ints
    op: Ints
    matrix_flops: Floats
    vector_flops: Floats
    special_flops: Floats
    batch: Floats
    m: Floats
    n: Floats
    k: Floats
    window: Floats
    stride: Floats
    dilation: Floats
    images: Floats
    group: Floats
    causal: Masks
    channels_in: Floats
    channels_out: Floats
    height: Floats
    width: Floats
    window_height: Floats
    window_width: Floats
    image_elements: Floats
    calls: Floats
    mapped_bytes: Floats
    grown_bytes: Floats
    views: Floats
    modules: Floats
    code_distance: Floats
    entering_bytes: Floats
    result_bytes: Floats
    leaving_bytes: Floats
    strided_bytes: Floats
    segment: Ints
    warm: Floats
    other_library: Floats
    access_kernel: Ints
    access_bytes: Floats
    access_distance: Floats
    access_kind: Ints
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.family)

    @property
    def segments(self) -> int:
        """Number of segments S."""
        return int(self.segment[-1]) + 1 if len(self) else 0

    @property
    def starts(self) -> np.ndarray:
        """(S,) row of each segment's first kernel."""
        return np.flatnonzero(np.diff(self.segment, prepend=-1))

    @property
    def single(self) -> bool:
        """True where every segment has one kernel, as in a table of operators."""
        return len(self) > 0 and int(self.segment[-1] - self.segment[0]) + 1 == len(self)

    def of_segments(self, amounts: Floats, add: np.ufunc = np.add) -> Floats:
        """(..., S) sums over segments of an amount of each kernel, or another reduction by `add`."""
        sums: Floats = amounts if self.single else add.reduceat(amounts, self.starts, axis=-1)
        return sums

    def to_kernels(self, values: Floats) -> Floats:
        """(..., K) value of each kernel's segment."""
        if self.single:
            return values
        if values.shape[-1] == 1:
            return np.broadcast_to(values, (*values.shape[:-1], len(self)))
        of_kernels: Floats = values[..., self.segment - self.segment[0]]
        return of_kernels

    @property
    def counts(self) -> np.ndarray:
        """(S,) kernels of each segment."""
        return np.diff(np.append(self.starts, len(self)))

    @property
    def flops(self) -> Floats:
        """(K,) flops of all units."""
        return self.matrix_flops + self.vector_flops + self.special_flops

    def is_family(self, *names: str) -> Masks:
        """(K,) mask of the rows of these families."""
        return code_mask(tuple(FAMILY_CODE[name] for name in names), len(FAMILIES))[self.family]

    def is_op(self, *names: str) -> Masks:
        """(K,) mask of the rows of these operators."""
        return code_mask(tuple(map(op_code, names)), len(COSTS) + 1)[self.op]

    def bytes_of_kind(self, *kinds: int) -> Floats:
        """(K,) external bytes of these kinds of access; of every kind when none is named."""
        weights = self.access_bytes if not kinds else self.access_bytes * code_mask(kinds, 3)[self.access_kind]
        return np.bincount(self.access_kernel, weights=weights, minlength=len(self)).astype(np.float64, copy=False)

    @property
    def bytes(self) -> Floats:
        """(K,) external inputs plus final outputs, each once."""
        return self.bytes_of_kind()

    def computed_in(self, compute_dtype: str, rows: np.ndarray | None = None) -> KernelTable:
        """The same kernels with their contractions, or those of some rows (a mask), computed in another type than the storage
        type of their tensors: float32 ones in tf32. Contractions of other tensors and all bytes stay.

        Raises:
            InputError: the storage types allow no contraction in `compute_dtype`.
        """
        contracts = self.matrix_flops > 0 if rows is None else rows & (self.matrix_flops > 0)
        storage_dtype = STORED_AS.get(compute_dtype, compute_dtype)
        recomputed = contracts & (self.dtype == DTYPE_CODE[storage_dtype])
        is_converted = compute_dtype in STORED_AS and recomputed.any()
        if not is_converted and (recomputed != contracts).any():
            other_dtypes = sorted({COMPUTE_DTYPES[code] for code in self.dtype[contracts & ~recomputed]})
            conversions = "; ".join(f"{dtype} where they are stored as {storage}" for dtype, storage in STORED_AS.items())
            raise InputError(
                f"compute_dtype {compute_dtype!r} does not apply to contractions of tensors stored as {', '.join(other_dtypes)}; "
                f"allowed: {conversions}. To store tensors as {storage_dtype}, capture the model in that type, as with "
                f"model_graphs(name, dtype={storage_dtype!r})"
            )
        return replace(self, dtype=np.where(recomputed, DTYPE_CODE[compute_dtype], self.dtype))

    def with_rotated_weights(self, rows: np.ndarray) -> KernelTable:
        """The same kernels where `WEIGHT_COPIES` copies of the weights of some rows (a mask) take turns, so that the other copies
        push each call's weights away. Activations stay where they are."""
        if not rows.any():
            return self
        weights = np.bincount(self.segment[self.access_kernel], weights=self.access_bytes * (self.access_kind == READ_WEIGHT))
        other_bytes = (WEIGHT_COPIES - 1) * weights[self.segment[self.access_kernel]]
        is_rotated = (self.access_kind == READ_WEIGHT) & rows[self.access_kernel]
        return replace(self, access_distance=self.access_distance + np.where(is_rotated, other_bytes, 0.0))

    def in_campaign(self, tensor: Masks) -> KernelTable:
        """The same kernels as rows of a table or cases of a run: unless stated otherwise, a lone operator finds the board warm
        from those before it. Products on tensor cores are exempt: each row profits from the first tenths of a second.

        Args:
            tensor: (K,) kernels on tensor cores.
        """
        if not len(self):
            return self
        is_single_loop = (self.counts == 1)[self.segment - self.segment[0]] & ~tensor
        return replace(self, warm=np.where(np.isnan(self.warm) & is_single_loop, 1.0, self.warm))

    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """`distinct_rows` of kernels by their numbers and their accesses, whatever their segment."""
        counts = np.bincount(self.access_kernel, minlength=len(self))
        place = np.arange(len(self.access_kernel)) - np.repeat(np.cumsum(counts) - counts, counts)
        accesses = np.full((3, int(counts.max(initial=0)), len(self)), np.nan)
        accesses[:, place, self.access_kernel] = self.access_bytes, self.access_distance, self.access_kind
        columns = [getattr(self, f.name) for f in fields(self) if f.name not in ("labels", "segment") and "access_" not in f.name]
        return distinct_rows([*columns, *accesses.reshape(-1, len(self))])

    def take(self, rows: np.ndarray) -> KernelTable:
        """The kernels at the given rows (ascending); their segments are renumbered."""
        new_row = np.full(len(self), -1)
        new_row[rows] = np.arange(len(rows))
        accesses = np.flatnonzero(new_row[self.access_kernel] >= 0)
        names = [field.name for field in fields(self) if field.name != "labels"]
        columns = {name: getattr(self, name)[accesses if name.startswith("access_") else rows] for name in names}
        columns["access_kernel"] = new_row[columns["access_kernel"]]
        columns["segment"] = np.cumsum(np.diff(columns["segment"], prepend=columns["segment"][:1]) > 0)
        return KernelTable(**columns, labels=tuple(self.labels[row] for row in rows))

    @classmethod
    def concat(cls, tables: Sequence[KernelTable]) -> KernelTable:
        """One table with the segments of all `tables`; `InputError` without any."""
        if not tables:
            raise InputError(NO_KERNEL)
        names = [field.name for field in fields(cls) if field.name != "labels"]
        columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
        rows, segments = np.cumsum([(0, 0), *((len(t), t.segments) for t in tables)], axis=0)[:-1].T
        columns["access_kernel"] = columns["access_kernel"] + np.repeat(rows, [len(t.access_kernel) for t in tables])
        columns["segment"] = columns["segment"] + np.repeat(segments, [len(t) for t in tables])
        return cls(**columns, labels=tuple(label for table in tables for label in table.labels))
