"""Measured cases ready to fit: sources are read and checked, graphs fused and tabulated, one segment per case."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import RUNTIMES, Graph
from shmoo.estimators.machine.coefficients import on_tensor_cores
from shmoo.estimators.machine.profile import ArchitectureProfile, Reduction
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import Tiling
from shmoo.runs.store.records import CaseSpec, Machine, Time
from shmoo.runs.store.store import Run, machine_differences
from shmoo.runs.store.visits import merge_visits
from shmoo.runs.tables.reading import TableRow, read_table

logger = logging.getLogger(__name__)

TABLE_DEVICE = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu", "kpu": "kpu"}


@dataclass(frozen=True, slots=True)
class MeasuredCase:
    """One case with its graphs and its measurements in the canonical cache state, in SI units.

    Attributes:
        latency_s: the prevailing time of a call. relative_se: its relative standard error; 0 in tables, which do not state it.
        energy_sd_j: standard deviation of the energy, from the spread of its windows; `None` where unknown, as in tables.
        energy_pace_s: time of a call while its energy was read; `None` where unknown, as in tables.
        idle_w: idle power of the same domains; `None` where it was not measured.
        warm: how warm the board was (`estimators/predict/energy.py`); `None` where unknown.
        clock_hz: clock of the units; `None` where it is unknown: the machine's own unless the power cap lowered it.
        time: whether `latency_s` is the time of the call or of the device.
        other_release: measured with another release of the library than the machine's other cases. Corrections are fitted to
            such cases, the physics is not.
    """

    case: CaseSpec
    graphs: tuple[Graph, ...]
    latency_s: float
    energy_j: float | None = None
    energy_sd_j: float | None = None
    energy_pace_s: float | None = None
    idle_w: float | None = None
    warm: float | None = None
    clock_hz: float | None = None
    relative_se: float = 0.0
    time: Time = "call"
    other_release: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """The input of a calibration. `machine` is `None` for operator tables, which do not record it."""

    cases: tuple[MeasuredCase, ...]
    rows_hash: str
    names: tuple[str, ...]
    machine: Machine | None
    table_reduction: Reduction = "k"


def read_sources(paths: Sequence[Path], family: str = "cpu", reduction: Reduction = "k") -> Sources:
    """Read run directories and .csv operator tables of one machine, tables as measured on an architecture family, with the
    reduction of matrix products in a column.

    Raises:
        InputError: no source, runs whose fingerprints differ (each differing field with both values), a run on several numbers
            of threads, or on another kind of device than a table.
        NothingMeasuredError: no usable row among them.
    """
    if not paths:
        raise InputError("no source to calibrate from; name a run directory or an operator table (.csv)")
    cases: list[MeasuredCase] = []
    digests: dict[str, Path] = {}
    machine: Machine | None = None
    first_path: Path | None = None
    table = next((path for path in paths if path.suffix == ".csv"), None)
    for path in paths:
        run = None if path.suffix == ".csv" else Run.open(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if run is None else run.rows_hash
        if digest in digests and (run is None or run.rows):
            logger.warning("%s holds the same rows as %s and is taken once", path, digests[digest])
            continue
        digests[digest] = path
        if run is None:
            cases += [case_of(row) for row in read_rows(path, family, reduction)]
            continue
        cases_of_run = run_cases(run)
        run_machine = msgspec.structs.replace(run.manifest.machine, threads=_threads(run, cases_of_run))
        if machine is not None and (differences := machine_differences(machine, run_machine)):
            listing = "; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in differences.items())
            raise InputError(
                f"{first_path} and {path} were measured on different machines or settings ({listing}); calibrate each separately"
            )
        other_devices = sorted({case.case.device for case in cases_of_run} - {TABLE_DEVICE[family]})
        if table is not None and other_devices:
            raise InputError(
                f"{path} was measured on {', '.join(other_devices)}, and {table} is read as a table of a {family}; "
                "calibrate each separately, or name another --base"
            )
        machine, first_path = run_machine, first_path or path
        cases += cases_of_run
    if not cases:
        raise NothingMeasuredError(f"no usable row in {', '.join(map(str, paths))}; `shmoo show RUN` lists why rows failed")
    names = tuple(path.name for path in digests.values())
    return Sources(tuple(cases), "+".join(digests), names, machine, reduction)


def _threads(run: Run, cases: Sequence[MeasuredCase]) -> int:
    """The number of threads of a run's cases; `InputError` where they differ, because a profile describes one number."""
    by_number = {case.case.threads or run.manifest.machine.threads: case.case for case in cases}
    if len(by_number) > 1:
        (count, a), (other_count, b), *_ = sorted(by_number.items())
        raise InputError(
            f"{run.path} holds cases of {count} thread{'s' * (count != 1)} ({a.label}) and of {other_count} ({b.label}), and a "
            f"profile describes one number; measure each in a run of its own, such as `shmoo measure --threads {other_count}`"
        )
    return next(iter(by_number), run.manifest.machine.threads)


