"""Estimates for the cases of a run. Cases with a single graph are estimated in batches, so a report on thousands takes
seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from shmoo.estimators.errors import FormatError
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import FAMILIES, Graph, Interval
from shmoo.estimators.machine.coefficients import on_tensor_cores
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.predict.estimate_records import Record, estimate_record
from shmoo.estimators.present.savings import FusionSummary, summarize_fusion
from shmoo.estimators.registry import grouped
from shmoo.estimators.variants import with_threads
from shmoo.runs.analysis.error_records import network_name
from shmoo.runs.store.records import CaseSpec, Measurement
from shmoo.runs.store.store import Run

CaseGraphs = tuple[CaseSpec, tuple[Graph, ...]]
CHUNK = 1000
"""Cases per table; with the draws of the coefficients, each array of a chunk takes a megabyte."""


class Part(msgspec.Struct, frozen=True):
    """A kernel of a batched estimate."""

    family: str
    graph: int
    calls: tuple[int, ...]
    latency_s: float


class BatchedEstimate(msgspec.Struct, frozen=True):
    """One estimate of a batch."""

    latency_s: Interval
    energy_j: Interval | None
    flops: float
    bytes: float
    tiles: float
    breakdown: tuple[Part, ...]


KernelPart = KernelEstimate | Part
CaseEstimate = Estimate | BatchedEstimate
"""A predictor's estimate of one case, alone or from a batch."""
Predictor = Callable[[Iterable[CaseGraphs]], Sequence[CaseEstimate]]
"""A function from cases with their graphs, read one at a time, to one estimate per case, in order."""


def director_predictor(profile: ArchitectureProfile, run_threads: int | None = None) -> Predictor:
    """A predictor that calls `AnalysisDirector` with each case's own runtime and threads. `run_threads` applies to cases without
    a number of their own; without it, or where the profile has fewer cores, all its cores work."""
    director = AnalysisDirector(profile)
    cores = profile.get("count.cores")
    usual = run_threads if cores is not None and run_threads is not None and run_threads < cores.value else None

    def estimate_all(cases: Iterable[CaseGraphs]) -> list[CaseEstimate]:
        estimates: dict[int, CaseEstimate] = {}
        waiting: defaultdict[tuple[str, str | None, int | None], list[tuple[int, Graph]]] = defaultdict(list)

        def price(key: tuple[str, str | None, int | None]) -> None:
            """Estimate the waiting cases of one key together; a graph without a kernel is refused as it would be alone."""
            runtime, compute_dtype, threads = key
            machine = director if threads is None else AnalysisDirector(with_threads(profile, threads))
            places, graphs = zip(*waiting.pop(key), strict=True)
            batch = dict(_estimate_batch(machine, graphs, runtime, compute_dtype))
            for number, (place, graph) in enumerate(zip(places, graphs, strict=True)):
                estimates[place] = batch.get(number) or machine.estimate(graph, runtime=runtime, compute_dtype=compute_dtype)

        for index, (case, graphs) in enumerate(cases):
            case_threads = case.threads or (usual if case.device == "cpu" else None)
            threads = None if cores is None or case_threads == cores.value else case_threads
            compute_dtype = matrix_dtype(case.dtype)
            if case.kind == "network" or len(graphs) != 1:
                estimates[index] = director.estimate(graphs, runtime=case.runtime, compute_dtype=compute_dtype, threads=threads)
                continue
            key = case.runtime, compute_dtype, threads
            waiting[key].append((index, graphs[0]))
            if len(waiting[key]) == CHUNK:
                price(key)
        for key in list(waiting):
            price(key)
        return [estimates[index] for index in range(len(estimates))]

    return estimate_all


def network_estimates(run: Run, profiles: Iterable[ArchitectureProfile]) -> list[Record]:
    """Estimates of the run's networks on other machines, each with its default runtime, as the JSON of `shmoo estimate`."""
    records = []
    for profile in profiles:
        director = AnalysisDirector(profile)
        for case, graphs in networks_of(run):
            batch = _samples(case)
            estimate = director.estimate(graphs, compute_dtype=matrix_dtype(case.dtype), batch=batch)
            records.append(estimate_record(estimate, case.workload))
    return records


def _samples(case: CaseSpec) -> int:
    """Samples that a call of a network processes; `FormatError` where its axis "batch" is no positive whole number."""
    batch = case.axes.get("batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise FormatError(f"the row {case.label} has the batch {batch!r}, which is no number of samples; the file was changed")
    return batch


def network_fusions(run: Run, profile: ArchitectureProfile) -> list[FusionSummary]:
    """Fusion savings of each of the run's networks on a machine, from the graphs stored with the run."""
    director = AnalysisDirector(profile)
    return [
        summarize_fusion(
            director,
            graphs,
            model=network_name(msgspec.structs.replace(case, runtime="eager")),
            compute_dtype=matrix_dtype(case.dtype),
        )
        for case, graphs in networks_of(run)
    ]


def networks_of(run: Run) -> list[CaseGraphs]:
    """The networks of a run with their graphs, each combination of workload, axes and dtype once."""
    rows: dict[tuple[str, str, str], Measurement] = {}
    for row in run.rows:
        if row.case.kind == "network" and row.graph_hashes:
            rows.setdefault((row.case.workload, str(row.case.axes), row.case.dtype), row)
    return [(row.case, run.graphs(row)) for row in rows.values()]


def _estimate_batch(
    director: AnalysisDirector, graphs: Sequence[Graph], runtime: str, compute_dtype: str | None
) -> list[tuple[int, BatchedEstimate]]:
    """One estimate for each graph that has kernels, with the graph's place."""
    table, origin = director.tabulate(graphs, runtime, compute_dtype)
    priced = director.price(table.in_campaign(on_tensor_cores(table, director.profile)), runtime, seed=0)

    def per_graph(values: np.ndarray) -> list[float]:
        sums: list[float] = np.bincount(table.segment, weights=values, minlength=table.segments).tolist()
        return sums

    flops, nbytes, tiles = per_graph(table.flops), per_graph(table.bytes), per_graph(priced.tiling.tiles)
    of_kernels = zip(origin, table.family.tolist(), priced.prediction.latency_s.tolist(), strict=True)
    parts = grouped((graph, Part(FAMILIES[family], 0, kernel.calls, s)) for (graph, kernel), family, s in of_kernels)
    return [
        (graph, BatchedEstimate(latency, energy, flops[i], nbytes[i], tiles[i], tuple(parts[graph])))
        for i, (graph, (latency, energy)) in enumerate(zip(parts, priced.intervals(), strict=True))
    ]
