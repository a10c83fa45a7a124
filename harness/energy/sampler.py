"""The energy pass: calls run back to back for several windows. Counters are read at the edges and, by a thread, in between.

    idle | calls  edge calls calls ... calls edge  | calls  edge calls ... edge | calls ... | idle
         | random      snapshot . . . . .  snapshot     (in between, so that a counter may wrap any number of times)

Energy is gross; idle power is stored beside it and never subtracted. A counter lags by up to one update at each edge. The lags
cancel only if the same work ran before both edges, so calls run for a random time before each window.
"""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import msgspec

from shmoo.estimators.graph.records import NORMAL_90
from shmoo.harness.energy.probe import UNMOVED, DomainEnergy, Probe, Snapshot, trail_energy
from shmoo.runs.store.records import EnergyReading

UPDATES_PER_WINDOW = 20
"""Fewest counter updates in a window. The unknown phase of its edges is then at most 5 % of the window, or a standard deviation
of 1.2 % over three windows with random phases."""
UPDATES_IDLE = 10
UPDATES_WATCHED, WATCHED_S = 20, 3.0
"""Movements of a counter needed to measure its update period, and the time limit for them."""
IDLE_LASTS_S = 30.0
"""Idle power after one case also counts as idle power before the next case if that begins within this time."""
POWER_SAMPLE_S = 0.02
"""Shortest time between samples of a power sensor; faster ones repeat themselves (Yang et al., SC'24: 10 to 100 ms)."""
T_90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Student's t that leaves 5 % on either side, for 1 to 9 degrees of freedom; 1.83 stands for more."""


class EnergySettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How energy is measured.

    Attributes:
        window_s: length of one window; 0 measures no energy. Windows are longer for a counter that updates slowly.
        max_window_s: longest window; a counter that needs a longer one is not read.
        trials: windows per case, at random phases of the counter; their spread is part of the interval.
        settle_s: time of calls before each window, while power rises; at least two updates of the counter.
        idle_s: time to measure idle power before and after a case; 0 leaves it unknown.
        sample_s: time between the thread's snapshots; far below the 33 s in which a 65.7 kJ DRAM counter wraps at 2 kW.
        batch_s: time of the calls between two readings of the clock.
    """

    window_s: float = 1.5
    max_window_s: float = 30.0
    trials: int = 3
    settle_s: float = 0.3
    idle_s: float = 0.5
    sample_s: float = 0.5
    batch_s: float = 0.01


class TrailSampler:
    """Takes snapshots of several probes in a thread, from `start` to `stop`; the caller's thread takes the snapshots at the
    edges.

    A thread that dies or lags leaves a shorter trail: its last snapshot and the edge still bound the energy in between, and where
    a counter may have wrapped unseen in the gap, its energy is unknown. `failed` says why the thread ended early.
    """

    def __init__(self, probes: Sequence[Probe], period_s: float) -> None:
        self._probes = probes
        self._period_s = period_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="shmoo-energy", daemon=True)
        self.trails: list[list[Snapshot]] = [[] for _ in probes]
        self.powers: list[list[tuple[float, float]]] = [[] for _ in probes]
        self.failed = ""

    def start(self) -> None:
        """Take a first snapshot, then sample until `stop`."""
        self._take()
        self._thread.start()

    def stop(self) -> list[list[Snapshot]]:
        """Stop sampling; the snapshots of each probe, edges included."""
        self._done.set()
        self._thread.join()
        self._take()
        return self.trails

    def _sample(self) -> None:
        try:
            while not self._done.wait(self._period_s):
                self._take()
        except Exception as error:
            # Probes should raise nothing, but a fault in a driver must not end the measurement.
            self.failed = f"{type(error).__name__}: {error}"

    def _take(self) -> None:
        for trail, powers, probe in zip(self.trails, self.powers, self._probes, strict=True):
            snapshot = probe.snapshot()
            trail.append(snapshot)
            if watts := probe.power_w():
                powers.append((snapshot.at_s, watts))


@dataclass(frozen=True, slots=True)
class Trial:
    """One window: energy by domain, one mapping per probe; (time, watts) of each probe's power sensor, empty without one; and the
    reason why the sampling thread ended early, or ""."""

    energies: list[dict[str, DomainEnergy]]
    powers: list[list[tuple[float, float]]]
    window_s: float
    calls: int
    failed: str = ""


class EnergyMeter:
    """Measures the energy of calls with every available counter; `probes` and `reasons` come from `available_probes`."""

    def __init__(
        self,
        probes: Sequence[Probe],
        reasons: dict[str, str],
        settings: EnergySettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: random.Random | None = None,
    ) -> None:
        self._probes = tuple(probes)
        self._reasons = reasons
        self._settings = settings or EnergySettings()
        self._clock = clock
        self._sleep = sleep
        self._draw = draw or random.Random()
        self._idle: dict[str, tuple[float, dict[str, float]]] = {}
        self._periods: dict[str, float | None] = {}

    def measure(
        self, call: Callable[[], object], call_s: float, device: str = "cpu", synchronize: Callable[[], None] | None = None
    ) -> tuple[EnergyReading, ...]:
        """Gross energy per call by domain, without the GPU's domains for "cpu". Exceptions of `call` pass through. `call_s` is
        the expected time of a call, so that the clock is read rarely; `synchronize` waits for the device."""
        if self._settings.window_s <= 0:
            return self.unknown("not asked for (energy window of 0 s)", device)
        readings = [EnergyReading(domain, reason=reason) for domain, reason in self._missing_domains(device).items()]
        probes = []
        for probe in self._probes_of(device):
            if reason := self._unusable_reason(probe):
                readings += [EnergyReading(domain, reason=reason) for domain in probe.domains]
            else:
                probes.append(probe)
        if not probes:
            return tuple(readings)
        before = self._idle_power(probes, IDLE_LASTS_S)
        wait = synchronize or (lambda: None)
        run = partial(self._run, call, call_s, wait)
        trials = [self._trial(run, probes, wait) for _ in range(self._settings.trials)]
        after = self._idle_power(probes, 0.0)
        for number, probe in enumerate(probes):
            for domain in probe.domains:
                idle_w = before.get(domain), after.get(domain)
                unread = EnergyReading(
                    domain, idle_power_w=idle_w[0], idle_power_after_w=idle_w[1], update_period_s=self._period(probe)
                )
                readings.append(reading(unread, number, trials, probe.gain_error))
        return tuple(readings)

    def unknown(self, reason: str, device: str = "cpu") -> tuple[EnergyReading, ...]:
        """The domains of `measure`, all unknown for this reason; nothing runs."""
        domains = [domain for probe in self._probes_of(device) for domain in probe.domains]
        return tuple(EnergyReading(domain, reason=reason) for domain in (*domains, *self._missing_domains(device)))

    def _probes_of(self, device: str) -> list[Probe]:
        return [probe for probe in self._probes if device != "cpu" or not probe.domains[0].startswith("gpu")]

    def _missing_domains(self, device: str) -> dict[str, str]:
        domains = ("package",) if device == "cpu" else ("package", "gpu")
        return {domain: reason for domain, reason in self._reasons.items() if domain in domains}

    def _period(self, probe: Probe) -> float:
        """The counter's measured update period, or the probe's declared one if it is too slow to measure."""
        return self._periods[probe.name] or probe.update_period_s

    def _unusable_reason(self, probe: Probe) -> str:
        """Why this probe cannot measure a window, or "". The first call watches the counter for a while."""
        longest = self._settings.max_window_s
        if probe.name not in self._periods:
            declared = probe.update_period_s
            measurable = UPDATES_PER_WINDOW * declared <= longest
            self._periods[probe.name] = measure_update_period(probe, self._clock, self._sleep) if measurable else declared
        if self._periods[probe.name] is None:
            return UNMOVED
        window = UPDATES_PER_WINDOW * self._period(probe)
        if window <= longest:
            return ""
        return (
            f"{probe.name} updates every {self._period(probe):.3g} s; a window of {UPDATES_PER_WINDOW} updates would take "
            f"{window:.0f} s (limit {longest:.0f} s)"
        )

    def _run(self, call: Callable[[], object], call_s: float, wait: Callable[[], None], length_s: float) -> tuple[float, int]:
        """Run calls back to back for `length_s`; returns the elapsed seconds and the number of calls."""
        batch = max(1, round(self._settings.batch_s / call_s)) if call_s > 0 else 1
        calls = 0
        begin = self._clock()
        while (spent_s := self._clock() - begin) < length_s:
            for _ in range(batch):
                call()
            wait()
            calls += batch
        return spent_s, calls

    def _trial(self, run: Callable[[float], tuple[float, int]], probes: Sequence[Probe], wait: Callable[[], None]) -> Trial:
        slowest = max(self._period(probe) for probe in probes)
        length_s = max(self._settings.window_s, UPDATES_PER_WINDOW * slowest)
        settle_s = max(self._settings.settle_s, 2 * slowest) + self._draw.uniform(0.0, slowest)
        run(settle_s)
        sensors = [max(self._period(probe), POWER_SAMPLE_S) for probe in probes if probe.senses_power]
        sampler = TrailSampler(probes, min([self._settings.sample_s, *sensors]))
        wait()
        sampler.start()
        try:
            spent_s, calls = run(length_s)
        finally:
            trails = sampler.stop()
        energies = [trail_energy(probe, trail) for probe, trail in zip(probes, trails, strict=True)]
        return Trial(energies, sampler.powers, spent_s, calls, sampler.failed)

    def _idle_power(self, probes: Sequence[Probe], lasts_s: float) -> dict[str, float]:
        """Watts by domain while no call runs; a measurement less than `lasts_s` old is reused."""
        if self._settings.idle_s <= 0:
            return {}
        watts = {name: by_domain for name, (at_s, by_domain) in self._idle.items() if self._clock() - at_s < lasts_s}
        stale = [probe for probe in probes if probe.name not in watts]
        if stale:
            before = [probe.snapshot() for probe in stale]
            self._sleep(max(self._settings.idle_s, *(UPDATES_IDLE * self._period(probe) for probe in stale)))
            for probe, first in zip(stale, before, strict=True):
                last = probe.snapshot()
                seconds = last.at_s - first.at_s
                energies = probe.energy_j(first, last).items() if seconds > 0 else ()
                watts[probe.name] = {
                    domain: energy.energy_j / seconds for domain, energy in energies if energy.energy_j is not None
                }
                self._idle[probe.name] = (self._clock(), watts[probe.name])
        return {domain: power for probe in probes for domain, power in watts[probe.name].items()}


def measure_update_period(probe: Probe, clock: Callable[[], float], sleep: Callable[[float], None]) -> float | None:
    """Median time between movements of the probe's counters, s; `None` if they moved less than twice within `WATCHED_S`."""
    begin = clock()
    moved_at_s: list[float] = []
    last = probe.snapshot()
    while len(moved_at_s) <= UPDATES_WATCHED and clock() - begin < WATCHED_S:
        sleep(probe.update_period_s / 20)
        current = probe.snapshot()
        if current.values and current.values != last.values:
            moved_at_s.append(current.at_s)
            last = current
    return statistics.median_high([b - a for a, b in pairwise(moved_at_s)]) if len(moved_at_s) > 1 else None


def reading(unread: EnergyReading, probe_number: int, trials: Sequence[Trial], gain_error: float) -> EnergyReading:
    """Energy per call of one domain over the trials, for the probe of this number; unknown if it is unknown in any trial.
    `unread` has idle power and the counter's update period."""
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
        # Counter and sensor of a card can be 40 % apart, and nothing here shows which one is right.
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
    spread = T_90[min(n - 1, len(T_90)) - 1] * statistics.stdev(logs) / math.sqrt(n)
    return max(spread, NORMAL_90 * edge / math.sqrt(6 * n))


def mean_power_w(samples: Sequence[tuple[float, float]]) -> float | None:
    """Mean of power samples (time, watts), by trapezoids; `None` with fewer than three samples."""
    if len(samples) < 3 or samples[-1][0] <= samples[0][0]:
        return None
    joules = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(samples))
    return joules / (samples[-1][0] - samples[0][0])
