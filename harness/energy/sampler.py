"""The energy pass: calls back to back for several windows, counters read at their edges and, from a thread, in between.

    idle | calls  edge calls calls ... calls edge  | calls  edge calls ... edge | calls ... | idle
         | random      snapshot . . . . .  snapshot
                       the thread's snapshots let a counter wrap any number of times

Energy is gross; idle power before and after is stored beside it and nothing is subtracted. Calls run before each window already,
for a random time: a counter shows at either edge what was used up to its last update, which errs equally on both only if the same
work ran before both; and its updates then fall differently into each window.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from shmoo.harness.energy.probe import UNMOVED, PowerMeter, Probe, Snapshot, trail_energy
from shmoo.harness.energy.readings import Trial, reading
from shmoo.runs.records import EnergyReading

UPDATES_PER_WINDOW = 50
"""A window holds this many counter updates at least, so that not knowing when the edges fell costs at most 2 %."""
UPDATES_IDLE = 10
IDLE_LASTS_S = 30.0
"""Idle power measured after one case stands for the time before the next when that begins within this time."""
POWER_SAMPLE_S = 0.02
"""Shortest time between samples of a power sensor; faster ones repeat themselves (Yang et al., SC'24: 10 to 100 ms)."""


class EnergySettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How energy is measured.

    Attributes:
        window_s: length of one window; 0 measures no energy. Longer where a counter updates slowly.
        max_window_s: a counter that needs longer windows is not read: it is slower than the run.
        trials: windows a case, at random phases of the counter; their spread is part of the interval.
        settle_s: calls before each window, while power rises; two updates of the counter at least.
        idle_s: how long idle power is measured before and after a case; 0 leaves it unknown.
        sample_s: time between the thread's snapshots; far below the 33 s in which a 65.7 kJ DRAM counter wraps at 2 kW.
        batch_s: calls of this much time run between two looks at the clock.
    """

    window_s: float = 1.5
    max_window_s: float = 30.0
    trials: int = 3
    settle_s: float = 0.3
    idle_s: float = 0.5
    sample_s: float = 0.5
    batch_s: float = 0.01


class TrailSampler:
    """Takes snapshots of several probes in a thread of its own, from `start` to `stop`; the caller's thread takes the edges.

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
        self._take()
        self._thread.start()

    def stop(self) -> list[list[Snapshot]]:
        """Stop sampling; the snapshots of each probe, edges included."""
        self._done.set()
        self._thread.join()
        self._take()
        return self.trails

    @property
    def largest_gap_s(self) -> float:
        """Longest time between two snapshots: the heartbeat of the thread."""
        return max((b.at_s - a.at_s for trail in self.trails for a, b in pairwise(trail)), default=0.0)

    def _sample(self) -> None:
        try:
            while not self._done.wait(self._period_s):
                self._take()
        except Exception as error:
            # A probe raises nothing by contract; whatever a driver does must not end the measurement.
            self.failed = f"{type(error).__name__}: {error}"

    def _take(self) -> None:
        for trail, powers, probe in zip(self.trails, self.powers, self._probes, strict=True):
            snapshot = probe.snapshot()
            trail.append(snapshot)
            if isinstance(probe, PowerMeter) and (watts := probe.power_w().get("instant")):
                powers.append((snapshot.at_s, watts))


class EnergyMeter:
    """Measures the energy of calls with every counter there is.

    Args:
        probes, reasons: as `available_probes` gives them.
        draw: decides the phases.
    """

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
        """Gross energy per call by domain. What `call` raises passes through.

        Args:
            call_s: expected time of a call, to look at the clock rarely.
            device: on "cpu" the GPU's domains are left out.
        """
        if self._settings.window_s <= 0:
            return self.unknown("not asked for (energy window of 0 s)", device)
        why_not = {probe.name: self._why_not(probe) for probe in self._of(device)}
        probes = [probe for probe in self._of(device) if not why_not[probe.name]]
        found = self._missing(device) + tuple(
            EnergyReading(domain, reason=why_not[probe.name])
            for probe in self._of(device)
            if why_not[probe.name]
            for domain in probe.domains
        )
        if not probes:
            return found
        before = self._idle_power(probes, IDLE_LASTS_S)
        trials = [self._trial(call, call_s, probes, synchronize) for _ in range(self._settings.trials)]
        after = self._idle_power(probes, 0.0)
        return found + tuple(
            reading(
                domain,
                [trial.of(number, domain) for trial in trials],
                period_s=self._period(probe),
                gain_error=probe.gain_error,
                idle_before_w=before.get(domain),
                idle_after_w=after.get(domain),
            )
            for number, probe in enumerate(probes)
            for domain in probe.domains
        )

    def unknown(self, reason: str, device: str = "cpu") -> tuple[EnergyReading, ...]:
        """The same domains as `measure` gives, all of them unknown for this reason; nothing is run."""
        domains = [domain for probe in self._of(device) for domain in probe.domains]
        domains += [missing.domain for missing in self._missing(device)]
        return tuple(EnergyReading(domain, reason=reason) for domain in domains)

    def _of(self, device: str) -> list[Probe]:
        return [probe for probe in self._probes if device != "cpu" or not _is_gpu(probe.domains[0])]

    def _missing(self, device: str) -> tuple[EnergyReading, ...]:
        return tuple(
            EnergyReading(domain, reason=reason)
            for domain, reason in self._reasons.items()
            if domain == "package" or (domain == "gpu" and device != "cpu")
        )

    def _period(self, probe: Probe) -> float:
        """The counter's update period as measured, or what the probe says of one that is too slow to be measured."""
        return self._periods[probe.name] or probe.update_period_s

    def _why_not(self, probe: Probe) -> str:
        """Why no window can be measured with this probe, "" when one can. Its counter is watched once, when first asked for."""
        longest = self._settings.max_window_s
        if probe.name not in self._periods:
            measurable = UPDATES_PER_WINDOW * probe.update_period_s <= longest
            self._periods[probe.name] = (
                measure_update_period(probe, clock=self._clock, sleep=self._sleep) if measurable else probe.update_period_s
            )
        if self._periods[probe.name] is None:
            return UNMOVED
        window = UPDATES_PER_WINDOW * self._period(probe)
        if window <= longest:
            return ""
        return (
            f"{probe.name} updates every {self._period(probe):.3g} s; a window of {UPDATES_PER_WINDOW} updates would take "
            f"{window:.0f} s (limit {longest:.0f} s)"
        )

    def _run(
        self, call: Callable[[], object], call_s: float, length: float, synchronize: Callable[[], None] | None
    ) -> tuple[float, int]:
        """Calls back to back for `length` seconds: seconds taken and calls made."""
        batch = max(1, round(self._settings.batch_s / call_s)) if call_s > 0 else 1
        calls = 0
        begin = self._clock()
        while (spent := self._clock() - begin) < length:
            for _ in range(batch):
                call()
            if synchronize is not None:
                synchronize()
            calls += batch
        return spent, calls

    def _trial(
        self,
        call: Callable[[], object],
        call_s: float,
        probes: Sequence[Probe],
        synchronize: Callable[[], None] | None,
    ) -> Trial:
        slowest = max(self._period(probe) for probe in probes)
        length = max(self._settings.window_s, UPDATES_PER_WINDOW * slowest)
        settle = max(self._settings.settle_s, 2 * slowest) + self._draw.uniform(0.0, slowest)
        self._run(call, call_s, settle, synchronize)
        powered = [probe for probe in probes if isinstance(probe, PowerMeter)]
        every = min([self._settings.sample_s, *(max(self._period(probe), POWER_SAMPLE_S) for probe in powered)])
        sampler = TrailSampler(probes, every)
        if synchronize is not None:
            synchronize()
        sampler.start()
        try:
            spent, calls = self._run(call, call_s, length, synchronize)
        finally:
            trails = sampler.stop()
        energies = [trail_energy(probe, trail) for probe, trail in zip(probes, trails, strict=True)]
        return Trial(energies, sampler.powers, spent, calls, sampler.failed, sampler.largest_gap_s)

    def _idle_power(self, probes: Sequence[Probe], lasts_s: float) -> dict[str, float]:
        """Watts by domain with nothing of ours running; what was measured less than `lasts_s` ago stands."""
        if self._settings.idle_s <= 0:
            return {}
        known = {name: watts for name, (at, watts) in self._idle.items() if self._clock() - at < lasts_s}
        asked = [probe for probe in probes if probe.name not in known]
        if asked:
            span = max(self._settings.idle_s, *(UPDATES_IDLE * self._period(probe) for probe in asked))
            before = [probe.snapshot() for probe in asked]
            self._sleep(span)
            for probe, first in zip(asked, before, strict=True):
                last = probe.snapshot()
                energies = probe.energy_j(first, last).items() if last.at_s > first.at_s else ()
                known[probe.name] = {
                    domain: energy.energy_j / (last.at_s - first.at_s)
                    for domain, energy in energies
                    if energy.energy_j is not None
                }
                self._idle[probe.name] = (self._clock(), known[probe.name])
        return {domain: watts for probe in probes for domain, watts in known[probe.name].items()}


def measure_update_period(
    probe: Probe,
    updates: int = 20,
    limit_s: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Median time between movements of the probe's counters, s; `None` if they moved less than twice within `limit_s`."""
    begin = clock()
    moved: list[float] = []
    last = probe.snapshot()
    while len(moved) <= updates and clock() - begin < limit_s:
        sleep(probe.update_period_s / 20)
        now = probe.snapshot()
        if now.values and now.values != last.values:
            moved.append(now.at_s)
            last = now
    steps = sorted(b - a for a, b in pairwise(moved))
    return steps[len(steps) // 2] if steps else None


def _is_gpu(domain: str) -> bool:
    return domain.startswith("gpu")
