"""The interactive page of an inspection: an icicle or treemap by module, coloured by the bound, in one self-contained file."""

from __future__ import annotations

from html import escape
from pathlib import Path

from shmoo.estimators.inspection import BOUNDS, Inspection, Row, parent_of
from shmoo.estimators.present import percent, si

COLOURS = {"compute": "#2a6f97", "memory": "#e09f3e", "launch": "#9b2226"}
"""Colour of each bound."""


def write_page(inspection: Inspection, arch: str, path: str | Path) -> None:
    """Write the page; areas are time on `arch`, plotly's code is inlined, so that it needs no network.

    Raises:
        OSError: the file cannot be written.
    """
    figure = make_figure(inspection, arch)
    config = {"displaylogo": False, "responsive": True}
    body = figure.to_html(include_plotlyjs=True, full_html=False, config=config, default_height="88vh")
    title = escape(f"{inspection.model} on {arch}")
    Path(path).write_text(
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title></head>"
        f"<body style='font-family:sans-serif;margin:1em'>{_legend(title)}{body}</body></html>\n",
        encoding="utf-8",
    )


def make_figure(inspection: Inspection, arch: str):
    """The plotly figure: an icicle, with a button that makes it a treemap. A click opens a module."""
    import plotly.graph_objects as go

    rows = [row for row in inspection.modules if row.on[arch].latency_s > 0 or not row.name]
    inside: dict[str, float] = {}
    for row in rows:
        if row.name:
            inside[parent_of(row.name)] = inside.get(parent_of(row.name), 0.0) + row.on[arch].latency_s
    shared = {
        "ids": [_identity(row.name) for row in rows],
        "parents": ["" if not row.name else _identity(parent_of(row.name)) for row in rows],
        "labels": [escape(row.name.rpartition(".")[2] or inspection.model) for row in rows],
        # What a module takes besides the modules in it: sums of children may differ from their parent's in the last digit.
        "values": [max(row.on[arch].latency_s - inside.get(row.name, 0.0), 0.0) for row in rows],
        "branchvalues": "remainder",
        "marker": {"colors": [COLOURS[row.on[arch].bound] for row in rows]},
        "customdata": [_facts(row, inspection, arch) for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
        "textinfo": "label+percent root",
    }
    figure = go.Figure([go.Icicle(**shared), go.Treemap(**shared, visible=False)])
    buttons = [
        {"label": label, "method": "update", "args": [{"visible": visible}]}
        for label, visible in (("icicle", [True, False]), ("treemap", [False, True]))
    ]
    figure.update_layout(
        margin={"t": 30, "l": 5, "r": 5, "b": 5},
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 1.06, "xanchor": "left"}],
    )
    return figure


def _identity(path: str) -> str:
    """An id in the figure; plotly keeps "" for no parent."""
    return f"/{path}"


def _facts(row: Row, inspection: Inspection, arch: str) -> str:
    here = row.on[arch]
    bounds = ", ".join(f"{name} {percent(here.bound_s[name] / here.latency_s)}" for name in BOUNDS) if here.latency_s else "none"
    lines = [
        f"<b>{escape(row.name or inspection.model)}</b>",
        f"{si(here.latency_s, 's')}, {percent(here.share)} of the model",
        f"time bound by {bounds}",
        f"{row.params:,} parameters, {row.calls} calls",
        f"{si(row.flops, 'flop')}, {si(row.bytes, 'B')}, {'no bytes' if row.intensity is None else si(row.intensity, 'flop/B')}",
        *(f"{escape(name)}: {percent(part.share)} of time, {si(part.tiles, '')} tiles" for name, part in row.on.items()),
    ]
    return "<br>".join(lines)


def _legend(title: str) -> str:
    keys = " ".join(
        f"<span style='background:{colour};color:white;padding:2px 8px;border-radius:3px'>{name}</span>"
        for name, colour in COLOURS.items()
    )
    return f"<h3 style='margin:0 0 .4em'>{title}: time by module, coloured by what bounds it {keys}</h3>"
