"""Graphs as one table of kernels with their machine-independent totals: built once, estimated on many machines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from shmoo.estimators.costs.summary import UnknownOp, graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.dtypes import compute_dtype as canonical_compute_dtype
from shmoo.estimators.graph.records import Graph, Kernel, notes_of, weights_of
from shmoo.estimators.graph_rows import CONVERSIONS, kernel_tables
from shmoo.estimators.memory.peak import peak_memory_bytes, resident_weight_bytes
from shmoo.estimators.memory.room import MemoryRoom, memory_room
from shmoo.estimators.operator_rows import is_operator, operator_table
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.gpu.threads import AS_STORED

P = ParamSpec("P")
R = TypeVar("R")
Origin = list[tuple[int, Kernel]]
"""Per row of a table, the index of its graph and its kernel."""


@dataclass(frozen=True, slots=True)
class ModelTable:
    """A model as a runtime of an architecture family launches it.

    Attributes:
        table: its kernels, a segment a graph.
        origin: graph and kernel of each row.
        compute_dtype: type that contractions compute in; `None` for the tensors' own.
        flops, macs, params, weight_bytes, peak_memory_bytes, unknown_ops, notes: as in `director.Estimate`.
        memory: the parts of the peak memory, without a machine's capacity.
    """

    table: KernelTable
    origin: Origin
    compute_dtype: str | None
    flops: float
    macs: float
    params: int
    weight_bytes: float
    peak_memory_bytes: float
    memory: MemoryRoom
    unknown_ops: tuple[UnknownOp, ...]
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """The compute type of most work: flops of contractions if there are any, else bytes."""
        if self.compute_dtype or not len(self.table):
            return self.compute_dtype or "float32"
        weight = self.table.matrix_flops if self.table.matrix_flops.sum() else self.table.bytes
        return COMPUTE_DTYPES[int(np.bincount(self.table.dtype, weights=weight).argmax())]


def _input_errors(analyse: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions that analyse graphs: operands that do not fit their operator raise an `InputError`. Graphs may come
    from files, and only the cost, fusion and memory functions of an operator know its operands."""

    @functools.wraps(analyse)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return analyse(*args, **kwargs)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot analyse a graph whose calls do not fit their operators ({type(error).__name__}: {error})"
            ) from error

    return checked


@_input_errors
def tabulate(
    graphs: Sequence[Graph], runtime: str, family: str, compute_dtype: str | None = None, fused: bool = True
) -> tuple[KernelTable, Origin]:
    """Kernels of all graphs in one table (one segment a graph) and, per row, its graph and kernel.

    Args:
        runtime, family: whose fusion groups the calls.
        compute_dtype: type that contractions compute in, where it differs from the storage type (tf32 for float32); `None`
            for the tensors' own. `InputError` where no contraction can be computed in it as its tensors are stored.
        fused: `False` makes every call a separate kernel.
    """
    fused_graphs = [(graph, fuse(graph, runtime, family) if fused else fuse(graph)) for graph in graphs]
    converts = CONVERSIONS.get((family, runtime), "none")
    if fused_graphs and converts == "none" and all([bool(kernels) and is_operator(graph) for graph, kernels in fused_graphs]):
        table = operator_table(graphs)
    else:
        overwrites = family in ("cpu", "gpu") and runtime not in AS_STORED
        table = kernel_tables(fused_graphs, converts=converts, overwrites=overwrites, in_order=family == "gpu")
    origin = [(index, kernel) for index, (_, kernels) in enumerate(fused_graphs) for kernel in kernels]
    return (table.computed_in(canonical_compute_dtype(compute_dtype)) if compute_dtype else table), origin


@_input_errors
def tabulate_model(
    graphs: Sequence[Graph],
    runtime: str,
    family: str,
    compute_dtype: str | None = None,
    fused: bool = True,
    sibling: ModelTable | None = None,
) -> ModelTable:
    """A model's table with its totals; arguments and errors as of `tabulate`.

    Args:
        sibling: the table of the same graphs for another runtime or family, computed in the same type. Its totals and notes are
            reused.
    """
    table, origin = tabulate(graphs, runtime, family, compute_dtype, fused)
    peak_bytes = peak_memory_bytes(graphs, runtime, family)
    if sibling is not None:
        memory = sibling.memory.at_peak(peak_bytes)
        return replace(sibling, table=table, origin=origin, peak_memory_bytes=peak_bytes, memory=memory)
    totals = [graph_cost(graph) for graph in graphs]
    return ModelTable(
        table=table,
        origin=origin,
        compute_dtype=canonical_compute_dtype(compute_dtype) if compute_dtype else None,
        flops=sum(total.flops for total in totals),
        macs=sum(total.macs for total in totals),
        params=sum(value.spec.numel for value in weights_of(graphs) if value.kind == "parameter"),
        weight_bytes=resident_weight_bytes(graphs),
        peak_memory_bytes=peak_bytes,
        memory=memory_room(graphs, peak_bytes),
        unknown_ops=tuple(op for total in totals for op in total.unknown),
        notes=notes_of(graphs),
    )
