"""The page of a design space, one self-contained file: the front among other designs, on which a design opens its breakdown."""

from __future__ import annotations

import json
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.present.spending import by_bound
from shmoo.estimators.sweep.explore import Front, Space, front_rows
from shmoo.estimators.units import amount, percent, si
from shmoo.estimators.variants import variant

PAGES = Path(__file__).parent
MOST_OPENED = 100
"""Designs of a front with a breakdown, evenly spread over it."""
KERNELS = 8
"""Kernels of a breakdown."""


def write_page(space: Space, front: Front, path: str | Path) -> None:
    """Write the page. It contains data, style and script and needs no network.

    Raises:
        OSError: the file cannot be written.
    """
    models = ", ".join(workload.name for workload in space.workloads)
    title = escape(f"{models} on designs of {space.profile.name}")
    # Without "<" nothing in the JSON can end its script element.
    data = json.dumps(page_data(space, front), allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    style, script = ((PAGES / name).read_text(encoding="utf-8") for name in ("explore.css", "explore.js"))
    looked_at = (
        f"{front.points:,} designs, {front.allowed:,} within the limits, {len(front)} on the front; it holds "
        f"{percent(front.hypervolume, digits=0)} of the box between best and worst"
    )
    Path(path).write_text(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><header><h1>{title}</h1><p>{escape(looked_at)}</p></header>
<main><figure><svg role="group" aria-label="designs by two quantities"></svg>
<figcaption>Logarithmic axes. Dots on the line are the front: open one with a click, or with Enter.</figcaption></figure>
<section id="design" aria-live="polite"><p>Open a design to see its numbers and where its time goes.</p></section></main>
<script type="application/json" id="front-data">{data}</script>
<script>{script}</script></body></html>
""",
        encoding="utf-8",
    )


def page_data(space: Space, front: Front) -> dict[str, Any]:
    """The data of the page's script: designs of the front with their texts and breakdowns, and others as pairs of numbers."""
    x = space.objectives[0]
    y = space.objectives[1] if len(space.objectives) > 1 else x
    rows = front_rows(space, front)
    opened = set(np.linspace(0, len(rows) - 1, min(len(rows), MOST_OPENED)).astype(int).tolist())
    return {
        "x": {"name": x, "unit": space.unit(x)},
        "y": {"name": y, "unit": space.unit(y)},
        "others": np.stack([front.others[x], front.others[y]], axis=1).tolist(),
        "designs": [
            {
                x: row[x],
                y: row[y],
                "facts": _facts(space, row),
                "breakdowns": _breakdowns(space, row) if i in opened else [],
            }
            for i, row in enumerate(rows)
        ],
    }


def _facts(space: Space, row: dict[str, float | int]) -> list[tuple[str, str]]:
    axes = [(name, amount(float(row[name]), space.unit(name))) for name in space.axes]
    quantities = [(name, si(float(row[name]), space.unit(name))) for name in space.shown if name in row]
    return [*axes, *quantities, ("designs alike", str(row["alike"]))]


def _breakdowns(space: Space, row: dict[str, float | int]) -> list[dict[str, Any]]:
    director = AnalysisDirector(variant(space.profile, {name: float(row[name]) for name in space.axes}))
    return [
        {
            "model": workload.name,
            **_breakdown(director.estimate_tabulated(workload.work, space.runtime, batch=workload.batch)),
        }
        for workload in space.workloads
    ]


def _breakdown(estimate: Estimate) -> dict[str, Any]:
    def interval(value: float, low: float, high: float, unit: str) -> str:
        return f"{si(value, unit)} ({si(low, unit)} to {si(high, unit)})"

    latency, energy = estimate.latency_s, estimate.energy_j
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for kernel in estimate.breakdown:
        part = times[kernel.label.rpartition(":")[2], kernel.bound]
        part[0] += kernel.elapsed_s
        part[1] += 1
    slowest = sorted(times.items(), key=lambda item: -item[1][0])[:KERNELS]
    return {
        "latency": interval(latency.value, latency.low, latency.high, "s"),
        "energy": "unknown" if energy is None else interval(energy.value, energy.low, energy.high, "J"),
        "bounds": [
            {"name": share.name, "time_s": share.time_s, "share": share.time_share, "text": si(share.time_s, "s")}
            for share in by_bound(estimate)
        ],
        "kernels": [
            [name, f"{count:.0f}", si(seconds, "s"), percent(seconds / latency.value), bound]
            for (name, bound), (seconds, count) in slowest
        ],
    }
