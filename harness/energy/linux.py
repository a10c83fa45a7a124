"""Energy counters of Linux besides powercap: RAPL through perf events, hwmon drivers, and a laptop's battery."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shmoo.harness.energy.probe import Counter, Probe, UnreadableError, read_counter_file

SOURCE = "sys/bus/event_source/devices/power"
DOMAINS = {"energy-pkg": "package", "energy-cores": "core", "energy-ram": "dram", "energy-gpu": "uncore", "energy-psys": "psys"}
SYSCALLS = {"x86_64": 298, "aarch64": 241}
"""Number of perf_event_open in the system call tables of Linux."""
REMEDY = (
    "perf may not read it: allow it until the next boot with `sudo sysctl kernel.perf_event_paranoid=0`, or give this Python "
    "CAP_PERFMON"
)
HWMON = "sys/class/hwmon"
SUPPLY = "sys/class/power_supply"
J_PER_UWH = 3.6e-3
ON_MAINS = "the battery is not discharging: unplug the mains"

Opener = Callable[[int, int, int], int]
"""(event source type, event, CPU) -> file descriptor whose 8 bytes are the counter; raises `OSError`."""


class PerfProbe(Probe):
    """RAPL through the kernel's perf events (`power/energy-pkg/` and its like): readable without root where the kernel allows it.

    The counters are 64 bits wide and start at 0 when opened, so they do not wrap. Each is read on the CPUs that the `cpumask` of
    the event source lists: one of each package (or die). Sources: perf_event_open(2);
    Documentation/ABI/testing/sysfs-bus-event_source-devices-events. `OSError` with the remedy where there is no such event
    source, or it may not be read.
    """

    name = "perf"
    update_period_s = 1e-3

    def __init__(
        self,
        root: Path = Path("/"),
        open_event: Opener | None = None,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[int], bytes] = lambda descriptor: os.read(descriptor, 8),
    ) -> None:
        folder = root / SOURCE
        if not folder.is_dir():
            raise OSError(f"no perf energy events: /{SOURCE} does not exist")
        self._read = read
        self._descriptors: list[int] = []
        counters = []
        kind = int((folder / "type").read_text())
        cpus = parse_cpu_list((folder / "cpumask").read_text())
        opener = open_event or perf_event_open
        refused: dict[str, OSError] = {}
        for label, domain in DOMAINS.items():
            if not (folder / "events" / label).is_file():
                continue
            opened: list[int] = []
            try:
                event = _event((folder / "events" / label).read_text())
                joules = float((folder / "events" / f"{label}.scale").read_text())
                for cpu in cpus:
                    opened.append(opener(kind, event, cpu))
            except PermissionError:
                refused[domain] = PermissionError(REMEDY)
            except (OSError, ValueError) as error:
                refused[domain] = OSError(f"perf energy events cannot be opened ({error})")
            self._descriptors += opened
            if domain not in refused:
                readers = zip(cpus, opened, strict=True)
                counters += [Counter(f"{domain}-cpu{cpu}", domain, partial(self._value, fd), joules) for cpu, fd in readers]
        if not counters:
            self.close()
            raise next(iter(refused.values()), OSError(f"/{SOURCE} lists no energy event"))
        super().__init__(counters, clock, {domain: str(error) for domain, error in refused.items()})

    def _value(self, descriptor: int) -> float:
        content = self._read(descriptor)
        if len(content) != 8:
            raise ValueError(f"{len(content)} bytes in place of 8")
        return float(int.from_bytes(content, "little"))

    def close(self) -> None:
        """Close the counters; the probe cannot be read afterwards."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The numbers in one of the kernel's lists: "0-2,5" is (0, 1, 2, 5)."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def _event(text: str) -> int:
    """The number of an event: 2 of "event=0x02"; `ValueError` for another form."""
    name, _, number = text.strip().partition("=")
    if name != "event":
        raise ValueError(f"event {text.strip()!r} is not of the form event=0x..")
    return int(number, 16)


def perf_event_open(kind: int, event: int, cpu: int) -> int:
    """Open one system-wide counter on a CPU; `OSError` where the kernel refuses (`PermissionError` where more rights would help),
    or this machine's call number is not known."""
    number = SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(f"perf events are unknown on {platform.machine()}")
    # struct perf_event_attr, first version (64 bytes): type, size, config, and zeros: counting, all of the machine, no sampling.
    attributes = struct.pack("<IIQ", kind, 64, event) + bytes(48)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(number, ctypes.c_char_p(attributes), -1, cpu, -1, 0)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


class HwmonProbe(Probe):
    """Every `energy*_input` (µJ since the driver was loaded) below /sys/class/hwmon, each a separate domain, such as
    "hwmon amdgpu energy1". They are never summed, since only the board's maker knows which contains another. `OSError` where
    none can be read."""

    name = "hwmon"
    update_period_s = 1e-2  # typical; the meter measures it
    slack_periods = 10

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        counters = []
        for path in sorted((root / HWMON).glob("hwmon*/energy*_input")):
            try:
                read_counter_file(path)
                chip = (path.parent / "name").read_text().strip()
            except (OSError, ValueError):
                continue
            domain = f"hwmon {chip} {path.name.removesuffix('_input')}"
            counters.append(Counter(domain, domain, partial(read_counter_file, path)))
        if not counters:
            raise OSError(f"no readable energy counter below /{HWMON}")
        super().__init__(counters, clock)


class BatteryProbe(Probe):
    """Energy from the batteries: that of the whole machine, screen included. `OSError` where none has an energy gauge."""

    name = "battery"
    update_period_s = 2.0  # embedded controllers refresh the gauge every few seconds at best, in steps of 1 to 10 mWh
    gain_error = 0.05  # fuel gauges state their charge to within a few per cent
    slack_periods = 10

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        folders = [path.parent for path in sorted((root / SUPPLY).glob("BAT*/energy_now"))]
        if not folders:
            raise OSError(f"no battery with an energy gauge below /{SUPPLY}")

        def minus_charge() -> float:
            if any((folder / "status").read_text().strip() not in ("Discharging", "Full") for folder in folders):
                raise UnreadableError(ON_MAINS)
            return -sum(read_counter_file(folder / "energy_now") for folder in folders)

        super().__init__([Counter("battery", "battery", minus_charge, J_PER_UWH)], clock)
