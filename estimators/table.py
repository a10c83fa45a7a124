"""Kernels as arrays: the work of each launch, and how far its operands are from the units.

`KernelTable` is the structure of arrays that tiling, prediction and fitting work on. Rows are kernels in execution order; memory
accesses are a second, longer set of arrays, one entry for each operand that a kernel exchanges with its outside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shmoo.estimators.costs import COSTS, costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES, STORED_AS
from shmoo.estimators.graph.records import CHANNELS_LAST, CONVOLUTIONS, FAMILIES, Cost, Graph, Kernel, OpCall
from shmoo.estimators.memory.heap import Temporary, fresh_memory
from shmoo.estimators.memory.residency import Touch, code_distances, reuse_distances
from shmoo.estimators.memory.workspace import FEW_CHANNELS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Masks = NDArray[np.bool_]
READ_WEIGHT, READ_ACTIVATION, WRITE = 0, 1, 2
"""Codes of `KernelTable.access_kind`."""

ROTATED = 6
"""Weights that take turns in a measurement with cold weights, as layers of a model do: what a cache cannot hold of six comes from
main memory."""
FAMILY_CODE = {name: code for code, name in enumerate(FAMILIES)}
DTYPE_CODE = {name: code for code, name in enumerate(COMPUTE_DTYPES)}
_NO_KERNEL = "there is nothing to estimate: no kernel is launched; the model only views its inputs or returns constants"
Conversion = Literal["none", "kernels", "edges"]
CONVERSIONS: Mapping[tuple[str, str], Conversion] = {
    ("cpu", "eager"): "kernels",
    ("cpu", "inductor"): "edges",
    ("cpu", "inductor-freezing"): "edges",
}
"""Where images change their layout, by architecture family and runtime: at "kernels", a library converts them to blocks of
channels and back around each convolution; at the "edges" of a graph, compiled code converts inputs to channels-last and results
back."""


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
def among(codes: tuple[int, ...], count: int) -> Masks:
    """(count,) which codes are among some; what is indexed with a column of codes takes a tenth of the time of `np.isin`."""
    mask = np.zeros(count, dtype=bool)
    mask[list(codes)] = True
    return mask


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Kernels as arrays of length K (rows) and A (accesses).

    Attributes:
        family, dtype, op: (K,) codes into `FAMILIES`, `COMPUTE_DTYPES` and `op_names()`: of the call with the most work.
        matrix_flops, vector_flops, special_flops: (K,) summed over the kernel's calls.
        batch, m, n, k, window, stride, dilation, images, group, causal: (K,) iteration space of the dominant call, as in `Cost`;
            channels_in to image_elements: of its images, as in `Geometry`.
        calls: (K,) operator calls that the launch executes. views: (K,) free calls since the previous kernel, which a framework
            still dispatches when it runs a graph call by call. code_distance: (K,) bytes touched since the same operator last ran
            on the same shapes, a measure of how far its code and its library's state are.
        mapped_bytes, grown_bytes: (K,) new memory from the system for the kernel's results and its library's copies, mapped
            separately or at the end of a trimmed heap (`heap.py`).
        entering_bytes: (K,) bytes of the graph's own inputs that the kernel reads.
        result_bytes: (K,) bytes of the graph's results that the kernel writes.
        leaving_bytes: (K,) bytes of images among the graph's results that the kernel writes, where the graph convolves.
        strided_bytes: (K,) bytes of a convolution's image and result that are not stored channels-last.
        segment: (K,) which case or graph the row belongs to; ascending.
        warm: (K,) warmth of the board (`heat.py`) while the segment runs; NaN where it is unknown.
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
    code_distance: Floats
    entering_bytes: Floats
    result_bytes: Floats
    leaving_bytes: Floats
    strided_bytes: Floats
    segment: Ints
    warm: Floats
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
    def counts(self) -> np.ndarray:
        """(S,) kernels of each segment."""
        return np.diff(np.append(self.starts, len(self)))

    @property
    def flops(self) -> Floats:
        """(K,) flops of all units."""
        return self.matrix_flops + self.vector_flops + self.special_flops

    def is_family(self, *names: str) -> Masks:
        """(K,) mask of the rows of these families."""
        return among(tuple(FAMILY_CODE[name] for name in names), len(FAMILIES))[self.family]

    def bytes_of_kind(self, *kinds: int) -> Floats:
        """(K,) external bytes of these kinds of access; of every kind when none is named."""
        weights = self.access_bytes if not kinds else self.access_bytes * among(kinds, 3)[self.access_kind]
        return np.bincount(self.access_kernel, weights=weights, minlength=len(self)).astype(np.float64, copy=False)

    @property
    def bytes(self) -> Floats:
        """(K,) external inputs plus final outputs, each once."""
        return self.bytes_of_kind()

    def computed_in(self, compute_dtype: str, rows: np.ndarray | None = None) -> KernelTable:
        """The same kernels with their contractions, or those of some rows (a mask), computed in another type than the storage
        type of their tensors: float32 ones in tf32. Contractions of other tensors and all numbers of bytes stay as they are.

        Raises:
            InputError: the storage types allow no contraction in `compute_dtype`.
        """
        contracts = self.matrix_flops > 0 if rows is None else rows & (self.matrix_flops > 0)
        stored = STORED_AS.get(compute_dtype, compute_dtype)
        here = contracts & (self.dtype == DTYPE_CODE[stored])
        mixed = compute_dtype in STORED_AS and here.any()
        if not mixed and (here != contracts).any():
            others = sorted({COMPUTE_DTYPES[code] for code in self.dtype[contracts & ~here]})
            ways = "; ".join(f"{way} where they are stored as {storage}" for way, storage in STORED_AS.items())
            raise InputError(
                f"compute_dtype {compute_dtype!r} does not apply to contractions of tensors stored as {', '.join(others)}; "
                f"allowed: {ways}. To store tensors as {stored}, capture the model in that type, as with "
                f"model_graphs(name, dtype={stored!r})"
            )
        return replace(self, dtype=np.where(here, DTYPE_CODE[compute_dtype], self.dtype))

    def with_rotated_weights(self, rows: np.ndarray) -> KernelTable:
        """The same kernels where `ROTATED` copies of the weights of some rows (a mask) take turns, so that a call finds its own
        as far away as the others push them. Activations stay where they are."""
        if not rows.any():
            return self
        weights = np.bincount(self.segment[self.access_kernel], weights=self.access_bytes * (self.access_kind == READ_WEIGHT))
        others = (ROTATED - 1) * weights[self.segment[self.access_kernel]]
        turns = (self.access_kind == READ_WEIGHT) & rows[self.access_kernel]
        return replace(self, access_distance=self.access_distance + np.where(turns, others, 0.0))

    def in_campaign(self) -> KernelTable:
        """The same kernels as rows of a table or cases of a run: an operator by itself finds the board warm from those before it,
        where nothing else is said."""
        if not len(self):
            return self
        alone = (self.counts == 1)[self.segment - self.segment[0]]
        return replace(self, warm=np.where(np.isnan(self.warm) & alone, 1.0, self.warm))

    def take(self, rows: np.ndarray) -> KernelTable:
        """The kernels at the given rows (ascending); their segments are renumbered."""
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        accesses = np.flatnonzero(place[self.access_kernel] >= 0)
        names = [field.name for field in fields(self) if field.name != "labels"]
        columns = {name: getattr(self, name)[accesses if name.startswith("access_") else rows] for name in names}
        columns["access_kernel"] = place[columns["access_kernel"]]
        columns["segment"] = np.cumsum(np.diff(columns["segment"], prepend=columns["segment"][:1]) > 0)
        return KernelTable(**columns, labels=tuple(self.labels[row] for row in rows))

    @classmethod
    def concat(cls, tables: Sequence[KernelTable]) -> KernelTable:
        """One table with the segments of all `tables`.

        Raises:
            InputError: there is no table.
        """
        if not tables:
            raise InputError(_NO_KERNEL)
        names = [field.name for field in fields(cls) if field.name != "labels"]
        columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
        rows, segments = np.cumsum([(0, 0), *((len(t), t.segments) for t in tables)], axis=0)[:-1].T
        columns["access_kernel"] = columns["access_kernel"] + np.repeat(rows, [len(t.access_kernel) for t in tables])
        columns["segment"] = columns["segment"] + np.repeat(segments, [len(t) for t in tables])
        return cls(**columns, labels=tuple(label for table in tables for label in table.labels))


class Costed(NamedTuple):
    """A graph with its kernels, groups of calls in execution order without free calls, and the costs of its calls."""

    graph: Graph
    kernels: Sequence[Kernel]
    costs: Sequence[Cost | None]


def kernel_table(
    graph: Graph, kernels: Sequence[Kernel], *, converts: Conversion = "none", costs: Sequence[Cost | None] | None = None
) -> KernelTable:
    """`kernel_tables` of one graph; `costs` are those of its calls, where the caller has them."""
    return kernel_tables([Costed(graph, kernels, costs_of(graph) if costs is None else costs)], converts=converts)


def kernel_tables(parts: Sequence[Costed], *, converts: Conversion = "none") -> KernelTable:
    """Cost every kernel of every graph, a segment each, and compute the reuse distance of each of its accesses.

    Args:
        converts: where images change their layout (`CONVERSIONS`).

    Raises:
        InputError: no graph has a kernel.
    """
    rows: list[tuple[float, ...]] = []
    accesses: list[tuple[float, ...]] = []
    labels: list[str] = []
    for segment, part in enumerate(part for part in parts if part.kernels):
        _add_rows(part, converts, segment, rows, accesses)
        labels += [_label(part.graph, kernel) for kernel in part.kernels]
    if not rows:
        raise InputError(_NO_KERNEL)
    names = [field.name for field in fields(KernelTable) if field.name != "labels"]
    kernels = np.ascontiguousarray(np.array(rows, dtype=np.float64).T)
    touched = np.ascontiguousarray(np.array(accesses, dtype=np.float64).reshape(len(accesses), 4).T)
    columns: dict[str, Any] = dict(zip(names, (*kernels, *touched), strict=True))
    codes = ("family", "dtype", "op", "segment", "access_kernel", "access_kind")
    columns |= {name: columns[name].astype(np.int64) for name in codes}
    return KernelTable(**columns, labels=tuple(labels))


def _add_rows(
    part: Costed, converts: Conversion, segment: int, rows: list[tuple[float, ...]], accesses: list[tuple[float, ...]]
) -> None:
    """Append one graph's kernels and their accesses, the columns of each in the order of `KernelTable`."""
    graph, kernels, costs = part
    consumers = _consumers(graph)
    # Results that are images (batch, channels and two extents or more), where the graph convolves.
    convolves = any(cost is not None and cost.family in CONVOLUTIONS for cost in costs)
    images = {graph.root(value) for value in graph.outputs if convolves and len(graph.values[value].spec.shape) >= 4}
    works = [_work_of(graph, kernel, [costs[i] for i in kernel.calls], consumers) for kernel in kernels]
    touches = [work.touches for work in works]
    entering = [sum(t.nbytes for t in ts if not t.write and graph.values[t.storage].kind == "input") for ts in touches]
    returned = {graph.root(value) for value in graph.outputs}
    results = [sum(t.nbytes for t in ts if t.write and t.storage in returned) for ts in touches]
    leaving = [sum(t.nbytes for t in ts if t.write and t.storage in images) for ts in touches]
    views: list[int] = []
    done = 0  # calls up to the end of the last kernel so far
    for kernel in kernels:
        views.append(sum(cost is None for cost in costs[done : kernel.calls[-1]]))
        done = max(done, kernel.calls[-1] + 1)
    converted: list[Temporary | None] = [None] * len(works)
    for row, work in enumerate(works):
        if work.cost.family in CONVOLUTIONS and converts != "none":
            converted[row] = Temporary(entering[row], leaving[row]) if converts == "edges" else _library_copies(work)
    shapes = [tuple((graph.calls[i].op, graph.calls[i].inputs) for i in kernel.calls) for kernel in kernels]
    fresh = fresh_memory(touches, converted)
    code, reuse = code_distances(shapes, touches), reuse_distances(touches)
    for row, (work, kernel) in enumerate(zip(works, kernels, strict=True)):
        cost = work.cost
        near = zip(work.touches, reuse[row], work.kinds, strict=True)
        accesses += [(len(rows), touch.nbytes, distance, kind) for touch, distance, kind in near]
        # A selection can be empty; at least 1 keeps the number of tiles, which is computed from extents, from a division by 0.
        rows.append((
            FAMILY_CODE[cost.family], DTYPE_CODE[work.call.computes_in], op_code(work.call.op),
            work.matrix_flops, work.vector_flops, work.special_flops,
            max(cost.batch, 1), max(cost.m, 1), max(cost.n, 1), max(cost.k, 1),
            cost.window, cost.stride, cost.dilation, cost.images, cost.group, cost.causal,
            *msgspec.structs.astuple(cost.geometry),
            len(kernel.calls), fresh[row].mapped, fresh[row].grown, views[row], code[row],
            entering[row], results[row], leaving[row], _strided_bytes(work), segment, np.nan,
        ))  # fmt: skip


