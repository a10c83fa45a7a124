"""A sweep as figures: a shmoo (heat map) over two numeric axes, curves otherwise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs

from shmoo.estimators.errors import InputError
from shmoo.estimators.present.results import results
from shmoo.estimators.registry import grouped
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import amount, percent, si, size, span
from shmoo.runs.plots import chart

Row = dict[str, Any]
Units = Mapping[str, str]
DASHES = ("solid", "dash", "dot", "dashdot", "12 4", "12 4 2 4")
SHMOO_VALUES = 3
"""Fewest values on each axis of a heat map; fewer are easier to compare as curves."""
BATCH = "batch"
OUTGROWN = "does not fit the machine's memory"
LEAVES = "working set leaves the chip"
AS_BUILT = "as built"


LATENCY, ENERGY, TILES = results("latency", "energy", "tiles")
THROUGHPUT = Column("throughput", itemgetter("throughput_per_s"), "/s")
RATE = Column("achieved rate", lambda row: row["flops"] / row["latency_s"], "flop/s")
POWER = Column("average power", itemgetter("average_power_w"), "W")
CURVES = (LATENCY, THROUGHPUT, RATE, TILES, ENERGY, POWER)
QUANTITIES = (RATE, LATENCY, ENERGY, POWER, Column("energy x delay", itemgetter("edp_js"), "Js"), TILES)
"""Quantities of a heat map; only for the rate are large values good."""


class Machines(NamedTuple):
    """Facts about the machines that a figure shows beside the rows.

    Attributes:
        as_built: machine -> axis -> the value that the machine has before the sweep changes it.
        on_chip_bytes: on-chip memory of a row's machine with the row's changes; `None` where it is unknown.
    """

    as_built: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    on_chip_bytes: Callable[[Row], float | None] = lambda row: None


UNKNOWN_MACHINES = Machines()
"""Default: only the rows are known."""


def sweep_figures(
    rows: Sequence[Row], axes: Sequence[str], units: Units = MappingProxyType({}), machines: Machines = UNKNOWN_MACHINES
) -> dict[str, chart.Figure]:
    """Draw the rows of a `SweepController`: "map" and, of several machines, "winner"; or "curves". `InputError` without rows or
    axes.

    Args:
        axes: the columns that vary; those with a single value are ignored. Two numeric axes give a heat map per architecture;
            otherwise curves run along the first axis, one for each combination of the others.
        units: units of the axes that have one.
    """
    if not rows:
        raise InputError("a sweep without points cannot be drawn")
    if not axes:
        raise InputError("a plot takes at least one axis, got none")
    axes = [axis for axis in axes if len(_values(rows, axis)) > 1] or list(axes[:1])
    if len(axes) == 2 and all(_is_numeric(rows, axis) and len(_values(rows, axis)) >= SHMOO_VALUES for axis in axes):
        return _shmoo(rows, axes[0], axes[1], units, machines)
    return {"curves": _curves(rows, axes[0], axes[1:], units, machines)}


def sweep_answer(rows: Sequence[Row], axes: Sequence[str], units: Units = MappingProxyType({})) -> str:
    """The result of a sweep in two sentences: its fastest point, the one with the least energy, and the machine that wins most
    points.

    Times of points with different work do not compare: over batches, the sentences give the range, and the points with the best
    throughput and the least energy per sample."""
    axes = [axis for axis in axes if len(_values(rows, axis)) > 1]

    def place(row: Row) -> str:
        settings = ", ".join(f"{axis} {amount(row[axis], units.get(axis, ''))}" for axis in axes)
        return f"{row['arch']}{f' at {settings}' if settings else ''}"

    fastest = min(rows, key=lambda row: row["latency_s"])
    slowest = max(rows, key=lambda row: row["latency_s"])
    batched = BATCH in axes
    if batched:
        most = max(rows, key=THROUGHPUT.of)
        ends = " to ".join(f"{si(row['latency_s'], 's')} on {place(row)}" for row in (fastest, slowest))
        best = f"{si(most['throughput_per_s'], '/s')} ({si(most['latency_s'], 's')} a call)"
        clauses = [f"Best throughput: {best} on {place(most)}", f"latency from {ends}"]
    else:
        clauses = [f"Fastest: {si(fastest['latency_s'], 's')} on {place(fastest)} (slowest: {si(slowest['latency_s'], 's')})"]

    def joules(row: Row) -> float:
        return float(row["energy_j"]) / (row[BATCH] if batched else 1)

    frugal = min((row for row in rows if row["energy_j"] is not None), key=joules, default=None)
    if frugal is not None:
        clauses.append(f"least energy: {si(joules(frugal), 'J')}{' a sample' if batched else ''} on {place(frugal)}")
    sentences = ["; ".join(clauses) + "."]
    points = list(_grouped(rows, axes).values())
    if len(_values(rows, "arch")) > 1:
        winners = [min(point, key=lambda row: row["latency_s"])["arch"] for point in points]
        best = max(dict.fromkeys(winners), key=winners.count)
        share = percent(winners.count(best) / len(points), digits=0)
        sentences.append(f"{best} is the fastest machine at {share} of the points.")
    return " ".join(sentences)


def _curves(rows: Sequence[Row], axis: str, other_axes: Sequence[str], units: Units, machines: Machines) -> chart.Figure:
    """Latency with its interval, throughput, achieved rate, tiles over footprint, energy over latency, and power. Among the
    columns that differ between curves (architecture, model, the other axes), the first sets the color, the second the dash and
    the rest the symbol."""
    columns_in_turn = ["arch", *sorted(other_axes, key=lambda name: name != "model")]
    differing = [name for name in columns_in_turn if len(_values(rows, name)) > 1] or ["arch"]
    by_style = (differing[:1], differing[1:2], differing[2:])
    values_by_style = [list(_grouped(rows, columns)) for columns in by_style]
    palette = _palette([str(value[0]) if differing[0] == "arch" else "" for value in values_by_style[0]])
    along = _along(rows, axis, units)
    places = {value: float(i) for i, value in enumerate(_values(rows, axis))} if along.labels else {}
    memory = chart.log_axis("everything alive at once", [r["peak_memory_bytes"] for r in rows], "B")
    latency = chart.log_axis("latency", map(LATENCY.of, rows), "s")
    across_of = {TILES: structs.replace(memory, scale="octave"), ENERGY: latency}
    ends = [row[name] for row in rows for name in ("latency_s_low", "latency_s_high")]
    panels: dict[str, tuple[chart.Axis, chart.Axis, list[chart.Mark]]] = {}
    for curve in CURVES:
        values = [*map(curve.of, rows), *(ends if curve is LATENCY else ())]
        panels[curve.name] = across_of.get(curve, along), chart.log_axis(curve.name, values, curve.unit), []
    for points in _grouped(rows, differing).values():
        colour, dash, symbol = (
            values.index(tuple(points[0][name] for name in columns))
            for columns, values in zip(by_style, values_by_style, strict=True)
        )
        name = ", ".join(_label(name, points[0][name], units) for name in differing)
        texts = tuple(_text(p, (axis, *other_axes), units) for p in points)
        hollow = tuple(_outgrows(p) for p in points)
        column = {name: [p[name] for p in points] for name in points[0]}
        x = [places.get(value, value) for value in column[axis]]
        places_of = {TILES: column["peak_memory_bytes"], ENERGY: column["latency_s"]}
        for curve in CURVES:
            up = [curve.of(p) for p in points]
            if None in up:
                continue
            bars = curve is LATENCY and None not in column["latency_s_low"]
            panels[curve.name][2].append(
                chart.Points(
                    x=tuple(places_of.get(curve, x)),
                    y=tuple(up),
                    name=name,
                    texts=texts,
                    colour=palette[colour],
                    line=DASHES[dash % len(DASHES)],
                    symbol=chart.SYMBOLS[symbol % len(chart.SYMBOLS)],
                    low=tuple(column["latency_s_low"]) if bars else (),
                    high=tuple(column["latency_s_high"]) if bars else (),
                    hollow=hollow if any(hollow) else (),
                )
            )
    built = {values[axis] for values in machines.as_built.values() if axis in values} if not along.labels else set()
    rules = tuple(chart.Rule(x=value, label=AS_BUILT) for value in sorted(built) if along.low <= value <= along.high)
    charts = [chart.Chart(x, y, (*(rules if x is along else ()), *marks), height=340) for x, y, marks in panels.values() if marks]
    return chart.Figure(tuple(charts), columns=2)


def _grouped(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[object, ...], list[Row]]:
    """Rows by the values of these columns, in the order they first appear."""
    return grouped((tuple(row[name] for name in columns), row) for row in rows)


def _palette(machines: Sequence[str]) -> list[str]:
    """One colour per machine: that of its family for the first machine of a family, otherwise an unused one."""
    colours: list[str | None] = []
    for machine in machines:
        of_family = chart.ARCHITECTURE_COLOURS.get(chart.architecture_family(machine))
        colours.append(None if of_family in colours else of_family)
    unused = itertools.cycle([colour for colour in chart.COLOURS if colour not in colours] or chart.COLOURS)
    return [colour or next(unused) for colour in colours]


def _label(column: str, value: object, units: Units) -> str:
    """Legend text of a value: architectures and models appear without the column's name."""
    text = amount(value, units.get(column, ""))
    return text if column in ("arch", "model") else f"{column} {text}"


