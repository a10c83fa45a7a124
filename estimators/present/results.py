"""Columns of estimates, of their flat records (`predict.estimate_records.flatten`) and of rows of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from shmoo.estimators.shown_columns import Cell, Column
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


def setting(name: str, unit: str) -> Column:
    """An axis, sorted by its numbers."""

    def cell(record: Mapping[str, Any]) -> Cell:
        value, text = record[name], amount(record[name], unit)
        return Cell(text, value if isinstance(value, int | float) and not isinstance(value, bool) else text, numeric=True)

    return Column(name, cell)


def results(*names: str) -> list[Column]:
    """Some of `RESULTS`."""
    return [column for name in names for column in RESULTS if column.name == name]
