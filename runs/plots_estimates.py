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
    for family in (*ARCHITECTURE_COLOURS, ""):
        of_family = [e for e in drawn if architecture_family(str(e["arch"])) == family]
        if of_family:
            traces.append(_models_trace(of_family, family or "others"))
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
    x, y = log_axis("latency", latencies, "s"), log_axis("energy", energies, "J")
    traces, labels = _power_lines(x["range"], y["range"])
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
    for position, model in enumerate(models):
        marker = {"color": GREY, "size": 10, "symbol": SYMBOLS[position % len(SYMBOLS)]}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", name=plain(model), marker=marker))
    return figure(traces, x, y, height=580, layout={"annotations": labels})


def _power_lines(x: Sequence[float], y: Sequence[float]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Lines of constant power with labels, for axes whose ranges are exponents of ten."""
    import plotly.graph_objects as go

    traces, labels = [], []
    for power in range(-3, 5):
        # On the line log E = log t + power; it leaves the plot at the right or at the top.
        start, end = max(x[0], y[0] - power), min(x[1], y[1] - power)
        if end - start < 0.15 * (x[1] - x[0]):
            continue
        ends = [10.0**start, 10.0**end]
        line = {"color": FAINT, "width": 1.5, "dash": "dash"}
        energies = [end * 10.0**power for end in ends]
        traces.append(go.Scatter(x=ends, y=energies, mode="lines", line=line, hoverinfo="skip", showlegend=False))
        place = {"x": end, "y": end + power, "xanchor": "right", "yanchor": "top", "xshift": -8, "yshift": -6}
        labels.append({**place, "text": si(10.0**power, "W", 1), "showarrow": False, "font": {"size": 11}})
    return traces, labels


def _models_trace(estimates: Sequence[Mapping[str, Any]], name: str) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[e["bytes"] for e in estimates],
        y=[e["tiles"] for e in estimates],
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
