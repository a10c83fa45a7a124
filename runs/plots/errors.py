"""Plots of the error report: estimates against measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import quantiles

from shmoo.estimators.graph.records import FAMILIES
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.registry import grouped
from shmoo.estimators.units import percent, si, span
from shmoo.runs.analysis.error_records import CaseError, NetworkError, network_name
from shmoo.runs.plots import chart

_MARKERS = {"operator": ("circle", 6.0, 0.6), "synthetic": ("diamond", 9.0, 0.6), "network": ("star", 15.0, 1.0)}
"""Symbol, size and opacity by kind of case."""
_ROOF_LINES = ("solid", "dash", "dot", "dashdot")
ALL_POINTS = 60
"""Groups up to this size show every case beside their box; larger ones show only cases beyond the whiskers."""


def parity_figure(cases: Sequence[CaseError]) -> chart.Figure:
    """Estimated against measured latency by group, with the ±20 % band; networks are stars with their intervals."""
    everything = [value for case in cases for value in (case.measured_s, case.estimate_s.value)]
    ends = (min(everything) / 2, max(everything) * 2)
    lows, highs = tuple(0.8 * end for end in ends), tuple(1.2 * end for end in ends)
    marks: list[chart.Mark] = [chart.Band(x=ends, low=lows, high=highs, name="within 20 %"), chart.Guide(x=ends, y=ends)]
    for group, members in _by_group(cases):
        marks.append(
            _points(group, members, lambda c: c.measured_s, lambda c: c.estimate_s.value, members[0].case.kind == "network")
        )
    x, y = (chart.log_axis(f"{side} latency", everything, "s") for side in ("measured", "estimated"))
    return chart.figure(*marks, x=x, y=y, height=620)


def _points(
    group: str,
    members: Sequence[CaseError],
    x: Callable[[CaseError], float],
    y: Callable[[CaseError], float],
    intervals: bool = False,
) -> chart.Points:
    symbol, size, opacity = _MARKERS[members[0].case.kind]
    return chart.Points(
        x=tuple(map(x, members)),
        y=tuple(map(y, members)),
        name=group,
        colour=chart.colour_of(group),
        texts=tuple(map(_text, members)),
        symbol=symbol,
        size=size,
        opacity=opacity,
        low=tuple(case.estimate_s.low for case in members) if intervals else (),
        high=tuple(case.estimate_s.high for case in members) if intervals else (),
    )


def roofline_figure(cases: Sequence[CaseError], profile: ArchitectureProfile) -> chart.Figure:
    """Achieved flop/s against arithmetic intensity of every case, under the roofs of the profile's units and memory levels."""

    def intensity(case: CaseError) -> float:
        return case.flops / case.bytes

    def rate(case: CaseError) -> float:
        return case.flops / case.measured_s

    counted = [case for case in cases if case.flops > 0 and case.bytes > 0]
    intensities = [intensity(case) for case in counted] or [1.0]
    rates = [rate(case) for case in counted]
    roofs, x_range, top = roofs_of(profile, intensities, rates)
    marks: list[chart.Mark] = [*roofs, *(_points(group, members, intensity, rate) for group, members in _by_group(counted))]
    x = chart.log_axis("arithmetic intensity, flop per byte moved at least", x_range, "", pad=0.0)
    # Three times the highest roof leaves room for the labels above it.
    y = chart.log_axis("achieved rate", [*rates, 3 * top], "flop/s")
    return chart.figure(*marks, x=x, y=y, height=620)


def roofs_of(
    profile: ArchitectureProfile, intensities: Sequence[float], rates: Sequence[float]
) -> tuple[list[chart.Guide], tuple[float, float], float]:
    """Lines of a machine's bandwidths and float32 peaks with their labels, the span of intensities they cover, and the highest
    peak."""
    units = [u for u in ("matrix", "vector") if profile.get(f"peak.{u}.float32") is not None]
    peaks = {unit: profile.value(f"peak.{unit}.float32") for unit in units}
    top = max(peaks.values(), default=max(rates, default=1.0))
    x_range = (min(intensities) / 2, max(*intensities, top / profile.value(f"bandwidth.{profile.main_memory}")) * 3)
    roofs = []
    for position, level in enumerate(profile.levels):
        bandwidth = profile.value(f"bandwidth.{level}")
        corner = min(max(top / bandwidth, x_range[0]), x_range[1])
        label = f"{level} {si(bandwidth, 'B/s')}"
        ends = (bandwidth * x_range[0], bandwidth * corner)
        roofs.append(chart.Guide(x=(x_range[0], corner), y=ends, line=_ROOF_LINES[position % 4], width=1.5, label=label))
    for peak in dict.fromkeys(peaks.values()):
        units_of_peak = " and ".join(unit for unit in units if peaks[unit] == peak)
        label = f"{units_of_peak} peak {si(peak, 'flop/s')}"
        roofs.append(chart.Guide(x=x_range, y=(peak, peak), width=2.0, label=label))
    return roofs, x_range, top


