"""A machine with two cores and neighbours on their other hardware threads, in time of its own.

A neighbour works now and then: while it does, work on that core proceeds at 1 / slowdown of its speed. Nothing but time passes:
the schedule, the timing core, the watch over the cores and the merging of visits are the real ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol
from unittest.mock import patch

from shmoo.harness.campaign.campaign import CampaignSettings
from shmoo.harness.campaign.schedule import Schedule
from shmoo.harness.measuring.timing import VISIT, time_callable
from shmoo.harness.measuring.watch.corewatch import CoreWatch
from shmoo.runs.store.records import CaseSpec, Measurement
from shmoo.runs.store.visits import merge_visits

QUIET_MEDIAN_S, QUIET_SIGMA = 7e-3, 1.5
"""Quiet spells are log-normal, on average 22 ms long."""
SHORTEST_SLOW_S, LONGEST_SLOW_S, SLOW_EXPONENT = 5e-3, 1.0, 1.75
"""Slow spells follow a power law between these ends, on average 43 ms long: each core is slow for two thirds of the time."""
KERNEL_S, KERNEL_SLOWDOWN = 1.5e-6, 1.7
PROBE_S = 150e-6
JITTER = 0.01
"""Standard deviation of the log of single durations on a core alone."""


def quiet_spell(draw: random.Random) -> float:
    return draw.lognormvariate(0.0, QUIET_SIGMA) * QUIET_MEDIAN_S


def slow_spell(draw: random.Random) -> float:
    """Inverse of the power law's distribution function."""
    power = 1 - SLOW_EXPONENT
    low, high = SHORTEST_SLOW_S**power, LONGEST_SLOW_S**power
    return (low + draw.random() * (high - low)) ** (1 / power)


class Neighbour(Protocol):
    """What runs on the other hardware thread of one core."""

    def at(self, now: float) -> tuple[bool, float]:
        """Whether it works, and until when. `now` never falls."""


class Random:
    """Works in spells of random length."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._works = self._draw.random() < 0.5
        self._until = 0.0

    def at(self, now: float) -> tuple[bool, float]:
        while self._until <= now:
            self._works = not self._works
            self._until += slow_spell(self._draw) if self._works else quiet_spell(self._draw)
        return self._works, self._until


class From:
    """Does what another one does, and works without a pause from a time on."""

    def __init__(self, begin_s: float, before: Neighbour) -> None:
        self._begin_s, self._before = begin_s, before

    def at(self, now: float) -> tuple[bool, float]:
        if now >= self._begin_s:
            return True, math.inf
        works, until = self._before.at(now)
        return works, min(until, self._begin_s)


class Until:
    """Works without a pause until a time, and then does what another one does."""

    def __init__(self, end_s: float, after: Neighbour) -> None:
        self._end_s, self._after = end_s, after

    def at(self, now: float) -> tuple[bool, float]:
        return (True, self._end_s) if now < self._end_s else self._after.at(now)


class Silent:
    """Nobody."""

    def at(self, now: float) -> tuple[bool, float]:
        return False, math.inf


@dataclass(frozen=True)
class Operator:
    """Work of a kind: seconds of a call alone, and how many times slower it is while a neighbour of one of its cores works."""

    name: str
    alone_s: float
    slowdown: float
    cores: int = 2


class SimulatedMachine:
    """Cores, their neighbours, and the time."""

    def __init__(self, neighbours: Sequence[Neighbour], seed: int = 0) -> None:
        self.now = 0.0
        self._neighbours = neighbours
        self._draw = random.Random(seed)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, operator: Operator) -> None:
        """One call: its work proceeds until it is done."""
        work = operator.alone_s * self._draw.lognormvariate(0.0, JITTER)
        while work > 0:
            states = [neighbour.at(self.now) for neighbour in self._neighbours]
            slowdown = operator.slowdown if any(works for works, _ in states[: operator.cores]) else 1.0
            step = min(work * slowdown, min(until for _, until in states) - self.now)
            self.now += step
            work -= step / slowdown
            if step < 1e-12:
                break  # less than the clock can tell

    def probe(self) -> list[float]:
        """What the reference kernel takes on each core now."""
        states = [neighbour.at(self.now)[0] for neighbour in self._neighbours]
        self.now += PROBE_S
        return [KERNEL_S * (KERNEL_SLOWDOWN if works else 1.0) * self._draw.lognormvariate(0.0, JITTER) for works in states]


def campaign(
    machine: SimulatedMachine, operators: Sequence[Operator], visits: int, most_visits: int, between_s: float = 1.0
) -> tuple[Measurement, ...]:
    """Visit the operators by the real schedule and time them by the real core; rows with merged visits. The seconds between
    visits stand for the other cases of a plan of hundreds."""
    cases = {operator.name: operator for operator in operators}
    specs = [CaseSpec(name, "operator", {"m": 1}) for name in cases]
    schedule = Schedule(specs, CampaignSettings(visits=visits, most_visits=most_visits, seed=1))
    lines: list[Measurement] = []
    with (
        # What this process goes through is no part of the simulation.
        patch("shmoo.harness.measuring.timing.involuntary_switches", lambda: 0),
        patch("shmoo.harness.measuring.timing._no_garbage_collection", nullcontext),
    ):
        watch = CoreWatch(machine.probe, machine.clock)
        while (case := schedule.next()) is not None:
            operator = cases[case.workload]
            begin = machine.clock()
            timing = time_callable(
                lambda operator=operator: machine.run(operator), clock=machine.clock, settings=VISIT, watch=watch
            )
            machine.sleep(between_s)
            line = Measurement(case, "ok", timing=timing, visit=schedule.visits_of(case))
            schedule.add(line, machine.clock() - begin)
            lines.append(line)
    return merge_visits(lines)
