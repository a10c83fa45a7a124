"""What single calls of a network took in a run, beside their work: the measured points of a roofline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.runs.store.records import ChildTime
from shmoo.runs.store.store import Run


class MeasuredCall(msgspec.Struct, frozen=True):
    """One call of a network where it stands, timed in eager execution; flops and bytes are its own, without fusion."""

    op: str
    module: str
    flops: float
    bytes: float
    time_s: float


def measured_calls(run: Run, workload: str) -> list[MeasuredCall]:
    """The timed calls of a network's rows in a run that can be used.

    Raises:
        InputError: the run has no such row.
        FormatError: a stored graph is damaged.
    """
    rows = [row for row in run.rows if row.case.workload == workload and row.timed and row.children]
    if not rows:
        known = sorted({row.case.workload for row in run.rows if row.children})
        there = f"; it timed those of {', '.join(known)}" if known else ""
        raise InputError(f"the run timed no single calls of {workload!r}{there}")
    return [call for row in rows for call in _calls(run.graphs(row), row.children)]


def _calls(graphs: Sequence[Graph], children: Sequence[ChildTime]) -> Iterator[MeasuredCall]:
    # Child times index the calls of all graphs of the network in order.
    calls = [pair for graph in graphs for pair in zip(graph.calls, costs_of(graph), strict=True)]
    for child in children:
        call, cost = calls[child.call]
        if cost is not None:
            yield MeasuredCall(child.op, call.module, cost.flops, cost.bytes, child.time_s)
