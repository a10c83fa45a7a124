"""Held-out errors on TPUs: measured operators of a v4, applications of the v1, and a simulator's cycle counts.

Files: `tpu/tpu_v4_ops.csv`, an operator table (SCALE-Sim validation data, arXiv 2603.22535), and `tpu/scalesim_cycles.csv`, runs
of SCALE-Sim 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from shmoo.calibrate.calibration import calibrate_cases, case_intervals
from shmoo.calibrate.dataset import Block, MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.evaluate import Result, read_rows
from shmoo.calibrate.tpu_v1 import APPLICATIONS, application_graph
from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, load_profile
from shmoo.estimators.records import FAMILIES, Graph
from shmoo.estimators.tiling import TileShape, TpuWeightStationary
from shmoo.estimators.tiling.tpu_buffers import buffered_cycles
from shmoo.runs.tables import TableRow

OPERATORS = "tpu/tpu_v4_ops.csv"
SIMULATED = "tpu/scalesim_cycles.csv"
MATMUL, OTHERS, PUBLISHED, APPLICATION = 0.10, 0.15, 0.30, 0.12
TRANSCRIPTION = 0.001
"""Bounds: fitted on half, matrix products and other operators; from published numbers; an application of the v1; a
simulator's cycles."""


def evaluate(folder: Path) -> list[Result]:
    """All TPU numbers.

    Raises:
        InputError: a table is missing.
    """
    return [*operators(folder / OPERATORS), *applications(), *transcription(folder / SIMULATED)]


def half(case: MeasuredCase) -> int:
    """0 or 1, by a hash of the case's identity: rows of the same operator and shape are in one half. The hash is salted, so that
    halves and the splits within them are independent."""
    return hashlib.sha256(f"half {case.case.identity}".encode()).digest()[0] % 2


def unmeasured(profile: ArchitectureProfile) -> ArchitectureProfile:
    """The machine as its datasheet and the literature describe it: without what was fitted to measurements of it."""
    known = {name: c for name, c in profile.coefficients.items() if c.source != "fitted"}
    return profile.replacing(coefficients=known, fitted_from=None, error_card={}, residual=())


def operators(path: Path) -> list[Result]:
    """TPU v4: errors on the second half of the rows, fitted on the first, and on all rows from published numbers alone."""
    if not path.is_file():
        raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds {OPERATORS}")
    read = read_sources([path], "tpu")
    published = unmeasured(load_profile("tpu_v4"))
    first = Sources(tuple(c for c in read.cases if half(c) == 0), read.rows_hash, read.names, read.machine)
    fitted = calibrate_cases(first, published, name=published.name).profile
    second = [c for c in read.cases if half(c) == 1]
    physical = _errors(second, fitted.replacing(residual=()), "fitted on the other half, without the residual", MATMUL, OTHERS)
    return [
        *_errors(second, fitted, "fitted on the other half", MATMUL, OTHERS),
        *(replace(result, at_most=None) for result in physical[:2]),
        *_errors(read.cases, published, "from published numbers", PUBLISHED, PUBLISHED),
    ]


def _errors(cases: Sequence[MeasuredCase], profile: ArchitectureProfile, how: str, matmul: float, others: float) -> list[Result]:
    (block,) = blocks(cases, profile)
    estimated, low, high = case_intervals(block, profile).T
    error = np.abs(estimated / block.measured_s - 1.0)
    missed = (block.measured_s < low) | (block.measured_s > high)
    contraction, name = _families(block) == "gemm", np.asarray([case.case.workload for case in cases])
    return [
        Result(f"v4 matmul, {how}", int(contraction.sum()), float(error[contraction].mean()), matmul),
        Result(f"v4 other operators, {how}", int((~contraction).sum()), float(error[~contraction].mean()), others),
        *(
            Result(f"   {op}", int(here.sum()), float(error[here].mean()))
            for op in dict.fromkeys(name)
            if (here := name == op).any()
        ),
        Result(f"v4 outside the 90 % interval, {how}", len(cases), float(missed.mean())),
    ]


def _families(block: Block) -> np.ndarray:
    return np.asarray(FAMILIES)[block.table.family]


def applications() -> list[Result]:
    """TPU v1: error of the operations a second of each application, from the published machine and layers."""
    director = AnalysisDirector(load_profile("tpu_v1"))
    results = []
    for application in APPLICATIONS:
        estimate = director.estimate(application_graph(application))
        rate = 2.0 * estimate.macs / estimate.latency_s.value
        error = abs(rate / application.measured_flops_per_s - 1.0)
        shown = "" if application.judged else " (layers not published)"
        results.append(Result(f"v1 {application.name}{shown}", 1, error, APPLICATION if application.judged else None))
    return results


def transcription(path: Path) -> list[Result]:
    """Serial cycles against SCALE-Sim's: a check of transcription. Products that the simulator was given a memory bandwidth for
    are replayed through its buffers (`tiling/tpu_buffers.py`); in all other runs it counts the array alone."""
    rows = read_rows(path)
    cycles = np.zeros(len(rows))
    for dataflow in ("ws", "is", "os"):
        strategy = TpuWeightStationary(mode="serial", dataflow=dataflow)
        for side in sorted({(row["rows"], row["cols"]) for row in rows}):
            here = [i for i, row in enumerate(rows) if row["dataflow"] == dataflow and (row["rows"], row["cols"]) == side]
            director = AnalysisDirector(systolic_array(float(side[0]), float(side[1])), strategy)
            table, _ = director.tabulate([product(*(int(rows[i][key]) for key in "MNK")) for i in here], "xla")
            cycles[here] = strategy.apply(table, director.profile, TileShape(table.m, table.n, table.k)).cycles
    given = np.asarray([row["mode"] == "USER" and row["kind"] == "gemm" for row in rows])
    cycles[given] = [_replayed(rows[i]) for i in np.flatnonzero(given)]
    # The simulator counts cycles from 0.
    errors = np.abs(cycles / (np.asarray([float(row["total_cycles"]) for row in rows]) + 1.0) - 1.0)
    return [
        Result("SCALE-Sim cycles, largest error", len(rows), float(errors.max()), TRANSCRIPTION),
        Result("   with a given bandwidth", int(given.sum()), float(errors[given].max(initial=0.0))),
    ]


def _replayed(row: dict[str, str]) -> int:
    """Cycles of a run behind buffers of a bandwidth; a word is a byte."""
    m, n, k, rows, cols = (int(row[key]) for key in ("M", "N", "K", "rows", "cols"))
    inputs, weights, results = (int(1024 * float(row[key])) for key in ("ifmap_kB", "filter_kB", "ofmap_kB"))
    words_per_cycle = int(float(row["bw_words_per_cycle"]))
    return buffered_cycles((m, n, k), (rows, cols), row["dataflow"], (inputs, weights, results), words_per_cycle)


def product(m: int, n: int, k: int, dtype: str = "bfloat16") -> Graph:
    """One matrix product as a graph."""
    return TableRow(0, "bmm", {"b": 1, "m": m, "n": n, "k": k}, dtype).graph()


def systolic_array(rows: float, cols: float) -> ArchitectureProfile:
    """A single array of this size whose memory holds everything and whose peak is that of its structure."""
    profile = load_profile("tpu_v5e")
    peak = 2.0 * rows * cols * profile.value("clock")
    rates = {name: peak for name in profile.coefficients if name.startswith("peak.matrix.")}
    return profile.with_values({"array.rows": rows, "array.cols": cols, "count.units": 1.0, "capacity.vmem": 2.0**50, **rates})
