"""Plots of measured sweeps: speed over footprint and over two axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from shmoo.estimators.graph.records import CONTRACTIONS
from shmoo.estimators.registry import grouped
from shmoo.estimators.units import si, size
from shmoo.runs.analysis.error_records import CaseError
from shmoo.runs.plots.chart import Chart, Figure, Heat, Layer, Rule, categories

MOST_PLANES = 8
"""Most operators in the menu of `plane_figure`; those with the most cases are kept."""


def shmoo_figure(cases: Sequence[CaseError], capacities: Mapping[str, float]) -> Figure:
    """Speed of every operator by footprint, relative to the operator's best speed; lines mark the memory levels' capacities in
    bytes."""
    rows: dict[str, dict[int, list[CaseError]]] = {}
    for name, members in _by_operator(case for case in cases if case.bytes > 0).items():
        rows[name] = defaultdict(list)
        for case in members:
            rows[name][round(math.log2(case.bytes))].append(case)
    columns = [octave for cells in rows.values() for octave in cells] or [0]
    octaves = range(min(columns), max(columns) + 1)
    names = sorted(rows, key=lambda name: (next(iter(rows[name].values()))[0].family, name), reverse=True)
    z, texts = [], []
    for name in names:
        speeds = {octave: median(map(_speed, members)) for octave, members in rows[name].items()}
        best = max(speeds.values())
        unit = _speed_unit(next(iter(rows[name].values()))[0])
        z.append([speeds[octave] / best if octave in speeds else None for octave in octaves])
        texts += [f"{si(speeds[o], unit)}, {len(rows[name][o])} cases" if o in speeds else "" for o in octaves]
    x = categories("bytes the operator moves at least", [size(2.0**o).replace(".00 ", " ").replace(".0 ", " ") for o in octaves])
    marks = [
        Rule(x=math.log2(nbytes) - octaves[0], label=f"{level} {size(nbytes)}")
        for level, nbytes in capacities.items()
        if x.low < math.log2(nbytes) - octaves[0] < x.high
    ]
    heat = Heat(layers=(Layer("of its best", "%", z, 0.0, 1.0),), texts=tuple(texts))
    return Figure((Chart(x, categories("", names), (heat, *marks), height=max(240, 80 + 24 * len(names))),))


def plane_figure(cases: Sequence[CaseError], capacities: Mapping[str, float]) -> Figure | None:
    """Two-axis shmoo: achieved speed over the two axes with the most values; a menu selects the operator. `None` when no operator
    was swept over two axes with at least three values each."""
    planes = sorted(_planes(cases), key=lambda plane: -len(plane.members))[:MOST_PLANES]
    if not planes:
        return None
    charts = []
    for plane in planes:
        members_at = grouped(((c.case.axes[plane.x], c.case.axes[plane.y]), c) for c in plane.members)
        xs, ys = sorted({x for x, _ in members_at}), sorted({y for _, y in members_at})
        speeds = {place: median(map(_speed, members)) for place, members in members_at.items()}
        levels, texts = {}, {}
        for place, members in members_at.items():
            moved = median(case.bytes for case in members)
            levels[place] = next((level for level, capacity in capacities.items() if moved <= capacity), "memory")
            texts[place] = f"{size(moved)} moved at least: {levels[place]}"
        z = [[speeds.get((x, y)) for x in xs] for y in ys]
        layer = Layer("achieved", _speed_unit(plane.members[0]), z, min(speeds.values()), max(speeds.values()))
        heat = Heat(
            layers=(layer,),
            cells=tuple(tuple(levels.get((x, y), "") for x in xs) for y in ys),
            texts=tuple(texts.get((x, y), "") for y in ys for x in xs),
        )
        across, up = categories(plane.x, [str(x) for x in xs]), categories(plane.y, [str(y) for y in ys])
        charts.append(Chart(across, up, (heat,), plane.name, 480))
    return Figure(tuple(charts), choose=True)


def _by_operator(cases: Iterable[CaseError]) -> dict[str, list[CaseError]]:
    """Operator cases by name. An operator with cases in several families (convolutions, depthwise or not) has one name per
    family, because their speeds are unrelated."""
    operators = [case for case in cases if case.case.kind == "operator"]
    families: dict[str, set[str]] = {}
    for case in operators:
        families.setdefault(case.case.workload, set()).add(case.family)
    by_name: dict[str, list[CaseError]] = {}
    for case in operators:
        parts = [case.case.workload]
        parts += [f"({case.family})"] if len(families[case.case.workload]) > 1 and case.family != case.case.workload else []
        parts += [case.case.dtype] if case.case.dtype != "float32" else []
        parts += [case.case.runtime] if case.case.runtime != "eager" else []
        by_name.setdefault(" ".join(parts), []).append(case)
    return by_name


def _speed(case: CaseError) -> float:
    """The limiting rate: flop/s for contractions, B/s for all other families."""
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
