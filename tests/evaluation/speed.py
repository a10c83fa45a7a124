"""How fast estimating is: kernel x architecture predictions a second on one core, and sweeps over design points of a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector, estimate_on
from shmoo.estimators.predict.tabulated import tabulate
from shmoo.estimators.sweep.controller import SweepController
from shmoo.estimators.table import KernelTable
from shmoo.estimators.units import percent, si
from shmoo.harness.cli import output
from shmoo.harness.models.model_graphs import model_graphs

T = TypeVar("T")
MODEL = "resnet50"
KERNELS = 8000
"""Kernels of one table, at least: the model's own, repeated."""
NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "vit_b_16", "swin_t", "maskrcnn_resnet50_fpn")
"""Networks whose analysis is compared with their capture; the first captures take what is imported with them."""
MOST_ANALYSIS = 0.3
"""Share of the time of capture that analysis on all architectures may take."""
SWEEPS: dict[str, dict[str, tuple[float, float]]] = {
    "cpu_server_generic": {"count.cores": (4.0, 128.0), "bandwidth.dram": (25e9, 800e9)},
    "gpu_h100": {"count.sms": (20.0, 200.0), "bandwidth.dram": (0.5e12, 8e12)},
    "tpu_v4": {"array.rows": (64.0, 512.0), "bandwidth.dram": (0.3e12, 5e12)},
    "kpu_t64": {"count.tiles": (16.0, 1024.0), "bandwidth.dram": (16e9, 1e12)},
    "kpu_t256": {"capacity.l3": (2.0**20, 2.0**30), "bandwidth.dram": (16e9, 1e12)},
}
"""Architecture -> two of its coefficients, and the ends between which they are swept."""


def show_predictions(graphs: Sequence[Graph], repeats: int) -> None:
    """Predictions a second: tiles, latency and energy of a large table on every built-in architecture. Fusing, costing and
    tabulating a model is told apart: that is done once for all machines of a family."""
    tabulating, (table, _) = best_of(repeats, lambda: tabulate(graphs, "eager", "cpu"))
    output.result(f"{MODEL} is tabulated, {len(table)} kernels, in {si(tabulating, 's')}; {si(len(table) / tabulating, '/s')}\n")
    lines, kernels, seconds = [], 0, 0.0
    for name in builtin_names():
        profile = load_profile(name)
        table = large_table(graphs, profile)
        taken, _ = best_of(repeats, lambda profile=profile, table=table: price(profile, table))
        drawn, _ = best_of(1, lambda profile=profile, table=table: price_with_intervals(profile, table))
        kernels, seconds = kernels + len(table), seconds + taken
        lines.append([name, str(len(table)), si(taken, "s"), si(len(table) / taken, "/s"), si(len(table) / drawn, "/s")])
    lines.append(["all", str(kernels), si(seconds, "s"), si(kernels / seconds, "/s"), ""])
    output.table(["arch", "kernels", "CPU time", "predictions", "with intervals"], lines)


def show_shares(networks: Sequence[str], repeats: int) -> bool:
    """CPU time of analysis on every built-in architecture beside that of capture; whether the share of all is within bounds."""
    targets = [(AnalysisDirector(load_profile(name)), None) for name in builtin_names()]
    lines, captured, analysed = [], 0.0, 0.0
    for name in networks:
        with output.only_results_on_stdout():
            capturing, found = best_of(1, lambda name=name: model_graphs(name))
        analysing, _ = best_of(repeats, lambda found=found: list(estimate_on(targets, found.graphs)))
        captured, analysed = captured + capturing, analysed + analysing
        lines.append([name, si(capturing, "s"), si(analysing, "s"), percent(analysing / capturing, digits=0)])
    lines.append(["all", si(captured, "s"), si(analysed, "s"), percent(analysed / captured, digits=0)])
    output.result("")
    output.table(["network", "capture", f"analysis on {len(targets)}", "share"], lines)
    return analysed <= MOST_ANALYSIS * captured


def show_sweeps(graphs: Sequence[Graph], points: int, repeats: int) -> None:
    """Time of each sweep, graphs captured before, rows made."""
    side = max(2, round(points**0.5))
    lines = []
    for name, ends in SWEEPS.items():
        axes = {axis: tuple(np.linspace(low, high, side).round().tolist()) for axis, (low, high) in ends.items()}
        sweep = SweepController(MODEL, lambda axes: graphs, [load_profile(name)], profile_axes=axes)
        taken, rows = best_of(repeats, lambda sweep=sweep: list(sweep.rows()))
        lines.append([name, " x ".join(axes), str(len(rows)), si(taken, "s"), si(len(rows) / taken, "/s")])
    output.result("")
    output.table(["arch", f"{MODEL} over", "points", "CPU time", "rate"], lines, left=2)


def large_table(graphs: Sequence[Graph], profile: ArchitectureProfile) -> KernelTable:
    """The model's kernels on an architecture, repeated as segments of one table."""
    table, _ = tabulate(graphs, profile.default_runtime, profile.family)
    return KernelTable.concat([table] * -(-KERNELS // len(table)))


def price(profile: ArchitectureProfile, table: KernelTable) -> np.ndarray:
    """Latency of every segment, (S,), with all that an estimate computes on the way, energy included; intervals left out."""
    return AnalysisDirector(profile).price(table, profile.default_runtime).latency_s


def price_with_intervals(profile: ArchitectureProfile, table: KernelTable) -> None:
    """The same with the interval of every segment."""
    AnalysisDirector(profile).price(table, profile.default_runtime, seed=0).intervals()


def best_of(repeats: int, work: Callable[[], T]) -> tuple[float, T]:
    """Least CPU seconds of several runs, which is time on one core even where others work beside it, and the last result."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        result = work()
        times.append(time.process_time() - begin)
    return min(times), result
