"""The energy pass: calls back to back for a window, counters read at its edges and, from a thread, in between.

    idle (once) | edge  calls calls calls ... calls  edge |
                |   snapshot . . . . . . . . . snapshot   |   the thread's snapshots let a counter wrap any number of times

Energy is gross; idle power is stored beside it and nothing is subtracted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from shmoo.harness.energy.probe import DomainEnergy, Probe, Snapshot, trail_energy
from shmoo.runs.records import EnergyReading

UPDATES_PER_WINDOW = 50
"""A window holds this many counter updates at least, so that not knowing when the edges fell costs at most 2 %."""


class EnergySettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How energy is measured.

    Attributes:
        window_s: length of one window; 0 measures no energy. Longer where a counter updates slowly.
        trials: windows a case; their spread is part of the interval.
        idle_s: how long idle power is measured, once a process; 0 leaves it unknown.
        sample_s: time between the thread's snapshots; far below the 33 s in which a 65.7 kJ DRAM counter wraps at 2 kW.
        batch_s: calls of this much time run between two looks at the clock.
    """

    window_s: float = 2.0
    trials: int = 1
    idle_s: float = 1.0
    sample_s: float = 0.5
    batch_s: float = 0.01


class TrailSampler:
    """Takes snapshots of several probes in a thread of its own, from `start` to `stop`; the caller's thread takes the edges.

    A thread that dies leaves a shorter trail: its last snapshot and the edge still bound the energy in between.
    """

    def __init__(self, probes: Sequence[Probe], period_s: float) -> None:
        self._probes = probes
        self._period_s = period_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="shmoo-energy", daemon=True)
        self.trails: list[list[Snapshot]] = [[] for _ in probes]

    def start(self) -> None:
        self._take()
        self._thread.start()

    def stop(self) -> list[list[Snapshot]]:
        """Stop sampling; the snapshots of each probe, edges included."""
        self._done.set()
        self._thread.join()
        self._take()
        return self.trails

    def _sample(self) -> None:
        while not self._done.wait(self._period_s):
            self._take()

    def _take(self) -> None:
        for trail, probe in zip(self.trails, self._probes, strict=True):
            trail.append(probe.snapshot())


class EnergyMeter:
    """Measures the energy of calls with every counter there is.

    Args:
        probes, reasons: as `available_probes` gives them.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        reasons: dict[str, str],
        settings: EnergySettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._probes = tuple(probes)
        self._reasons = reasons
        self._settings = settings or EnergySettings()
        self._clock = clock
        self._sleep = sleep
        self._idle_w: dict[str, float] | None = None

    def measure(
        self, call: Callable[[], object], call_s: float, device: str = "cpu", synchronize: Callable[[], None] | None = None
    ) -> tuple[EnergyReading, ...]:
        """Gross energy per call by domain. What `call` raises passes through.

        Args:
            call_s: expected time of a call, to look at the clock rarely.
            device: on "cpu" the GPU's domains are left out.
        """
        if self._settings.window_s <= 0:
            return self.unknown("not asked for (energy window of 0 s)", device)
        probes = self._of(device)
        missing = self._missing(device)
        if not probes:
            return missing
        idle = self._idle_power(probes)
        trials = [self._window(call, call_s, probes, synchronize) for _ in range(self._settings.trials)]
        return missing + tuple(
            _reading(
                domain,
                probe.update_period_s,
                [(found[domain], window, calls) for found, window, calls in trials],
                idle.get(domain),
            )
            for probe in probes
            for domain in probe.domains
        )

    def unknown(self, reason: str, device: str = "cpu") -> tuple[EnergyReading, ...]:
        """The same domains as `measure` gives, all of them unknown for this reason; nothing is run."""
        domains = [domain for probe in self._of(device) for domain in probe.domains]
        domains += [reading.domain for reading in self._missing(device)]
        return tuple(EnergyReading(domain, reason=reason) for domain in domains)

    def _of(self, device: str) -> list[Probe]:
        return [probe for probe in self._probes if device != "cpu" or not _is_gpu(probe.domains[0])]

    def _missing(self, device: str) -> tuple[EnergyReading, ...]:
        return tuple(
            EnergyReading(domain, reason=reason)
            for domain, reason in self._reasons.items()
            if domain == "package" or (domain == "gpu" and device != "cpu")
        )

    def _window(self, call, call_s, probes, synchronize) -> tuple[dict[str, DomainEnergy], float, int]:
        """Energy by domain, seconds and calls of one window."""
        length = max(self._settings.window_s, *(UPDATES_PER_WINDOW * probe.update_period_s for probe in probes))
        batch = max(1, round(self._settings.batch_s / call_s)) if call_s > 0 else 1
        sampler = TrailSampler(probes, self._settings.sample_s)
        calls = 0
        if synchronize is not None:
            synchronize()
        sampler.start()
        begin = self._clock()
        try:
            while (spent := self._clock() - begin) < length:
                for _ in range(batch):
                    call()
                if synchronize is not None:
                    synchronize()
                calls += batch
            spent = self._clock() - begin
        finally:
            trails = sampler.stop()
        energies: dict[str, DomainEnergy] = {}
        for probe, trail in zip(probes, trails, strict=True):
            energies.update(trail_energy(probe, trail))
        return energies, spent, calls

    def _idle_power(self, probes: Sequence[Probe]) -> dict[str, float]:
        """Watts by domain with nothing of ours running, measured once."""
        if self._idle_w is None:
            self._idle_w = {}
            if self._settings.idle_s > 0:
                before = [probe.snapshot() for probe in probes]
                self._sleep(self._settings.idle_s)
                for probe, first in zip(probes, before, strict=True):
                    last = probe.snapshot()
                    span = last.at_s - first.at_s
                    for domain, energy in probe.energy_j(first, last).items():
                        if energy.energy_j is not None and span > 0:
                            self._idle_w[domain] = energy.energy_j / span
        return self._idle_w


def _reading(
    domain: str, period_s: float, trials: list[tuple[DomainEnergy, float, int]], idle_power_w: float | None
) -> EnergyReading:
    """Energy per call over the trials that gave one. Each edge is off by up to one update, in power x period."""
    seconds = sum(window for _, window, _ in trials)
    calls = sum(count for _, _, count in trials)
    failed = [energy.reason for energy, _, _ in trials if energy.energy_j is None]
    if failed:
        return EnergyReading(domain, reason=failed[0], window_s=seconds, calls=calls, idle_power_w=idle_power_w)
    per_call = [energy.energy_j / count for energy, _, count in trials]
    edge = min(period_s * len(trials) / seconds, 1.0)
    return EnergyReading(
        domain,
        energy_j=sum(energy.energy_j for energy, _, _ in trials) / calls,
        low_j=min(per_call) * (1 - edge),
        high_j=max(per_call) * (1 + edge),
        window_s=seconds,
        calls=calls,
        idle_power_w=idle_power_w,
    )


def measure_update_period(
    probe: Probe, updates: int = 20, limit_s: float = 5.0, clock: Callable[[], float] = time.monotonic
) -> float | None:
    """Median time between movements of the probe's first counter, s; `None` if it moved less than twice within `limit_s`."""
    begin = clock()
    moved: list[float] = []
    last = probe.snapshot()
    while len(moved) <= updates and clock() - begin < limit_s:
        now = probe.snapshot()
        if now.values and now.values != last.values:
            moved.append(now.at_s)
            last = now
    steps = sorted(b - a for a, b in pairwise(moved))
    return steps[len(steps) // 2] if steps else None


def _is_gpu(domain: str) -> bool:
    return domain.startswith("gpu")