def _shmoo(rows: Sequence[Row], across: str, up: str, units: Units, machines: Machines) -> dict[str, chart.Figure]:
    """A heat map of the achieved rate for each architecture, on a common scale; a menu selects other quantities. For several
    machines, also maps of the fastest one and of the one with the least energy in each cell."""
    xs, ys = (sorted(_values(rows, axis)) for axis in (across, up))
    x, y = (chart.categories(axis, [amount(v, units.get(axis, "")) for v in vs]) for axis, vs in ((across, xs), (up, ys)))
    cells = {str(arch): {(row[across], row[up]): row for row in points} for (arch,), points in _grouped(rows, ["arch"]).items()}
    height = max(240, min(90 + 26 * len(ys), 560))
    quantities = [q for q in QUANTITIES if all((q.of(row) or 0.0) > 0 for row in rows)]
    values = {q.name: [q.of(row) or math.nan for row in rows] for q in quantities}
    ends = {name: (min(column), max(column)) for name, column in values.items()}
    charts = []
    for arch, cell in cells.items():
        grids = {q: [[q.of(cell[i, k]) for i in xs] for k in ys] for q in quantities}
        layers = tuple(chart.Layer(q.name, q.unit, grids[q], *ends[q.name], log=True, less=q is not RATE) for q in quantities)
        marks: list[chart.Mark] = [
            chart.Heat(layers=layers, texts=tuple(_interval_and_memory(cell[i, k]) for k in ys for i in xs))
        ]
        inside = [[_on_chip(cell[i, k], machines) for i in xs] for k in ys]
        if pieces := _border(inside):
            marks.append(chart.Contour(pieces=pieces, name=LEAVES))
        if crossed := [(float(i), float(k)) for i, a in enumerate(xs) for k, b in enumerate(ys) if _outgrows(cell[a, b])]:
            crosses = tuple(zip(*crossed, strict=True))
            marks.append(chart.Points(x=crosses[0], y=crosses[1], symbol="x", size=9.0, colour="#ffffff"))
        built = machines.as_built.get(arch, {})
        at, height_at = _position(xs, built.get(across)), _position(ys, built.get(up))
        if at is not None and height_at is not None:
            text = (f"{arch} {AS_BUILT}",)
            marks.append(
                chart.Points(x=(at,), y=(height_at,), name=AS_BUILT, texts=text, symbol="ring", size=34.0, colour="#d3304d")
            )
        charts.append(chart.Chart(x, y, tuple(marks), arch, height))
    figures = {"map": chart.Figure(tuple(charts), columns=min(len(charts), 2))}
    if len(cells) > 1:
        figures["winner"] = _winners(cells, xs, ys, x, y, height)
    return figures


