"""Silicon: what a changed part of a machine adds to its chip, where its profile has `area.*` coefficients, of its own process.
Clocks, launches and the memory behind the interface take no area."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.catalogue import entry, under
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient

Amount = float | np.ndarray

COUNTED: Mapping[str, str] = {"cpu": "count.cores", "gpu": "count.sms", "tpu": "count.units", "kpu": "count.tiles"}
"""Architecture family -> the count of its parts."""
_OWN: Mapping[str, tuple[str, ...]] = {"cpu": ("l1", "l2"), "gpu": ("shared", "register"), "tpu": (), "kpu": ("l1",)}
"""Architecture family -> memories whose capacity is that of one part."""
_TAKES_AREA = ("count", "size", "rate")
"""Roles of the coefficients that stand for silicon."""


def _added(
    base: ArchitectureProfile, machine: ArchitectureProfile, changed: Iterable[str]
) -> Iterator[tuple[Coefficient, Amount]]:
    """The coefficients of area, and how much of what they are for a variant of a machine has beyond it."""
    main, counted = base.levels[-1], COUNTED[base.family]
    stems: dict[str, str] = {}
    for name in changed:
        if name in ("clock", f"capacity.{main}") or entry(name).role not in _TAKES_AREA:
            continue
        stem = "area.byte" if name.startswith("capacity.") else "area.bandwidth" if name == f"bandwidth.{main}" else "area.unit"
        if stem == "area.unit" and name != counted:
            raise InputError(f"the area that {name!r} takes is not known; a profile can state it of memory, {counted} and {main}")
        stems[stem] = name
        if stem == "area.unit":
            stems.setdefault("area.byte", name)
    amounts: Mapping[str, Callable[[ArchitectureProfile], Amount]] = {
        "area.byte": on_chip_bytes,
        "area.bandwidth": lambda profile: profile.value(f"bandwidth.{main}"),
        "area.unit": lambda profile: profile.value(counted),
    }
    for stem, name in stems.items():
        coefficient = base.get(stem)
        if coefficient is None:
            raise InputError(f"profile {base.name!r} has no {stem!r}, so the area that {name!r} takes is not known")
        yield coefficient, amounts[stem](machine) - amounts[stem](base)


def added_area(base: ArchitectureProfile, machine: ArchitectureProfile, changed: Iterable[str]) -> Amount:
    """Area in m2 that a variant of a machine has beyond it, by the coefficients that were set in it, which may be arrays of
    design points; `InputError` names one whose area is not known."""
    return sum((c.value * amount for c, amount in _added(base, machine, changed)), 0.0)


def added_area_interval(base: ArchitectureProfile, machine: ArchitectureProfile, changed: Iterable[str]) -> Interval:
    """`added_area` of one machine, from the low ends of the coefficients of area to their high ends; same errors."""
    added = [(c.value, *c.bounds, float(amount)) for c, amount in _added(base, machine, changed)]
    value, *ends = (sum((one[i] * one[3] for one in added), 0.0) for i in range(3))
    return Interval(value, min(ends), max(ends))


def on_chip_bytes(profile: ArchitectureProfile) -> Amount:
    """Bytes of all memories on the chip."""
    total: Amount = 0.0
    for name in under("capacity", profile.coefficients):
        level = name.removeprefix("capacity.")
        if level != profile.levels[-1]:
            parts = profile.value(COUNTED[profile.family]) if level in _OWN[profile.family] else 1.0
            total = total + profile.value(name) * parts
    return total
