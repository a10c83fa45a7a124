"""From windows to one reading: energy per call with its interval, or why it is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import stdev

import msgspec

from shmoo.estimators.records import NORMAL_90
from shmoo.harness.energy.probe import DomainEnergy
from shmoo.runs.records import EnergyReading

T_90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Student's t that leaves 5 % on either side, for 1 to 9 degrees of freedom; 1.83 stands for more."""


@dataclass(frozen=True, slots=True)
class Window:
    """One domain in one window: the counter's energy, and the energy that sampled power integrates to (J)."""

    energy: DomainEnergy
    integrated_j: float | None
    window_s: float
    calls: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One window.

    Attributes:
        energies: domain -> energy, one mapping a probe.
        powers: (time, watts) of each probe's power sensor; empty where it has none.
        failed: why the sampling thread ended early, "" when it did not.
    """

    energies: list[dict[str, DomainEnergy]]
    powers: list[list[tuple[float, float]]]
    window_s: float
    calls: int
    failed: str = ""

    def of(self, probe: int, domain: str) -> Window:
        """One domain of the probe with this number."""
        energy = self.energies[probe][domain]
        if energy.energy_j is None and self.failed:
            energy = DomainEnergy(None, f"{energy.reason} (the sampling thread ended early: {self.failed})")
        watts = mean_power_w(self.powers[probe])
        return Window(energy, None if watts is None else watts * self.window_s, self.window_s, self.calls)


def reading(
    domain: str,
    windows: Sequence[Window],
    *,
    period_s: float,
    gain_error: float = 0.0,
    idle_before_w: float | None = None,
    idle_after_w: float | None = None,
) -> EnergyReading:
    """Energy per call over the windows; unknown when one of them is."""
    seconds, calls = sum(w.window_s for w in windows), sum(w.calls for w in windows)
    common = EnergyReading(
        domain,
        window_s=seconds,
        calls=calls,
        idle_power_w=idle_before_w,
        idle_power_after_w=idle_after_w,
        update_period_s=period_s,
    )
    for window in windows:
        if window.energy.energy_j is None:
            return msgspec.structs.replace(common, reason=window.energy.reason)
    per_call = tuple(w.energy.energy_j / w.calls for w in windows)
    energy = sum(w.energy.energy_j for w in windows) / calls
    half = relative_half_width(per_call, period_s * len(windows) / seconds) + gain_error
    low, high = energy * math.exp(-half), energy * math.exp(half)
    integrated = None
    if all(w.integrated_j is not None for w in windows):
        integrated = sum(w.integrated_j / w.calls for w in windows) / len(windows)
        # Counter and sensor of one card have been seen 40 % apart, and nothing here shows which of them is right.
        low, high = min(low, integrated), max(high, integrated)
    return msgspec.structs.replace(common, energy_j=energy, low_j=low, high_j=high, trials_j=per_call, integrated_j=integrated)


def relative_half_width(per_call: Sequence[float], edge: float) -> float:
    """Half width of the 90 % interval of the mean, on the log scale, which keeps both ends positive.

    Args:
        edge: update period over the length of a window. Each edge is off by up to one period; with both uniform, the energy of
            one window has a relative standard deviation of edge / sqrt(6).
    """
    n = len(per_call)
    if n == 1:
        return edge
    logs = [math.log(value) for value in per_call]
    spread = T_90[min(n - 1, len(T_90)) - 1] * stdev(logs) / math.sqrt(n)
    return max(spread, NORMAL_90 * edge / math.sqrt(6 * n))


def mean_power_w(samples: Sequence[tuple[float, float]]) -> float | None:
    """Mean of power sampled at (time, watts), by trapezoids; `None` with fewer than three samples, which say nothing."""
    if len(samples) < 3 or samples[-1][0] <= samples[0][0]:
        return None
    joules = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(samples))
    return joules / (samples[-1][0] - samples[0][0])
