"""Energy counters: `snapshot()` reads them, and the pure `energy_j(before, after)` gives the energy between two readings. The
energy is positive, or `None` with a reason, but never 0: an unreadable sample read as 0 would make the next look like a wrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

MICRO = 1e-6
UNMOVED = "the counter did not move; the window may be shorter than its update period, or it is stuck"
MAX_DOMAIN_W = 2000.0
"""Largest power of a socket, memory or card (the largest accelerators are specified below 1,500 W); a larger step is a fault."""


class UnreadableError(OSError):
    """A counter cannot be read; the message is the complete reason."""


class Snapshot(msgspec.Struct, frozen=True):
    """One reading of all counters of a probe, at a monotonic time: by counter name, the raw value in the counter's unit, or the
    reason why it could not be read."""

    at_s: float
    values: dict[str, float] = {}
    errors: dict[str, str] = {}


class DomainEnergy(msgspec.Struct, frozen=True):
    """Energy of one domain between two snapshots, or why it is unknown."""

    energy_j: float | None
    reason: str = ""


class Counter(msgspec.Struct, frozen=True):
    """One counter of a probe, named after its domain if it is the domain's only counter. `read` returns the raw value, or raises
    `UnreadableError` with the complete reason, `OSError` or `ValueError`. After `span`, in the counter's unit, it restarts at 0
    (`None` if unknown)."""

    name: str
    domain: str
    read: Callable[[], float]
    joules_per_unit: float = MICRO
    span: float | None = None


class Probe:
    """Energy counters of one kind; a domain's energy is the sum over its counters. To add a kind, subclass this and list it in
    `available_probes`.

    Args:
        clock: monotonic seconds.
        incomplete: domain -> why its counters do not cover the machine, so their sum would mislead.

    Attributes:
        name: name to show ("pyRAPL", "NVML").
        domains: "package", "dram", "core", "uncore", "psys", "gpu". A domain may contain another (package contains core and
            uncore, psys contains package), so domains are never summed.
        update_period_s: time between updates of the counter; the meter measures it where possible.
        gain_error: relative error of the counter's scale, which repetition does not average out; part of every interval.
        slack_periods: update periods whose energy a step may contain in addition to the time between its readings.
        senses_power: whether it also reads power.
    """

    name: str
    update_period_s: float
    gain_error = 0.0
    slack_periods = 1
    senses_power = False

    def __init__(self, counters: Sequence[Counter], clock: Callable[[], float], incomplete: dict[str, str] | None = None) -> None:
        self._counters = tuple(counters)
        self._clock = clock
        self._incomplete = incomplete or {}
        self.domains = tuple(dict.fromkeys(counter.domain for counter in counters))

    def snapshot(self) -> Snapshot:
        """Read every counter now. Raises nothing; the error of an unreadable counter is in the snapshot."""
        values, errors = {}, {}
        for counter in self._counters:
            try:
                values[counter.name] = counter.read()
            except UnreadableError as error:
                errors[counter.name] = str(error)
            except (OSError, ValueError) as error:
                errors[counter.name] = f"cannot be read: {error}"
        return Snapshot(self._clock(), values, errors)

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        """Energy of every domain between two snapshots, or why it is unknown. Pure."""
        energies = {domain: DomainEnergy(0.0) for domain in self.domains}
        for counter in self._counters:
            total, step = energies[counter.domain], self._step(counter, before, after)
            if total.energy_j is None:
                continue
            if step.energy_j is not None:
                energies[counter.domain] = DomainEnergy(total.energy_j + step.energy_j)
            elif step.reason == UNMOVED or counter.name == counter.domain:
                energies[counter.domain] = step
            else:
                energies[counter.domain] = DomainEnergy(None, f"{counter.name}: {step.reason}")
        return energies | {domain: DomainEnergy(None, reason) for domain, reason in self._incomplete.items()}

    def _step(self, counter: Counter, before: Snapshot, after: Snapshot) -> DomainEnergy:
        for snapshot in (before, after):
            if counter.name not in snapshot.values:
                return DomainEnergy(None, snapshot.errors.get(counter.name, "missing from a reading"))
        return counter_step(
            before.values[counter.name],
            after.values[counter.name],
            span=counter.span,
            joules_per_unit=counter.joules_per_unit,
            elapsed_s=after.at_s - before.at_s,
            update_period_s=self.slack_periods * self.update_period_s,
        )

    def power_w(self) -> float | None:
        """Power now, W, as a check of the counter; `None` where no sensor answers."""
        return None


def read_counter_file(path: Path) -> float:
    """A counter's value; `OSError` or `ValueError` where the file is unreadable, empty or not a counter's number."""
    value = float(path.read_text())
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no reading")
    return value


def counter_step(
    before: float, after: float, *, span: float | None, joules_per_unit: float, elapsed_s: float, update_period_s: float = 0.0
) -> DomainEnergy:
    """Energy of one step of a counter that may have wrapped once, at its `span` in the counter's unit. `MAX_DOMAIN_W` times the
    time between the readings, plus one update period, limits the plausible energy."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return DomainEnergy(None, f"the counter reads {before} and {after}, which are not numbers")
    possible = MAX_DOMAIN_W * (max(elapsed_s, 0.0) + update_period_s)
    if span is not None and possible >= span * joules_per_unit and possible > 0:
        wraps_after = span * joules_per_unit / MAX_DOMAIN_W
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
        return DomainEnergy(None, f"{energy:.3g} J in {elapsed_s:.3g} s is beyond {MAX_DOMAIN_W:.0f} W; the counter jumped")
    return DomainEnergy(energy) if energy > 0 else DomainEnergy(None, UNMOVED)


def trail_energy(probe: Probe, trail: Sequence[Snapshot]) -> dict[str, DomainEnergy]:
    """Energy of every domain from the first to the last of many snapshots, step by step, so a counter may wrap many times."""
    totals: dict[str, DomainEnergy] = dict.fromkeys(probe.domains, DomainEnergy(None, UNMOVED))
    for before, after in pairwise(trail):
        steps = probe.energy_j(before, after)
        totals = {domain: _add(total, steps[domain]) for domain, total in totals.items()}
    return totals


def _add(total: DomainEnergy, step: DomainEnergy) -> DomainEnergy:
    if total.energy_j is None or step.energy_j is None:
        unknown, measured = (total, step) if total.energy_j is None else (step, total)
        # A step without movement is not a fault; the next step includes its energy.
        return measured if unknown.reason == UNMOVED else unknown
    return DomainEnergy(total.energy_j + step.energy_j)
