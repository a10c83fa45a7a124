"""Observes the host during a timing and reports disturbances, which make a row noisy but never unusable. On a shared machine with
a busy neighbour, CPU time / (wall x threads) falls from 0.99 to 0.5, and involuntary context switches rise from about 40 to
900-2500 a second."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from shmoo.estimators.units import counted
from shmoo.runs.store.records import AxisValue, Reason, Status, Timing
from shmoo.runs.store.statistics import median
from shmoo.runs.store.visits import NOISE, UNUSABLE

CPU = "sys/devices/system/cpu"
MIN_CPU_PER_THREAD = 0.75
MAX_SWITCHES_PER_S = 200.0
MAX_CROWDING = 0.2
"""Demand for cores beyond the number of cores: others' CPU time + own threads - cores."""
MAX_STEAL = 0.02
SHORTEST_WATCH_S = 0.05
"""Shortest useful observation, since the kernel counts CPU time in ticks of 10 ms."""
CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal", "TCPU")
"""Names that Linux drivers give to the thermal zones of CPUs."""
Host = dict[str, AxisValue | None]
THROTTLED = 2.0
"""Slowdown by throttling from which a machine no longer represents itself."""


class HostSnapshot(msgspec.Struct, frozen=True):
    """Counters of this process and of the machine, in seconds or counts since start; `None` where the system has none. CPU time
    covers all threads of this process; busy and stolen time (taken by a hypervisor for other guests) are summed over processes
    and cores."""

    wall_s: float
    own_cpu_s: float
    involuntary_switches: int | None = None
    busy_s: float | None = None
    steal_s: float | None = None
    throttles: int | None = None
    clock_hz: float | None = None
    temperature_c: float | None = None


def host_snapshot(root: Path = Path("/")) -> HostSnapshot:
    """Read the counters. `root` holds proc and sys."""
    times = psutil.Process().cpu_times()
    busy, steal = _machine_times(root)
    return HostSnapshot(
        wall_s=time.perf_counter(),
        own_cpu_s=times.user + times.system,
        involuntary_switches=involuntary_switches(),
        busy_s=busy,
        steal_s=steal,
        throttles=_throttles(root),
        clock_hz=None if (khz := _number(root / CPU / "cpu0/cpufreq/scaling_cur_freq")) is None else 1e3 * khz,
        temperature_c=_temperature_c(root),
    )


def observe(before: HostSnapshot, after: HostSnapshot, threads: int, cores: int | None = None) -> dict[str, AxisValue | None]:
    """The host between two snapshots, as stored in `Measurement.host`; unknown values are `None`: wall_s, cpu_per_thread (own CPU
    time / (wall x threads)), switches_per_s, other_cpu (cores other processes used), crowding (demand beyond the number of
    cores), steal (share of the machine), throttles (count), clock_hz and temperature_c (at the end), load_1min."""
    wall_s = after.wall_s - before.wall_s
    cores = cores or os.cpu_count() or 1

    def rate(name: str) -> float | None:
        first, last = getattr(before, name), getattr(after, name)
        return None if first is None or last is None or wall_s <= 0 else (last - first) / wall_s

    own_cpu, busy, steal = rate("own_cpu_s"), rate("busy_s"), rate("steal_s")
    other_cpu = None if own_cpu is None or busy is None else max(busy - own_cpu, 0.0)
    throttles = None if before.throttles is None or after.throttles is None else after.throttles - before.throttles
    return {
        "wall_s": wall_s,
        "threads": threads,
        "cpu_per_thread": None if own_cpu is None else own_cpu / threads,
        "switches_per_s": rate("involuntary_switches"),
        "other_cpu": other_cpu,
        "crowding": None if other_cpu is None else other_cpu + min(threads, cores) - cores,
        "steal": None if steal is None else steal / cores,
        "throttles": throttles,
        "clock_hz": after.clock_hz,
        "temperature_c": after.temperature_c,
        "load_1min": os.getloadavg()[0],
    }


def disturbances(host: Mapping[str, Any]) -> tuple[Reason, ...]:
    """The disturbances of a timing under these host observations, with numbers."""
    if (host.get("wall_s") or 0.0) < SHORTEST_WATCH_S:
        return ()
    reasons = []
    per_thread, switches = host.get("cpu_per_thread"), host.get("switches_per_s") or 0.0
    # Idle threads beside a small operator's single busy thread are not a disturbance, but involuntary context switches are.
    if per_thread is not None and per_thread < MIN_CPU_PER_THREAD and switches > MAX_SWITCHES_PER_S:
        text = f"{per_thread:.0%} of its CPU time, {switches:.0f} involuntary context switches a second"
        reasons.append(Reason("disturbed", text))
    crowding, steal = host.get("crowding"), host.get("steal")
    if crowding is not None and crowding > MAX_CROWDING:
        threads = counted(int(host["threads"] or 0), "thread")
        text = f"others used {host['other_cpu']:.1f} cores beside {threads}, {crowding:.1f} too many"
        reasons.append(Reason("busy host", text))
    if steal is not None and steal > MAX_STEAL:
        reasons.append(Reason("steal", f"the hypervisor took {steal:.0%} of the machine away"))
    if throttles := host.get("throttles"):
        reasons.append(Reason("throttled", f"{throttles} thermal throttle events"))
    return tuple(reasons)


def involuntary_switches() -> int:
    """How often the system took a core away from this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def page_faults() -> int:
    """Number of pages that this process touched for the first time without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _machine_times(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of the whole machine; field order is that of proc(5)."""
    try:
        fields = (root / "proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = (float(f) for f in fields[1:9])
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None, None
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _throttles(root: Path) -> int | None:
    counts = [_number(path) for path in (root / CPU).glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    counts_read = [count for count in counts if count is not None]
    return int(sum(counts_read)) if counts_read and len(counts_read) == len(counts) else None


def _temperature_c(root: Path) -> float | None:
    """The hottest of the CPU's thermal zones."""
    millidegrees = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if (zone / "type").read_text().strip() in CPU_ZONES:
                millidegrees.append(float((zone / "temp").read_text()))
    return 1e-3 * max(millidegrees) if millidegrees else None


def observed(
    window: Callable[[], Timing],
    threads: int,
    further: Callable[[], tuple[Host, tuple[Reason, ...]]] = lambda: ({}, ()),
    *,
    device_time: bool = False,
) -> tuple[Timing, Host, tuple[Reason, ...]]:
    """Time once and observe the host meanwhile: returns the timing, the observations, and the reasons to doubt it.

    Args:
        threads: threads of the timed work.
        further: additional observations and reasons for doubt, such as a GPU's.
        device_time: whether a device's clock took the time, which other load on the host does not affect.
    """
    before = host_snapshot()
    timing = window()
    host = observe(before, host_snapshot(), threads)
    another_machine = bool(timing.slowdowns) and median(timing.slowdowns) >= THROTTLED
    reasons = () if device_time else tuple(r for r in disturbances(host) if r.code != "throttled" or another_machine)
    facts, doubts = further()
    return timing, host | facts, reasons + doubts


def status_of(reasons: tuple[Reason, ...]) -> Status:
    """The status of one visit from its reasons; reasons with other codes are remarks."""
    codes = {reason.code for reason in reasons}
    if codes & set(UNUSABLE):
        return "suspect"
    return "noisy" if codes & set(NOISE) else "ok"
