"""The roofline page of an inspection: predicted kernels under the peaks and bandwidths of a machine,
with the measured calls of a run beside them (Williams, Waterman and Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shmoo.estimators.costs import costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.limits import matrix_peak
from shmoo.estimators.present.inspection import Inspection
from shmoo.estimators.units import counted, percent, si
from shmoo.harness.pages.inspect import COLOURS
from shmoo.runs.plots.chart import Figure, Guide, Mark, Points, figure, log_axis
from shmoo.runs.plots.page import page, plot, section, write
from shmoo.runs.store.store import Run

_LEAST_SIZE, _MOST_SIZE = 5.0, 32.0
"""Diameter in pixels of the dots of kernels with none and with all of the time."""


@dataclass(frozen=True, slots=True)
class Point:
    """A kernel or a measured call: flop per byte, flop/s, its share of the time and its bound (0 and "" for a measured call), and
    its text."""

    intensity: float
    rate: float
    share: float
    bound: str
    text: str


def write_roofline(
    inspection: Inspection,
    profile: ArchitectureProfile,
    dtype: str,
    path: str | Path,
    calls: Sequence[Point] = (),
) -> None:
    """Write the page for one of the inspection's architectures, under the roof of `dtype`, the type of the contractions;
    `calls` are those of a run, timed one by one."""
    points = kernel_points(inspection, profile.name)
    without = len(inspection.kernels[profile.name]) - len(points)
    explanation = "Each dot is a predicted kernel, as large as its share of the time. Bytes are counted once each."
    if without:
        explanation += f" Kernels without flops ({without}) are left out."
    if calls:
        explanation += " Diamonds are calls of the run, each timed alone in eager execution."
    of_bound = {bound: sum(point.share for point in points if point.bound == bound) for bound in COLOURS}
    main_bound = max(of_bound, key=lambda bound: of_bound[bound])
    text = page(
        f"Roofline of {inspection.model} on {profile.name}",
        section(
            "roofline", "Kernels under their roofs", explanation, plot("roofline", "achieved rate over arithmetic intensity")
        ),
        eyebrow="Roofline",
        answer=(
            f"{counted(len(points), 'kernel')} with flops; those bound by {main_bound} take "
            f"{percent(of_bound[main_bound], digits=0)} of the time."
        ),
        figures={"roofline": roofline_figure(points, calls, roofs_of(profile, dtype))},
        footer="estimates, with measured calls beside them" if calls else "estimates, no measurements",
    )
    write(text, path)


def kernel_points(inspection: Inspection, arch: str) -> list[Point]:
    """The kernels with flops, with the time that each adds to the call."""
    total = inspection.modules[0].on[arch].latency_s
    points = []
    for node in inspection.kernels[arch]:
        kernel = node.kernel
        if kernel.flops > 0 and kernel.bytes > 0 and kernel.elapsed_s > 0:
            name = f"{kernel.label.rpartition(':')[2]} in {node.module or inspection.model}"
            rate = kernel.flops / kernel.elapsed_s
            text = f"{name}: {si(kernel.elapsed_s, 's')}, {si(rate, 'flop/s')}, {si(kernel.flops / kernel.bytes, 'flop/B')}"
            points.append(Point(kernel.flops / kernel.bytes, rate, kernel.elapsed_s / total, kernel.bound, text))
    return points


def call_points(run: Run, workload: str) -> list[Point]:
    """The calls with flops in a run's usable rows of a network, timed inside it in eager execution; their work is without fusion.
    `InputError` where the run has no such row, `FormatError` where a stored graph is damaged."""
    rows = [row for row in run.rows if row.case.workload == workload and row.timed and row.children]
    if not rows:
        timed_networks = sorted({row.case.workload for row in run.rows if row.children})
        hint = f"; it timed those of {', '.join(timed_networks)}" if timed_networks else ""
        raise InputError(f"the run timed no single calls of {workload!r}{hint}")
    points = []
    for row in rows:
        # Child times index the calls of all graphs of the network in order.
        calls = [pair for graph in run.graphs(row) for pair in zip(graph.calls, costs_of(graph), strict=True)]
        for child in row.children:
            call, cost = calls[child.call]
            if cost is not None and cost.flops > 0 and cost.bytes > 0 and child.time_s > 0:
                text = f"measured: {child.op} in {call.module or 'the model itself'}: {si(child.time_s, 's')}"
                points.append(Point(cost.flops / cost.bytes, cost.flops / child.time_s, 0.0, "", text))
    return points


def roofs_of(profile: ArchitectureProfile, dtype: str) -> list[tuple[str, float, float]]:
    """Roofs as (name, bytes a second, flop/s): a peak has an infinite bandwidth."""
    c = Coefficients(profile)
    peak = float(matrix_peak(c, dtype))
    roofs = [(f"peak of {dtype} {si(peak, 'flop/s')}", math.inf, peak)]
    vector = c.find(f"peak.vector.{dtype}", "peak.vector.float32")
    if vector is not None and float(vector) < peak:
        roofs.append((f"peak of vectors {si(float(vector), 'flop/s')}", math.inf, float(vector)))
    for level in profile.levels:
        bandwidth = profile.get(f"bandwidth.{level}")
        if bandwidth is not None:
            roofs.append((f"{level} {si(bandwidth.value, 'B/s')}", bandwidth.value, peak))
    return roofs


def roofline_figure(points: Sequence[Point], calls: Sequence[Point], roofs: Sequence[tuple[str, float, float]]) -> Figure:
    """Kernels by their bound, and measured calls, under their roofs."""
    every = [*points, *calls]
    peak, main = max(roof for _, _, roof in roofs), min(bandwidth for _, bandwidth, _ in roofs)
    x = log_axis("flop per byte", [*(p.intensity for p in every), peak / main / 10, peak / main * 10], "")
    y = log_axis("achieved rate", [*(p.rate for p in every), 3 * peak, main * x.low], "flop/s")
    marks: list[Mark] = []
    for name, bandwidth, roof in roofs:
        first = x.low if math.isinf(bandwidth) else max(x.low, y.low / bandwidth)
        last = x.high if math.isinf(bandwidth) else min(roof / bandwidth, x.high)
        if first < last:
            ends = (min(roof, bandwidth * first), min(roof, bandwidth * last))
            marks.append(Guide(x=(first, last), y=ends, width=1.5, label=name))
    for bound, colour in (*COLOURS.items(), ("", "var(--ink)")):
        members = sorted((p for p in points if p.bound == bound), key=lambda p: -p.share) if bound else calls
        if members:
            dots = Points(
                x=tuple(p.intensity for p in members),
                y=tuple(p.rate for p in members),
                texts=tuple(p.text for p in members),
                name=f"bound by {bound}" if bound else "measured",
                colour=colour,
                symbol="circle" if bound else "diamond",
                size=7.0 if bound else 9.0,
                sizes=tuple(max(_LEAST_SIZE, _MOST_SIZE * math.sqrt(p.share)) for p in members) if bound else (),
                opacity=0.65 if bound else 1.0,
            )
            marks.append(dots)
    return figure(*marks, x=x, y=y, height=620)
