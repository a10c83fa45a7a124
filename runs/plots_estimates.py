"""Plots of estimates over architectures, from the JSON of `shmoo estimate`. plotly is imported when a plot is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shmoo.estimators.present import si, size
from shmoo.runs.error_records import CaseError
from shmoo.runs.plot_style import (
    ARCHITECTURE_COLOURS,
    FAINT,
    GREY,
    SYMBOLS,
    architecture_family,
    figure,
    log_axis,
    plain,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def tiles_figure(cases: Sequence[CaseError], estimates: Sequence[Mapping[str, Any]], local: str) -> go.Figure:
    """Tiles against bytes moved: the run's cases on the calibrated machine, and the models on every architecture."""
    import plotly.graph_objects as go

    traces = []
    members = [case for case in cases if case.tiles > 0 and case.bytes > 0]
    if members:
        traces.append(
            go.Scatter(
                x=[c.bytes for c in members],
                y=[c.tiles for c in members],
                mode="markers",
                name=f"measured cases on {plain(local)}",
                marker={"color": GREY, "size": 5, "opacity": 0.45},
                hovertext=[f"{plain(c.case.label)}<br>{c.tiles:,.0f} tiles, {size(c.bytes)}" for c in members],
                hoverinfo="text",
            )
        )
    drawn = [e for e in estimates if e.get("tiles") and e.get("bytes")]
    for family in ARCHITECTURE_COLOURS:
        of_family = [e for e in drawn if architecture_family(str(e["arch"])) == family]
        if of_family:
            traces.append(_models_trace(of_family, family, [e["bytes"] for e in of_family], [e["tiles"] for e in of_family]))
    other = [e for e in drawn if not architecture_family(str(e["arch"]))]
    if other:
        traces.append(_models_trace(other, "other", [e["bytes"] for e in other], [e["tiles"] for e in other]))
    x = log_axis("bytes moved at least", [b for t in traces for b in t.x], "B")
    return figure(traces, x, log_axis("tiles", [n for t in traces for n in t.y], ""))


def energy_figure(estimates: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """Energy against latency with 90 % intervals and lines of equal power; `None` when no estimate has an energy."""
    import plotly.graph_objects as go

    known = [e for e in estimates if e.get("latency_s") and e.get("energy_j")]
    if not known:
        return None
    models = list(dict.fromkeys(str(e["model"]) for e in known))
    latencies = [e["latency_s"][end] for e in known for end in ("low", "high")]
    energies = [e["energy_j"][end] for e in known for end in ("low", "high")]
    traces = []
    for watts in (0.1, 1, 10, 100, 1000):
        ends = [min(latencies) / 3, max(latencies) * 3]
        inside = [(t, watts * t) for t in ends]
        if inside[1][1] < min(energies) or inside[0][1] > max(energies):
            continue
        traces.append(
            go.Scatter(
                x=ends,
                y=[joules for _, joules in inside],
                mode="lines",
                line={"color": FAINT, "width": 1.5, "dash": "dash"},
                hovertext=si(watts, "W"),
                hoverinfo="text",
                name=si(watts, "W", 1),
                showlegend=False,
            )
        )
    named: set[str] = set()
    for estimate in known:
        model, family = str(estimate["model"]), architecture_family(str(estimate["arch"]))
        shown = family or "other"
        traces.append(
            go.Scatter(
                x=[estimate["latency_s"]["value"]],
                y=[estimate["energy_j"]["value"]],
                mode="markers",
                name=shown,
                legendgroup=shown,
                showlegend=shown not in named,
                marker={
                    "color": ARCHITECTURE_COLOURS.get(family, GREY),
                    "size": 10,
                    "symbol": SYMBOLS[models.index(model) % len(SYMBOLS)],
                },
                error_x=_bars(estimate["latency_s"]),
                error_y=_bars(estimate["energy_j"]),
                hovertext=f"{_estimate_name(estimate)}<br>{si(estimate['latency_s']['value'], 's')}, "
                f"{si(estimate['energy_j']['value'], 'J')}, "
                f"{si(estimate['energy_j']['value'] / estimate['latency_s']['value'], 'W')}",
                hoverinfo="text",
            )
        )
        named.add(shown)
    return figure(traces, log_axis("latency", latencies, "s"), log_axis("energy", energies, "J"), height=560)


def _models_trace(estimates: Sequence[Mapping[str, Any]], name: str, x: list[float], y: list[float]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=f"models on {name}",
        marker={
            "color": ARCHITECTURE_COLOURS.get(name, GREY),
            "size": 11,
            "symbol": "star",
            "line": {"width": 0.6, "color": "#fff"},
        },
        hovertext=[f"{_estimate_name(e)}<br>{e['tiles']:,.0f} tiles, {size(e['bytes'])}" for e in estimates],
        hoverinfo="text",
    )


def _estimate_name(estimate: Mapping[str, Any]) -> str:
    rest = " ".join(str(estimate[key]) for key in ("dtype", "runtime") if estimate.get(key))
    return f"<b>{plain(estimate['model'])}</b> on {plain(estimate['arch'])}<br>batch {estimate.get('batch', 1)}, {plain(rest)}"


def _bars(value: Mapping[str, float]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [value["high"] - value["value"]],
        "arrayminus": [value["value"] - value["low"]],
        "thickness": 1,
        "width": 0,
    }
