"""The interactive page of an inspection: the graph of kernels, with modules that open and close; time by module as an icicle or
treemap; and tables of both. Colours show the bound of each part on one architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from shmoo.estimators.predict.director import KernelEstimate
from shmoo.estimators.present.inspection import BOUNDS, Inspection, KernelNode, Row, parent_of
from shmoo.estimators.shown_columns import Cell, quantity
from shmoo.estimators.units import percent, si
from shmoo.runs.plots.page import page, section, table, write

COLOURS = {"compute": "#2a6f97", "memory": "#8a5a00", "launch": "#9b2226"}
"""Colour of each bound; white text on it has a contrast of at least 4.5 to 1."""
LEAST_TOLD = 0.005
"""Smallest share of the time for which the headline names a bound."""
PAGES = Path(__file__).parent
"""Folder of the page's styles and scripts."""
GRAPH = Markup("""<p>{call}. Enter or space opens a module; drag to move, Ctrl and the wheel zoom.</p>
{keys}
<div class="controls"><button class="button" id="open">Open a level</button><button class="button" id="close">Close all</button>
<button class="button" id="fit">Fit</button><button class="button" id="nearer" aria-label="zoom in">+</button>
<button class="button" id="farther" aria-label="zoom out">−</button>
<input id="search" type="search" placeholder="Find a module or operator" aria-label="find a module or operator"></div>
<div class="panel" id="graph"><svg class="canvas" role="group" aria-label="graph of kernels"><g></g></svg>
<svg id="map" aria-hidden="true"></svg><div id="facts" aria-live="polite"></div></div>
""")
MODULES = Markup("""<p>A click, Enter or space opens a module; once more leaves it.</p>
{keys}
<div class="controls"><button class="button" data-kind="icicle" aria-pressed="true">Icicle</button>
<button class="button" data-kind="treemap" aria-pressed="false">Treemap</button></div>
<div id="modules"><svg style="width: 100%; display: block" role="group" aria-label="time by module"></svg></div>
<p id="module-facts" style="white-space: pre-line; margin-top: .8rem" aria-live="polite"></p>
""")


def write_page(inspection: Inspection, arch: str, path: str | Path) -> None:
    """Write the page for one of the inspection's architectures."""
    key = Markup('<li><i style="background:{}"></i>bound by {}</li>')
    entries = Markup("").join(key.format(colour, name) for name, colour in COLOURS.items())
    keys = Markup('<ul class="keys">{}</ul>').format(entries)
    body = Markup("").join(
        (
            section("kernels", "Graph of kernels", GRAPH.format(call=call_time(inspection, arch), keys=keys)),
            section("time", "Time by module", MODULES.format(keys=keys)),
            section("table", "Modules", table([_line(row, inspection) for row in inspection.modules], "modules")),
            section("operators", "Operators", table([_line(row, inspection) for row in inspection.operators], "operators")),
        )
    )
    style, *scripts = ((PAGES / name).read_text(encoding="utf-8") for name in ("graph.css", "graph.js", "modules.js"))
    text = page(
        f"{inspection.model} on {arch}",
        body,
        eyebrow="Inspection",
        answer=headline(inspection, arch),
        links=[("kernels", "Graph"), ("time", "Time"), ("table", "Modules"), ("operators", "Operators")],
        data={"graph-data": graph_data(inspection, arch), "module-data": module_data(inspection, arch)},
        style=style,
        scripts=scripts,
        footer="estimates, no measurements",
    )
    write(text, path)


def headline(inspection: Inspection, arch: str) -> str:
    """The time of a call, its bounds, and the operator with most time."""
    model_row, top = (
        inspection.modules[0].on[arch],
        max(inspection.operators, key=lambda row: row.on[arch].latency_s, default=None),
    )
    bounds = sorted(BOUNDS, key=lambda name: -model_row.bound_s[name])
    parts = {name: model_row.bound_s[name] / model_row.latency_s for name in bounds if model_row.bound_s[name] > 0}
    shares = ", ".join(f"{name} for {percent(part, digits=0)}" for name, part in parts.items() if part >= LEAST_TOLD)
    first = f"; {top.name} takes {percent(top.on[arch].share, digits=0)}" if top is not None else ""
    return f"One call takes {si(model_row.latency_s, 's')}, bound by {shares} of the time{first}."