def residual_figure(cases: Sequence[CaseError]) -> chart.Figure:
    """Signed relative error of every group as boxes: the middle line is the median, the box holds half of the cases."""
    groups = _by_group(cases)[::-1]
    axis = chart.categories("", [f"{group} ({len(members)})" for group, members in groups])
    boxes = [_box([case.error for case in members]) for _, members in groups]
    colours = tuple(chart.colour_of(group) for group, _ in groups)
    everywhere = (axis.low,) * 2, (axis.high,) * 2
    marks: list[chart.Mark] = [
        chart.Band(x=(-0.2, 0.2), low=everywhere[0], high=everywhere[1]),
        chart.Guide(x=(0.0, 0.0), y=(axis.low, axis.high)),
        chart.Boxes(at=tuple(map(float, range(len(groups)))), quartiles=tuple(boxes), colours=colours),
    ]
    for place, ((_, members), box) in enumerate(zip(groups, boxes, strict=True)):
        drawn = [case for case in members if len(members) < ALL_POINTS or not box[0] <= case.error <= box[4]]
        if drawn:
            # Points are spread out, so that points with equal errors stay distinguishable.
            heights = tuple(place + 0.24 * ((7 * i) % 5 - 2) / 2 for i in range(len(drawn)))
            errors, texts = tuple(case.error for case in drawn), tuple(map(_text, drawn))
            marks.append(chart.Points(x=errors, y=heights, texts=texts, colour=colours[place], size=4.0, opacity=0.8))
    errors_in_order = sorted(case.error for case in cases)
    # The axis shows the middle 98 % of cases, so that outliers do not flatten the boxes; the tables list them.
    count = len(errors_in_order)
    low, high = errors_in_order[int(0.01 * count)], errors_in_order[min(int(0.99 * count), count - 1)]
    margin = 0.1 * max(high - low, 0.2)
    x = chart.Axis("(estimated − measured) / measured", "%", low=min(low, -0.2) - margin, high=max(high, 0.2) + margin)
    return chart.figure(*marks, x=x, y=axis, height=max(220, 90 + 34 * len(groups)))


def _box(errors: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Box and whiskers; a whisker ends at the last case within 1.5 box lengths of the box."""
    if len(errors) == 1:
        return (errors[0],) * 5
    first, middle, third = quantiles(errors, n=4, method="inclusive")
    reach = 1.5 * (third - first)
    inside = [error for error in errors if first - reach <= error <= third + reach]
    return min(inside), first, middle, third, max(inside)


def breakdown_figure(networks: Sequence[NetworkError]) -> chart.Figure | None:
    """Measured and estimated time of each network side by side, stacked by family; `None` without child times."""
    drawn = sorted((n for n in networks if n.calls), key=lambda n: n.whole.measured_s)
    if not drawn:
        return None
    families = [f for f in (*FAMILIES, "free") if any(call.family == f for n in drawn for call in n.calls)]
    rows = [(network, side) for network in drawn for side in ("estimated", "measured")]
    ends = [0.0] * len(rows)
    marks = []
    for family in families:
        lengths = [sum(getattr(c, f"{side}_s") for c in network.calls if c.family == family) for network, side in rows]
        starts, ends = ends, [end + length for end, length in zip(ends, lengths, strict=True)]
        marks.append(
            chart.Bars(
                at=tuple(map(float, range(len(rows)))),
                start=tuple(starts),
                end=tuple(ends),
                name=family,
                colour=chart.colour_of(family),
                texts=tuple(f"{n.name}, {side}\n{family}: {si(s, 's')}" for (n, side), s in zip(rows, lengths, strict=True)),
            )
        )
    x = chart.Axis("time inside operators", "s", high=1.03 * max(ends))
    y = chart.categories("", [f"{network.name}, {side}" for network, side in rows])
    return chart.Figure((chart.Chart(x, y, tuple(marks), height=100 + 27 * len(rows)),))


def _by_group(cases: Iterable[CaseError]) -> list[tuple[str, list[CaseError]]]:
    """Cases by group, operators first in the order of `FAMILIES`, networks last so that they are drawn on top."""
    groups = grouped((case.group, case) for case in cases)
    kinds = ("operator", "synthetic", "network")

    def order(group: str) -> tuple[int, int, str]:
        family = group.split(" ")[0]
        return kinds.index(groups[group][0].case.kind), FAMILIES.index(family) if family in FAMILIES else 99, group

    return [(group, groups[group]) for group in sorted(groups, key=order)]


def _text(case: CaseError) -> str:
    name = network_name(case.case) if case.case.kind == "network" else case.case.label
    estimate = case.estimate_s
    return (
        f"{name} ({case.split})\nmeasured {si(case.measured_s, 's')}, estimated {si(estimate.value, 's')} "
        f"({percent(case.error, signed=True)})\n90 % interval {span(estimate.low, estimate.high, 's')}"
    )
