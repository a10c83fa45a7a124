"""A virtual machine of hardware: a device of known power in a time of its own, behind counters that look like the real ones.

    device.run(seconds, joules)   work: time passes, energy flows
    device.sleep(seconds)         idle: time passes at idle power
        |-> VirtualPowercap       a powercap tree on disk, read by `PowercapProbe`
        `-> VirtualNvml           NVML's functions, read by `NvmlProbe` and `GpuWatch`

For tests, and for learning the tool without root or a GPU: `SHMOO_VIRTUAL_ENERGY=1` replaces the counters of this machine.
Counters update at their period, wrap at their range, and fail where they are told to.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmoo.harness.energy.simulated import SimulatedProbe, ZoneFiles, write_powercap_tree

SWITCH = "SHMOO_VIRTUAL_ENERGY"
"""Environment variable that puts a virtual package in place of this machine's counters when it is "1"."""
IDLE_W, CORE_W = 10.0, 15.0
"""Power of the virtual package with idle cores, and of each core that this process keeps busy: round numbers of a desktop CPU."""


def is_switched_on() -> bool:
    """True where the user asked for the virtual package."""
    return os.environ.get(SWITCH) == "1"


def virtual_package(
    clock: Callable[[], float] = time.monotonic, core_seconds: Callable[[], float] = time.process_time
) -> SimulatedProbe:
    """A package whose energy is `IDLE_W` for each second and `CORE_W` for each second of processor time of this process."""
    return SimulatedProbe(clock, energy_at=lambda at_s: IDLE_W * at_s + CORE_W * core_seconds())


class Counter:
    """Shows a device's energy as of the last update, in a unit, from 0 again after a range."""

    def __init__(self, update_period_s: float, joules_per_unit: float, span: float | None = None) -> None:
        self.update_period_s = update_period_s
        self._joules_per_unit = joules_per_unit
        self._span = span
        self._joules = 0.0
        self.watts = 0.0

    @property
    def value(self) -> float:
        """What a reader sees."""
        units = math.floor(self._joules / self._joules_per_unit)
        return units if self._span is None else units % self._span

    def follow(self, now_s: float, joules: float, passed_s: float, watts: float) -> None:
        """Time has moved on to `now_s`, the last `passed_s` of it at `watts`, and `joules` have been used in all."""
        updated = math.floor(now_s / self.update_period_s + 1e-9) * self.update_period_s
        if now_s - updated < passed_s:
            self._joules = max(self._joules, joules - watts * max(now_s - updated, 0.0))
            self.watts = watts


class VirtualDevice:
    """A device that draws `idle_w` when idle and exactly what it is told when it works.

    Args:
        idle_w: power when nothing runs.
        noise: relative standard deviation of the energy of one piece of work.
        seed: of the noise.
    """

    def __init__(self, idle_w: float, noise: float = 0.0, seed: int = 0) -> None:
        self.idle_w = idle_w
        self._noise = noise
        self._draw = random.Random(seed)
        self._now = 0.0
        self._joules = 0.0
        self._counters: list[Counter] = []
        self._after: list[Any] = []

    def clock(self) -> float:
        """Seconds of the device's own time, monotonic."""
        return self._now

    @property
    def joules(self) -> float:
        """Energy used so far: the truth that counters are read against."""
        return self._joules

    def attach(self, counter: Counter, after: Any = None) -> Counter:
        """Let a counter follow; `after` is called whenever time has passed."""
        self._counters.append(counter)
        if after is not None:
            self._after.append(after)
        return counter

    def run(self, seconds: float, joules: float) -> None:
        """Work for `seconds` that uses `joules`, static power included."""
        self._pass(seconds, joules * max(1.0 + self._draw.gauss(0.0, self._noise), 0.0))

    def sleep(self, seconds: float) -> None:
        """Nothing runs."""
        self._pass(seconds, self.idle_w * seconds)

    def _pass(self, seconds: float, joules: float) -> None:
        if seconds <= 0:
            return
        self._now += seconds
        self._joules += joules
        for counter in self._counters:
            counter.follow(self._now, self._joules, seconds, joules / seconds)
        for after in self._after:
            after()


class VirtualPowercap:
    """A powercap tree below `root` with one package whose counter follows a device.

    Args:
        range_uj: the counter starts again at 0 there.
    """

    def __init__(
        self, device: VirtualDevice, root: Path, range_uj: float = 262_143_328_850.0, update_period_s: float = 1e-3
    ) -> None:
        self.root = root
        self._file = write_powercap_tree(root, [ZoneFiles("package-0", 0, range_uj)])["package-0"]
        self._counter = device.attach(Counter(update_period_s, 1e-6, range_uj), self._write)

    def _write(self) -> None:
        # Replaced in one step: a reader in another thread never meets half a number.
        temporary = self._file.with_name(".energy_uj")
        temporary.write_text(f"{self._counter.value:.0f}\n")
        os.replace(temporary, self._file)


class VirtualNvmlError(Exception):
    """What the virtual NVML raises."""


class VirtualNvml:
    """The part of NVML that Shmoo uses, over one card that follows a device.

    Args:
        faults: name of a function -> text of the error it raises; change it at any time.
        power_gain: what the power sensor shows over the truth; the two sensors of real cards disagree.
    """

    NVMLError = VirtualNvmlError

    def __init__(
        self,
        device: VirtualDevice,
        name: str = "Virtual GPU",
        uuid: str = "GPU-00000000-virtual",
        update_period_s: float = 0.1,
        power_gain: float = 1.0,
        memory_bytes: int = 80 << 30,
    ) -> None:
        self.faults: dict[str, str] = {}
        self.clock_mhz, self.events, self.pids = 1980, 0, [os.getpid()]
        self._name, self._uuid, self._memory_bytes = name, uuid, memory_bytes
        self._power_gain = power_gain
        self._counter = device.attach(Counter(update_period_s, 1e-3))

    def _fail(self, function: str) -> None:
        if function in self.faults:
            raise VirtualNvmlError(self.faults[function])

    def nvmlSystemGetDriverVersion(self) -> str:
        return "000.00.virtual"

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._uuid

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self._uuid:
            raise VirtualNvmlError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return self._name

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        raise VirtualNvmlError("Not Supported")

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return type("Memory", (), {"total": self._memory_bytes})()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._fail("nvmlDeviceGetTotalEnergyConsumption")
        return int(self._counter.value)

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[Any]:
        self._fail("nvmlDeviceGetFieldValues")
        milliwatts = round(1e3 * self._power_gain * self._counter.watts)
        value = type("Value", (), {"uiVal": milliwatts})()
        return [type("Field", (), {"nvmlReturn": 0, "value": value})() for _ in fields]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        self._fail("nvmlDeviceGetCurrentClocksEventReasons")
        return self.events

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self.clock_mhz

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 40

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [type("Process", (), {"pid": pid})() for pid in self.pids]
