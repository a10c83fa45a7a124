"""Graphs read into rows of a `KernelTable`: the work of each kernel and its accesses to memory outside itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from shmoo.estimators.costs import costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import CHANNELS_LAST, CONTRACTIONS, CONVOLUTIONS, OTHER_LIBRARY, Cost, Graph, Kernel, OpCall
from shmoo.estimators.graph.views import StridedView, view_of
from shmoo.estimators.memory.heap import MAPPED_BYTES, Temporary, fresh_memory
from shmoo.estimators.memory.residency import Touch, code_distances, reuse_distances, written_in_place
from shmoo.estimators.memory.workspace import FEW_CHANNELS
from shmoo.estimators.registry import name_of
from shmoo.estimators.table import DTYPE_CODE, FAMILY_CODE, NO_KERNEL, READ_ACTIVATION, READ_WEIGHT, WRITE, KernelTable, op_code

Conversion = Literal["none", "kernels", "edges", "edges and weights"]
CONVERSIONS: Mapping[tuple[str, str], Conversion] = {
    ("cpu", "eager"): "kernels",
    ("cpu", "inductor"): "edges and weights",
    ("cpu", "inductor-freezing"): "edges",
}
"""Conversions of layouts by architecture family and runtime. At "kernels", a library converts images to blocks of channels and
back around each convolution, and its weights before it. At the "edges" of a graph, compiled code converts inputs to channels-last
and results back. Weights that are not frozen are converted at every call."""

_WITH_RUNNING = ("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update")
"""Norms of images by running statistics, where they do not train."""


def kernel_tables(
    parts: Sequence[tuple[Graph, Sequence[Kernel]]],
    *,
    converts: Conversion = "none",
    overwrites: bool = False,
    in_order: bool = False,
) -> KernelTable:
    """Cost every kernel of every graph, a segment each, and compute the reuse distance of each of its accesses.

    Args:
        parts: graphs with their kernels: groups of calls in execution order without free calls. `InputError` without a kernel.
        converts: conversions of layouts (`CONVERSIONS`).
        overwrites: whether loops write results over operands that have no later reader.
        in_order: see `reuse_distances`.
    """
    rows: list[tuple[float, ...]] = []
    accesses = _Accesses([], [], [], [])
    labels: list[str] = []
    for segment, (graph, kernels) in enumerate(part for part in parts if part[1]):
        _add_rows(graph, kernels, (converts, overwrites, in_order), segment, rows, accesses)
        labels += [_label(graph, kernel) for kernel in kernels]
    if not rows:
        raise InputError(NO_KERNEL)
    names = [field.name for field in fields(KernelTable) if field.name != "labels"]
    launches = np.ascontiguousarray(np.array(rows, dtype=np.float64).T)
    columns: dict[str, Any] = dict(zip(names, (*launches, *accesses), strict=True))
    columns |= {name: np.asarray(columns[name], dtype=np.float64) for name in ("access_bytes", "access_distance")}
    codes = ("family", "dtype", "op", "segment", "access_kernel", "access_kind")
    columns |= {name: np.asarray(columns[name], dtype=np.int64) for name in codes}
    return KernelTable(**columns, labels=tuple(labels))


class _Accesses(NamedTuple):
    """The last columns of a `KernelTable`, an entry for each access."""

    kernel: list[int]
    nbytes: list[float]
    distance: list[float]
    kind: list[int]


def _add_rows(
    graph: Graph,
    kernels: Sequence[Kernel],
    memory: tuple[Conversion, bool, bool],
    segment: int,
    rows: list[tuple[float, ...]],
    accesses: _Accesses,
) -> None:
    """Append one graph's kernels and their accesses, the columns of each in the order of `KernelTable`."""
    costs = costs_of(graph)
    consumers = _consumers(graph, costs)
    converts, overwrites, in_order = memory
    # Results that are images (batch, channels and two extents or more), where the graph convolves.
    convolves = any([cost is not None and cost.family in CONVOLUTIONS for cost in costs])
    images = {graph.root(value) for value in graph.outputs if convolves and len(graph.values[value].spec.shape) >= 4}
    works = [_work_of(graph, kernel, costs, consumers, images) for kernel in kernels]
    temporaries: list[Temporary | None] = [None] * len(works)
    for row, work in enumerate(works):
        if converts == "kernels":
            temporaries[row] = _temporaries(work)
        elif converts != "none" and work.cost.family in CONVOLUTIONS:
            temporaries[row] = Temporary(work.entering_bytes, work.leaving_bytes)
    touches = [work.touches for work in works]
    if overwrites and len(works) > 1:
        touches = written_in_place(touches, [work.cost.family not in CONTRACTIONS for work in works])
    fresh = fresh_memory(touches, temporaries)
    shapes = (tuple([(graph.calls[i].op, graph.calls[i].inputs) for i in kernel.calls]) for kernel in kernels)
    code, reuse = code_distances(shapes, touches), reuse_distances(touches, in_order)
    multiplies = any([work.call.op == "aten.matmul" for work in works])
    in_rows = not any([call.attributes.get("memory_format") == CHANNELS_LAST for call in graph.calls])
    producers = {value: call for call in graph.calls for value in call.writes} if multiplies else {}
    modules_entered = _entered(graph)
    next_call = 0  # calls up to the end of the last kernel so far
    for row, (work, kernel) in enumerate(zip(works, kernels, strict=True)):
        cost, last_call = work.cost, kernel.calls[-1]
        image_bytes = 0.0
        if cost.family in CONVOLUTIONS:
            image_bytes = sum([touch.nbytes for touch, kind in zip(work.touches, work.kinds, strict=True) if kind != READ_WEIGHT])
        accesses.kernel.extend([len(rows)] * len(work.touches))
        accesses.nbytes.extend([touch.nbytes for touch in work.touches])
        accesses.distance.extend(reuse[row])
        accesses.kind.extend(work.kinds)
        # A selection can be empty; at least 1 keeps the number of tiles, which is computed from extents, from a division by 0.
        rows.append((
            FAMILY_CODE[cost.family], DTYPE_CODE[work.call.computes_in], op_code(work.call.op),
            work.matrix_flops, work.vector_flops, work.special_flops,
            cost.batch or 1, cost.m or 1, cost.n or 1, cost.k or 1,
            cost.window, cost.stride, cost.dilation, cost.images, cost.group, cost.causal,
            *msgspec.structs.astuple(cost.geometry),
            len(kernel.calls), fresh[row].mapped + _mapped_weights(work, converts), fresh[row].grown,
            costs[next_call:last_call].count(None), sum(modules_entered[next_call : last_call + 1]), code[row],
            work.entering_bytes, work.result_bytes, work.leaving_bytes,
            strided_bytes(graph, work.call, cost.family, image_bytes, producers, in_rows), segment, np.nan,
            OTHER_LIBRARY in work.call.attributes,
        ))  # fmt: skip
        next_call = max(next_call, last_call + 1)


