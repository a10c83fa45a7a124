"""A sweep as a plotly figure: a shmoo (heat map) over two numeric axes, curves otherwise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shmoo.estimators.errors import InputError
from shmoo.estimators.units import amount, si, size
from shmoo.runs.plots.style import (
    ARCHITECTURE_COLOURS,
    AXIS,
    HEAT,
    SYMBOLS,
    architecture_family,
    dropdown,
    error_bars,
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
"""Fewest values on each axis of a heat map; fewer are easier to compare as curves."""
MAPS_IN_A_ROW = 3
_OUTGROWN = "does not fit the machine's memory"
LABELS = 9
"""Most labels along an axis."""


class Quantity(NamedTuple):
    """A quantity that a heat map can show. `of` returns `None` for an unknown value; with `less`, small values are good."""

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
        axes: the columns that vary; those with a single value are ignored. Two numeric axes give a heat map per architecture;
            otherwise curves run along the first axis, one for each combination of the others.
        units: units of the axes that have one.

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
    """Latency with its interval, throughput, achieved rate, tiles over footprint, energy over latency, and power. Of the columns
    that differ between curves (architecture, model, the other axes) the first sets the color, the second the dash and the rest
    the symbol."""
    titles = ("latency", "throughput", "achieved rate", "tiles over footprint", "energy over latency", "average power")
    figure = make_subplots(rows=2, cols=3, subplot_titles=titles, horizontal_spacing=0.075, vertical_spacing=0.14)
    differing = _differing_columns(rows, others)
    by_style = (differing[:1], differing[1:2], differing[2:])
    values_by_style = [list(_grouped(rows, columns)) for columns in by_style]
    palette = _palette([str(value[0]) if differing[0] == "arch" else "" for value in values_by_style[0]])
    for points in _grouped(rows, differing).values():
        colour, dash, symbol = (
            values.index(tuple(points[0][name] for name in columns))
            for columns, values in zip(by_style, values_by_style, strict=True)
        )
        name = plain(", ".join(_label(name, points[0][name], units) for name in differing))
        style: dict[str, Any] = {
            "name": name,
            "legendgroup": name,
            "mode": "lines+markers",
            "line": {"color": palette[colour], "dash": DASHES[dash % len(DASHES)], "width": 2},
            "marker": {"symbol": [_symbol(SYMBOLS[symbol % len(SYMBOLS)], p) for p in points], "size": 7},
            "hovertext": [_hover(p, (axis, *others), units) for p in points],
            "hoverinfo": "text",
        }
        column = {name: [p[name] for p in points] for name in points[0]}
        x, latency = column[axis], column["latency_s"]
        bars = None
        if None not in column["latency_s_low"]:
            bars = error_bars(latency, column["latency_s_low"], column["latency_s_high"])
        figure.add_scatter(x=x, y=latency, error_y=bars, row=1, col=1, **style)
        style["showlegend"] = False
        figure.add_scatter(x=x, y=column["throughput_per_s"], row=1, col=2, **style)
        figure.add_scatter(x=x, y=[p["flops"] / p["latency_s"] for p in points], row=1, col=3, **style)
        figure.add_scatter(x=column["peak_memory_bytes"], y=column["tiles"], row=2, col=1, **style)
        if None not in column["energy_j"]:
            figure.add_scatter(x=latency, y=column["energy_j"], row=2, col=2, **style)
            figure.add_scatter(x=x, y=column["average_power_w"], row=2, col=3, **style)
    along = _along(rows, axis, units)
    crossed = {
        (2, 1): _bytes_axis("everything alive at once", [r["peak_memory_bytes"] for r in rows]),
        (2, 2): _sparse(log_axis("latency", [r["latency_s"] for r in rows], "s")),
    }
    up = {
        (1, 1): ([r[name] for r in rows for name in ("latency_s", "latency_s_low", "latency_s_high")], "s"),
        (1, 2): ([r["throughput_per_s"] for r in rows], "/s"),
        (1, 3): ([r["flops"] / r["latency_s"] for r in rows], "flop/s"),
        (2, 1): ([r["tiles"] for r in rows], ""),
        (2, 2): ([r["energy_j"] for r in rows], "J"),
        (2, 3): ([r["average_power_w"] for r in rows], "W"),
    }
    for (row, column_number), (values, unit) in up.items():
        place = {"row": row, "col": column_number}
        figure.update_xaxes(**place, **{**AXIS, **crossed.get((row, column_number), along)})
        figure.update_yaxes(**place, **{**AXIS, **log_axis("", values, unit)})
    machines = _values(rows, "arch")
    machine = f" on {machines[0]}" if len(machines) == 1 else ""
    below = "" if rows[0]["latency_s_low"] is None else "bars: 90 % intervals"
    if any(_outgrows(row) for row in rows):
        below = "; ".join(filter(None, [below, f"open symbols: {_OUTGROWN}"]))
    _dress(figure, 900, f"{_models(rows)} over {axis}{machine}", below)
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1.0, "yanchor": "top", "itemsizing": "trace"}
    figure.update_layout(legend={**legend, "itemwidth": 45})
    return figure


def _dress(figure: go.Figure, height: int, title: str, below: str = "") -> None:
    """Apply the house style, a title and a line below it."""
    heading = {"text": f"{plain(title)}<br><sup>{plain(below)}</sup>", "x": 0.01, "xanchor": "left", "font": {"size": 18}}
    layout = house_layout(height) | {"margin": {"l": 20, "r": 20, "t": 110, "b": 20}, "title": heading}
    figure.update_layout(**layout, template="plotly_white")


def _differing_columns(rows: Sequence[Row], others: Sequence[str]) -> list[str]:
    """The columns in which curves differ: the architecture first, then the model, then the other axes."""
    columns = ["arch", *sorted(others, key=lambda name: name != "model")]
    return [name for name in columns if len(_values(rows, name)) > 1] or ["arch"]


def _grouped(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[object, ...], list[Row]]:
    """Rows by the values of these columns, in the order they first appear."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return groups


