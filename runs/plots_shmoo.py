"""Plots of measured sweeps: speed over footprint and over two axes. plotly is imported when a plot is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from shmoo.estimators.present import percent, si, size
from shmoo.estimators.records import CONTRACTIONS
from shmoo.runs.error_records import CaseError
from shmoo.runs.plot_style import (
    HEAT,
    figure,
    octave_axis,
    plain,
    vertical_marks,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def shmoo_figure(cases: Sequence[CaseError], capacities: Mapping[str, float]) -> go.Figure:
    """Speed of every operator by footprint, relative to the operator's own best, with the memory levels' capacities as lines.

    Args:
        cases: operators; others are left out.
        capacities: level name -> bytes.
    """
    import plotly.graph_objects as go

    operators = [case for case in cases if case.case.kind == "operator" and case.bytes > 0]
    rows: dict[str, dict[int, list[CaseError]]] = {}
    for name, members in _by_operator(operators).items():
        for case in members:
            rows.setdefault(name, {}).setdefault(round(math.log2(case.bytes)), []).append(case)
    columns = [octave for cells in rows.values() for octave in cells] or [0]
    octaves = list(range(min(columns), max(columns) + 1))
    names = sorted(rows, key=lambda name: (next(iter(rows[name].values()))[0].family, name), reverse=True)
    z, hover = [], []
    for name in names:
        cells = {octave: median(_speed(case)[0] for case in members) for octave, members in rows[name].items()}
        best = max(cells.values())
        unit = _speed(next(iter(rows[name].values()))[0])[1]
        z.append([cells[o] / best if o in cells else None for o in octaves])
        hover.append(
            [
                f"{plain(name)}, {size(2.0**o)}<br>{si(cells[o], unit)}, {percent(cells[o] / best, digits=0)} of its best"
                f"<br>{len(rows[name][o])} cases"
                if o in cells
                else ""
                for o in octaves
            ]
        )
    heat = go.Heatmap(
        x=octaves,
        y=[plain(name) for name in names],
        z=z,
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        colorscale=HEAT,
        zmin=0,
        zmax=1,
        xgap=1.5,
        ygap=1.5,
        colorbar={"title": {"text": "of its best"}, "tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
    )
    marks = {
        f"{level} {size(b)}": math.log2(b)
        for level, b in capacities.items()
        if octaves[0] - 0.5 < math.log2(b) < octaves[-1] + 0.5
    }
    x = octave_axis("bytes the operator moves at least", octaves[0], octaves[-1])
    layout = {**vertical_marks(marks), "margin": {"l": 10, "r": 10, "t": 60, "b": 10}}
    return figure([heat], x, {"showgrid": False}, height=max(280, 110 + 24 * len(names)), layout=layout)


def plane_figure(cases: Sequence[CaseError], capacities: Mapping[str, float], most: int = 8) -> go.Figure | None:
    """Two-axis shmoo: achieved speed over the two axes that an operator was swept on most, one operator at a time by a menu.

    Returns:
        `None` when no operator was swept over two axes of at least three values each.
    """
    import plotly.graph_objects as go

    planes = sorted((p for p in _planes(cases) if p), key=lambda p: -len(p["members"]))[:most]
    if not planes:
        return None
    traces, buttons = [], []
    for position, plane in enumerate(planes):
        cells: dict[tuple[float, float], list[CaseError]] = {}
        for case in plane["members"]:
            cells.setdefault((case.case.axes[plane["x"]], case.case.axes[plane["y"]]), []).append(case)
        xs, ys = sorted({key[0] for key in cells}), sorted({key[1] for key in cells})
        unit = _speed(plane["members"][0])[1]
        z = [[median(_speed(c)[0] for c in cells[x, y]) if (x, y) in cells else None for x in xs] for y in ys]
        text = [[_level_of(cells.get((x, y)), capacities) for x in xs] for y in ys]
        hover = [
            [
                f"{plane['x']} = {x}, {plane['y']} = {y}<br>{si(z[j][i], unit)}<br>"
                f"{size(median(c.bytes for c in cells[x, y]))} moved at least: {text[j][i]}"
                if (x, y) in cells
                else ""
                for i, x in enumerate(xs)
            ]
            for j, y in enumerate(ys)
        ]
        traces.append(
            go.Heatmap(
                x=[str(x) for x in xs],
                y=[str(y) for y in ys],
                z=z,
                text=text,
                texttemplate="%{text}",
                textfont={"size": 10},
                hovertext=hover,
                hoverinfo="text",
                hoverongaps=False,
                colorscale=HEAT,
                xgap=1.5,
                ygap=1.5,
                visible=position == 0,
                colorbar={"title": {"text": unit}, "tickformat": ".2s", "thickness": 12, "outlinewidth": 0},
            )
        )
        shown = [other == position for other in range(len(planes))]
        titles = {"xaxis.title.text": plane["x"], "yaxis.title.text": plane["y"]}
        buttons.append({"label": plain(plane["name"]), "method": "update", "args": [{"visible": shown}, titles]})
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.14, "yanchor": "top", "showactive": True}
    # plotly paints the hovered entry near-white whatever the theme, so the menu keeps dark text on a light ground.
    menu |= {"bgcolor": "#dfe4ec", "font": {"color": "#18202c"}}
    return figure(
        traces,
        {"title": {"text": planes[0]["x"]}, "type": "category", "showgrid": False},
        {"title": {"text": planes[0]["y"]}, "type": "category", "showgrid": False},
        height=520,
        layout={
            "margin": {"l": 10, "r": 10, "t": 60, "b": 10},
            "updatemenus": [menu] if len(buttons) > 1 else [],
            "annotations": [] if len(buttons) > 1 else [_corner_note(planes[0]["name"])],
        },
    )


def _by_operator(cases: Iterable[CaseError]) -> dict[str, list[CaseError]]:
    """Operator cases by name. An operator whose cases fall into several families (convolutions, depthwise or not) is split by
    them: their speeds have little to do with each other."""
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


def _speed(case: CaseError) -> tuple[float, str]:
    """What limits a family: flop/s of contractions, B/s of the rest."""
    if case.family in CONTRACTIONS:
        return case.flops / case.measured_s, "flop/s"
    return case.bytes / case.measured_s, "B/s"


def _planes(cases: Sequence[CaseError]) -> Iterable[dict[str, Any] | None]:
    """Operators with the two axes that take most values."""
    for name, members in _by_operator(cases).items():
        values: dict[str, set[float]] = {}
        for case in members:
            for axis, value in case.case.axes.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    values.setdefault(axis, set()).add(value)
        whole = [axis for axis in values if all(axis in case.case.axes for case in members)]
        axes = sorted((axis for axis in whole if len(values[axis]) >= 3), key=lambda axis: -len(values[axis]))[:2]
        yield {"name": name, "members": members, "x": axes[0], "y": axes[1]} if len(axes) == 2 else None


def _level_of(members: Sequence[CaseError] | None, capacities: Mapping[str, float]) -> str:
    if not members:
        return ""
    footprint = median(case.bytes for case in members)
    return next((level for level, capacity in capacities.items() if footprint <= capacity), "memory")


def _corner_note(text: str) -> dict[str, Any]:
    return {"xref": "paper", "yref": "paper", "x": 0, "y": 1.02, "yanchor": "bottom", "text": plain(text), "showarrow": False}
