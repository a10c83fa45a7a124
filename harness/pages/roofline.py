"""The roofline page of an inspection, one self-contained file: predicted kernels under the peaks and bandwidths of a machine,
with the measured calls of a run beside them (Williams, Waterman and Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.model import matrix_peak
from shmoo.estimators.present.inspection import Inspection
from shmoo.estimators.units import si
from shmoo.runs.analysis.calls import MeasuredCall

WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 16, 52
STYLE = Path(__file__).parent / "explore.css"
_LEAST_RADIUS, _MOST_RADIUS = 2.5, 16.0


@dataclass(frozen=True, slots=True)
class Point:
    """A kernel or a call: flop a byte, flop/s, its share of the time, what bounds it ("" for a measured one), and its text."""

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
    measured: Sequence[MeasuredCall] = (),
) -> None:
    """Write the page for one of the inspection's architectures. It needs no network.

    Args:
        dtype: type of the contractions, whose peak is the roof.
        measured: calls of a run, timed one by one.

    Raises:
        OSError: the file cannot be written.
    """
    points = kernel_points(inspection, profile.name)
    title = escape(f"Roofline of {inspection.model} on {profile.name}")
    without = len(inspection.kernels[profile.name]) - len(points)
    said = (
        f"Each dot is a predicted kernel, as large as its share of the time: {len(points)} of them; {without} without flops "
        "have no place here. Bytes are those that must move once."
    )
    if measured:
        said += " Hollow diamonds are calls of the run, each timed alone in eager execution."
    style = STYLE.read_text(encoding="utf-8")
    keys = " ".join(f"<b class='{bound}'>{bound}</b>" for bound in ("compute", "memory", "launch"))
    Path(path).write_text(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><header><h1>{title}</h1><p>{escape(said)} Bound by: {keys}</p></header>
<main style="display:block"><figure>{_svg(points, call_points(measured), roofs_of(profile, dtype))}</figure></main></body></html>
""",
        encoding="utf-8",
    )


def kernel_points(inspection: Inspection, arch: str) -> list[Point]:
    """The kernels that compute, by the time they add to the call."""
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


def call_points(measured: Sequence[MeasuredCall]) -> list[Point]:
    """The measured calls that compute."""
    total = sum(call.time_s for call in measured)
    return [
        Point(
            call.flops / call.bytes,
            call.flops / call.time_s,
            call.time_s / total,
            "",
            f"measured: {call.op} in {call.module or 'the model itself'}: {si(call.time_s, 's')}",
        )
        for call in measured
        if call.flops > 0 and call.bytes > 0 and call.time_s > 0
    ]


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


def _svg(points: Sequence[Point], calls: Sequence[Point], roofs: Sequence[tuple[str, float, float]]) -> str:
    every = [*points, *calls]
    peak = max(roof for _, _, roof in roofs)
    main = min(bandwidth for _, bandwidth, _ in roofs)
    ridge = peak / main
    x_low, x_high = _decades([*(p.intensity for p in every), ridge / 10, ridge * 10])
    y_low, y_high = _decades([*(p.rate for p in every), peak, main * 10**x_low])

    def x(intensity: float) -> float:
        return LEFT + (math.log10(intensity) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(rate) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="roofline">']
    for power in range(x_low, x_high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(y_low, y_high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{si(10.0**power, "flop/s", 1)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">flop a byte</text>')
    for name, bandwidth, roof in roofs:
        first = 10.0**x_low if math.isinf(bandwidth) else max(10.0**x_low, 10.0**y_low / bandwidth)
        last = 10.0**x_high if math.isinf(bandwidth) else min(roof / bandwidth, 10.0**x_high)
        if first >= last:
            continue
        start, end = (min(roof, bandwidth * at) for at in (first, last))
        place = f'x1="{x(first):.1f}" y1="{y(start):.1f}" x2="{x(last):.1f}" y2="{y(end):.1f}"'
        parts.append(f'<line class="line" {place}/>')
        anchor = ("end", x(last) - 4, y(end) - 5) if math.isinf(bandwidth) else ("start", x(first) + 14, y(start) + 8)
        parts.append(f'<text x="{anchor[1]:.1f}" y="{anchor[2]:.1f}" text-anchor="{anchor[0]}">{escape(name)}</text>')
    for p in sorted(points, key=lambda p: -p.share):
        radius = max(_LEAST_RADIUS, _MOST_RADIUS * math.sqrt(p.share))
        place = f'cx="{x(p.intensity):.1f}" cy="{y(p.rate):.1f}" r="{radius:.1f}"'
        parts.append(
            f'<circle class="{p.bound}" {place} fill="currentColor" fill-opacity=".6"><title>{escape(p.text)}</title></circle>'
        )
    for p in calls:
        at, up = x(p.intensity), y(p.rate)
        corners = f"{at:.1f},{up - 5:.1f} {at + 5:.1f},{up:.1f} {at:.1f},{up + 5:.1f} {at - 5:.1f},{up:.1f}"
        parts.append(f'<polygon class="line" points="{corners}"><title>{escape(p.text)}</title></polygon>')
    return "".join([*parts, "</svg>"])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Whole powers of ten around positive values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
