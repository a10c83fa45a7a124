"""A sweep as a plotly figure: curves over one axis, a shmoo (heat map) over two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shmoo.estimators.errors import InputError

Row = dict[str, object]
COLORS = ("#2a6fbb", "#d1495b", "#3a8f5c", "#8e5ea2", "#e08e2b", "#4d4d4d", "#17a2b8", "#b5651d", "#7a9e00", "#c2185b")


def sweep_figure(rows: Sequence[Row], axes: Sequence[str]) -> go.Figure:
    """Draw the rows of a `SweepController`.

    Args:
        rows: one for each point and architecture.
        axes: the one or two columns that were swept.

    Raises:
        InputError: no rows, or not one or two axes.
    """
    if not rows:
        raise InputError("a sweep without points cannot be drawn")
    if len(axes) == 1:
        return _curves(rows, axes[0])
    if len(axes) == 2:
        return _shmoo(rows, axes[0], axes[1])
    raise InputError(f"a plot takes one or two axes, got {len(axes)}: {', '.join(axes) or 'none'}")


def _curves(rows: Sequence[Row], axis: str) -> go.Figure:
    """Latency with its interval, achieved rate, tiles over footprint, and energy over latency: a line an architecture."""
    titles = ("latency, s", "achieved, flop/s", "tiles over peak memory, B", "energy, J over latency, s")
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles)
    for color, (arch, points) in zip(_colors(rows), _by_arch(rows).items(), strict=True):
        x = [p[axis] for p in points]
        latency = [p["latency_s"] for p in points]
        style = {"name": arch, "legendgroup": arch, "mode": "lines+markers", "line": {"color": color}}
        spread = {
            "type": "data",
            "array": [p["latency_s_high"] - p["latency_s"] for p in points],
            "arrayminus": [p["latency_s"] - p["latency_s_low"] for p in points],
            "thickness": 1,
        }
        figure.add_scatter(x=x, y=latency, error_y=spread, row=1, col=1, **style)
        hidden = {**style, "showlegend": False}
        figure.add_scatter(x=x, y=[p["flops"] / p["latency_s"] for p in points], row=1, col=2, **hidden)
        figure.add_scatter(x=[p["peak_memory_bytes"] for p in points], y=[p["tiles"] for p in points], row=2, col=1, **hidden)
        if all(p["energy_j"] is not None for p in points):
            energy = [p["energy_j"] for p in points]
            figure.add_scatter(x=latency, y=energy, text=[f"{axis}={v}" for v in x], row=2, col=2, **hidden)
    numeric = all(isinstance(row[axis], int | float) and row[axis] > 0 for row in rows)
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", exponentformat="power")
    for column in (1, 2):
        figure.update_xaxes(type="log" if numeric else "category", title_text=axis, row=1, col=column)
    figure.update_layout(height=860, template="plotly_white", title=f"{rows[0]['model']} over {axis}")
    return figure


def _shmoo(rows: Sequence[Row], across: str, down: str) -> go.Figure:
    """Achieved rate as a heat map, one an architecture, on a common scale; hovering tells latency, energy and tiles."""
    by_arch = _by_arch(rows)
    figure = make_subplots(rows=1, cols=len(by_arch), subplot_titles=list(by_arch), shared_yaxes=True)
    for column, points in enumerate(by_arch.values(), 1):
        xs, ys = (list(dict.fromkeys(p[axis] for p in points)) for axis in (across, down))
        cell = {(p[across], p[down]): p for p in points}
        rate = [[math.log10(cell[x, y]["flops"] / cell[x, y]["latency_s"]) for x in xs] for y in ys]
        hover = [[_hover(cell[x, y], across, down) for x in xs] for y in ys]
        figure.add_heatmap(
            x=[str(x) for x in xs],
            y=[str(y) for y in ys],
            z=rate,
            text=hover,
            hovertemplate="%{text}<extra></extra>",
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
        figure.update_xaxes(type="category", title_text=across, row=1, col=column)
    figure.update_yaxes(type="category")
    figure.update_yaxes(title_text=down, row=1, col=1)
    lows, highs = _range(figure)
    ticks = list(range(math.floor(lows), math.ceil(highs) + 1))
    bar = {"title": "flop/s", "tickvals": ticks, "ticktext": [f"1e{t}" for t in ticks]}
    figure.update_layout(
        coloraxis={"colorscale": "Viridis", "colorbar": bar},
        height=520,
        template="plotly_white",
        title=f"{rows[0]['model']}: achieved flop/s over {across} and {down}",
    )
    return figure


def _range(figure: go.Figure) -> tuple[float, float]:
    values = [value for trace in figure.data for line in trace.z for value in line]
    return min(values), max(values)


def _hover(point: Row, across: str, down: str) -> str:
    lines = [f"{across} = {point[across]}", f"{down} = {point[down]}", f"latency {point['latency_s']:.3g} s"]
    if point["energy_j"] is not None:
        lines.append(f"energy {point['energy_j']:.3g} J")
    return "<br>".join([*lines, f"tiles {point['tiles']:.3g}"])


def _by_arch(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(f"{row['arch']} {row['runtime']}", []).append(row)
    return grouped


def _colors(rows: Sequence[Row]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(_by_arch(rows)))]
