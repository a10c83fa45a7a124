"""A sweep as a plotly figure: a shmoo (heat map) over two axes of numbers, curves over anything else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shmoo.estimators.errors import InputError
from shmoo.estimators.present import amount, si, size
from shmoo.runs.plot_style import (
    ARCHITECTURE_COLOURS,
    AXIS,
    HEAT,
    SYMBOLS,
    architecture_family,
    house_layout,
    log_axis,
    log_ticks,
    plain,
)

Row = dict[str, Any]
Units = Mapping[str, str]
COLOURS = ("#4f7df3", "#3faf46", "#ee9a1a", "#c056d8", "#1aa7c7", "#e0344f", "#7cb52b", "#7068d8", "#b3702d", "#6f7f95")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SHMOO_VALUES = 3
"""Values that both axes of a heat map have at least; fewer are easier to compare as curves."""
MAPS_IN_A_ROW = 3
LABELS = 9
"""Labels along an axis at most."""


class Quantity(NamedTuple):
    """What a heat map may show of a point. `of` gives `None` where it is not known; `less` says that less of it is better."""

    name: str
    unit: str
    less: bool
    of: Callable[[Row], float | None]


QUANTITIES = (
    Quantity("achieved rate", "flop/s", False, lambda row: row["flops"] / row["latency_s"]),
    Quantity("latency", "s", True, lambda row: row["latency_s"]),
    Quantity("energy", "J", True, lambda row: row["energy_j"]),
    Quantity("average power", "W", True, lambda row: row["average_power_w"]),
    Quantity("energy x delay", "Js", True, lambda row: row["edp_js"]),
    Quantity("tiles", "", True, lambda row: row["tiles"]),
)


def sweep_figure(rows: Sequence[Row], axes: Sequence[str], units: Units = MappingProxyType({})) -> go.Figure:
    """Draw the rows of a `SweepController`.

    Args:
        rows: one for each point and architecture.
        axes: the columns that vary; one with a single value is not drawn along. Two of numbers make a heat map for each
            architecture; else the first runs along the curves, and each combination of the others has a curve of its own.
        units: unit of an axis' values, for axes that have one.

    Raises:
        InputError: no rows, or no axes.
    """
    if not rows:
        raise InputError("a sweep without points cannot be drawn")
    if not axes:
        raise InputError("a plot takes at least one axis, got none")
    axes = [axis for axis in axes if len(_values(rows, axis)) > 1] or axes[:1]
    if len(axes) == 2 and all(_is_numeric(rows, axis) and len(_values(rows, axis)) >= SHMOO_VALUES for axis in axes):
        return _shmoo(rows, axes[0], axes[1], units)
    return _curves(rows, axes[0], axes[1:], units)


def _curves(rows: Sequence[Row], axis: str, others: Sequence[str], units: Units) -> go.Figure:
    """Latency with its interval, throughput, achieved rate, tiles over footprint, energy over latency and power. Of what tells
    curves apart (architecture, model, the other axes) the first has a colour a value, the second a dash, the rest a symbol."""
    titles = ("latency", "throughput", "achieved rate", "tiles over footprint", "energy over latency", "average power")
    figure = make_subplots(rows=2, cols=3, subplot_titles=titles, horizontal_spacing=0.075, vertical_spacing=0.14)
    told = _told_apart(rows, others)
    colours, dashes, symbols = _values_of(rows, told[:1]), _values_of(rows, told[1:2]), _values_of(rows, told[2:])
    palette = _palette([row[0] for row in colours] if told[0] == "arch" else [""] * len(colours))
    for points in _series(rows, told):
        colour, dash, symbol = (
            of.index(tuple(points[0][name] for name in names))
            for of, names in ((colours, told[:1]), (dashes, told[1:2]), (symbols, told[2:]))
        )
        name = plain(", ".join(_label(name, points[0][name], units) for name in told))
        hover = [_hover(p, (axis, *others), units) for p in points]
        style = {
            "name": name,
            "legendgroup": name,
            "mode": "lines+markers",
            "line": {"color": palette[colour], "dash": DASHES[dash % len(DASHES)], "width": 2},
            "marker": {"symbol": SYMBOLS[symbol % len(SYMBOLS)], "size": 7},
            "hovertext": hover,
            "hoverinfo": "text",
        }
        hidden = {**style, "showlegend": False}
        x = [p[axis] for p in points]
        latency = [p["latency_s"] for p in points]
        figure.add_scatter(x=x, y=latency, error_y=_spread(points), row=1, col=1, **style)
        figure.add_scatter(x=x, y=[p["throughput_per_s"] for p in points], row=1, col=2, **hidden)
        figure.add_scatter(x=x, y=[p["flops"] / p["latency_s"] for p in points], row=1, col=3, **hidden)
        figure.add_scatter(x=[p["peak_memory_bytes"] for p in points], y=[p["tiles"] for p in points], row=2, col=1, **hidden)
        if all(p["energy_j"] is not None for p in points):
            figure.add_scatter(x=latency, y=[p["energy_j"] for p in points], row=2, col=2, **hidden)
            figure.add_scatter(x=x, y=[p["average_power_w"] for p in points], row=2, col=3, **hidden)
    along = _along(rows, axis, units)
    crossed = {
        (2, 1): _bytes_axis("everything alive at once", [r["peak_memory_bytes"] for r in rows]),
        (2, 2): _sparse(log_axis("latency", [r["latency_s"] for r in rows], "s")),
    }
    up = {
        (1, 1): ([v for r in rows for v in (r["latency_s"], r["latency_s_low"], r["latency_s_high"])], "s"),
        (1, 2): ([r["throughput_per_s"] for r in rows], "/s"),
        (1, 3): ([r["flops"] / r["latency_s"] for r in rows], "flop/s"),
        (2, 1): ([r["tiles"] for r in rows], ""),
        (2, 2): ([r["energy_j"] for r in rows], "J"),
        (2, 3): ([r["average_power_w"] for r in rows], "W"),
    }
    for (row, column), (values, unit) in up.items():
        figure.update_xaxes(row=row, col=column, **{**AXIS, **crossed.get((row, column), along)})
        figure.update_yaxes(row=row, col=column, **{**AXIS, **log_axis("", values, unit)})
    below = "" if rows[0]["latency_s_low"] is None else "bars: 90 % intervals"
    _dress(figure, 900, f"{_models(rows)} over {axis}{_only(rows)}", below)
    figure.update_layout(
        legend={
            "orientation": "v",
            "x": 1.01,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "top",
            "itemsizing": "trace",
            "itemwidth": 45,
        }
    )
    return figure


def _dress(figure: go.Figure, height: int, title: str, below: str = "") -> None:
    """House style, a title and a line below it."""
    layout = house_layout(height) | {"margin": {"l": 20, "r": 20, "t": 110, "b": 20}}
    figure.update_layout(**layout, template="plotly_white")
    figure.update_layout(
        title={"text": f"{plain(title)}<br><sup>{plain(below)}</sup>", "x": 0.01, "xanchor": "left", "font": {"size": 18}}
    )


def _told_apart(rows: Sequence[Row], others: Sequence[str]) -> list[str]:
    """The columns in which curves differ, the ones that matter most first."""
    columns = ["arch", *(name for name in ("model",) if name in others), *(name for name in others if name != "model")]
    return [name for name in columns if len(_values(rows, name)) > 1] or ["arch"]


def _values_of(rows: Sequence[Row], columns: Sequence[str]) -> list[tuple]:
    """Combinations of the columns' values in the order they first appear; one empty combination for no columns."""
    return list(dict.fromkeys(tuple(row[name] for name in columns) for row in rows))