def _winners(
    cells: Mapping[str, Mapping[Any, Row]], xs: list[Any], ys: list[Any], x: chart.Axis, y: chart.Axis, height: int
) -> chart.Figure:
    names, colours = tuple(cells), tuple(_palette(list(cells)))
    charts = []
    for title, field, unit in (("fastest machine", "latency_s", "s"), ("machine with the least energy", "energy_j", "J")):
        index, texts = [], []
        for k in ys:
            line = []
            for i in xs:
                ranking = sorted((cell[i, k][field], n) for n, cell in enumerate(cells.values()) if cell[i, k][field] is not None)
                line.append(ranking[0][1] if ranking else -1)
                texts.append("\n".join(f"{names[n]}: {si(value, unit)}" for value, n in ranking))
            index.append(line)
        if any(number >= 0 for line in index for number in line):
            charts.append(
                chart.Chart(x, y, (chart.Regions(index=index, names=names, colours=colours, texts=tuple(texts)),), title, height)
            )
    return chart.Figure(tuple(charts), columns=2)


def _on_chip(row: Row, machines: Machines) -> bool | None:
    capacity = machines.on_chip_bytes(row)
    return None if capacity is None else row["peak_memory_bytes"] <= capacity


def _border(inside: Sequence[Sequence[bool | None]]) -> tuple[tuple[float, float, float, float], ...]:
    """Edges between a cell inside and a cell outside."""
    pieces = []
    for k, line in enumerate(inside):
        for i, cell in enumerate(line):
            if i + 1 < len(line) and None not in (cell, line[i + 1]) and cell != line[i + 1]:
                pieces.append((i + 0.5, k - 0.5, i + 0.5, k + 0.5))
            if k + 1 < len(inside) and None not in (cell, inside[k + 1][i]) and cell != inside[k + 1][i]:
                pieces.append((i - 0.5, k + 0.5, i + 0.5, k + 0.5))
    return tuple(pieces)


