"""Tables of single operators, made column by column: a lone call on memory of its own needs no walk of a graph (`graph_rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from shmoo.estimators.costs import costs_of
from shmoo.estimators.graph.records import CHANNELS_LAST, CONVOLUTIONS, OTHER_LIBRARY, Cost, Graph
from shmoo.estimators.graph_rows import strided_bytes
from shmoo.estimators.memory.heap import MAPPED_BYTES, fresh_memory
from shmoo.estimators.memory.residency import Touch
from shmoo.estimators.registry import name_of
from shmoo.estimators.table import DTYPE_CODE, FAMILY_CODE, READ_ACTIVATION, READ_WEIGHT, WRITE, Floats, KernelTable, op_code


def is_operator(graph: Graph) -> bool:
    """True for a graph of one call with a cost, as a row of an operator table is: outside of modules, without shared memory, and
    with the call's results as the graph's."""
    if len(graph.calls) != 1 or costs_of(graph) == (None,):
        return False
    call, values = graph.calls[0], graph.values
    is_dense = call.reads + call.writes == tuple(range(len(values))) and not any([value.storage is not None for value in values])
    return is_dense and call.writes == graph.outputs and not call.module


def operator_table(graphs: Sequence[Graph]) -> KernelTable:
    """The table of one or more graphs that are operators, equal to `graph_rows.kernel_tables` without conversions."""
    calls = [graph.calls[0] for graph in graphs]
    costs = [cost for graph in graphs for cost in costs_of(graph) if cost is not None]
    cost_columns = dict(zip(Cost.__struct_fields__, zip(*map(msgspec.structs.astuple, costs), strict=True), strict=True))
    extents: dict[str, Any] = {
        name: np.array(cost_columns[name], dtype=np.float64) for name in Cost.__struct_fields__[3:] if name != "geometry"
    }
    # A selection can be empty: see `graph_rows`.
    extents |= {name: np.where(extents[name] == 0, 1.0, extents[name]) for name in ("batch", "m", "n", "k")}
    geometry = np.array([msgspec.structs.astuple(images) for images in cost_columns["geometry"]], dtype=np.float64).T
    extents |= dict(zip(type(costs[0].geometry).__struct_fields__, geometry, strict=True))

    values = [value for graph in graphs for value in graph.values]
    nbytes = np.array([*chain.from_iterable([cost.read_bytes + cost.write_bytes for cost in costs])], dtype=np.float64)
    counts = np.array([len(graph.values) for graph in graphs])
    kernel = np.repeat(np.arange(len(graphs)), counts)
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_result = place >= np.array([len(call.reads) for call in calls])[kernel]
    is_weight = np.array([value.is_weight for value in values]) & ~is_result
    is_input = np.array([value.kind == "input" for value in values]) & ~is_result
    is_convolution = np.array([family in CONVOLUTIONS for family in cost_columns["family"]])
    is_image = is_convolution[kernel] & np.array([len(value.spec.shape) >= 4 for value in values])

    def sum_by_kernel(mask: np.ndarray | float) -> Floats:
        return np.bincount(kernel, weights=nbytes * mask, minlength=len(graphs)).astype(np.float64, copy=False)

    total_bytes, image_bytes = sum_by_kernel(1.0), sum_by_kernel(~is_weight).tolist()
    mapped_bytes, grown_bytes = np.zeros((2, len(graphs)))
    for row, (graph, call, cost) in enumerate(zip(graphs, calls, costs, strict=True)):
        sizes = [graph.values[value].spec.nbytes for value in call.writes]
        if sum(sizes) + sum(cost.write_bytes) > MAPPED_BYTES:
            results = zip(call.writes, cost.write_bytes, sizes, strict=True)
            touches = [Touch(value, amount, False, True, size) for value, amount, size in results if amount]
            ((mapped_bytes[row], grown_bytes[row]),) = fresh_memory([touches])
    zeros, is_access = np.zeros(len(graphs)), nbytes > 0
    return KernelTable(
        **extents,
        family=np.array([FAMILY_CODE[family] for family in cost_columns["family"]]),
        dtype=np.array([DTYPE_CODE[call.computes_in] for call in calls]),
        op=np.array([op_code(call.op) for call in calls]),
        calls=zeros + 1.0,
        mapped_bytes=mapped_bytes,
        grown_bytes=grown_bytes,
        views=zeros,
        modules=zeros,
        code_distance=total_bytes,
        entering_bytes=sum_by_kernel(is_input),
        result_bytes=sum_by_kernel(is_result),
        leaving_bytes=sum_by_kernel(is_result & is_image),
        strided_bytes=np.array(
            [
                strided_bytes(graph, call, cost.family, nbytes_moved, {}, call.attributes.get("memory_format") != CHANNELS_LAST)
                for graph, call, cost, nbytes_moved in zip(graphs, calls, costs, image_bytes, strict=True)
            ]
        ),
        segment=np.arange(len(graphs)),
        warm=zeros + np.nan,
        other_library=np.array([float(OTHER_LIBRARY in call.attributes) for call in calls]),
        access_kernel=kernel[is_access],
        access_bytes=nbytes[is_access],
        access_distance=total_bytes[kernel][is_access],
        access_kind=np.where(is_result, WRITE, np.where(is_weight, READ_WEIGHT, READ_ACTIVATION))[is_access],
        labels=tuple([name_of(call.op) for call in calls]),
    )
