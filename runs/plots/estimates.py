"""Plots of estimates over architectures, from the JSON of `shmoo estimate`, and of what fusion saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from shmoo.estimators.present.savings import QUANTITIES, FusionSummary, amount
from shmoo.estimators.units import percent, si, size
from shmoo.runs.analysis.error_records import CaseError
from shmoo.runs.plots.style import (
    ARCHITECTURE_COLOURS,
    FAINT,
    GREY,
    SYMBOLS,
    architecture_family,
    error_bars,
    figure,
    line,
    log_axis,
    plain,
    vertical_line,
)

_QUANTITY_COLOURS = {"kernels": "#4f7df3", "bytes": "#19b28a", "latency_s": "#f2803a", "energy_j": "#9a62e8"}


def tiles_figure(cases: Sequence[CaseError], estimates: Sequence[Mapping[str, Any]], local: str) -> go.Figure:
    """Tiles against bytes moved: the run's cases on the calibrated machine, and the models on every architecture."""
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
            colour = ARCHITECTURE_COLOURS.get(family, GREY)
            traces.append(
                go.Scatter(
                    x=[e["bytes"] for e in of_family],
                    y=[e["tiles"] for e in of_family],
                    mode="markers",
                    name=f"models on {family or 'others'}",
                    marker={"color": colour, "size": 11, "symbol": "star", "line": {"width": 0.6, "color": "#fff"}},
                    hovertext=[f"{_estimate_name(e)}<br>{e['tiles']:,.0f} tiles, {size(e['bytes'])}" for e in of_family],
                    hoverinfo="text",
                )
            )
    x = log_axis("bytes moved at least", [b for t in traces for b in t.x], "B")
    return figure(traces, x, log_axis("tiles", [n for t in traces for n in t.y], ""))


def energy_figure(estimates: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """Energy against latency with 90 % intervals and lines of equal power; `None` when no estimate has an energy."""
    complete = [e for e in estimates if e.get("latency_s") and e.get("energy_j")]
    if not complete:
        return None
    models = list(dict.fromkeys(str(e["model"]) for e in complete))
    latencies, energies = ([e[name][end] for e in complete for end in ("low", "high")] for name in ("latency_s", "energy_j"))
    x, y = log_axis("latency", latencies, "s"), log_axis("energy", energies, "J")
    traces, labels = _power_lines(x["range"], y["range"])
    named: set[str] = set()
    for estimate in complete:
        latency, energy, family = estimate["latency_s"], estimate["energy_j"], architecture_family(str(estimate["arch"]))
        figures = f"{si(latency['value'], 's')}, {si(energy['value'], 'J')}, {si(energy['value'] / latency['value'], 'W')}"
        shown = family or "other"
        symbol = SYMBOLS[models.index(str(estimate["model"])) % len(SYMBOLS)]
        traces.append(
            go.Scatter(
                x=[latency["value"]],
                y=[energy["value"]],
                mode="markers",
                name=shown,
                legendgroup=shown,
                showlegend=shown not in named,
                marker={"color": ARCHITECTURE_COLOURS.get(family, GREY), "size": 10, "symbol": symbol},
                error_x=error_bars([latency["value"]], [latency["low"]], [latency["high"]]),
                error_y=error_bars([energy["value"]], [energy["low"]], [energy["high"]]),
                hovertext=f"{_estimate_name(estimate)}<br>{figures}",
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
    traces, labels = [], []
    for power in range(-3, 5):
        # The line is log E = log t + power and leaves the plot at the right or at the top.
        start, end = max(x[0], y[0] - power), min(x[1], y[1] - power)
        if end - start < 0.15 * (x[1] - x[0]):
            continue
        ends = [10.0**start, 10.0**end]
        traces.append(line(ends, [end * 10.0**power for end in ends], {"color": FAINT, "width": 1.5, "dash": "dash"}))
        place = {"x": end, "y": end + power, "xanchor": "right", "yanchor": "top", "xshift": -8, "yshift": -6}
        labels.append({**place, "text": si(10.0**power, "W", 1), "showarrow": False, "font": {"size": 11}})
    return traces, labels


def _estimate_name(estimate: Mapping[str, Any]) -> str:
    rest = " ".join(str(estimate[key]) for key in ("dtype", "runtime") if estimate.get(key))
    room = "<br>does not fit its memory" if estimate.get("fits") is False else ""
    place = f"<b>{plain(estimate['model'])}</b> on {plain(estimate['arch'])}"
    return f"{place}<br>batch {estimate.get('batch', 1)}, {plain(rest)}{room}"


def fusion_figure(networks: Sequence[FusionSummary]) -> go.Figure | None:
    """Bars of each network: the share of its unfused totals that fusion leaves; `None` without networks."""
    if not networks:
        return None
    names = [plain(network.model) for network in networks]
    traces = []
    for field, label, unit in QUANTITIES:
        shares, texts, hovers = [], [], []
        for network, name in zip(networks, names, strict=True):
            before, after = (amount(getattr(total, field), unit) for total in (network.savings.alone, network.savings.fused))
            saved = network.savings.saved(field)
            shares.append(None if saved is None else 1 - saved)
            texts.append("" if saved is None else f"{before} → {after}")
            hovers.append(f"<b>{name}</b><br>{label}: {before} call by call, {after} fused, {percent(saved)} saved")
        if any(share is not None for share in shares):
            traces.append(
                go.Bar(
                    x=shares,
                    y=names,
                    orientation="h",
                    name=label,
                    marker={"color": _QUANTITY_COLOURS[field]},
                    text=texts,
                    textposition="auto",
                    hovertext=hovers,
                    hoverinfo="text",
                )
            )
    x = {"title": {"text": "left after fusion, of the same network call by call"}, "tickformat": ".0%", "rangemode": "tozero"}
    y = {"autorange": "reversed", "showgrid": False}
    layout = {"barmode": "group", "bargap": 0.3, "shapes": [vertical_line(1, {"color": GREY, "dash": "dot"})]}
    return figure(traces, x, y, height=130 + 86 * len(networks), layout=layout)
