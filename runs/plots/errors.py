"""Plots of the error report: estimates against measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from shmoo.estimators.graph.records import FAMILIES
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.units import percent, si
from shmoo.runs.analysis.error_records import CaseError, NetworkError, network_name
from shmoo.runs.plots.style import FAINT, GREY, colour_of, error_bars, figure, line, log_axis, plain

_MARKERS = {
    "operator": {"symbol": "circle", "size": 6, "opacity": 0.6},
    "synthetic": {"symbol": "diamond", "size": 8, "opacity": 0.6},
    "network": {"symbol": "star", "size": 13, "opacity": 1.0},
}


def parity_figure(cases: Sequence[CaseError]) -> go.Figure:
    """Estimated against measured latency by group, with the ±20 % band; networks are stars with their intervals."""
    everything = [value for case in cases for value in (case.measured_s, case.estimate_s.value)]
    ends = [min(everything) / 2, max(everything) * 2]
    band = {"fill": "tonexty", "fillcolor": "rgba(63,175,70,0.16)", "name": "within 20 %", "showlegend": True}
    traces = [
        line(ends, [0.8 * end for end in ends], {"width": 0}),
        line(ends, [1.2 * end for end in ends], {"width": 0}).update(band),
        line(ends, ends, {"color": GREY, "width": 1}),
    ]
    for group, members in _by_group(cases):
        trace = _scatter(group, members, lambda c: c.measured_s, lambda c: c.estimate_s.value, _hover)
        if members[0].case.kind == "network":
            estimates = [c.estimate_s for c in members]
            trace.error_y = error_bars(trace.y, [e.low for e in estimates], [e.high for e in estimates], width=3)
        traces.append(trace)
    x, y = (log_axis(f"{side} latency", everything, "s") for side in ("measured", "estimated"))
    return figure(traces, x, y, height=620)


def _scatter(
    group: str,
    members: Sequence[CaseError],
    x: Callable[[CaseError], float],
    y: Callable[[CaseError], float],
    hover: Callable[[CaseError], str],
) -> go.Scatter:
    return go.Scatter(
        x=[x(case) for case in members],
        y=[y(case) for case in members],
        mode="markers",
        name=group,
        marker={"color": colour_of(group), **_MARKERS[members[0].case.kind]},
        hovertext=[hover(case) for case in members],
        hoverinfo="text",
    )


def roofline_figure(cases: Sequence[CaseError], profile: ArchitectureProfile) -> go.Figure:
    """Achieved flop/s over arithmetic intensity of every case, under the roofs of the profile's units and memory levels."""

    def intensity(case: CaseError) -> float:
        return case.flops / case.bytes

    def rate(case: CaseError) -> float:
        return case.flops / case.measured_s

    def hover(case: CaseError) -> str:
        return f"{_hover(case)}<br>{si(rate(case), 'flop/s')} at {intensity(case):.3g} flop/B"

    counted = [case for case in cases if case.flops > 0 and case.bytes > 0]
    intensities = [intensity(case) for case in counted] or [1.0]
    rates = [rate(case) for case in counted]
    units = [u for u in ("matrix", "vector") if profile.get(f"peak.{u}.float32") is not None]
    peaks = {unit: profile.value(f"peak.{unit}.float32") for unit in units}
    top = max(peaks.values(), default=max(rates, default=1.0))
    span = [min(intensities) / 2, max(*intensities, top / profile.value(f"bandwidth.{profile.levels[-1]}")) * 3]
    traces: list[Any] = []
    labels = []
    for position, level in enumerate(profile.levels):
        bandwidth = profile.value(f"bandwidth.{level}")
        corner = min(max(top / bandwidth, span[0]), span[1])
        dash = ("solid", "dash", "dot", "dashdot")[position % 4]
        roof = line([span[0], corner], [bandwidth * span[0], bandwidth * corner], {"color": GREY, "width": 1.5, "dash": dash})
        text = f"{level} {si(bandwidth, 'B/s')}"
        traces.append(roof.update(hovertext=plain(text), hoverinfo="text"))
        labels.append(_roof_label(text, corner, bandwidth * corner, angle=-38))
    for peak in dict.fromkeys(peaks.values()):
        units_of_peak = " and ".join(unit for unit in units if peaks[unit] == peak)
        traces.append(line(span, [peak, peak], {"color": GREY, "width": 2}))
        labels.append(_roof_label(f"{units_of_peak} peak {si(peak, 'flop/s')}", span[1], peak, anchor="right"))
    traces += [_scatter(group, members, intensity, rate, hover) for group, members in _by_group(counted)]
    x = log_axis("arithmetic intensity, flop per byte moved at least", span, "", pad=0.0)
    # Three times the highest roof leaves room for the labels above it.
    y = log_axis("achieved flop/s", [*rates, 3 * top], "flop/s")
    return figure(traces, x, y, height=620, layout={"annotations": labels})


