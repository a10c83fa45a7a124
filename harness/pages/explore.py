"""The page of a design space: the front among other designs; a click on a design opens its breakdown."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from shmoo.estimators.graph.records import Interval
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.present.spending import by_bound
from shmoo.estimators.shown_columns import Cell
from shmoo.estimators.sweep.explore import Front, Space, front_rows, nearest_text
from shmoo.estimators.units import amount, counted, percent, si
from shmoo.estimators.variants import variant
from shmoo.runs.plots.page import page, section, table, write

PAGES = Path(__file__).parent
MOST_OPENED = 100
"""Most designs of a front with a breakdown, evenly spread over it."""
KERNELS = 8
"""Number of kernels in a breakdown."""
LISTED = 500
"""Most designs of a front in the page's table."""


BOARD = Markup("""<div class="board"><figure><svg id="front-plot" role="group" aria-label="designs by two quantities"></svg>
<figcaption>Logarithmic axes. Dots on the line are the front: open one with a click, Enter or space.</figcaption></figure>
<div id="design" aria-live="polite"><p>Open a design to see its numbers and where its time goes.</p></div></div>
""")


def write_page(space: Space, front: Front, path: str | Path) -> None:
    """Write the page."""
    models = ", ".join(workload.name for workload in space.workloads)
    rows = front_rows(front)
    style, script = ((PAGES / name).read_text(encoding="utf-8") for name in ("explore.css", "explore.js"))
    designs = [{name: Cell(text, number, numeric=True) for name, text, number in _facts(space, row)} for row in rows[:LISTED]]
    text = page(
        f"{models} on designs of {space.profile.name}",
        section("front", "The front", BOARD) + section("designs", "Designs of the front", table(designs, "designs of the front")),
        eyebrow="Design space",
        answer=nearest_text(space, front)
        or (
            f"{counted(front.points, 'design')}, {front.allowed:,} within the limits, {len(front)} on the front; it holds "
            f"{percent(front.hypervolume, digits=0)} of the box between best and worst."
        ),
        links=[("front", "Front"), ("designs", "Designs")],
        data={"front-data": page_data(space, front)},
        style=style,
        scripts=[script],
        footer="estimates, no measurements",
    )
    write(text, path)


def page_data(space: Space, front: Front) -> dict[str, Any]:
    """The data for the page's script: designs of the front with texts and breakdowns, and other designs as pairs of numbers."""
    x = space.objectives[0]
    y = space.objectives[1] if len(space.objectives) > 1 else x
    rows = front_rows(front)
    opened = set(np.linspace(0, len(rows) - 1, min(len(rows), MOST_OPENED)).astype(int).tolist())
    return {
        "x": {"name": x, "unit": space.unit(x)},
        "y": {"name": y, "unit": space.unit(y)},
        "others": np.stack([front.others[x], front.others[y]], axis=1).tolist(),
        "designs": [
            {
                x: row[x],
                y: row[y],
                "facts": [(name, text) for name, text, _ in _facts(space, row)],
                "breakdowns": _breakdowns(space, row) if i in opened else [],
            }
            for i, row in enumerate(rows)
        ],
    }


def _facts(space: Space, row: dict[str, float | int]) -> list[tuple[str, str, float]]:
    axes = [(name, amount(float(row[name]), space.unit(name)), float(row[name])) for name in space.axes]
    quantities = [(name, si(float(row[name]), space.unit(name)), float(row[name])) for name in space.shown if name in row]
    return [*axes, *quantities, ("designs alike", str(row["alike"]), float(row["alike"]))]


def _breakdowns(space: Space, row: dict[str, float | int]) -> list[dict[str, Any]]:
    director = AnalysisDirector(variant(space.profile, {name: float(row[name]) for name in space.axes}))
    estimates = [director.estimate_table(w.work, space.runtime, batch=w.batch) for w in space.workloads]
    return [_breakdown(w.name, estimate) for w, estimate in zip(space.workloads, estimates, strict=True)]


def _breakdown(model: str, estimate: Estimate) -> dict[str, Any]:
    def text(value: Interval | None, unit: str) -> str:
        return "unknown" if value is None else f"{si(value.value, unit)} ({si(value.low, unit)} to {si(value.high, unit)})"

    times: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for kernel in estimate.breakdown:
        part = times[kernel.label.rpartition(":")[2], kernel.bound]
        part[0] += kernel.elapsed_s
        part[1] += 1
    slowest = sorted(times.items(), key=lambda item: -item[1][0])[:KERNELS]
    return {
        "model": model,
        "latency": text(estimate.latency_s, "s"),
        "energy": text(estimate.energy_j, "J"),
        "bounds": [
            {"name": share.name, "time_s": share.time_s, "share": share.time_share, "text": si(share.time_s, "s")}
            for share in by_bound(estimate)
        ],
        "kernels": [
            [name, f"{count:.0f}", si(seconds, "s"), percent(seconds / estimate.latency_s.value), bound]
            for (name, bound), (seconds, count) in slowest
        ],
    }
