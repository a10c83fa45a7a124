"""Plots of estimates over architectures, from the JSON of `shmoo estimate`, and of fusion savings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shmoo.estimators.present.savings import QUANTITIES, FusionSummary, amount
from shmoo.estimators.units import percent, si, size
from shmoo.runs.analysis.error_records import CaseError
from shmoo.runs.plots import chart

_QUANTITY_COLOURS = {"kernels": "#4f7df3", "bytes": "#19b28a", "latency_s": "#f2803a", "energy_j": "#9a62e8"}


def tiles_figure(cases: Sequence[CaseError], estimates: Sequence[Mapping[str, Any]], local: str) -> chart.Figure:
    """Tiles against bytes moved: the run's cases on the calibrated machine, and the models on every architecture."""
    marks = []
    members = [case for case in cases if case.tiles > 0 and case.bytes > 0]
    if members:
        texts = tuple(f"{c.case.label}\n{c.tiles:,.0f} tiles, {size(c.bytes)}" for c in members)
        x, y = tuple(c.bytes for c in members), tuple(c.tiles for c in members)
        marks.append(
            chart.Points(x=x, y=y, texts=texts, name=f"measured cases on {local}", colour=chart.GREY, size=5.0, opacity=0.5)
        )
    drawn = [e for e in estimates if e.get("tiles") and e.get("bytes")]
    for family in (*chart.ARCHITECTURE_COLOURS, ""):
        of_family = [e for e in drawn if chart.architecture_family(str(e["arch"])) == family]
        if of_family:
            marks.append(
                chart.Points(
                    x=tuple(e["bytes"] for e in of_family),
                    y=tuple(e["tiles"] for e in of_family),
                    texts=tuple(f"{_estimate_name(e)}\n{e['tiles']:,.0f} tiles, {size(e['bytes'])}" for e in of_family),
                    name=f"models on {family or 'others'}",
                    colour=chart.ARCHITECTURE_COLOURS.get(family, chart.GREY),
                    symbol="star",
                    size=13.0,
                )
            )
    x_axis = chart.log_axis("bytes moved at least", [b for mark in marks for b in mark.x], "B")
    return chart.figure(*marks, x=x_axis, y=chart.log_axis("tiles", [n for mark in marks for n in mark.y], ""), height=520)


def energy_figure(estimates: Sequence[Mapping[str, Any]]) -> chart.Figure | None:
    """Energy against latency with 90 % intervals and lines of equal power; `None` when no estimate has an energy."""
    complete = [e for e in estimates if e.get("latency_s") and e.get("energy_j")]
    if not complete:
        return None
    models = list(dict.fromkeys(str(e["model"]) for e in complete))
    latencies, energies = ([e[name][end] for e in complete for end in ("low", "high")] for name in ("latency_s", "energy_j"))
    x, y = chart.log_axis("latency", latencies, "s"), chart.log_axis("energy", energies, "J")
    marks: list[chart.Mark] = [*_power_lines(x, y)]
    legend_names: set[str] = set()
    for estimate in complete:
        latency, energy, family = estimate["latency_s"], estimate["energy_j"], chart.architecture_family(str(estimate["arch"]))
        values = f"{si(latency['value'], 's')}, {si(energy['value'], 'J')}, {si(energy['value'] / latency['value'], 'W')}"
        name = family or "other"
        marks.append(
            chart.Points(
                x=(latency["value"],),
                y=(energy["value"],),
                texts=(f"{_estimate_name(estimate)}\n{values}",),
                name=name,
                listed=name not in legend_names,
                colour=chart.ARCHITECTURE_COLOURS.get(family, chart.GREY),
                size=11.0,
                symbol=chart.SYMBOLS[models.index(str(estimate["model"])) % len(chart.SYMBOLS)],
                left=(latency["low"],),
                right=(latency["high"],),
                low=(energy["low"],),
                high=(energy["high"],),
            )
        )
        legend_names.add(name)
    # Legend entries without points: the symbol of each model.
    symbols = [chart.SYMBOLS[position % len(chart.SYMBOLS)] for position in range(len(models))]
    marks += [
        chart.Points(x=(), y=(), name=model, colour=chart.GREY, symbol=symbol)
        for model, symbol in zip(models, symbols, strict=True)
    ]
    return chart.figure(*marks, x=x, y=y, height=580)


def _power_lines(x: chart.Axis, y: chart.Axis) -> list[chart.Guide]:
    """Lines of constant power with labels, for logarithmic axes."""
    guides = []
    for exponent in range(-3, 5):
        power = 10.0**exponent
        # The line is E = t * power and leaves the plot at the right or at the top.
        start, end = max(x.low, y.low / power), min(x.high, y.high / power)
        if end > start and math.log(end / start) > 0.15 * math.log(x.high / x.low):
            ends = (start * power, end * power)
            guides.append(
                chart.Guide(x=(start, end), y=ends, line="dash", colour="var(--line)", width=1.5, label=si(power, "W", 1))
            )
    return guides


def _estimate_name(estimate: Mapping[str, Any]) -> str:
    settings = " ".join(str(estimate[key]) for key in ("dtype", "runtime") if estimate.get(key))
    room = "\ndoes not fit its memory" if estimate.get("fits") is False else ""
    return f"{estimate['model']} on {estimate['arch']}\nbatch {estimate.get('batch', 1)}, {settings}{room}"


def fusion_figure(networks: Sequence[FusionSummary]) -> chart.Figure | None:
    """Bars for each network: the share of its unfused totals that remains after fusion; `None` without networks."""
    if not networks:
        return None
    networks = networks[::-1]
    marks: list[chart.Mark] = []
    largest = 1.0
    for position, (field, label, unit) in enumerate(QUANTITIES):
        places, shares, labels, texts = [], [], [], []
        for place, network in enumerate(networks):
            saved = network.savings.saved(field)
            if saved is None:
                continue
            before, after = (amount(getattr(total, field), unit) for total in (network.savings.alone, network.savings.fused))
            places.append(place + 0.3 - 0.2 * position)
            shares.append(1 - saved)
            labels.append(f"{before} → {after}")
            texts.append(f"{network.model}\n{label}: {before} call by call, {after} fused, {percent(saved)} saved")
        largest = max([largest, *shares])
        if shares:
            marks.append(
                chart.Bars(
                    at=tuple(places),
                    start=(0.0,) * len(shares),
                    end=tuple(shares),
                    name=label,
                    colour=_QUANTITY_COLOURS[field],
                    texts=tuple(texts),
                    labels=tuple(labels),
                    thickness=0.19,
                )
            )
    x = chart.Axis("left after fusion, of the same network call by call", "%", high=1.25 * largest)
    y = chart.categories("", [network.model for network in networks])
    return chart.Figure((chart.Chart(x, y, (*marks, chart.Rule(x=1.0, label="no saving")), height=110 + 86 * len(networks)),))