def read_rows(path: Path, family: str, reduction: Reduction = "k") -> list[TableRow]:
    """The measured rows of an operator table; other arguments and errors as of `read_sources`."""
    # A row is one call of the framework, or one compiled program.
    rows = read_table(path, device=TABLE_DEVICE[family], runtime=RUNTIMES[family][0], reduction=reduction)
    return [row for row in rows if row.latency_s]


def case_of(row: TableRow) -> MeasuredCase:
    """A measured row of an operator table as a case."""
    return MeasuredCase(row.case, (row.graph(),), row.latency_s or 0.0, row.energy_j, time=row.time)


def run_cases(run: Run, visits: int | None = None) -> list[MeasuredCase]:
    """The usable cases of a run, from the first `visits` visits to each, or from all."""
    rows = run.rows if visits is None else merge_visits(line for line in run.lines if line.visit < visits)
    cases = []
    for row in rows:
        if row.estimable:
            energy = row.energy_reading
            joules = (None,) * 4 if energy is None else (energy.energy_j, energy.sd_j, energy.pace_s, energy.idle_power_w)
            latency = row.latency
            cases.append(MeasuredCase(row.case, run.graphs(row), latency.value_s, *joules, relative_se=latency.relative_se))
    return cases


@dataclass(frozen=True, slots=True)
class Block:
    """Cases of one runtime and one kind of time as arrays: a table with a segment per case, its tiling, (S,) measured latencies,
    and (S,) energies, NaN where there is none."""

    runtime: str
    cases: tuple[MeasuredCase, ...]
    table: KernelTable
    tiling: Tiling
    measured_s: np.ndarray
    energy_j: np.ndarray
    time: Time = "call"

    @property
    def relative_se(self) -> np.ndarray:
        """(S,) relative standard errors of the latencies."""
        return np.asarray([case.relative_se for case in self.cases])

    @property
    def energy_pace_s(self) -> np.ndarray:
        """(S,) seconds of a call while its energy was read; the latency where that is not known."""
        paces = np.asarray([np.nan if case.energy_pace_s is None else case.energy_pace_s for case in self.cases])
        return np.where(np.isnan(paces), self.measured_s, paces)

    @property
    def splits(self) -> np.ndarray:
        """(S,) "fit", "validation" or "test"."""
        return np.asarray([case.case.split for case in self.cases])

    def subset(self, keep: np.ndarray, director: AnalysisDirector) -> Block:
        """The cases where the (S,) mask is true."""
        table = self.table.take(np.flatnonzero(keep[self.table.segment]))
        cases = tuple(case for case, is_kept in zip(self.cases, keep, strict=True) if is_kept)
        measured_s, energy_j = self.measured_s[keep], self.energy_j[keep]
        return Block(self.runtime, cases, table, director.tile(table), measured_s, energy_j, self.time)


def block_of(cases: Sequence[MeasuredCase], runtime: str, director: AnalysisDirector) -> Block:
    """Tabulate and tile cases of one runtime; several graphs of a case are one segment.

    Raises:
        InputError: a case has no operator that costs anything.
    """
    graphs = [graph for case in cases for graph in case.graphs]
    owners = [case for case in cases for _ in case.graphs]
    table, origin = director.tabulate_cases(
        graphs,
        runtime,
        [matrix_dtype(case.case.dtype) for case in owners],
        [case.case.cache_state == "cold" for case in owners],
    )
    segment = np.repeat(np.arange(len(cases)), [len(case.graphs) for case in cases])[[graph for graph, _ in origin]]
    uncosted = np.flatnonzero(np.bincount(segment, minlength=len(cases)) == 0)
    if len(uncosted):
        raise InputError(
            f"case {uncosted[0]}, {cases[uncosted[0]].case.label}, has no operator that costs anything; leave it out"
        )
    warm = np.asarray([np.nan if case.warm is None else case.warm for case in cases])
    table = replace(table, segment=segment, warm=warm[segment]).in_campaign(on_tensor_cores(table, director.profile))
    return Block(
        runtime,
        tuple(cases),
        table,
        director.tile(table),
        np.asarray([case.latency_s for case in cases]),
        np.asarray([np.nan if case.energy_j is None else case.energy_j for case in cases]),
        cases[0].time,
    )


def blocks(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> list[Block]:
    """One block per runtime and kind of time that occur among the cases."""
    director = AnalysisDirector(profile)
    kinds = sorted({(case.case.runtime, case.time) for case in cases})
    return [block_of([c for c in cases if (c.case.runtime, c.time) == kind], kind[0], director) for kind in kinds]
