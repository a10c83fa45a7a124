"""Closed forms of the KPU against the tables of the public simulator (stillwater-sc/kpu-sim).

Files: `kpu/kpu_sim_serial_cycles.csv` and `kpu/kpu_sim_dram_traffic.csv`. Every KPU number is a simulator's: there is no silicon.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.tiling import KpuWavefront, Tiling, TilingStrategy
from tests.build import with_values
from tests.evaluation.kpu_sim import KpuSimSerial
from tests.evaluation.results import Result, read_rows
from tests.evaluation.tpu import product

SERIAL, TRAFFIC, ROWS_OFF = 0.02, 0.15, 0.10
"""Bounds: largest error of serial cycles; an error of DRAM bytes, and the share of rows that may have a larger one."""


def evaluate(folder: Path) -> list[Result]:
    """All KPU numbers.

    Raises:
        InputError: a table is missing.
    """
    serial, traffic = (read_rows(folder / "kpu" / name) for name in ("kpu_sim_serial_cycles.csv", "kpu_sim_dram_traffic.csv"))
    cycles = np.asarray([_cut(row, KpuSimSerial()).cycles[0] / float(row["cycles"]) for row in serial])
    moved = np.asarray([_dram(row, KpuSimSerial(dataflow=row["strategy"].lower())) / float(row["dram_bytes"]) for row in traffic])
    ours = np.asarray([_dram(row, KpuWavefront()) / float(row["dram_bytes"]) for row in traffic])
    return [
        Result("kpu-sim serial cycles, largest error", len(serial), float(np.abs(cycles - 1.0).max()), SERIAL),
        Result(
            "kpu-sim DRAM bytes, rows off by more than 15 %",
            len(traffic),
            float((np.abs(moved - 1.0) > TRAFFIC).mean()),
            ROWS_OFF,
        ),
        Result("wavefront's DRAM bytes over kpu-sim's, mean", len(traffic), float(ours.mean())),
    ]


def one_tile(side: float, l3_bytes: float) -> ArchitectureProfile:
    """A KPU of a single side x side tile with this much L3."""
    profile = load_profile("kpu_t256")
    peak = 2.0 * side**2 * profile.value("clock")
    rates = dict.fromkeys(under("peak.matrix", profile.coefficients), peak)
    changed = {"count.tiles": 1.0, "array.rows": side, "array.cols": side, "capacity.l3": l3_bytes, "capacity.l2": 65536.0}
    return with_values(profile, {**changed, **rates})


def _cut(row: dict[str, str], strategy: TilingStrategy) -> Tiling:
    profile = one_tile(float(row["array_rows"]), float(row.get("l3_capacity_bytes") or 2.0**40))
    director = AnalysisDirector(profile, strategy)
    table, _ = director.tabulate([product(*(int(row[key]) for key in "MNK"), "float32")], "domainflow")
    # The simulator starts each run with empty memories.
    return director.tile(replace(table, access_distance=np.full_like(table.access_distance, np.inf)))


def _dram(row: dict[str, str], strategy: TilingStrategy) -> float:
    return float(_cut(row, strategy).level_bytes["dram"][0])
