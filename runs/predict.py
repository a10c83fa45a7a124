"""Estimates for the cases of a run. Cases of one graph are estimated together, so that a report on thousands takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from shmoo.estimators.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.dtypes import matrix_dtype
from shmoo.estimators.fusion_savings import FusionSummary, summarize_fusion
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import FAMILIES, Graph, Interval
from shmoo.estimators.tabular import Record, estimate_record
from shmoo.runs.error_records import network_name
from shmoo.runs.records import CaseSpec, Measurement, RunManifest

Asked = tuple[CaseSpec, tuple[Graph, ...]]
CHUNK = 1000
"""Cases per table: with 200 draws of the coefficients a chunk's arrays stay at a few megabytes each."""


class StoredRun(Protocol):
    """What is read of a run; `shmoo.runs.store.Run` is one."""

    manifest: RunManifest
    rows: tuple[Measurement, ...]

    def graphs(self, row: Measurement) -> tuple[Graph, ...]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel of a batched estimate."""

    family: str
    graph: int
    calls: tuple[int, ...]
    latency_s: float


@dataclass(frozen=True, slots=True)
class BatchedEstimate:
    """An estimate made together with others."""

    latency_s: Interval
    energy_j: Interval | None
    flops: float
    bytes: float
    tiles: float
    breakdown: tuple[Part, ...]


KernelPart = KernelEstimate | Part
CaseEstimate = Estimate | BatchedEstimate
"""What a predictor says of one case, by itself or together with others."""
Predictor = Callable[[Sequence[Asked]], Sequence[CaseEstimate]]
"""Cases with their graphs in, one estimate each out, in order. It sees every case at once, so that it may vectorise."""


def director_predictor(profile: ArchitectureProfile, seed: int = 0) -> Predictor:
    """A predictor that asks `AnalysisDirector`, with each case's own runtime and threads."""
    director = AnalysisDirector(profile)
    cores = profile.get("count.cores")

    def threads_of(case: CaseSpec) -> int | None:
        return None if cores is None or case.threads == cores.value else case.threads

    def one(case: CaseSpec, graphs: tuple[Graph, ...]) -> CaseEstimate:
        return director.estimate(
            graphs, runtime=case.runtime, compute_dtype=matrix_dtype(case.dtype), threads=threads_of(case), seed=seed
        )

    def estimate_all(asked: Sequence[Asked]) -> list[CaseEstimate]:
        estimates: dict[int, CaseEstimate] = {}
        together: dict[tuple[str, str | None], list[int]] = {}
        for index, (case, graphs) in enumerate(asked):
            if case.kind != "network" and len(graphs) == 1 and threads_of(case) is None:
                together.setdefault((case.runtime, matrix_dtype(case.dtype)), []).append(index)
        for (runtime, compute_dtype), indices in together.items():
            for start in range(0, len(indices), CHUNK):
                chunk = indices[start : start + CHUNK]
                batch = _estimate_together(director, [asked[i][1][0] for i in chunk], runtime, compute_dtype, seed)
                estimates.update(zip(chunk, batch, strict=True) if batch else ())
        return [estimates[i] if i in estimates else one(case, graphs) for i, (case, graphs) in enumerate(asked)]

    return estimate_all


def network_estimates(run: StoredRun, profiles: Iterable[ArchitectureProfile]) -> list[Record]:
    """What the run's networks would cost on other machines, each with its default runtime: the JSON of `shmoo estimate`.

    Networks are taken once a workload, axes and dtype, from the graphs stored with the run, so torch is not needed.
    """
    networks = networks_of(run)
    return [
        estimate_record(
            AnalysisDirector(profile).estimate(
                pieces, compute_dtype=matrix_dtype(case.dtype), batch=int(case.axes.get("batch", 1))
            ),
            case.workload,
        )
        for profile in profiles
        for case, pieces in networks
    ]


def network_fusions(run: StoredRun, profile: ArchitectureProfile) -> list[FusionSummary]:
    """What fusion saves each of the run's networks on a machine, from the graphs stored with the run."""
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


def networks_of(run: StoredRun) -> list[Asked]:
    """The networks of a run with their graphs, each workload, axes and dtype once."""
    networks: dict[tuple[str, str], Asked] = {}
    for row in run.rows:
        if row.case.kind == "network" and row.graph_hashes:
            key = (row.case.workload, f"{row.case.axes} {row.case.dtype}")
            if key not in networks:
                networks[key] = (row.case, run.graphs(row))
    return list(networks.values())


def _estimate_together(
    director: AnalysisDirector, graphs: Sequence[Graph], runtime: str, compute_dtype: str | None, seed: int
) -> list[BatchedEstimate] | None:
    """An estimate a graph, or `None` when a graph has no kernel at all and segments would not tell which."""
    table, origin = director.tabulate(graphs, runtime, compute_dtype)
    if table.segments != len(graphs):
        return None
    priced = director.price(table, runtime, seed=seed)

    def per_graph(values: np.ndarray) -> np.ndarray:
        return np.bincount(table.segment, weights=values, minlength=len(graphs))

    flops, nbytes, tiles = per_graph(table.flops), per_graph(table.bytes), per_graph(priced.tiling.tiles)
    parts: list[list[Part]] = [[] for _ in graphs]
    for row, (graph, kernel) in enumerate(origin):
        parts[graph].append(Part(FAMILIES[table.family[row]], 0, kernel.calls, float(priced.prediction.latency_s[row])))
    return [
        BatchedEstimate(latency, energy, float(flops[i]), float(nbytes[i]), float(tiles[i]), tuple(parts[i]))
        for i, (latency, energy) in enumerate(priced.intervals())
    ]
