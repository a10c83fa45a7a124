"""Plots of the error report: estimates against measurements. plotly is imported when a plot is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shmoo.estimators.present import percent, si
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import FAMILIES
from shmoo.runs.error_records import CaseError, NetworkError, network_name
from shmoo.runs.plot_style import (
    FAINT,
    GREY,
    colour_of,
    figure,
    log_axis,
    plain,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def parity_figure(cases: Sequence[CaseError]) -> go.Figure:
    """Estimated against measured latency by group, with the ±20 % band; networks are stars with their intervals."""
    import plotly.graph_objects as go

    everything = [value for case in cases for value in (case.measured_s, case.estimate_s.value)]
    ends = [min(everything) / 2, max(everything) * 2]
    traces: list[Any] = [
        go.Scatter(x=ends, y=[0.8 * e for e in ends], mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False),
        go.Scatter(
            x=ends,
            y=[1.2 * e for e in ends],
            mode="lines",
            line={"width": 0},
            fill="tonexty",
            fillcolor="rgba(63,175,70,0.16)",
            hoverinfo="skip",
            name="within 20 %",
        ),
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip", showlegend=False),
    ]
    for group, members in _by_group(cases):
        network = members[0].case.kind == "network"
        marker = {"color": colour_of(group), "size": 13 if network else 6, "opacity": 1.0 if network else 0.6}
        if network:
            marker |= {"symbol": "star"}
        elif members[0].case.kind == "synthetic":
            marker |= {"symbol": "diamond", "size": 8}
        errors = None
        if network:
            errors = {
                "type": "data",
                "symmetric": False,
                "array": [c.estimate_s.high - c.estimate_s.value for c in members],
                "arrayminus": [c.estimate_s.value - c.estimate_s.low for c in members],
                "thickness": 1,
                "width": 3,
            }
        traces.append(
            go.Scatter(
                x=[c.measured_s for c in members],
                y=[c.estimate_s.value for c in members],
                mode="markers",
                name=group,
                marker=marker,
                error_y=errors,
                hovertext=[_hover(c) for c in members],
                hoverinfo="text",
            )
        )
    return figure(
        traces,
        log_axis("measured latency", everything, "s"),
        log_axis("estimated latency", everything, "s"),
        height=620,
    )


def roofline_figure(cases: Sequence[CaseError], profile: ArchitectureProfile) -> go.Figure:
    """Achieved flop/s over arithmetic intensity of every case, under the roofs of the profile's units and memory levels."""
    import plotly.graph_objects as go

    counted = [case for case in cases if case.flops > 0 and case.bytes > 0]
    intensities = [case.flops / case.bytes for case in counted] or [1.0]
    rates = [case.flops / case.measured_s for case in counted]
    units = [u for u in ("matrix", "vector") if profile.get(f"peak.{u}.float32") is not None]
    peaks = {unit: profile.value(f"peak.{unit}.float32") for unit in units}
    top = max(peaks.values(), default=max(rates, default=1.0))
    span = [min(intensities) / 2, max(*intensities, top / profile.value(f"bandwidth.{profile.levels[-1]}")) * 3]
    traces: list[Any] = []
    corners = []
    for position, level in enumerate(profile.levels):
        bandwidth = profile.value(f"bandwidth.{level}")
        corner = min(max(top / bandwidth, span[0]), span[1])
        ends = [span[0], corner]
        traces.append(
            go.Scatter(
                x=ends,
                y=[bandwidth * end for end in ends],
                mode="lines",
                line={"color": GREY, "width": 1.5, "dash": ("solid", "dash", "dot", "dashdot")[position % 4]},
                hovertext=f"{plain(level)} {si(bandwidth, 'B/s')}",
                hoverinfo="text",
                showlegend=False,
            )
        )
        corners.append(_roof_label(f"{level} {si(bandwidth, 'B/s')}", corner, bandwidth * corner, angle=-38))
    for peak in dict.fromkeys(peaks.values()):
        units_of_peak = " and ".join(unit for unit in units if peaks[unit] == peak)
        traces.append(
            go.Scatter(x=span, y=[peak, peak], mode="lines", line={"color": GREY, "width": 2}, hoverinfo="skip", showlegend=False)
        )
        corners.append(_roof_label(f"{units_of_peak} peak {si(peak, 'flop/s')}", span[1], peak, anchor="right"))
    for group, members in _by_group(counted):
        network = members[0].case.kind == "network"
        traces.append(
            go.Scatter(
                x=[c.flops / c.bytes for c in members],
                y=[c.flops / c.measured_s for c in members],
                mode="markers",
                name=group,
                marker={
                    "color": colour_of(group),
                    "size": 13 if network else 6,
                    "opacity": 1.0 if network else 0.6,
                    "symbol": "star" if network else "circle",
                },
                hovertext=[
                    f"{_hover(c)}<br>{si(c.flops / c.measured_s, 'flop/s')} at {c.flops / c.bytes:.3g} flop/B" for c in members
                ],
                hoverinfo="text",
            )
        )
    x = log_axis("arithmetic intensity, flop per byte moved at least", span, "", pad=0.0)
    # Three times the highest roof leaves room for the labels above it.
    y = log_axis("achieved flop/s", [*rates, 3 * top], "flop/s")
    return figure(traces, x, y, height=620, layout={"annotations": corners})


def _roof_label(text: str, x: float, y: float, angle: float = 0, anchor: str = "left") -> dict[str, Any]:
    # Annotations on logarithmic axes stand at the logarithm.
    place = {"x": math.log10(x), "y": math.log10(y), "xanchor": anchor, "yanchor": "bottom", "textangle": angle}
    return {**place, "text": plain(text), "showarrow": False, "font": {"size": 11}}


def residual_figure(cases: Sequence[CaseError]) -> go.Figure:
    """Signed relative error of every group as boxes: the middle line is the median, the box holds half of the cases."""
    import plotly.graph_objects as go

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
    # A few far outliers must not press every box into a line: the axis opens on the middle 98 % and can be zoomed out.
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
    """Where each network's time goes, measured and estimated side by side, stacked by family; `None` without child times."""
    import plotly.graph_objects as go

    shown = sorted((n for n in networks if n.calls), key=lambda n: n.whole.measured_s)
    if not shown:
        return None
    families = [f for f in (*FAMILIES, "free") if any(call.family == f for n in shown for call in n.calls)]
    names = [plain(n.name) for n in shown for _ in range(2)]
    sides = ["estimated", "measured"] * len(shown)
    traces = []
    for family in families:
        lengths = []
        for network in shown:
            of_family = [call for call in network.calls if call.family == family]
            lengths += [sum(call.estimated_s for call in of_family), sum(call.measured_s for call in of_family)]
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
