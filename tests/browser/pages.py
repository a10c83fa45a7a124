"""Pages of every kind, made from small graphs and rows, for the browser and for the documentation's pictures."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.present.inspection import inspect_graphs
from shmoo.estimators.sweep.controller import SweepController
from shmoo.estimators.sweep.explore import Space, Workload, explore_grid
from shmoo.harness.pages import explore, inspect, roofline, sweep
from shmoo.runs.analysis.errors import error_report
from shmoo.runs.analysis.fleet import Specimen, fleet_report
from shmoo.runs.analysis.history import history
from shmoo.runs.analysis.predict import network_estimates, network_fusions
from shmoo.runs.fleet_page import render_fleet
from shmoo.runs.plots.history import render_history
from shmoo.runs.report import write_report
from shmoo.runs.store.records import CaseSpec, ChildTime, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from shmoo.runs.tables.reading import TableRow
from tests.build import GraphBuilder
from tests.runs.analysis.test_fleet import specimen
from tests.runs.analysis.test_history import runs_of

PROFILE = load_profile("brief_cpu")
ACCELERATORS = ("brief_gpu", "brief_tpu", "brief_kpu")
"""Round numbers that no new measurement changes, so that pictures stay."""


class ModuleBuilder(GraphBuilder):
    """Calls that belong to modules."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: list[str] = []

    def inside(self, module: str) -> ModuleBuilder:
        """What is called from here on belongs to this module."""
        self.modules += [self.module] * (len(self.calls) - len(self.modules)) if hasattr(self, "module") else []
        self.module = module
        return self

    def built(self, output: int, name: str) -> Graph:
        self.inside("")
        graph = self.graph(output, name=name)
        calls = (msgspec.structs.replace(call, module=module) for call, module in zip(graph.calls, self.modules, strict=True))
        return msgspec.structs.replace(graph, calls=tuple(calls))


def transformer(layers: int = 6, batch: int = 1, width: int = 768) -> Graph:
    """Encoder layers of a normalization, a block of products, and two residual sums, as a vision transformer has them."""
    b = ModuleBuilder()
    x = b.inside("embed").linear(b.tensor((batch, 197, width)), width)
    for i in range(layers):
        layer = f"encoder.layers.layer_{i}"
        y = b.inside(f"{layer}.ln_1").layer_norm(x)
        y = b.inside(f"{layer}.attention.qkv").linear(y, 3 * width)
        y = b.inside(f"{layer}.attention.out").linear(y, width)
        x = b.inside(layer).add(x, y)
        y = b.inside(f"{layer}.ln_2").layer_norm(x)
        y = b.inside(f"{layer}.mlp.up").linear(y, 4 * width)
        y = b.inside(f"{layer}.mlp.act").relu(y)
        y = b.inside(f"{layer}.mlp.down").linear(y, width)
        x = b.inside(layer).add(x, y)
    x = b.inside("encoder.ln").layer_norm(x)
    return b.built(b.inside("head").linear(x, 1000), "transformer")


def branches() -> Graph:
    """A convolutional stem, four branches of different length, and their sums."""
    b = ModuleBuilder()
    x = b.inside("stem.conv").conv(b.tensor((8, 3, 56, 56)), 64, 7)
    x = b.inside("stem.norm").relu(b.batch_norm(x))
    ends = []
    for i in range(4):
        y = x
        for k in range(i + 1):
            y = b.inside(f"mixed.branch_{i}.conv_{k}").relu(b.batch_norm(b.conv(y, 64, 3)))
        ends.append(y)
    total = ends[0]
    for end in ends[1:]:
        total = b.inside("mixed").add(total, end)
    return b.built(b.inside("head").conv(total, 10, 1), "branches")


