"""What an energy counter looks like: `snapshot()` reads it, the pure `energy_j(before, after)` says what happened in between.

An energy is a positive number or `None` with a reason. A counter that cannot be read, did not move or jumped is a reason, never
0: an unreadable sample taken for 0 makes the next one look like a wrap of the whole range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import msgspec

UNMOVED = "the counter did not move; the window may be shorter than its update period, or it is stuck"
MAX_DOMAIN_W = 2000.0
"""No socket, memory or card draws more (the largest accelerators are specified below 1,500 W); a larger step is a fault."""


class Snapshot(msgspec.Struct, frozen=True):
    """One reading of every counter of a probe.

    Attributes:
        at_s: monotonic time of the reading.
        values: counter name -> raw value, in the counter's own unit.
        errors: counter name -> why it could not be read.
    """

    at_s: float
    values: dict[str, float] = {}
    errors: dict[str, str] = {}


class DomainEnergy(msgspec.Struct, frozen=True):
    """Energy of one domain between two snapshots, or why it is not known."""

    energy_j: float | None
    reason: str = ""


@runtime_checkable
class PowerMeter(Protocol):
    """A probe that also tells power, as a check of its counter."""

    def power_w(self) -> dict[str, float]:
        """Power now, W, by kind: "instant" where the sensor has it. Empty where it does not answer."""


class Probe(Protocol):
    """An energy counter. Adding one means writing this face and listing it in `available_probes`.

    Attributes:
        name: for people ("pyRAPL", "NVML").
        domains: "package", "dram", "core", "uncore", "psys", "gpu". A domain may contain another (package holds core and uncore,
            psys holds package): they are never summed.
        update_period_s: how often the counter moves; the meter measures it where it can.
        gain_error: relative error of its scale that no repetition averages out; part of every interval.
    """

    name: str
    domains: tuple[str, ...]
    update_period_s: float
    gain_error: float

    def snapshot(self) -> Snapshot:
        """Read every counter now; an unreadable one is listed in `errors`, nothing is raised."""

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        """Energy of every domain between two snapshots. Pure."""


def energy_between(
    name: str,
    before: Snapshot,
    after: Snapshot,
    *,
    joules_per_unit: float,
    update_period_s: float,
    span: float | None = None,
    falling: bool = False,
) -> DomainEnergy:
    """Energy of one counter between two snapshots, or why one of them does not have it.

    Args:
        joules_per_unit, update_period_s, span: as `counter_step` takes them.
        falling: whether it is a store that empties, so that the later reading is the lower one.
    """
    for snapshot in (before, after):
        if name not in snapshot.values:
            return DomainEnergy(None, snapshot.errors.get(name, "missing from a reading"))
    first, last = before.values[name], after.values[name]
    if falling:
        first, last = last, first
    return counter_step(
        first,
        last,
        span=span,
        joules_per_unit=joules_per_unit,
        elapsed_s=after.at_s - before.at_s,
        update_period_s=update_period_s,
    )


def counter_step(
    before: float,
    after: float,
    *,
    span: float | None,
    joules_per_unit: float,
    elapsed_s: float,
    update_period_s: float = 0.0,
    max_w: float = MAX_DOMAIN_W,
) -> DomainEnergy:
    """Energy behind one step of a counter that may have wrapped once.

    Args:
        span: range of the counter in its own unit, after which it starts again at 0; `None` when that is not known.
        elapsed_s: time between the readings, which bounds what can be believed together with `max_w`.
        update_period_s: a reading may show the energy of one such period more than elapsed between the readings.
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        return DomainEnergy(None, f"the counter reads {before} and {after}, which are no numbers")
    possible = max_w * (max(elapsed_s, 0.0) + update_period_s)
    if span is not None and possible >= span * joules_per_unit and possible > 0:
        wraps_after = span * joules_per_unit / max_w
        return DomainEnergy(
            None, f"{elapsed_s:.0f} s between readings, in which the counter may wrap more than once ({wraps_after:.0f} s)"
        )
    step = after - before
    if step < 0:
        if span is None:
            return DomainEnergy(None, "the counter fell and its range cannot be read; it wrapped or was reset")
        step += span
        if not 0 < step * joules_per_unit <= possible:
            return DomainEnergy(None, f"the counter fell from {before:.0f} to {after:.0f}, which no wrap explains; it was reset")
    energy = step * joules_per_unit
    if energy > possible:
        return DomainEnergy(None, f"{energy:.3g} J in {elapsed_s:.3g} s is beyond {max_w:.0f} W; the counter jumped")
    return DomainEnergy(energy) if energy > 0 else DomainEnergy(None, UNMOVED)


def trail_energy(probe: Probe, trail: Sequence[Snapshot]) -> dict[str, DomainEnergy]:
    """Energy of every domain from the first to the last of many snapshots, step by step, so that a counter may wrap often."""
    totals: dict[str, DomainEnergy] = dict.fromkeys(probe.domains, DomainEnergy(None, UNMOVED))
    for before, after in pairwise(trail):
        for domain, step in probe.energy_j(before, after).items():
            totals[domain] = _add(totals[domain], step)
    return totals


def _add(total: DomainEnergy, step: DomainEnergy) -> DomainEnergy:
    for one, other in ((total, step), (step, total)):
        if one.energy_j is None:
            # A step in which the counter slept is no fault: the next one holds its energy.
            return other if one.reason == UNMOVED else one
    return DomainEnergy(total.energy_j + step.energy_j)


def sum_domain(parts: dict[str, DomainEnergy]) -> DomainEnergy:
    """One domain from its counters (one a socket or die): the sum, or the first reason with the counter it comes from."""
    for name, part in parts.items():
        if part.energy_j is None:
            return DomainEnergy(None, part.reason if part.reason == UNMOVED else f"{name}: {part.reason}")
    return DomainEnergy(sum(part.energy_j for part in parts.values())) if parts else DomainEnergy(None, "no counter")