def _entered(graph: Graph) -> list[int]:
    """Modules that a framework enters for each call: those around it that the call before it was not in."""
    counts, previous_module = [], ""
    for call in graph.calls:
        if call.module == previous_module:
            counts.append(0)
            continue
        path, previous_path = call.module.split("."), previous_module.split(".")
        pairs = enumerate(zip(path, previous_path, strict=False))
        depth = next((i for i, (part, previous_part) in pairs if part != previous_part), len(previous_path))
        counts.append(max(len(path) - depth, 0) if call.module else 0)
        previous_module = call.module
    return counts


class _Work(NamedTuple):
    """The work of one kernel: its flops, the cost and the call that name it, its accesses to memory outside itself, the kind of
    each access, and how many of the bytes are the graph's inputs, its results, and images among its results."""

    matrix_flops: float
    vector_flops: float
    special_flops: float
    cost: Cost
    call: OpCall
    touches: list[Touch]
    kinds: list[int]
    entering_bytes: float
    result_bytes: float
    leaving_bytes: float


def _consumers(graph: Graph, costs: Sequence[Cost | None]) -> Mapping[int, set[int]]:
    """Calls that read each storage, by the index of the value that owns it; an index past the last call stands for the caller.
    A view reads nothing of the storage that it shares."""
    readers: defaultdict[int, set[int]] = defaultdict(set)
    roots = graph.roots
    for index, (call, cost) in enumerate(zip(graph.calls, costs, strict=True)):
        view_roots = {roots[value] for value in call.writes} if cost is None else ()
        for value in call.reads:
            if roots[value] not in view_roots:
                readers[roots[value]].add(index)
    for value in graph.outputs:
        readers[roots[value]].add(len(graph.calls))
    return readers


