"""Held-out errors of matrix products on TPU v5e and v6e, host time taken off.

File: `measured/tpu_gemm.csv`, single products as one program each, bfloat16 to float32 and int8 to int32, timed from the host,
with a product of 8 x 8 x 8 as floor. Whole ranges of size and the other chip are held out: the numbers are of extrapolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks
from shmoo.calibrate.fit.intervals import held_out
from shmoo.estimators.graph.records import NORMAL_90, Coefficient, Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.catalogue import DEFAULTS
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.runs.store.records import CaseSpec
from tests.evaluation.results import Kept, Result, of_cases, read_rows
from tests.evaluation.transfer import transfer

PRODUCTS = "measured/tpu_gemm.csv"
BOUNDS = {"tpu_v5e": 0.12, "tpu_v6e": 0.15}
FLOORS_S = {"tpu_v5e": 105.56e-6, "tpu_v6e": 118.73e-6}
"""What a call of a product of 8 x 8 x 8 takes: the column `launch_floor_s`."""
JITTER_S = {"tpu_v5e": 5e-6, "tpu_v6e": 10e-6}
"""Standard deviation of the host's time from row to row, which is in each of them: on v6e, rows of 20 to 100 us fall into two
groups 20 us apart, whatever their shapes."""
SHORTEST_S = 20e-6
"""Rows of less, floor taken off, tell the host's noise."""
LEAST_ENTRY_S = 2e-6
"""Time that entering a program takes at least: a write to the device across PCIe and its answer."""
RANGES = 4
"""Parts of the rows by flops that are held out whole."""
ACCUMULATED = {"bfloat16": "float32", "int8": "int32"}


def product(m: int, n: int, k: int, dtype: str) -> Graph:
    """A product whose result keeps the type it accumulates in."""
    operands, result = (TensorSpec((m, k), dtype), TensorSpec((k, n), dtype)), TensorSpec((m, n), ACCUMULATED[dtype])
    return single_call_graph(OpCall("aten.mm", operands, (result,), ("self", "mat2")), name="matmul")


def read_products(folder: Path, chip: str) -> tuple[MeasuredCase, ...]:
    """A chip's products, smallest first, with the floor taken off."""
    cases = []
    for row in read_rows(folder / PRODUCTS):
        seconds = float(row["latency_s"]) - float(row["launch_floor_s"] or 0.0)
        if row["device"] == chip and row["dtype"] in ACCUMULATED and seconds > SHORTEST_S:
            axes = {"b": 1, **{side: int(row[side]) for side in "mnk"}}
            case = CaseSpec("matmul", "operator", dict(axes), row["dtype"], "xla", "tpu")
            graph = product(axes["m"], axes["n"], axes["k"], row["dtype"])
            cases.append(MeasuredCase(case, (graph,), seconds, relative_se=JITTER_S[chip] / seconds))
    return tuple(sorted(cases, key=_flops))


def fit_products(cases: Sequence[MeasuredCase], chip: str) -> ArchitectureProfile:
    """A chip fitted to products, starting from what is published of it."""
    from tests.evaluation.tpu import unmeasured

    whose = f"{len(cases)} products timed from the host (R. Oliver, tpu-perf-model, 2026), floor taken off"
    read = Sources(tuple(cases), "", (whose,), None)
    base = unmeasured(load_profile(chip))
    # Timed from the host: what its floor does not hold is the entry of a program.
    entry = {"graph.xla": DEFAULTS["tpu"]["graph"]}
    base = base.replacing(coefficients={**base.coefficients, **entry})
    fitted = calibrate_cases(read, waited_for(base), name=chip, residual=False).profile
    # The entry is the host's, so its range is that of hosts, and no spread of a kernel's time holds it.
    found = fitted.coefficients["graph.xla"]
    beyond = NORMAL_90 * JITTER_S[chip]
    low, high = max(found.value - beyond, min(found.value, LEAST_ENTRY_S)), found.value + beyond
    host = replace(found, source="literature", stderr=None, low=low, high=high)
    known = {name: c for name, c in fitted.coefficients.items() if name != "gap"}
    return fitted.replacing(coefficients={**known, "graph.xla": host})


def waited_for(profile: ArchitectureProfile) -> ArchitectureProfile:
    """The machine beside a host that waits for each product: for as long as its floor, an operand of the next one moves."""
    gap = Coefficient(FLOORS_S[profile.name], "s", "literature", "a product of 8 x 8 x 8 (R. Oliver, tpu-perf-model, 2026)")
    return profile.replacing(coefficients={**profile.coefficients, "gap": gap})


def products(folder: Path) -> list[Result]:
    """Errors on held-out ranges of size, on the chip itself fitted to all rows, and from the other chip's coefficients."""
    cases = {chip: read_products(folder, chip) for chip in BOUNDS}
    fitted = {chip: fit_products(own, chip) for chip, own in cases.items()}
    results = []
    for chip, own in cases.items():
        parts = np.array_split(np.arange(len(own)), RANGES)
        estimates = []
        for part in parts:
            rest = [case for index, case in enumerate(own) if index not in set(part.tolist())]
            estimates.append(_held_out([own[index] for index in part], fit_products(rest, chip)))
        (other,) = set(BOUNDS) - {chip}
        lines = (
            ("each quarter of sizes held out", None, BOUNDS[chip]),
            ("all sizes seen", _held_out(own, fitted[chip]), None),
            (f"from {other}", _held_out(own, transfer([fitted[other]], fitted[chip])), None),
        )
        for how, seen, at_most in lines:
            table = np.concatenate(estimates if seen is None else [seen])
            results.append(_line(chip, how, table, at_most))
        results += [_line(chip, f"   quarter {i + 1} of sizes held out", table) for i, table in enumerate(estimates)]
    return results


def _flops(case: MeasuredCase) -> float:
    return float(np.prod([float(case.case.axes[side]) for side in "mnk"]))


def _held_out(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> np.ndarray:
    """(n, 4) estimate, low, high and measurement."""
    profile = waited_for(profile)
    found = held_out(blocks(cases, profile), profile)
    return np.stack([found.estimated, found.low, found.high, found.measured], axis=1)


def _line(chip: str, how: str, table: np.ndarray, at_most: float | None = None) -> Result:
    from shmoo.runs.analysis.metrics import error_card

    estimated, low, high, measured = table.T
    entry = error_card(estimated, measured, low, high)
    return of_cases(f"{chip} products, {how}", entry, at_most, kept=Kept(chip, how.strip(), "products"))
