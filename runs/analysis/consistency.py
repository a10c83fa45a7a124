"""What a row cannot say: values that no measurement gives, and graphs that are not those of its case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmoo.estimators.graph.records import Graph
from shmoo.runs.store.records import CaseSpec, Measurement

_EXTENTS = frozenset({"b", "m", "n", "k", "rows", "cols", "batch", "c", "c_in", "c_out", "size"})
"""Axes of workloads that are an extent of some tensor."""
_STORED = {"float64": "float64", "float32": "float32", "tf32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
"""Type of a case -> the type of its tensors, where every capture keeps it."""


def value_problems(line: Measurement) -> Iterator[str]:
    """What is impossible about the values of one line of a run."""
    if line.status in ("ok", "noisy") and not line.timed:
        yield f"it is {line.status} without a time"
    for reading in line.energy:
        if not reading.possible:
            yield (
                f"{reading.domain} has {reading.energy_j} J between {reading.low_j} and {reading.high_j} J in {reading.calls} "
                f"calls of {reading.window_s} s in all"
            )
    seconds = {f"child {child.call}": child.time_s for child in line.children}
    seconds |= {f"operator {operator.op}": operator.time_s for operator in line.operators if operator.time_s is not None}
    if line.timing is not None:
        first, compiling, cpu = line.timing.first_call_s, line.timing.compile_s, line.timing.cpu_s
        seconds |= {name: s for name, s in {"first call": first, "compilation": compiling, "CPU": cpu}.items() if s is not None}
    yield from (f"{name} took {s:g} s" for name, s in seconds.items() if s < 0)
    if line.peak_memory_bytes is not None and line.peak_memory_bytes < 0:
        yield f"its peak memory is {line.peak_memory_bytes:g} bytes"
    if line.visit < 0:
        yield f"it is visit {line.visit}"


def graph_problems(row: Measurement, graphs: Sequence[Graph]) -> Iterator[str]:
    """Why the graphs of a row cannot be those of its case."""
    calls = [call.op for graph in graphs for call in graph.calls]
    if wrong := next((child for child in row.children if child.call < len(calls) and calls[child.call] != child.op), None):
        yield f"it times {wrong.op!r} where its graph calls {calls[wrong.call]!r}"
    if (named := next((graph.name for graph in graphs if graph.name), row.case.workload)) != row.case.workload:
        yield f"it is of {row.case.workload!r}, and its graph of {named!r}"
    yield from _case_problems(row.case, graphs)


def _case_problems(case: CaseSpec, graphs: Sequence[Graph]) -> Iterator[str]:
    if not graphs or case.kind == "network":
        return
    specs = [value.spec for graph in graphs for value in graph.values]
    stored = _STORED.get(case.dtype)
    if stored is not None and stored not in {spec.dtype for spec in specs}:
        yield f"it is of {case.dtype}, and its graph has no such tensor"
    extents = {side for spec in specs for side in spec.shape}
    sizes = {name: size for name, size in case.axes.items() if name in _EXTENTS and type(size) is int}
    for name, size in sizes.items():
        # Batches are folded into rows here and there.
        folded = {size, *(size * sizes[other] for other in sizes if other != name)}
        if size > 1 and not folded & extents:
            yield f"{name} is {size}, and no tensor of its graph has that extent"