def _work_of(
    graph: Graph, kernel: Kernel, costs: Sequence[Cost | None], consumers: Mapping[int, set[int]], images: Set[int]
) -> _Work:
    """The work of one kernel; `images` are the storages of the images that its graph returns."""
    costed = [(i, graph.calls[i], cost) for i in kernel.calls if (cost := costs[i]) is not None]
    if not costed:
        raise ValueError(f"kernel {kernel} of graph {graph.name!r} holds only free calls; fusion must leave those out")
    # The kernel is named after its largest contraction, or else after the call with the most bytes.
    has_several = len(costed) > 1
    _, main_call, main = max(costed, key=lambda work: (work[2].matrix_flops, work[2].bytes)) if has_several else costed[0]
    roots, values, direct, caller = graph.roots, graph.values, kernel.direct, len(graph.calls)
    matrix = vector = special = entering = results = leaving = 0.0
    results_written: set[int] = set()
    accesses: dict[tuple[int, bool], tuple[Touch, int]] = {}
    for index, call, cost in costed:
        matrix, vector, special = matrix + cost.matrix_flops, vector + cost.vector_flops, special + cost.special_flops
        for value, nbytes in zip(call.reads, cost.read_bytes, strict=True):
            root = roots[value]
            if root in results_written or nbytes == 0 or (index, value) in direct:
                continue
            if (root, False) not in accesses or nbytes > accesses[root, False][0].nbytes:
                owner = values[root]
                touch = Touch(root, nbytes, owner.kind != "activation")
                accesses[root, False] = touch, READ_WEIGHT if owner.is_weight else READ_ACTIVATION
        written_before = 0.0
        if direct:
            # Parts of a concatenation that other kernels wrote in place are no work of this one.
            in_place = [value for consumer, value in direct if consumer == index and roots[value] not in results_written]
            written_before = sum([values[value].spec.nbytes for value in in_place])
        for value, whole_bytes in zip(call.writes, cost.write_bytes, strict=True):
            nbytes = max(whole_bytes - written_before, 0.0)
            root = roots[value]
            results_written.add(root)
            readers = consumers.get(root)
            if nbytes and not (readers and readers.issubset(kernel.calls)):
                owner = values[root]
                accesses[root, True] = Touch(root, nbytes, owner.kind != "activation", True, owner.spec.nbytes), WRITE
    for touch, kind in accesses.values():
        if kind == WRITE:
            results += touch.nbytes if caller in consumers.get(touch.storage, ()) else 0.0
            leaving += touch.nbytes if touch.storage in images else 0.0
        elif values[touch.storage].kind == "input":
            entering += touch.nbytes
    touches, kinds = [touch for touch, _ in accesses.values()], [kind for _, kind in accesses.values()]
    return _Work(matrix, vector, special, main, main_call, touches, kinds, entering, results, leaving)


def strided_bytes(graph: Graph, call: OpCall, family: str, near: float, producers: Mapping[int, OpCall], in_rows: bool) -> float:
    """The column `strided_bytes` of a kernel that a call names.

    Args:
        near: bytes that a convolution moves, but for weights. producers: as of `views.view_of`.
        in_rows: whether the graph's images are stored in rows, not channels-last.
    """
    if family in CONVOLUTIONS and call.attributes.get("memory_format") != CHANNELS_LAST:
        return near
    if family == "softmax":
        return converted_bytes(call)
    if family == "pointwise" and call.outputs:
        result = call.outputs[0]
        return result.nbytes if any(spec.numel > 1 and spec.shape != result.shape for spec in call.inputs) else 0.0
    if call.op in _WITH_RUNNING and not call.attributes.get("training"):
        return call.outputs[0].nbytes if in_rows and len(call.outputs[0].shape) > 2 else 0.0
    return copied_bytes(graph, call, producers)