class _Work(NamedTuple):
    """The work of one kernel: its flops, the cost and the call that name it, its accesses to memory outside itself, and the kind
    of each access."""

    matrix_flops: float
    vector_flops: float
    special_flops: float
    cost: Cost
    call: OpCall
    touches: list[Touch]
    kinds: list[int]


def _consumers(graph: Graph) -> dict[int, set[int]]:
    """Calls that read each storage, by the index of the value that owns it; an index past the last call stands for the caller."""
    readers: defaultdict[int, set[int]] = defaultdict(set)
    roots = graph.roots
    for index, call in enumerate(graph.calls):
        for value in call.reads:
            readers[roots[value]].add(index)
    for value in graph.outputs:
        readers[roots[value]].add(len(graph.calls))
    return dict(readers)


def _work_of(graph: Graph, kernel: Kernel, costs: Sequence[Cost | None], consumers: dict[int, set[int]]) -> _Work:
    working = [(i, graph.calls[i], cost) for i, cost in zip(kernel.calls, costs, strict=True) if cost is not None]
    if not working:
        raise ValueError(f"kernel {kernel} of graph {graph.name!r} holds only free calls; fusion must leave those out")
    # The kernel is named after its largest contraction, or else after the call with the most bytes.
    _, main_call, main = max(working, key=lambda work: (work[2].matrix_flops, work[2].bytes))
    inside, roots, values, direct = set(kernel.calls), graph.roots, graph.values, kernel.direct
    produced: set[int] = set()
    accesses: dict[tuple[int, bool], tuple[Touch, int]] = {}
    for index, call, cost in working:
        for value, nbytes in zip(call.reads, cost.read_bytes, strict=True):
            root = roots[value]
            if root in produced or nbytes == 0 or (index, value) in direct:
                continue
            if (root, False) not in accesses or nbytes > accesses[root, False][0].nbytes:
                touch = Touch(root, nbytes, persistent=values[root].kind != "activation")
                accesses[root, False] = touch, READ_WEIGHT if values[root].is_weight else READ_ACTIVATION
        # Parts of a concatenation that other kernels wrote in place are no work of this one.
        in_place = [value for at, value in direct if at == index and roots[value] not in produced] if direct else ()
        there = sum([values[value].spec.nbytes for value in in_place])
        for value, whole_bytes in zip(call.writes, cost.write_bytes, strict=True):
            nbytes = max(whole_bytes - there, 0.0)
            root = roots[value]
            produced.add(root)
            readers = consumers.get(root)
            if nbytes and not (readers and readers <= inside):
                persistent, whole = values[root].kind != "activation", values[root].spec.nbytes
                accesses[root, True] = Touch(root, nbytes, persistent=persistent, write=True, size=whole), WRITE
    return _Work(
        sum(cost.matrix_flops for _, _, cost in working),
        sum(cost.vector_flops for _, _, cost in working),
        sum(cost.special_flops for _, _, cost in working),
        main,
        main_call,
        [touch for touch, _ in accesses.values()],
        [kind for _, kind in accesses.values()],
    )


def _strided_bytes(work: _Work) -> float:
    """Bytes of a convolution's image and result where its capture does not say that they are channels-last."""
    if work.cost.family not in CONVOLUTIONS or work.call.attributes.get("memory_format") == CHANNELS_LAST:
        return 0.0
    return sum(t.nbytes for t, kind in zip(work.touches, work.kinds, strict=True) if kind != READ_WEIGHT)


def _library_copies(work: _Work) -> Temporary:
    """Copies of a library that converts the image and the result of a convolution."""
    of = {kind: sum(t.nbytes for t, k in zip(work.touches, work.kinds, strict=True) if k == kind) for kind in set(work.kinds)}
    channels = work.cost.geometry.channels_in * work.cost.batch
    return Temporary(of.get(READ_ACTIVATION, 0.0) if channels > FEW_CHANNELS else 0.0, of.get(WRITE, 0.0))


def _label(graph: Graph, kernel: Kernel) -> str:
    ops = "+".join(graph.calls[i].op.split(".")[-1].split("::")[-1] for i in kernel.calls)
    module = next((graph.calls[i].module for i in kernel.calls if graph.calls[i].module), "")
    return f"{module}:{ops}" if module else ops