def _palette(machines: Sequence[str]) -> list[str]:
    """One colour per machine: that of its family for the first machine of a family, otherwise an unused one."""
    colours: list[str | None] = []
    for machine in machines:
        of_family = ARCHITECTURE_COLOURS.get(architecture_family(machine))
        colours.append(None if of_family in colours else of_family)
    unused = itertools.cycle([colour for colour in COLOURS if colour not in colours] or COLOURS)
    return [colour or next(unused) for colour in colours]


def _label(column: str, value: object, units: Units) -> str:
    """Legend text of a value: architectures and models appear without the column's name."""
    text = amount(value, units.get(column, ""))
    return text if column in ("arch", "model") else f"{column} {text}"


def _shmoo(rows: Sequence[Row], across: str, down: str, units: Units) -> go.Figure:
    """A heat map of the achieved rate for each architecture, on a common scale. A menu selects other quantities; the hover text
    shows all of them."""
    machines = _grouped(rows, ["arch"])
    lines = -(-len(machines) // MAPS_IN_A_ROW)
    columns = -(-len(machines) // lines)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[plain(machine) for (machine,) in machines],
        horizontal_spacing=0.06,
        vertical_spacing=0.3 / lines if lines > 1 else 0.0,
    )
    shown = [q for q in QUANTITIES if all((q.of(row) or 0.0) > 0 for row in rows)]
    crossed: list[tuple[list[tuple[int, int]], dict[str, int]]] = []
    maps: dict[str, list[list[list[float]]]] = {quantity.name: [] for quantity in shown}
    for number, points in enumerate(machines.values()):
        xs, ys = _values(points, across), _values(points, down)
        cell = {(p[across], p[down]): p for p in points}
        for quantity in shown:
            maps[quantity.name].append([[math.log10(quantity.of(cell[x, y]) or math.nan) for x in xs] for y in ys])
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
        crossed.append(([(i, j) for i, x in enumerate(xs) for j, y in enumerate(ys) if _outgrows(cell[x, y])], place))
        figure.update_xaxes(**_cells(across, xs, units.get(across, "")), **place)
        figure.update_yaxes(**_cells(down if place["col"] == 1 else "", ys, units.get(down, "")), **place)
    # After all maps: the menu counts traces from the first.
    for cells, place in crossed:
        if cells:
            marker = {"symbol": "x-thin", "size": 5, "line": {"width": 1, "color": "#fff"}}
            across_cells, down_cells = zip(*cells, strict=True)
            figure.add_scatter(
                x=across_cells, y=down_cells, mode="markers", marker=marker, hoverinfo="skip", showlegend=False, **place
            )
    scales = {quantity.name: _scale(quantity, maps[quantity.name]) for quantity in shown}
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"z": maps[name]},
                {f"coloraxis.{key}": v for key, v in scale.items()},
                list(range(len(machines))),
            ],
        }
        for name, scale in scales.items()
    ]
    below = f"crosses: {_OUTGROWN}" if any(_outgrows(row) for row in rows) else ""
    _dress(figure, 160 + 420 * lines, f"{_models(rows)} over {across} and {down}", below)
    figure.update_layout(
        coloraxis={"colorscale": [list(stop) for stop in HEAT], **scales[shown[0].name]},
        updatemenus=[dropdown(buttons, {"y": 1.0, "yanchor": "bottom", "pad": {"b": 30}})],
        margin={"t": 150},
    )
    return figure


