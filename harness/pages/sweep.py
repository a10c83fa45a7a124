"""The page of a sweep: its result in words, the maps or curves, and its points as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.present.results import results, setting
from shmoo.estimators.shown_columns import Cell, Column, quantity
from shmoo.estimators.sweep.on_chip import on_chip_bytes
from shmoo.estimators.units import span
from shmoo.estimators.variants import tiling_parameters, variant
from shmoo.runs.plots.page import page, plot, section, table, write
from shmoo.runs.plots.sweeps import AS_BUILT, LEAVES, OUTGROWN, THROUGHPUT, Machines, sweep_answer, sweep_figures

LISTED = 500
"""Most points in the page's table, the fastest ones; `--csv` writes all of them."""


def write_page(
    rows: Sequence[dict[str, Any]],
    axes: Sequence[str],
    profiles: Sequence[ArchitectureProfile],
    machine_axes: Sequence[str],
    path: str | Path,
    units: Mapping[str, str],
) -> None:
    """Write the page of a sweep into one file; `InputError` without rows or axes.

    Args:
        rows: rows of a `SweepController`. axes: the columns that vary. profiles: the machines before the sweep changed them.
        machine_axes: the axes that change the machine. units: axis -> unit, for axes with one.
    """
    figures = sweep_figures(rows, axes, units, machines_of(profiles, machine_axes))
    models = ", ".join(dict.fromkeys(str(row["model"]) for row in rows))
    machines = list(dict.fromkeys(str(row["arch"]) for row in rows))
    machines_text = f" on {machines[0]}" if len(machines) == 1 else f" on {len(machines)} machines"
    parts = []
    if "winner" in figures:
        parts.append(section("winner", "Which machine wins where", plot("winner", "the best machine in each cell")))
    if "map" in figures:
        legend = (
            "Each cell is one point; bright is good, on one scale for all machines. "
            f"The red line is where the {LEAVES}, the ring is the machine {AS_BUILT}, crosses mark what {OUTGROWN}."
        )
        parts.append(section("map", "Maps", legend, plot("map", f"{models} over {' and '.join(axes)}")))
    if "curves" in figures:
        legend = f"Bars are 90 % intervals. Hollow symbols mark what {OUTGROWN}; a dotted line is the machine {AS_BUILT}."
        parts.append(section("curves", "Curves", legend, plot("curves", f"{models} over {axes[0]}")))
    fastest = sorted(rows, key=lambda row: float(row["latency_s"]))[:LISTED]
    note = f"The {LISTED} fastest of {len(rows):,}; --csv writes all of them." if len(rows) > LISTED else f"All {len(rows)}."
    columns = [
        Column("machine", itemgetter("arch")),
        *(setting(axis, units.get(axis, "")) for axis in axes),
        Column("latency", _latency),
        THROUGHPUT,
        *results("achieved", "energy", "memory", "fits", "tiles"),
    ]
    lines = [{column.name: column.cell(row) for column in columns} for row in fastest]
    parts.append(section("points", "Points", note, table(lines, "points of the sweep")))
    text = page(
        f"{models} over {' and '.join(axes)}{machines_text}",
        Markup("").join(parts),
        eyebrow="Sweep",
        answer=sweep_answer(rows, axes, units),
        links=[(name, name.capitalize()) for name in ("winner", "map", "curves") if name in figures] + [("points", "Points")],
        figures=figures,
        footer="estimates, no measurements",
    )
    write(text, path)


def machines_of(profiles: Sequence[ArchitectureProfile], machine_axes: Sequence[str]) -> Machines:
    """The machines' on-chip memory with the swept values, and their values as built."""
    by_name = {profile.name: profile for profile in profiles}
    # Rates and energies do not change the on-chip memory.
    deciding = [name for name in machine_axes if entry(name).role in ("count", "size")]

    @cache
    def capacity(arch: str, *values: float) -> float:
        profile = by_name[arch]
        return on_chip_bytes(variant(profile, dict(zip(deciding, values, strict=True))) if deciding else profile)

    return Machines(
        {
            name: {axis: profile.value(axis) for axis in machine_axes if axis not in tiling_parameters(profile)}
            for name, profile in by_name.items()
        },
        lambda row: capacity(str(row["arch"]), *(row[name] for name in deciding)),
    )


def _latency(row: Mapping[str, Any]) -> Cell:
    low, high = row["latency_s_low"], row["latency_s_high"]
    return quantity(row["latency_s"], "s", "" if low is None else span(low, high, "s"))
