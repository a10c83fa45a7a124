"""Virtual hardware: a device of known power in a time of its own, behind counters that look like the real ones.

device.run(seconds, joules)   work: time passes, energy flows
device.sleep(seconds)         idle: time passes at idle power
    |-> VirtualPowercap       a powercap tree on disk, read by `PowercapProbe`
    `-> VirtualNvml           NVML's functions, read by `NvmlProbe` and `GpuWatch`
"""

from __future__ import annotations

import math
import os
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from shmoo.harness.energy.rapl import POWERCAP
from shmoo.harness.energy.simulated import last_update


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
        self._times_s, self._joules = [0.0], [0.0]
        self.on_time_passed: list[Callable[[], None]] = []

    def clock(self) -> float:
        """Seconds of the device's own time, monotonic."""
        return self._times_s[-1]

    @property
    def joules(self) -> float:
        """Energy used so far: the truth that counters are read against."""
        return self._joules[-1]

    def run(self, seconds: float, joules: float) -> None:
        """Work for `seconds` that uses `joules`, static power included."""
        self._pass(seconds, joules * max(1.0 + self._draw.gauss(0.0, self._noise), 0.0))

    def sleep(self, seconds: float) -> None:
        """Let time pass while nothing runs."""
        self._pass(seconds, self.idle_w * seconds)

    def _pass(self, seconds: float, joules: float) -> None:
        if seconds <= 0:
            return
        self._joules.append(self._joules[-1] + joules)
        self._times_s.append(self._times_s[-1] + seconds)
        for call in self.on_time_passed:
            call()

    def state_at(self, at_s: float) -> tuple[float, float]:
        """Joules used by a time up to now, and the power then in W; (0, 0) before time has passed."""
        after = min(bisect_left(self._times_s, at_s), len(self._times_s) - 1)
        if after == 0:
            return 0.0, 0.0
        seconds = self._times_s[after] - self._times_s[after - 1]
        joules = self._joules[after] - self._joules[after - 1]
        return self._joules[after] - joules * max(self._times_s[after] - at_s, 0.0) / seconds, joules / seconds


class VirtualNvmlError(Exception):
    """What the virtual NVML raises."""


class VirtualNvml:
    """The part of NVML in use, over one card that follows a device. Override a function to let a card answer oddly.

    Args:
        name, uuid, memory_bytes: of the card.
        update_period_s: counter and sensor move only at multiples of it.
        power_gain: what the power sensor shows over the truth; the two sensors of real cards disagree.

    Attributes:
        clock_mhz, events, pids: what its queries answer; change them at any time.
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
        self.clock_mhz, self.events, self.pids = 1980, 0, [os.getpid()]
        self._device, self._period_s, self._power_gain = device, update_period_s, power_gain
        self._name, self._uuid, self._memory_bytes = name, uuid, memory_bytes

    def _state(self) -> tuple[float, float]:
        """Joules and watts as of the last update."""
        return self._device.state_at(last_update(self._device.clock(), self._period_s))

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
        return SimpleNamespace(total=self._memory_bytes)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return math.floor(self._state()[0] / 1e-3)

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[Any]:
        milliwatts = SimpleNamespace(uiVal=round(1e3 * self._power_gain * self._state()[1]))
        return [SimpleNamespace(nvmlReturn=0, value=milliwatts) for _ in fields]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.events

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self.clock_mhz

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 40

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]


class VirtualPowercap:
    """A powercap tree below `root` with one package, whose counter follows a device and starts again at 0 after its range."""

    def __init__(self, device: VirtualDevice, root: Path, range_uj: float = 262_143_328_850.0) -> None:
        self.root = root
        self._device, self._range_uj = device, range_uj
        self._file = write_powercap_tree(root, [ZoneFiles("package-0", 0, range_uj)])["package-0"]
        device.on_time_passed.append(self._write)

    def _write(self) -> None:
        # Replaced in one step: a reader in another thread never meets half a number.
        joules, _ = self._device.state_at(last_update(self._device.clock(), 1e-3))
        temporary = self._file.with_name(".energy_uj")
        temporary.write_text(f"{math.floor(joules / 1e-6) % self._range_uj:.0f}\n")
        os.replace(temporary, self._file)


class ZoneFiles(msgspec.Struct, frozen=True):
    """One zone of a made-up powercap tree: its label, counter and range (`None`: no range file), and the zones in it."""

    label: str
    energy_uj: float | str = 1_000_000
    range_uj: float | None = 262_143_328_850
    inside: tuple[ZoneFiles, ...] = ()


def write_powercap_tree(root: Path, zones: Sequence[ZoneFiles]) -> dict[str, Path]:
    """Write the tree below `root` as Linux lays it out; counter files by label ("package-0", "package-0/dram")."""
    files: dict[str, Path] = {}
    for number, zone in enumerate(zones):
        folder = root / POWERCAP / f"intel-rapl:{number}"
        files[zone.label] = _write_zone(folder, zone)
        for index, part in enumerate(zone.inside):
            files[f"{zone.label}/{part.label}"] = _write_zone(folder / f"intel-rapl:{number}:{index}", part)
    return files


def _write_zone(folder: Path, zone: ZoneFiles) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{zone.label}\n")
    if zone.range_uj is not None:
        (folder / "max_energy_range_uj").write_text(f"{zone.range_uj:.0f}\n")
    counter = folder / "energy_uj"
    counter.write_text(f"{zone.energy_uj}\n")
    return counter