def run(path: Path) -> Run:
    """Matrix products over three axes, additions over sizes, three networks with their operators, and a failed case."""
    jitter = random.Random(1)
    machine = Machine("AMD EPYC 7003 (example)", 2, 4, 2**33, {"l1": 48 * 2**10, "l2": 2 * 2**20, "l3": 32 * 2**20})
    sizes = (16, 64, 256, 1024)
    tables = [TableRow(2, "linear", {"b": 1, "m": m, "n": n, "k": k}) for m in sizes for n in sizes for k in (64, 256)]
    for operator in ("relu", "gelu", "sigmoid"):
        tables += [TableRow(2, operator, {"shape": f"{2**e}x256"}) for e in range(2, 16)]
    predicted = AnalysisDirector(PROFILE)

    def timing(seconds: float) -> Timing:
        off = 1 + jitter.gauss(0, 0.12)
        return Timing(tuple(seconds * off * (1 + jitter.gauss(0, 0.01)) for _ in range(5)))

    with RunWriter(path, RunManifest(machine, "quick", started_at="2026-01-01T12:00:00Z")) as writer:
        for row in tables:
            graph = row.graph()
            seconds = predicted.estimate([graph], runtime="eager").latency_s.value
            writer.append(Measurement(row.case, "ok", (), (graph.content_hash,), timing(seconds)), (graph,))
        networks = (("transformer", transformer(2)), ("branches", branches()), ("wide_transformer", transformer(1, width=1024)))
        for name, graph in networks:
            estimate = predicted.estimate([graph], runtime="eager")
            children = tuple(
                ChildTime(
                    call, graph.calls[call].op, kernel.latency_s * (1 + jitter.gauss(0, 0.2)) / len(kernel.calls), "interpreter"
                )
                for kernel in estimate.breakdown
                for call in kernel.calls
            )
            case = CaseSpec(name, "network", {"batch": 1})
            measured = Measurement(case, "ok", (), (graph.content_hash,), timing(estimate.latency_s.value), children)
            writer.append(measured, (graph,))
        failed = CaseSpec("transformer", "network", {"batch": 512})
        writer.append(Measurement(failed, "failed", (Reason("memory", "ran out of memory"),)))
    return Run.open(path)


def _sweep(model: str, axes: dict, archs: tuple[str, ...], machine_axes: dict, units: dict, path: Path) -> None:
    profiles = [load_profile(arch) for arch in archs]

    def source(point: dict) -> tuple[Graph, ...]:
        width, batch = int(point.get("width", 768)), int(point.get("batch", 1))
        return (transformer(1, batch, width),)

    rows = list(SweepController(model, source, profiles, axes, machine_axes).rows())
    sweep.write_page(rows, [*axes, *machine_axes], profiles, list(machine_axes), path, units)


def write_pages(folder: Path) -> dict[str, Path]:
    """Name -> file of each page."""
    recorded = run(folder / "run")
    report = error_report(recorded, PROFILE)
    estimates = network_estimates(recorded, [PROFILE, *map(load_profile, ACCELERATORS)])
    pages = {
        "report": write_report(report, estimates, folder / "report", network_fusions(recorded, PROFILE)),
        "history": folder / "history.html",
        "fleet": folder / "fleet.html",
        "inspect": folder / "inspect.html",
        "roofline": folder / "roofline.html",
        "explore": folder / "explore.html",
    }
    runs = runs_of([{} if number < 6 else {3: 1.15} for number in range(12)])
    pages["history"].write_text(render_history(history(runs), 0.03), encoding="utf-8")
    machines = [specimen(f"node{number:02d}", factor=1.08 if number == 3 else 1.0, energy_j=90.0) for number in range(6)]
    machines += [Specimen("node06", "missing", "no route to host")]
    pages["fleet"].write_text(render_fleet(fleet_report(machines), "october"), encoding="utf-8")
    gpu = load_profile("brief_gpu")
    directors = {arch: AnalysisDirector(load_profile(arch)) for arch in ACCELERATORS}
    inspect.write_page(inspect_graphs([transformer()], directors), gpu.name, pages["inspect"])
    mixed = inspect_graphs([branches()], {gpu.name: directors[gpu.name]})
    roofline.write_roofline(mixed, gpu, "float32", pages["roofline"], roofline.call_points(recorded, "branches"))
    fabric = load_profile("kpu_t64")
    work = tabulate_model([transformer(1)], "domainflow", fabric.family, "float32")
    over = {"count.tiles": tuple(map(float, range(16, 257, 16))), "bandwidth.dram": tuple(16e9 * 2.0**e for e in range(7))}
    space = Space(fabric, "domainflow", [Workload("transformer layer", work, 1)], over, ("latency", "power"))
    explore.write_page(space, explore_grid(space), pages["explore"])
    widths, batches = (128, 256, 512, 1024, 2048), (1, 4, 16, 64)
    memory = tuple(2.0**e for e in range(20, 28))
    bandwidth = tuple(16e9 * 2.0**e for e in range(7))
    units = {"capacity.l3": "B", "bandwidth.dram": "B/s"}
    swept = (
        ("sweep-curves", {"width": widths}, ("brief_cpu", "brief_gpu"), {}, {}),
        ("sweep-winner", {"width": widths, "batch": batches}, ("brief_gpu", "kpu_t64"), {}, {}),
        ("sweep-design", {}, ("kpu_t64",), {"capacity.l3": memory, "bandwidth.dram": bandwidth}, units),
    )
    for name, axes, archs, machine_axes, units_here in swept:
        pages[name] = folder / f"{name}.html"
        _sweep("transformer layer", axes, archs, machine_axes, units_here, pages[name])
    return pages