def _position(values: Sequence[float], value: float | None) -> float | None:
    """Position of a value among the sorted values of an axis, interpolated by its logarithm; `None` outside."""
    if value is None or not values[0] <= value <= values[-1]:
        return None
    return float(np.interp(math.log(value), np.log(values), range(len(values))))


def _along(rows: Sequence[Row], axis: str, units: Units) -> chart.Axis:
    """The axis of a sweep: logarithmic for numbers, categories for words."""
    values = _values(rows, axis)
    if not _is_numeric(rows, axis):
        return chart.categories(axis, [str(value) for value in values])
    unit = units.get(axis, "")
    along = chart.log_axis(axis, values, unit, 0.04)
    return structs.replace(along, scale="octave") if unit == "B" else along


def _text(point: Row, axes: Sequence[str], units: Units) -> str:
    lines = [str(point["arch"]), *(f"{axis} {amount(point[axis], units.get(axis, ''))}" for axis in axes)]
    rate = point["flops"] / point["latency_s"]
    lines += [f"latency {si(point['latency_s'], 's')}", f"{si(point['throughput_per_s'], '/s')}, {si(rate, 'flop/s')}"]
    if point["energy_j"] is not None:
        lines.append(f"energy {si(point['energy_j'], 'J')}, {si(point['average_power_w'], 'W')}")
    return "\n".join(filter(None, [*lines, f"{si(point['tiles'], '')} tiles", _interval_and_memory(point)]))


def _interval_and_memory(point: Row) -> str:
    """The interval of a point and its memory."""
    lines = []
    if point["latency_s_low"] is not None:
        lines.append(f"90 % interval {span(point['latency_s_low'], point['latency_s_high'], 's')}")
    lines.append(f"{size(point['peak_memory_bytes'])} alive")
    if _outgrows(point):
        missing_memory = size(point["memory_missing_bytes"])
        lines.append(f"{OUTGROWN}: {missing_memory} missing, {point['memory_devices']} devices would hold it")
    return "\n".join(lines)


def _outgrows(point: Row) -> bool:
    return point.get("fits") is False


def _values(rows: Sequence[Row], axis: str) -> list[Any]:
    return list(dict.fromkeys(row[axis] for row in rows))


def _is_numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row[axis], int | float) and not isinstance(row[axis], bool) and row[axis] > 0 for row in rows)