def _scale(quantity: Quantity, maps: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Colour axis of a quantity over all maps: bright means good."""
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
    """The axis that a sweep runs along: logarithmic with the sweep's values as ticks, or a category axis for words."""
    values = _values(rows, axis)
    if not _is_numeric(rows, axis):
        return {"type": "category", "title": {"text": plain(axis)}}
    ticks = _some(sorted(values))
    unit = units.get(axis, "")
    return log_axis(plain(axis), values, unit, 0.04) | {"tickvals": ticks, "ticktext": [amount(tick, unit) for tick in ticks]}


def _cells(title: str, values: Sequence[float], unit: str) -> dict[str, Any]:
    """An axis of a heat map: one cell per value, some of them labelled."""
    ticks = _some(range(len(values)))
    labels = [amount(values[tick], unit) for tick in ticks]
    return {"title": {"text": plain(title)}, "tickvals": ticks, "ticktext": labels, "showgrid": False, "automargin": True}


def _some(values: Sequence[Any]) -> list[Any]:
    """At most `LABELS` evenly spaced values, the last one included."""
    step = -(-len(values) // LABELS)
    return list(values[::-1][::step][::-1])


def _sparse(axis: dict[str, Any]) -> dict[str, Any]:
    """A horizontal axis, with ticks at decades only where more than six would overlap."""
    if len(axis["tickvals"]) <= 6:
        return axis
    text_of = dict(zip(axis["tickvals"], axis["ticktext"], strict=True))
    decades = [tick for tick in text_of if round(math.log10(tick), 9) % 1 == 0]
    return axis | {"tickvals": decades, "ticktext": [text_of[tick] for tick in decades]}


def _bytes_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at powers of two such as "64 MiB"."""
    axis = log_axis(title, values, "B")
    low, high = (math.log2(10.0**end) for end in axis["range"])
    step = max(1, math.ceil((high - low) / 5))
    ticks = [2.0**power for power in range(math.ceil(low), math.floor(high) + 1, step)]
    return axis | {"tickvals": ticks, "ticktext": [size(tick).replace(".00 ", " ").replace(".0 ", " ") for tick in ticks]}


def _hover(point: Row, axes: Sequence[str], units: Units) -> str:
    """Position and all quantities of a point."""
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
    lines.append(f"{si(point['tiles'], '')} tiles, {size(point['peak_memory_bytes'])} alive")
    if _outgrows(point):
        lines.append(
            f"{_OUTGROWN}: {size(point['memory_missing_bytes'])} missing, {point['memory_devices']} devices would hold it"
        )
    return "<br>".join(lines)


def _outgrows(point: Row) -> bool:
    return point.get("fits") is False


def _symbol(filled: str, point: Row) -> str:
    return f"{filled}-open" if _outgrows(point) else filled


def _models(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(str(row["model"]) for row in rows))


def _values(rows: Sequence[Row], axis: str) -> list[Any]:
    return list(dict.fromkeys(row[axis] for row in rows))


def _is_numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row[axis], int | float) and not isinstance(row[axis], bool) and row[axis] > 0 for row in rows)
