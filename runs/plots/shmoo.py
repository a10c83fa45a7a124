"""Plots of measured sweeps: speed over footprint and over two axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import plotly.graph_objects as go

from shmoo.estimators.graph.records import CONTRACTIONS
from shmoo.estimators.units import percent, si, size
from shmoo.runs.analysis.error_records import CaseError
from shmoo.runs.plots.style import HEAT, dropdown, figure, octave_axis, plain, vertical_marks

_MARGIN = {"l": 10, "r": 10, "t": 60, "b": 10}
_HEATMAP = {"hoverinfo": "text", "hoverongaps": False, "colorscale": HEAT, "xgap": 1.5, "ygap": 1.5}


def shmoo_figure(cases: Sequence[CaseError], capacities: Mapping[str, float]) -> go.Figure:
    """Speed of every operator by footprint, relative to the operator's own best; lines mark the memory levels' capacities.

    Args:
        cases: only operators are drawn.
        capacities: level name -> bytes.
    """
    rows: dict[str, dict[int, list[CaseError]]] = {}
    for name, members in _by_operator(case for case in cases if case.bytes > 0).items():
        rows[name] = defaultdict(list)
        for case in members:
            rows[name][round(math.log2(case.bytes))].append(case)
    columns = [octave for cells in rows.values() for octave in cells] or [0]
    octaves = list(range(min(columns), max(columns) + 1))
    names = sorted(rows, key=lambda name: (next(iter(rows[name].values()))[0].family, name), reverse=True)
    z, hover = [], []
    for name in names:
        speeds = {octave: median(map(_speed, members)) for octave, members in rows[name].items()}
        best = max(speeds.values())
        unit = _speed_unit(next(iter(rows[name].values()))[0])
        texts = {
            octave: f"{plain(name)}, {size(2.0**octave)}<br>{si(speed, unit)}, {percent(speed / best, digits=0)} of its best"
            f"<br>{len(rows[name][octave])} cases"
            for octave, speed in speeds.items()
        }
        z.append([speeds[octave] / best if octave in speeds else None for octave in octaves])
        hover.append([texts.get(octave, "") for octave in octaves])
    heat = go.Heatmap(
        x=octaves,
        y=[plain(name) for name in names],
        z=z,
        hovertext=hover,
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "of its best"}, "tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
        **_HEATMAP,
    )
    marks = {
        f"{level} {size(b)}": math.log2(b)
        for level, b in capacities.items()
        if octaves[0] - 0.5 < math.log2(b) < octaves[-1] + 0.5
    }
    x = octave_axis("bytes the operator moves at least", octaves[0], octaves[-1])
    layout = {**vertical_marks(marks), "margin": _MARGIN}
    return figure([heat], x, {"showgrid": False}, height=max(280, 110 + 24 * len(names)), layout=layout)


def plane_figure(cases: Sequence[CaseError], capacities: Mapping[str, float], most: int = 8) -> go.Figure | None:
    """Two-axis shmoo: achieved speed over the two axes with most values; a menu selects the operator.

    Returns:
        `None` when no operator was swept over two axes of at least three values each.
    """
    planes = sorted(_planes(cases), key=lambda plane: -len(plane.members))[:most]
    if not planes:
        return None
    traces, buttons = [], []
    for position, plane in enumerate(planes):
        cells: dict[tuple[Any, Any], list[CaseError]] = {}
        for case in plane.members:
            cells.setdefault((case.case.axes[plane.x], case.case.axes[plane.y]), []).append(case)
        xs, ys = sorted({x for x, _ in cells}), sorted({y for _, y in cells})
        unit = _speed_unit(plane.members[0])
        speeds = {place: median(map(_speed, members)) for place, members in cells.items()}
        levels, texts = {}, {}
        for (x, y), members in cells.items():
            moved = median(case.bytes for case in members)
            levels[x, y] = next((level for level, capacity in capacities.items() if moved <= capacity), "memory")
            where = f"{plane.x} = {x}, {plane.y} = {y}"
            texts[x, y] = f"{where}<br>{si(speeds[x, y], unit)}<br>{size(moved)} moved at least: {levels[x, y]}"
        traces.append(
            go.Heatmap(
                x=[str(x) for x in xs],
                y=[str(y) for y in ys],
                z=[[speeds.get((x, y)) for x in xs] for y in ys],
                text=[[levels.get((x, y), "") for x in xs] for y in ys],
                texttemplate="%{text}",
                textfont={"size": 10},
                hovertext=[[texts.get((x, y), "") for x in xs] for y in ys],
                visible=position == 0,
                colorbar={"title": {"text": unit}, "tickformat": ".2s", "thickness": 12, "outlinewidth": 0},
                **_HEATMAP,
            )
        )
        shown = [other == position for other in range(len(planes))]
        titles = {"xaxis.title.text": plane.x, "yaxis.title.text": plane.y}
        buttons.append({"label": plain(plane.name), "method": "update", "args": [{"visible": shown}, titles]})
    layout: dict[str, Any] = {"margin": _MARGIN}
    if len(buttons) > 1:
        layout["updatemenus"] = [dropdown(buttons, {"y": 1.14, "yanchor": "top"})]
    else:
        corner = {"xref": "paper", "yref": "paper", "x": 0, "y": 1.02, "yanchor": "bottom", "showarrow": False}
        layout["annotations"] = [{**corner, "text": plain(planes[0].name)}]
    across, down = ({"title": {"text": title}, "type": "category", "showgrid": False} for title in (planes[0].x, planes[0].y))
    return figure(traces, across, down, height=520, layout=layout)


def _by_operator(cases: Iterable[CaseError]) -> dict[str, list[CaseError]]:
    """Operator cases by name. An operator with cases in several families (convolutions, depthwise or not) has one name per
    family, because their speeds are unrelated."""
    operators = [case for case in cases if case.case.kind == "operator"]
    families: dict[str, set[str]] = {}
    for case in operators:
        families.setdefault(case.case.workload, set()).add(case.family)
    named: dict[str, list[CaseError]] = {}
    for case in operators:
        parts = [case.case.workload]
        parts += [f"({case.family})"] if len(families[case.case.workload]) > 1 and case.family != case.case.workload else []
        parts += [case.case.dtype] if case.case.dtype != "float32" else []
        parts += [case.case.runtime] if case.case.runtime != "eager" else []
        named.setdefault(" ".join(parts), []).append(case)
    return named


def _speed(case: CaseError) -> float:
    """flop/s of contractions, B/s of all other families: what limits them."""
    return (case.flops if case.family in CONTRACTIONS else case.bytes) / case.measured_s


def _speed_unit(case: CaseError) -> str:
    return "flop/s" if case.family in CONTRACTIONS else "B/s"


class _Plane(NamedTuple):
    """An operator's cases and the two axes with most values."""

    name: str
    members: list[CaseError]
    x: str
    y: str


def _planes(cases: Sequence[CaseError]) -> Iterable[_Plane]:
    for name, members in _by_operator(cases).items():
        values: defaultdict[str, set[float]] = defaultdict(set)
        for case in members:
            for axis, value in case.case.axes.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    values[axis].add(value)
        axes = [axis for axis in values if len(values[axis]) >= 3 and all(axis in case.case.axes for case in members)]
        if len(axes) >= 2:
            x, y = sorted(axes, key=lambda axis: -len(values[axis]))[:2]
            yield _Plane(name, members, x, y)