def graph_data(inspection: Inspection, arch: str) -> dict[str, Any]:
    """The data of the page's script: kernels with their sources, and the facts of each module as lines of text."""
    total = inspection.modules[0].on[arch].latency_s
    return {
        "colours": COLOURS,
        "kernels": [
            {
                "label": _operators(node.kernel),
                "module": node.module,
                "sources": node.sources,
                "elapsed_s": node.kernel.elapsed_s,
                "share": node.kernel.elapsed_s / total if total else 0.0,
                "bound": node.kernel.bound,
                "facts": _kernel_facts(node, total),
            }
            for node in inspection.kernels[arch]
        ],
        "modules": {row.name: _facts(row, inspection, arch) for row in inspection.modules},
    }


def call_time(inspection: Inspection, arch: str) -> str:
    """The time of one call as text, with the time to enter the graphs and the launch time hidden behind the device."""
    latency, entry, hidden = inspection.modules[0].on[arch].latency_s, inspection.entry_s(arch), inspection.hidden_s(arch)
    text = f"one call: {si(latency, 's')}, of which {si(entry, 's')} enter the graph"
    return f"{text}; {si(hidden, 's')} of launches hide behind the device and add nothing" if hidden > 0 else text


def module_data(inspection: Inspection, arch: str) -> dict[str, Any]:
    """The data of the icicle: modules with time in tree order, each with the position of its parent."""
    rows = [row for row in inspection.modules if row.on[arch].latency_s > 0 or not row.name]
    position = {row.name: place for place, row in enumerate(rows)}
    return {
        "colours": COLOURS,
        "boxes": [
            {
                "label": row.name.rpartition(".")[2] or inspection.model,
                "parent": position[parent_of(row.name)] if row.name else -1,
                "share": row.on[arch].share,
                "bound": row.on[arch].bound,
                "facts": _facts(row, inspection, arch),
            }
            for row in rows
        ],
    }


def _line(row: Row, inspection: Inspection) -> dict[str, Cell]:
    """A module or operator as a table row."""
    line = {
        "name": Cell(row.name or inspection.model),
        "calls": quantity(row.calls, "#"),
        "parameters": quantity(row.params, ""),
        "work": quantity(row.flops, "flop"),
        "bytes": quantity(row.bytes, "B"),
    }
    for name, part in row.on.items():
        line[f"time on {name}"] = quantity(part.latency_s, "s", percent(part.share))
        line[f"bound on {name}"] = Cell(part.bound)
    return line


def _operators(kernel: KernelEstimate) -> str:
    """The operators of a kernel, without the module at the start of its label."""
    return kernel.label.rpartition(":")[2]


def _kernel_facts(node: KernelNode, total: float) -> Sequence[str]:
    kernel = node.kernel
    hidden = kernel.latency_s - kernel.elapsed_s
    hidden_launch = (
        [f"{si(kernel.latency_s, 's')} alone: {si(hidden, 's')} of its launch hide behind the device"] if hidden > 0 else []
    )
    rule = [f"fused by rule: {kernel.pattern}"] if kernel.pattern else []
    return [
        _operators(kernel),
        f"in {node.module or 'the model itself'}",
        f"{si(kernel.elapsed_s, 's')}, {percent(kernel.elapsed_s / total if total else 0.0)} of the model",
        *hidden_launch,
        f"computing {si(kernel.compute_s, 's')}, moving {si(kernel.memory_s, 's')}, launching {si(kernel.launch_s, 's')}",
        f"{si(kernel.flops, 'flop')}, {si(kernel.bytes, 'B')}, energy {si(kernel.energy_j, 'J')}",
        f"{si(kernel.tiles, '')} tiles of {' x '.join(f'{extent:g}' for extent in kernel.tile_shape)}, "
        f"{percent(kernel.utilisation, digits=0)} used",
        *rule,
    ]


def _facts(row: Row, inspection: Inspection, arch: str) -> list[str]:
    cost = row.on[arch]
    bounds = ", ".join(f"{name} {percent(cost.bound_s[name] / cost.latency_s)}" for name in BOUNDS) if cost.latency_s else "none"
    return [
        row.name or inspection.model,
        f"{si(cost.latency_s, 's')}, {percent(cost.share)} of the model",
        f"time bound by {bounds}",
        f"{row.params:,} parameters, {row.calls} calls",
        f"{si(row.flops, 'flop')}, {si(row.bytes, 'B')}, {'no bytes' if row.intensity is None else si(row.intensity, 'flop/B')}",
        *(f"{name}: {percent(part.share)} of time, {si(part.tiles, '')} tiles" for name, part in row.on.items()),
    ]
