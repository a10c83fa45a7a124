"""How fast estimating is: kernel x architecture predictions a second on one core, and sweeps over design points of a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector, estimate_on
from shmoo.estimators.predict.graph_table import tabulate
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
FIRST = (
    "brief_cpu", "brief_gpu", "brief_kpu", "brief_tpu", "cpu_i7_12700k", "cpu_server_generic", "gpu_a100_40g", "gpu_a100_80g",
    "gpu_h100", "gpu_h200", "gpu_l4", "gpu_p100", "gpu_t4", "gpu_v100", "kpu_t256", "kpu_t64", "kpu_t768", "tpu_v1", "tpu_v3",
    "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e",
)  # fmt: skip
"""The machines of the first version: a bound on their analysis does not move when a machine is added."""
MOST_ANALYSIS = 0.3
"""Share of the time of capture that analysis on the first machines may take."""
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
    """CPU time of analysis on the first machines and on all beside that of capture; whether that of the first is within its
    bound over all networks."""
    groups = [[(AnalysisDirector(load_profile(name)), None) for name in names] for names in (FIRST, builtin_names())]
    spent: dict[str, list[float]] = {}
    for name in networks:
        with output.only_results_on_stdout():
            capturing, found = best_of(1, lambda name=name: model_graphs(name))
        of_groups = (
            best_of(repeats, lambda group=group, found=found: list(estimate_on(group, found.graphs))) for group in groups
        )
        spent[name] = [capturing, *(seconds for seconds, _ in of_groups)]
    spent["all"] = [sum(column) for column in zip(*spent.values(), strict=True)]
    lines = [
        [name, si(captured, "s"), *(cell for s in analysed for cell in (si(s, "s"), percent(s / captured, digits=0)))]
        for name, (captured, *analysed) in spent.items()
    ]
    output.result("")
    output.table(["network", "capture", *(name for group in groups for name in (f"on {len(group)}", "share"))], lines)
    captured, first, _ = spent["all"]
    return first <= MOST_ANALYSIS * captured


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
