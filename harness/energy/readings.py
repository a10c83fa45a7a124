"""One reading from several windows: energy per call with its interval, or why it is unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import stdev

import msgspec

from shmoo.estimators.graph.records import NORMAL_90
from shmoo.harness.energy.probe import DomainEnergy
from shmoo.runs.store.records import EnergyReading

T_90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Student's t that leaves 5 % on either side, for 1 to 9 degrees of freedom; 1.83 stands for more."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One window: energy by domain, one mapping a probe; (time, watts) of each probe's power sensor, empty where it has none; and
    why the sampling thread ended early, "" when it did not."""

    energies: list[dict[str, DomainEnergy]]
    powers: list[list[tuple[float, float]]]
    window_s: float
    calls: int
    failed: str = ""


def reading(unread: EnergyReading, probe_number: int, trials: Sequence[Trial], gain_error: float) -> EnergyReading:
    """Energy per call of one domain over the trials, whose probe has this number; unknown when one of them is. `unread` holds
    idle power and the counter's update period."""
    seconds, calls = sum(trial.window_s for trial in trials), sum(trial.calls for trial in trials)
    common = msgspec.structs.replace(unread, window_s=seconds, calls=calls)
    joules, sensed_j = [], []
    for trial in trials:
        energy = trial.energies[probe_number][unread.domain]
        if energy.energy_j is None:
            ended = f" (the sampling thread ended early: {trial.failed})" if trial.failed else ""
            return msgspec.structs.replace(common, reason=energy.reason + ended)
        joules.append(energy.energy_j)
        if (watts := mean_power_w(trial.powers[probe_number])) is not None:
            sensed_j.append(watts * trial.window_s / trial.calls)
    energy_j, per_call = sum(joules) / calls, tuple(j / trial.calls for j, trial in zip(joules, trials, strict=True))
    half = relative_half_width(per_call, (unread.update_period_s or 0.0) * len(trials) / seconds) + gain_error
    low, high = energy_j * math.exp(-half), energy_j * math.exp(half)
    integrated = None
    if len(sensed_j) == len(trials):
        integrated = sum(sensed_j) / len(trials)
        # Counter and sensor of one card have been seen 40 % apart, and nothing here shows which of them is right.
        low, high = min(low, integrated), max(high, integrated)
    return msgspec.structs.replace(common, energy_j=energy_j, low_j=low, high_j=high, trials_j=per_call, integrated_j=integrated)


def relative_half_width(per_call: Sequence[float], edge: float) -> float:
    """Half width of the 90 % interval of the mean, on the log scale, which keeps both ends positive. `edge` is the update period
    over the length of a window: each edge is off by up to one period; with both uniform, the energy of one window has a relative
    standard deviation of edge / sqrt(6)."""
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
