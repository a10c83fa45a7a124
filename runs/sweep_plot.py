"""A sweep as a plotly figure: a shmoo (heat map) over two axes of numbers, curves over anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shmoo.estimators.errors import InputError

Row = dict[str, object]
COLORS = ("#2a6fbb", "#d1495b", "#3a8f5c", "#8e5ea2", "#e08e2b", "#4d4d4d", "#17a2b8", "#b5651d", "#7a9e00", "#c2185b")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SHMOO_VALUES = 3
"""Values that both axes of a heat map have at least; fewer are easier to compare as curves."""


def sweep_figure(rows: Sequence[Row], axes: Sequence[str]) -> go.Figure:
    """Draw the rows of a `SweepController`.

    Args:
        rows: one for each point and architecture.
        axes: the columns that vary. Two of numbers make a heat map for each architecture; else the first runs along the
            curves, and each combination of the others has a curve of its own.

    Raises:
        InputError: no rows, or no axes.
    """
    if not rows:
        raise InputError("a sweep without points cannot be drawn")
    if not axes:
        raise InputError("a plot takes at least one axis, got none")
    if len(axes) == 2 and all(_is_numeric(rows, axis) and len(_values(rows, axis)) >= SHMOO_VALUES for axis in axes):
        return _shmoo(rows, axes[0], axes[1])
    return _curves(rows, axes[0], axes[1:])


def _curves(rows: Sequence[Row], axis: str, others: Sequence[str]) -> go.Figure:
    """Latency with its interval, throughput, achieved rate, tiles over footprint, energy over latency and power: a colour an
    architecture, a dash a combination of the other axes."""
    titles = ("latency, s", "throughput, 1/s", "achieved, flop/s")
    titles += ("tiles over peak memory, B", "energy, J over latency, s", "average power, W")
    figure = make_subplots(rows=2, cols=3, subplot_titles=titles)
    archs, combinations = list(_by_arch(rows)), list(dict.fromkeys(_rest(row, others) for row in rows))
    for (arch, rest), points in _series(rows, others).items():
        x = [p[axis] for p in points]
        latency = [p["latency_s"] for p in points]
        line = {"color": COLORS[archs.index(arch) % len(COLORS)], "dash": DASHES[combinations.index(rest) % len(DASHES)]}
        name = " ".join((arch, *(f"{other}={_text(value)}" for other, value in zip(others, rest, strict=True))))
        style = {"name": name, "legendgroup": name, "mode": "lines+markers", "line": line}
        figure.add_scatter(x=x, y=latency, error_y=_spread(points), row=1, col=1, **style)
        hidden = {**style, "showlegend": False}
        figure.add_scatter(x=x, y=[p["throughput_per_s"] for p in points], row=1, col=2, **hidden)
        figure.add_scatter(x=x, y=[p["flops"] / p["latency_s"] for p in points], row=1, col=3, **hidden)
        figure.add_scatter(x=[p["peak_memory_bytes"] for p in points], y=[p["tiles"] for p in points], row=2, col=1, **hidden)
        if all(p["energy_j"] is not None for p in points):
            energy = [p["energy_j"] for p in points]
            figure.add_scatter(x=latency, y=energy, text=[f"{axis}={v}" for v in x], row=2, col=2, **hidden)
            figure.add_scatter(x=x, y=[p["average_power_w"] for p in points], row=2, col=3, **hidden)
    along = {"type": "log" if _is_numeric(rows, axis) else "category", "title_text": axis}
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", exponentformat="power")
    for row, column in ((1, 1), (1, 2), (1, 3), (2, 3)):
        figure.update_xaxes(row=row, col=column, **along)
    models = ", ".join(dict.fromkeys(str(row["model"]) for row in rows))
    figure.update_layout(height=860, template="plotly_white", title=f"{models} over {axis}")
    return figure


def _spread(points: Sequence[Row]) -> dict[str, object] | None:
    """Error bars of latency; `None` where intervals were left out."""
    if any(p["latency_s_low"] is None for p in points):
        return None
    return {
        "type": "data",
        "array": [p["latency_s_high"] - p["latency_s"] for p in points],
        "arrayminus": [p["latency_s"] - p["latency_s_low"] for p in points],
        "thickness": 1,
    }


def _shmoo(rows: Sequence[Row], across: str, down: str) -> go.Figure:
    """Achieved rate as a heat map, one an architecture, on a common scale; hovering tells latency, energy and tiles."""
    by_arch = _by_arch(rows)
    figure = make_subplots(rows=1, cols=len(by_arch), subplot_titles=list(by_arch), shared_yaxes=True)
    for column, points in enumerate(by_arch.values(), 1):
        xs, ys = _values(points, across), _values(points, down)
        cell = {(p[across], p[down]): p for p in points}
        rate = [[math.log10(cell[x, y]["flops"] / cell[x, y]["latency_s"]) for x in xs] for y in ys]
        hover = [[_hover(cell[x, y], across, down) for x in xs] for y in ys]
        figure.add_heatmap(
            x=[_text(x) for x in xs],
            y=[_text(y) for y in ys],
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
    lines = [f"{across} = {_text(point[across])}", f"{down} = {_text(point[down])}", f"latency {point['latency_s']:.3g} s"]
    if point["energy_j"] is not None:
        lines.append(f"energy {point['energy_j']:.3g} J")
    return "<br>".join([*lines, f"tiles {point['tiles']:.3g}"])


def _by_arch(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(_machine(row), []).append(row)
    return grouped


def _series(rows: Sequence[Row], others: Sequence[str]) -> dict[tuple[str, tuple], list[Row]]:
    """Rows of each architecture and combination of the other axes, in order."""
    grouped: dict[tuple[str, tuple], list[Row]] = {}
    for row in rows:
        grouped.setdefault((_machine(row), _rest(row, others)), []).append(row)
    return grouped


def _machine(row: Row) -> str:
    return f"{row['arch']} {row['runtime']}"


def _rest(row: Row, others: Sequence[str]) -> tuple:
    return tuple(row[name] for name in others)


def _values(rows: Sequence[Row], axis: str) -> list:
    return list(dict.fromkeys(row[axis] for row in rows))


def _is_numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row[axis], int | float) and not isinstance(row[axis], bool) and row[axis] > 0 for row in rows)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