def _roof_label(text: str, x: float, y: float, angle: float = 0, anchor: str = "left") -> dict[str, Any]:
    # plotly places annotations on logarithmic axes by the logarithm.
    place = {"x": math.log10(x), "y": math.log10(y), "xanchor": anchor, "yanchor": "bottom", "textangle": angle}
    return {**place, "text": plain(text), "showarrow": False, "font": {"size": 11}}


def residual_figure(cases: Sequence[CaseError]) -> go.Figure:
    """Signed relative error of every group as boxes: the middle line is the median, the box holds half of the cases."""
    groups = list(_by_group(cases))
    traces = [
        go.Box(
            x=[c.error for c in members],
            name=f"{group} ({len(members)})",
            orientation="h",
            marker={"color": colour_of(group), "size": 4},
            line={"width": 1.5},
            boxpoints="all" if len(members) < 60 else "outliers",
            jitter=0.5,
            pointpos=0,
            hovertext=[_hover(c) for c in members],
            hoverinfo="text",
            showlegend=False,
        )
        for group, members in reversed(groups)
    ]
    errors = sorted(case.error for case in cases)
    # The axis opens on the middle 98 % of cases, so that outliers do not flatten the boxes; zooming out shows them.
    low, high = errors[int(0.01 * len(errors))], errors[min(int(0.99 * len(errors)), len(errors) - 1)]
    margin = 0.1 * max(high - low, 0.2)
    x = {
        "title": {"text": "(estimated − measured) / measured"},
        "tickformat": "+.0%",
        "range": [min(low, -0.2) - margin, max(high, 0.2) + margin],
        "zeroline": True,
        "zerolinecolor": GREY,
    }
    band = {"type": "rect", "yref": "paper", "x0": -0.2, "x1": 0.2, "y0": 0, "y1": 1}
    band |= {"fillcolor": "rgba(63,175,70,0.12)", "line": {"width": 0}, "layer": "below"}
    height = max(260, 90 + 42 * len(groups))
    return figure(traces, x, {"showgrid": False}, height=height, layout={"shapes": [band]})


def breakdown_figure(networks: Sequence[NetworkError]) -> go.Figure | None:
    """Measured and estimated time of each network side by side, stacked by family; `None` without child times."""
    shown = sorted((n for n in networks if n.calls), key=lambda n: n.whole.measured_s)
    if not shown:
        return None
    families = [f for f in (*FAMILIES, "free") if any(call.family == f for n in shown for call in n.calls)]
    names = [plain(n.name) for n in shown for _ in range(2)]
    sides = ["estimated", "measured"] * len(shown)
    traces = []
    for family in families:
        calls = [[call for call in network.calls if call.family == family] for network in shown]
        lengths = [sum(getattr(call, f"{side}_s") for call in calls[i // 2]) for i, side in enumerate(sides)]
        traces.append(
            go.Bar(
                y=[names, sides],
                x=[1e3 * length for length in lengths],
                orientation="h",
                name=family,
                marker={"color": colour_of(family), "line": {"width": 0}},
                hovertext=[f"{n}, {s}<br>{family}: {si(t, 's')}" for n, s, t in zip(names, sides, lengths, strict=True)],
                hoverinfo="text",
            )
        )
    x = {"title": {"text": "time inside operators, ms"}}
    y = {"showgrid": False, "dividercolor": FAINT, "tickfont": {"size": 11}}
    return figure(traces, x, y, height=120 + 62 * len(shown), layout={"barmode": "stack", "bargap": 0.18})


def _by_group(cases: Iterable[CaseError]) -> list[tuple[str, list[CaseError]]]:
    """Cases by group, operators first in the order of `FAMILIES`, networks last so that they are drawn on top."""
    groups: dict[str, list[CaseError]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    kinds = ("operator", "synthetic", "network")

    def order(group: str) -> tuple[int, int, str]:
        family = group.split(" ")[0]
        return kinds.index(groups[group][0].case.kind), FAMILIES.index(family) if family in FAMILIES else 99, group

    return [(group, groups[group]) for group in sorted(groups, key=order)]


def _hover(case: CaseError) -> str:
    name = network_name(case.case) if case.case.kind == "network" else case.case.label
    return (
        f"<b>{plain(name)}</b> ({case.split})<br>measured {si(case.measured_s, 's')}, estimated {si(case.estimate_s.value, 's')} "
        f"({percent(case.error, signed=True)})<br>90 % interval {si(case.estimate_s.low, 's')} to {si(case.estimate_s.high, 's')}"
    )
