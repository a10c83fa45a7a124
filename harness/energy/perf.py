"""RAPL through the kernel's perf events (`power/energy-pkg/` and its like): readable without root where the kernel allows it.

The counters are 64 bits wide and start at 0 when opened, so they do not wrap. One CPU of each package (or die) is asked, as the
`cpumask` of the event source says. Facts: perf_event_open(2); Documentation/ABI/testing/sysfs-bus-event_source-devices-events.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from collections.abc import Callable
from pathlib import Path

from shmoo.harness.energy.probe import DomainEnergy, Snapshot, energy_between, sum_domain

SOURCE = "sys/bus/event_source/devices/power"
DOMAINS = {"energy-pkg": "package", "energy-cores": "core", "energy-ram": "dram", "energy-gpu": "uncore", "energy-psys": "psys"}
UPDATE_PERIOD_S = 1e-3
SYSCALLS = {"x86_64": 298, "aarch64": 241}
"""Number of perf_event_open in the system call tables of Linux."""
REMEDY = (
    "perf may not read it: allow it until the next boot with `sudo sysctl kernel.perf_event_paranoid=0`, or give this Python "
    "CAP_PERFMON"
)

Opener = Callable[[int, int, int], int]
"""(event source type, event, CPU) -> file descriptor whose 8 bytes are the counter; raises `OSError`."""


class PerfProbe:
    """Counts energy by perf events.

    Args:
        root: holds the sys tree; a made-up one in tests.
        open_event: opens one counter.
        clock: monotonic seconds.

    Raises:
        OSError: there is no such event source, or it may not be read; the message says what to do.
    """

    name = "perf"
    update_period_s = UPDATE_PERIOD_S
    gain_error = 0.0

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
        self._clock, self._read = clock, read
        self._counters: dict[str, tuple[str, int, float]] = {}
        kind = int((folder / "type").read_text())
        cpus = _cpus((folder / "cpumask").read_text())
        opener = open_event or perf_event_open
        try:
            for label, domain in DOMAINS.items():
                if not (folder / "events" / label).is_file():
                    continue
                event = _event((folder / "events" / label).read_text())
                joules = float((folder / "events" / f"{label}.scale").read_text())
                for cpu in cpus:
                    self._counters[f"{domain}-cpu{cpu}"] = domain, opener(kind, event, cpu), joules
        except PermissionError as error:
            self.close()
            raise PermissionError(REMEDY) from error
        except (OSError, ValueError) as error:
            self.close()
            raise OSError(f"perf energy events cannot be opened ({error})") from error
        self.domains = tuple(dict.fromkeys(domain for domain, _, _ in self._counters.values()))
        if not self.domains:
            raise OSError(f"/{SOURCE} lists no energy event")

    def snapshot(self) -> Snapshot:
        values, errors = {}, {}
        for name, (_, descriptor, _) in self._counters.items():
            try:
                values[name] = float(struct.unpack("<Q", self._read(descriptor))[0])
            except (OSError, struct.error) as error:
                errors[name] = f"cannot be read: {error}"
        return Snapshot(self._clock(), values, errors)

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        return {
            domain: sum_domain(
                {
                    name: energy_between(name, before, after, joules_per_unit=joules, update_period_s=UPDATE_PERIOD_S)
                    for name, (of, _, joules) in self._counters.items()
                    if of == domain
                }
            )
            for domain in self.domains
        }

    def close(self) -> None:
        """Give the counters back."""
        for _, descriptor, _ in self._counters.values():
            os.close(descriptor)
        self._counters = {}


def _event(text: str) -> int:
    """ "event=0x02" is 2; `ValueError` for another form."""
    name, _, number = text.strip().partition("=")
    if name != "event":
        raise ValueError(f"event {text.strip()!r} is not of the form event=0x..")
    return int(number, 16)


def _cpus(text: str) -> list[int]:
    """ "0,16" or "0-1" as numbers."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def perf_event_open(kind: int, event: int, cpu: int) -> int:
    """Open one system-wide counter on a CPU.

    Raises:
        OSError: the kernel refuses (`PermissionError` where more rights would help), or this machine's call number is not known.
    """
    number = SYSCALLS.get(platform.machine())
    if number is None or not hasattr(ctypes, "CDLL") or os.name != "posix":
        raise OSError(f"perf events are not known on {platform.machine()}")
    # struct perf_event_attr, first version (64 bytes): type, size, config, and zeros: counting, all of the machine, no sampling.
    attributes = struct.pack("<IIQ", kind, 64, event) + bytes(48)
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.syscall(number, ctypes.c_char_p(attributes), -1, cpu, -1, 0)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor
