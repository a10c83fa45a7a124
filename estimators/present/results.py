"""Columns of estimates, of their flat records (`predict.tabular.flatten`) and of rows of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from shmoo.estimators.columns import Cell, Column
from shmoo.estimators.units import amount, span, yes_or_no


def interval(field: str, unit: str) -> Callable[[Mapping[str, Any]], str]:
    """The 90 % interval of a field as text, "" where it is not known."""
    return lambda r: "" if r[f"{field}_low"] is None else span(r[f"{field}_low"], r[f"{field}_high"], unit, "-")


RESULTS = (
    Column("latency", itemgetter("latency_s"), "s"),
    Column("90 % interval", interval("latency_s", "s")),
    Column("device", itemgetter("device_s"), "s"),
    Column("rate", itemgetter("throughput_per_s"), "/s"),
    Column("achieved", lambda r: r["flops"] / r["latency_s"], "flop/s"),
    Column("energy", itemgetter("energy_j"), "J"),
    Column("power", itemgetter("average_power_w"), "W"),
    Column("memory", itemgetter("peak_memory_bytes"), "iB"),
    Column("fits", lambda r: yes_or_no(r["fits"])),
    Column("tiles", itemgetter("tiles"), ""),
)


def settings(axes: Iterable[str], unit_of: Callable[[str], str]) -> list[Column]:
    """A column an axis of a sweep, sorted by its numbers."""

    def cell(value: object, unit: str) -> Cell:
        text = amount(value, unit)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return Cell(text, value if number else text, numeric=True)

    return [Column(name, lambda r, name=name: cell(r[name], unit_of(name))) for name in axes]


def results(*names: str) -> list[Column]:
    """Some of `RESULTS`."""
    return [column for name in names for column in RESULTS if column.name == name]
