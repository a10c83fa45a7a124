"""The same design points in SCALE-Sim, for comparison of speed: it lists what every cycle of a systolic array reads and writes.

Needs `pip install 'shmoo[baseline]'`; nothing else in Shmoo does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.records import Graph
from shmoo.estimators.tabulated import tabulate

CONFIG = """[general]
run_name = baseline

[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False

[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {cols}
IfmapSramSzkB = 8192
FilterSramSzkB = 8192
OfmapSramSzkB = 8192
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = ws
ReadRequestBuffer = 64
WriteRequestBuffer = 64

[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2

[sparsity]
SparsitySupport = false
"""
"""A weight-stationary array with memory that keeps up; without traces on disk. No other setting of the simulator is faster."""
SIDES = (128, 256, 64, 512)
"""Sides of the arrays that are run, in this order."""


class Baseline(msgspec.Struct, frozen=True):
    """What the runs took.

    Attributes:
        layers: distinct matrix products of the model that were run, on each of `points` arrays.
        share: of the model's cycles on these arrays, those that were run.
        seconds: CPU time of all runs, without starting the interpreter.
        point_s: CPU time of one design point with all products of the model, extrapolated by their cycles.
    """

    version: str
    layers: int
    points: int
    share: float
    seconds: float
    point_s: float


def baseline(graphs: Sequence[Graph], points: int, layers: int) -> Baseline:
    """Run distinct products of a model, small to large, on arrays of `points` sizes.

    Raises:
        InputError: SCALE-Sim is not installed.
    """
    if importlib.util.find_spec("scalesim") is None:
        raise InputError("SCALE-Sim is not installed; pip install 'shmoo[baseline]' has it")
    products, counts = distinct_products(graphs)
    chosen = np.unique(np.linspace(0, len(products) - 1, min(layers, len(products))).round().astype(int))
    sides = [SIDES[i % len(SIDES)] for i in range(points)]
    seconds = sum(_run(products[chosen], side) for side in sides)
    run = sum(cycles(products[chosen], side).sum() for side in sides)
    # Layers of one shape are simulated as often as they occur: SCALE-Sim keeps no results.
    total = sum((cycles(products, side) * counts).sum() for side in sides)
    point_s = seconds * total / run / len(sides)
    return Baseline(importlib.metadata.version("scalesim"), len(chosen), len(sides), run / total, seconds, point_s)


def cycles(products: np.ndarray, side: int) -> np.ndarray:
    """(L,) cycles of (L, 3) products on a weight-stationary array of `side` x `side` (Samajdar et al., ISPASS 2020): folds of the
    weights, each loaded, streamed past and drained."""
    m, n, k = products.T
    return np.ceil(k / side) * np.ceil(n / side) * (3 * side + m - 2)


def distinct_products(graphs: Sequence[Graph]) -> tuple[np.ndarray, np.ndarray]:
    """(L, 3) distinct m, n, k of a model's ungrouped products and convolutions, fewest multiply-adds first, and (L,) how often
    each occurs."""
    table, _ = tabulate(graphs, "xla", "tpu")
    plain = (table.matrix_flops > 0) & (table.batch == 1)
    products, counts = np.unique(np.stack([table.m, table.n, table.k], axis=1)[plain], axis=0, return_counts=True)
    order = np.argsort(products.prod(axis=1))
    return products[order], counts[order]


def _run(products: np.ndarray, side: int) -> float:
    """CPU seconds of one run of the simulator over some products on an array of `side` x `side`."""
    from scalesim.scale_sim import scalesim

    with tempfile.TemporaryDirectory() as folder:
        config, topology, layout = (Path(folder) / name for name in ("array.cfg", "products.csv", "layout.csv"))
        config.write_text(CONFIG.format(rows=side, cols=side))
        lines = ["Layer,M,N,K,", *(f"p{i},{m:.0f},{n:.0f},{k:.0f}," for i, (m, n, k) in enumerate(products))]
        topology.write_text("\n".join(lines) + "\n")
        layout.write_text("no layouts\n")
        simulator = scalesim(
            save_disk_space=True,
            verbose=False,
            config=str(config),
            topology=str(topology),
            layout=str(layout),
            input_type_gemm=True,
        )
        begin = time.process_time()
        simulator.run_scale(top_path=folder)
        return time.process_time() - begin
