"""Held-out errors on TPUs: measured operators of a v4, applications of the v1, and a simulator's cycle counts.

Files: `tpu/tpu_v4_ops.csv`, an operator table (SCALE-Sim validation data, arXiv 2603.22535), and `tpu/scalesim_cycles.csv`, runs
of SCALE-Sim 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import Block, MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.fit.intervals import held_out
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import FAMILIES, Graph
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.tiling import TileShape, TpuWeightStationary
from shmoo.runs.analysis.metrics import error_card
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values
from tests.evaluation.results import HOLDS, HOLDS_ELSEWHERE, Kept, Result, of_cases, read_rows
from tests.evaluation.tpu_buffers import buffered_cycles
from tests.evaluation.tpu_products import PRODUCTS, products
from tests.evaluation.tpu_v1 import APPLICATIONS, application_graph

CHIP = "tpu_v4"
"""Profile of the chip that the operators ran on."""
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
    measured = products(folder) if (folder / PRODUCTS).is_file() else []
    return [*operators(read_operators(folder)), *applications(), *measured, *transcription(folder / SIMULATED)]


def half(case: MeasuredCase) -> int:
    """0 or 1, by a hash of the case's identity: rows of the same operator and shape are in one half. The hash is salted, so that
    halves and the splits within them are independent."""
    return hashlib.sha256(f"half {case.case.identity}".encode()).digest()[0] % 2


def unmeasured(profile: ArchitectureProfile) -> ArchitectureProfile:
    """The machine as its datasheet and the literature describe it: without what was fitted to measurements of it."""
    known = {name: c for name, c in profile.coefficients.items() if not c.from_fit}
    return profile.replacing(coefficients=known, fitted_from=None, error_card={}, residual=())


def read_operators(folder: Path) -> Sources:
    """The table of the v4's operators.

    Raises:
        InputError: it is not there.
    """
    path = folder / OPERATORS
    if not path.is_file():
        raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds {OPERATORS}")
    read = read_sources([path], "tpu")
    whose = f"{len(read.cases):,} single operators in float16, one a program (SCALE-Sim validation data, arXiv 2603.22535)"
    return replace(read, names=(whose,))


def fit_chip(read: Sources) -> ArchitectureProfile:
    """The v4 fitted to operators, starting from what is published of it."""
    return calibrate_cases(read, unmeasured(load_profile(CHIP)), name=CHIP).profile


def operators(read: Sources) -> list[Result]:
    """TPU v4: errors on the second half of the rows, fitted on the first, and on all rows from published numbers alone."""
    first, second = (tuple(c for c in read.cases if half(c) == which) for which in (0, 1))
    published = unmeasured(load_profile(CHIP))
    return [
        *_errors(second, fit_chip(replace(read, cases=first)), "fitted on the other half", MATMUL, OTHERS, HOLDS),
        *_errors(read.cases, published, "from published numbers", PUBLISHED, PUBLISHED, HOLDS_ELSEWHERE),
    ]


def _errors(
    cases: Sequence[MeasuredCase],
    profile: ArchitectureProfile,
    how: str,
    matmul: float,
    others: float,
    covers: tuple[float, float],
) -> list[Result]:
    """Errors of matrix products, of the other operators and of each of those."""
    (block,) = blocks(cases, profile)
    found = held_out([block], profile)
    contraction = _families(block) == "gemm"
    names = np.asarray([case.case.workload for case in cases])

    def line(what: str, group: str, of: np.ndarray, at_most: float | None = None, judged: bool = False) -> Result:
        kept = Kept(profile.name, how, group)
        return of_cases(what, found.entry(of), at_most, covers=covers if judged else None, kept=kept)

    return [
        line(f"v4 matmul, {how}", "matmul", contraction, matmul, judged=True),
        line(f"v4 other operators, {how}", "other operators", ~contraction, others, judged=True),
        *(line(f"   {op}", op, names == op) for op in dict.fromkeys(names.tolist())),
        line(f"v4 all operators, {how}", "all operators", np.full(len(names), True)),
    ]


def _families(block: Block) -> np.ndarray:
    return np.asarray(FAMILIES)[block.table.family]


def applications() -> list[Result]:
    """TPU v1: error of the operations a second of each application, from the published machine and layers."""
    profile = load_profile("tpu_v1")
    director = AnalysisDirector(profile)
    results = []
    for application in APPLICATIONS:
        estimate = director.estimate(application_graph(application))
        seconds = estimate.latency_s
        rate, low, high = ([2.0 * estimate.macs / s] for s in (seconds.value, seconds.high, seconds.low))
        entry = error_card(rate, [application.measured_flops_per_s], low, high)
        shown, bound = ("", APPLICATION) if application.judged else (" (layers not published)", None)
        kept = Kept(profile.name, "from published numbers", f"{application.name}{shown}")
        results.append(of_cases(f"v1 {application.name}{shown}", entry, bound, kept=kept))
    return results


def transcription(path: Path) -> list[Result]:
    """Serial cycles against SCALE-Sim's: a check of transcription. Products that the simulator was given a memory bandwidth for
    are replayed through its buffers (`tests/evaluation/tpu_buffers.py`); in all other runs it counts the array alone."""
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
    rates = dict.fromkeys(under("peak.matrix", profile.coefficients), peak)
    return with_values(profile, {"array.rows": rows, "array.cols": cols, "count.units": 1.0, "capacity.vmem": 2.0**50, **rates})
