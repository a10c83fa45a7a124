"""A simulated counter of known power, for tests and for learning the tool without root: `SHMOO_VIRTUAL_ENERGY=1` replaces this
machine's counters by a virtual package, and the machine's name in the rows says so."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from shmoo.harness.energy.probe import MICRO, Counter, Probe

SWITCH = "SHMOO_VIRTUAL_ENERGY"
"""Environment variable that replaces this machine's counters by a virtual package when it is "1"."""
IDLE_W, CORE_W = 10.0, 15.0
"""Power of the virtual package with idle cores, and of each core that this process keeps busy; typical of a desktop CPU."""


def last_update(now_s: float, period_s: float) -> float:
    """The multiple of the period at or before a time; a multiple that floats miss by a little counts as reached."""
    return math.floor(now_s / period_s + 1e-9) * period_s


class SimulatedProbe(Probe):
    """A counter in µJ that follows a clock, at multiples of its update period: `energy_at` gives joules since time 0, by default
    those of a constant power."""

    name = "simulated"

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        power_w: float = 0.0,
        energy_at: Callable[[float], float] | None = None,
        range_uj: float = 262_143_328_850.0,
        update_period_s: float = 1e-3,
    ) -> None:
        self._energy_at = energy_at or (lambda at_s: power_w * at_s)
        self._range_uj = range_uj
        self.update_period_s = update_period_s
        super().__init__([Counter("package", "package", self._microjoules, MICRO, range_uj)], clock)

    def _microjoules(self) -> float:
        return self._energy_at(last_update(self._clock(), self.update_period_s)) / MICRO % self._range_uj


def is_switched_on() -> bool:
    """True where the user asked for the virtual package."""
    return os.environ.get(SWITCH) == "1"


def virtual_package(
    clock: Callable[[], float] = time.monotonic, core_seconds: Callable[[], float] = time.process_time
) -> SimulatedProbe:
    """A package whose energy is `IDLE_W` for each second and `CORE_W` for each second of processor time of this process."""
    return SimulatedProbe(clock, energy_at=lambda at_s: IDLE_W * at_s + CORE_W * core_seconds())