def _palette(machines: Sequence[str]) -> list[str]:
    """A colour each: a machine's family's where it is the first of it, else one that is left."""
    found: list[str | None] = []
    for machine in machines:
        own = ARCHITECTURE_COLOURS.get(architecture_family(machine))
        found.append(None if own in found else own)
    left = itertools.cycle([colour for colour in COLOURS if colour not in found] or COLOURS)
    return [colour or next(left) for colour in found]


def _label(column: str, value: object, units: Units) -> str:
    """How a legend calls a value: architectures and models go by their names alone."""
    text = amount(value, units.get(column, ""))
    return text if column in ("arch", "model") else f"{column} {text}"


def _spread(points: Sequence[Row]) -> dict[str, object] | None:
    """Error bars of latency; `None` where intervals were left out."""
    if any(p["latency_s_low"] is None for p in points):
        return None
    return {
        "type": "data",
        "array": [p["latency_s_high"] - p["latency_s"] for p in points],
        "arrayminus": [p["latency_s"] - p["latency_s_low"] for p in points],
        "thickness": 1,
        "width": 0,
    }


def _shmoo(rows: Sequence[Row], across: str, down: str, units: Units) -> go.Figure:
    """A heat map for each architecture on a common scale, of the achieved rate; a menu has the other quantities, and hovering
    tells all of them."""
    machines = _by_machine(rows)
    lines = -(-len(machines) // MAPS_IN_A_ROW)
    columns = -(-len(machines) // lines)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[plain(machine) for machine in machines],
        horizontal_spacing=0.06,
        vertical_spacing=0.3 / lines if lines > 1 else 0.0,
    )
    shown = [q for q in QUANTITIES if all((q.of(row) or 0.0) > 0 for row in rows)]
    maps: dict[str, list[list[list[float | None]]]] = {quantity.name: [] for quantity in shown}
    for number, points in enumerate(machines.values()):
        xs, ys = _values(points, across), _values(points, down)
        cell = {(p[across], p[down]): p for p in points}
        for quantity in shown:
            maps[quantity.name].append([[math.log10(quantity.of(cell[x, y])) for x in xs] for y in ys])
        place = {"row": number // columns + 1, "col": number % columns + 1}
        figure.add_heatmap(
            x=list(range(len(xs))),
            y=list(range(len(ys))),
            z=maps[shown[0].name][-1],
            hovertext=[[_hover(cell[x, y], (across, down), units) for x in xs] for y in ys],
            hoverinfo="text",
            coloraxis="coloraxis",
            xgap=1 if len(xs) <= 40 else 0,
            ygap=1 if len(ys) <= 40 else 0,
            **place,
        )
        figure.update_xaxes(**_cells(across, xs, units.get(across, "")), **place)
        figure.update_yaxes(**_cells(down if place["col"] == 1 else "", ys, units.get(down, "")), **place)
    scales = {quantity.name: _scale(quantity, maps[quantity.name]) for quantity in shown}
    buttons = [
        {
            "label": quantity.name,
            "method": "update",
            "args": [{"z": maps[quantity.name]}, {f"coloraxis.{key}": value for key, value in scales[quantity.name].items()}],
        }
        for quantity in shown
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "pad": {"b": 30}, "showactive": True}
    # plotly paints the hovered entry near-white whatever the theme, so the menu keeps dark text on a light ground.
    menu |= {"bgcolor": "#dfe4ec", "font": {"color": "#18202c"}}
    _dress(figure, 160 + 420 * lines, f"{_models(rows)} over {across} and {down}")
    figure.update_layout(
        coloraxis={"colorscale": [list(stop) for stop in HEAT], **scales[shown[0].name]},
        updatemenus=[menu],
        margin={"t": 150},
    )
    return figure


def _scale(quantity: Quantity, maps: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Colour axis of a quantity over all maps: bright is good."""
    values = [value for grid in maps for line in grid for value in line]
    low, high = min(values), max(values)
    if high - low < 1e-3:
        low, high = low - 0.05, high + 0.05
    ticks = log_ticks(low, high) or [10.0**low, 10.0**high]
    digits = 1 if len(ticks) > 2 else 3
    return {
        "cmin": low,
        "cmax": high,
        "reversescale": quantity.less,
        "colorbar": {
            "title": {"text": quantity.name},
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [si(tick, quantity.unit, digits) for tick in ticks],
            "thickness": 14,
            "outlinewidth": 0,
        },
    }


def _along(rows: Sequence[Row], axis: str, units: Units) -> dict[str, Any]:
    """The axis that a sweep runs along: logarithmic with its own values as ticks, or one place for each word."""
    values = _values(rows, axis)
    if not _is_numeric(rows, axis):
        return {"type": "category", "title": {"text": plain(axis)}}
    ticks = _some(sorted(values))
    unit = units.get(axis, "")
    return log_axis(plain(axis), values, unit, 0.04) | {"tickvals": ticks, "ticktext": [amount(tick, unit) for tick in ticks]}


def _cells(title: str, values: Sequence[float], unit: str) -> dict[str, Any]:
    """An axis of a heat map: one cell for each value, some of them labelled."""
    ticks = _some(range(len(values)))
    labels = [amount(values[tick], unit) for tick in ticks]
    return {"title": {"text": plain(title)}, "tickvals": ticks, "ticktext": labels, "showgrid": False, "automargin": True}


def _some(values: Sequence[Any]) -> list[Any]:
    """All values, or evenly spaced ones where there are more than fit as labels; the last one always."""
    step = -(-len(values) // LABELS)
    return list(values[::-1][::step][::-1])


def _sparse(axis: dict[str, Any]) -> dict[str, Any]:
    """An axis across, with decades alone where all ticks would not stand beside each other."""
    if len(axis["tickvals"]) <= 6:
        return axis
    text_of = dict(zip(axis["tickvals"], axis["ticktext"], strict=True))
    kept = [tick for tick in text_of if round(math.log10(tick), 9) % 1 == 0]
    return axis | {"tickvals": kept, "ticktext": [text_of[tick] for tick in kept]}


def _bytes_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at powers of two such as "64 MiB"."""
    axis = log_axis(title, values, "B")
    low, high = (math.log2(10.0**end) for end in axis["range"])
    step = max(1, math.ceil((high - low) / 5))
    ticks = [2.0**power for power in range(math.ceil(low), math.floor(high) + 1, step)]
    return axis | {"tickvals": ticks, "ticktext": [size(tick).replace(".00 ", " ").replace(".0 ", " ") for tick in ticks]}


def _hover(point: Row, axes: Sequence[str], units: Units) -> str:
    """Where a point lies, and all that is known of it."""
    lines = [f"<b>{plain(point['arch'])}</b>"]
    lines += [f"{plain(axis)} {plain(amount(point[axis], units.get(axis, '')))}" for axis in axes]
    interval = ""
    if point["latency_s_low"] is not None:
        interval = f" ({si(point['latency_s_low'], 's')} to {si(point['latency_s_high'], 's')})"
    rate = point["flops"] / point["latency_s"]
    lines.append(f"latency {si(point['latency_s'], 's')}{interval}")
    lines.append(f"{si(point['throughput_per_s'], '/s')}, {si(rate, 'flop/s')}")
    if point["energy_j"] is not None:
        lines.append(f"energy {si(point['energy_j'], 'J')}, {si(point['average_power_w'], 'W')}")
    return "<br>".join([*lines, f"{si(point['tiles'], '')} tiles, {size(point['peak_memory_bytes'])} alive"])


def _by_machine(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["arch"], []).append(row)
    return grouped


def _series(rows: Sequence[Row], told: Sequence[str]) -> list[list[Row]]:
    """Rows of each curve, in order."""
    grouped: dict[tuple, list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[name] for name in told), []).append(row)
    return list(grouped.values())


def _models(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(str(row["model"]) for row in rows))


def _only(rows: Sequence[Row]) -> str:
    """The machine of a sweep that has one."""
    machines = _values(rows, "arch")
    return f" on {machines[0]}" if len(machines) == 1 else ""


def _values(rows: Sequence[Row], axis: str) -> list:
    return list(dict.fromkeys(row[axis] for row in rows))


def _is_numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row[axis], int | float) and not isinstance(row[axis], bool) and row[axis] > 0 for row in rows)
