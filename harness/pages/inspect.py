"""The interactive page of an inspection, one self-contained file: the graph of kernels, which opens and closes by module, and an
icicle or treemap of time by module. Colours show what bounds each part on one architecture."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from shmoo.estimators.predict.director import KernelEstimate
from shmoo.estimators.present.inspection import BOUNDS, Inspection, Row, parent_of
from shmoo.estimators.present.kernel_graph import KernelNode
from shmoo.estimators.units import percent, si

COLOURS = {"compute": "#2a6f97", "memory": "#e09f3e", "launch": "#9b2226"}
"""Colour of each bound."""
PAGES = Path(__file__).parent
"""Folder of the page's style and script."""


def write_page(inspection: Inspection, arch: str, path: str | Path) -> None:
    """Write the page for one of the inspection's architectures. It contains data, styles and scripts and needs no network.

    Raises:
        OSError: the file cannot be written.
    """
    figure = make_figure(inspection, arch)
    config = {"displaylogo": False, "responsive": True}
    modules = figure.to_html(include_plotlyjs=True, full_html=False, config=config, default_height="100%")
    title = escape(f"{inspection.model} on {arch}")
    keys = " ".join(f"<span class='key' style='background:{colour}'>{name}</span>" for name, colour in COLOURS.items())
    # Without "<" nothing in the JSON can end its script element.
    graph = json.dumps(graph_data(inspection, arch), allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    style, script = ((PAGES / name).read_text(encoding="utf-8") for name in ("graph.css", "graph.js"))
    Path(path).write_text(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><header><h1>{title}</h1><span>{call_time(inspection, arch)}</span><span>coloured by what bounds it: {keys}</span>
<span><button data-tab="graph" aria-pressed="true">graph of kernels</button>
<button data-tab="modules" aria-pressed="false">time by module</button></span>
<span><button id="open">open a level</button> <button id="close">close all</button> <button id="fit">fit</button></span>
<input id="search" type="search" placeholder="find a module or operator" aria-label="find a module or operator"></header>
<main><div id="graph" data-page="graph"><svg role="img" aria-label="graph of kernels"><g></g></svg><div id="facts"></div></div>
<div data-page="modules" hidden>{modules}</div></main>
<script type="application/json" id="graph-data">{graph}</script>
<script>{script}</script></body></html>
""",
        encoding="utf-8",
    )


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
    """The time of one call for people, with the time to enter the graphs and the launch time that the device hides."""
    latency, entry, hidden = inspection.modules[0].on[arch].latency_s, inspection.entry_s(arch), inspection.hidden_s(arch)
    text = f"one call: {si(latency, 's')}, of which {si(entry, 's')} enter the graph"
    return f"{text}; {si(hidden, 's')} of launches hide behind the device and add nothing" if hidden > 0 else text


def make_figure(inspection: Inspection, arch: str) -> Any:
    """The plotly figure: an icicle, with a button that turns it into a treemap. A click opens a module."""
    import plotly.graph_objects as go

    rows = [row for row in inspection.modules if row.on[arch].latency_s > 0 or not row.name]
    inside: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        if row.name:
            inside[parent_of(row.name)] += row.on[arch].latency_s
    shared = {
        # "" means no parent to plotly, so that ids begin with a slash.
        "ids": [f"/{row.name}" for row in rows],
        "parents": [f"/{parent_of(row.name)}" if row.name else "" for row in rows],
        "labels": [escape(row.name.rpartition(".")[2] or inspection.model) for row in rows],
        # A module's own time, without its submodules' time; rounding may make their sum exceed the module's by a last digit.
        "values": [max(row.on[arch].latency_s - inside[row.name], 0.0) for row in rows],
        "branchvalues": "remainder",
        "marker": {"colors": [COLOURS[row.on[arch].bound] for row in rows]},
        "customdata": ["<br>".join(escape(line) for line in _facts(row, inspection, arch)) for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
        "textinfo": "label+percent root",
    }
    figure = go.Figure([go.Icicle(**shared), go.Treemap(**shared, visible=False)])
    buttons = [
        {"label": "icicle", "method": "update", "args": [{"visible": [True, False]}]},
        {"label": "treemap", "method": "update", "args": [{"visible": [False, True]}]},
    ]
    figure.update_layout(
        margin={"t": 40, "l": 5, "r": 5, "b": 5},
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 1.06, "xanchor": "left"}],
    )
    return figure


def _operators(kernel: KernelEstimate) -> str:
    """The operators of a kernel, without the module that begins its label."""
    return kernel.label.rpartition(":")[2]


def _kernel_facts(node: KernelNode, total: float) -> Sequence[str]:
    kernel = node.kernel
    hidden = kernel.latency_s - kernel.elapsed_s
    alone = [f"{si(kernel.latency_s, 's')} alone: {si(hidden, 's')} of its launch hide behind the device"] if hidden > 0 else []
    rule = [f"fused by rule: {kernel.pattern}"] if kernel.pattern else []
    return [
        _operators(kernel),
        f"in {node.module or 'the model itself'}",
        f"{si(kernel.elapsed_s, 's')}, {percent(kernel.elapsed_s / total if total else 0.0)} of the model",
        *alone,
        f"computing {si(kernel.compute_s, 's')}, moving {si(kernel.memory_s, 's')}, launching {si(kernel.launch_s, 's')}",
        f"{si(kernel.flops, 'flop')}, {si(kernel.bytes, 'B')}, energy {si(kernel.energy_j, 'J')}",
        f"{si(kernel.tiles, '')} tiles of {' x '.join(f'{extent:g}' for extent in kernel.tile_shape)}, "
        f"{percent(kernel.utilisation, digits=0)} used",
        *rule,
    ]


def _facts(row: Row, inspection: Inspection, arch: str) -> list[str]:
    here = row.on[arch]
    bounds = ", ".join(f"{name} {percent(here.bound_s[name] / here.latency_s)}" for name in BOUNDS) if here.latency_s else "none"
    return [
        row.name or inspection.model,
        f"{si(here.latency_s, 's')}, {percent(here.share)} of the model",
        f"time bound by {bounds}",
        f"{row.params:,} parameters, {row.calls} calls",
        f"{si(row.flops, 'flop')}, {si(row.bytes, 'B')}, {'no bytes' if row.intensity is None else si(row.intensity, 'flop/B')}",
        *(f"{name}: {percent(part.share)} of time, {si(part.tiles, '')} tiles" for name, part in row.on.items()),
    ]