def converted_bytes(call: OpCall) -> float:
    """Bytes of a softmax's operand in the wider type of its result, to which the framework converts it first (ATen's
    `SoftMax.cpp`, `softmax`); 0 for float16, which a GPU converts on the way."""
    wider = call.outputs[0].nbytes > call.inputs[0].nbytes and call.inputs[0].dtype != "float16"
    return call.outputs[0].nbytes if wider else 0.0


def copied_bytes(graph: Graph, call: OpCall, producers: Mapping[int, OpCall]) -> float:
    """Bytes of the operands of a product of batches that are copied before it; 0 for other calls and broadcast operands.

    PyTorch multiplies batches of matrices with one dimension for the batch. Operands with more are reshaped to it (ATen's
    `LinearAlgebra.cpp`, `_matmul_impl`), which copies those whose batch dimensions do not lie one after the other in memory: the
    heads of attention, which are split off the features of each token.

    Args:
        producers: as of `views.view_of`.
    """
    if call.op != "aten.matmul" or len(call.reads) < 2:
        return 0.0
    specs = [graph.values[value].spec for value in call.reads[:2]]
    if min(len(spec.shape) for spec in specs) < 3 or specs[0].shape[:-2] != specs[1].shape[:-2]:
        return 0.0
    operands = zip(call.reads, specs, strict=False)
    return sum(spec.nbytes for value, spec in operands if _is_copied(view_of(graph, value, producers)))


def _is_copied(view: StridedView) -> bool:
    """Whether the batch dimensions do not merge into one, or neither rows nor columns are dense. Views whose steps are not known
    count as dense."""
    if None in view.strides:
        return False
    batch = StridedView(view.sizes[:-2], view.strides[:-2]).runs()
    return len(batch) > 1 or (1 not in view.strides[-2:] and 1 not in view.sizes[-2:])


def _temporaries(work: _Work) -> Temporary | None:
    """Memory that a library and the framework allocate around a kernel in eager execution: copies of a convolution's image and
    result in blocks of channels (the result of a transposed one in the plain layout too); the squares of a root mean square norm,
    which PyTorch composes of other operators, and its result before the weights."""
    is_convolution, is_composed = work.cost.family in CONVOLUTIONS, work.call.op == "aten.rms_norm"
    if not is_convolution and not is_composed:
        return None
    amounts = {
        kind: sum(t.nbytes for t, k in zip(work.touches, work.kinds, strict=True) if k == kind) for kind in set(work.kinds)
    }
    image, result = amounts.get(READ_ACTIVATION, 0.0), amounts.get(WRITE, 0.0)
    if is_composed:
        return Temporary(image, result)
    channels = work.cost.geometry.channels_in * work.cost.batch
    return Temporary(image if channels > FEW_CHANNELS else 0.0, result, 2 if work.cost.family == "conv_transpose" else 1)


def _mapped_weights(work: _Work, converts: Conversion) -> float:
    """Bytes of a convolution's converted weights that are mapped separately: one copy in the library's blocks, and in compiled
    code one in channels-last order before it, of windows of more than a point."""
    if work.cost.family not in CONVOLUTIONS or converts not in ("kernels", "edges and weights"):
        return 0.0
    copies = 2 if converts == "edges and weights" and work.cost.window > 1 else 1
    weights = sum(t.nbytes for t, kind in zip(work.touches, work.kinds, strict=True) if kind == READ_WEIGHT)
    return copies * weights if weights > MAPPED_BYTES else 0.0


def _label(graph: Graph, kernel: Kernel) -> str:
    calls = [graph.calls[i] for i in kernel.calls]
    ops = "+".join([name_of(call.op) for call in calls])
    module = next(filter(None, [call.module for call in calls]), "")
    return f"{module}:{ops}" if module else ops
