"""The same design points in SCALE-Sim, for comparison of speed: it steps through every cycle of a systolic array.

Needs `pip install 'shmoo[baseline]'`; nothing else in Shmoo does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
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

[architecture_presets]
ArrayHeight : {rows}
ArrayWidth : {cols}
IfmapSramSzkB : {sram}
FilterSramSzkB : {sram}
OfmapSramSzkB : {sram}
IfmapOffset : 0
FilterOffset : 10000000
OfmapOffset : 20000000
Bandwidth : 64
Dataflow : ws
MemoryBanks : 1

[run_presets]
InterfaceBandwidth : CALC
"""
"""A weight-stationary array; memory that keeps up, so that no time goes into stalls (the fastest of its modes)."""
SRAM_KB = 8192
SIDES = (128, 256, 64, 512)
"""Sides of the arrays that are run, in this order."""


class Baseline(msgspec.Struct, frozen=True):
    """What the runs took.

    Attributes:
        layers: distinct matrix products that were run. share: of the model's multiply-adds, what they hold when each is counted
            once. seconds: of all runs, start-up of the interpreter taken off.
        point_s: seconds of a design point, all products of the model: extrapolated by multiply-adds.
    """

    version: str
    layers: int
    points: int
    share: float
    seconds: float
    point_s: float


def baseline(graphs: Sequence[Graph], points: int, layers: int) -> Baseline:
    """Run distinct products of a model on arrays of `points` sizes.

    Raises:
        InputError: SCALE-Sim is not installed, or fails.
    """
    if importlib.util.find_spec("scalesim") is None:
        raise InputError("SCALE-Sim is not installed; pip install 'shmoo[baseline]' has it")
    products, counts = distinct_products(graphs)
    macs = products.prod(axis=1)
    chosen = np.unique(np.linspace(0, len(products) - 1, min(layers, len(products))).round().astype(int))
    seconds = 0.0
    sides = [SIDES[i % len(SIDES)] for i in range(points)]
    for side in sides:
        seconds += _run(products[chosen], side) - _run(products[:0], side)
    each = seconds / len(sides) / macs[chosen].sum()
    # Layers of one shape are simulated as often as they occur: SCALE-Sim keeps no results.
    return Baseline(
        version=importlib.metadata.version("scalesim"),
        layers=len(chosen),
        points=len(sides),
        share=float(macs[chosen].sum() / (macs * counts).sum()),
        seconds=seconds,
        point_s=float(each * (macs * counts).sum()),
    )


def distinct_products(graphs: Sequence[Graph]) -> tuple[np.ndarray, np.ndarray]:
    """(L, 3) distinct m, n, k of a model's ungrouped products and convolutions by multiply-adds, and (L,) how often each is."""
    table, _ = tabulate(graphs, "xla", "tpu")
    plain = (table.matrix_flops > 0) & (table.batch == 1)
    products, counts = np.unique(np.stack([table.m, table.n, table.k], axis=1)[plain], axis=0, return_counts=True)
    order = np.argsort(products.prod(axis=1))
    return products[order], counts[order]


def _run(products: np.ndarray, side: int) -> float:
    """Seconds of one run of the simulator over some products."""
    with tempfile.TemporaryDirectory() as folder:
        config, topology = Path(folder) / "array.cfg", Path(folder) / "products.csv"
        config.write_text(CONFIG.format(rows=side, cols=side, sram=SRAM_KB))
        lines = ["Layer,M,N,K,", *(f"p{i},{m:.0f},{n:.0f},{k:.0f}," for i, (m, n, k) in enumerate(products))]
        topology.write_text("\n".join(lines) + "\n")
        begin = time.perf_counter()
        arguments = ["-c", str(config), "-t", str(topology), "-i", "gemm", "-p", folder]
        done = subprocess.run([sys.executable, "-m", "scalesim.scale", *arguments], capture_output=True, text=True, check=False)
        taken = time.perf_counter() - begin
    if done.returncode:
        raise InputError(f"SCALE-Sim ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return taken
