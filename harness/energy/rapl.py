"""Intel's and AMD's RAPL counters through Linux powercap. pyRAPL ignores ranges and wraps, so only its raw readings are used, and
only where they agree with the kernel's files. Everything else is read from the files directly: dies, core and uncore, psys,
sockets without DRAM, offline CPUs. `intel-rapl-mmio` repeats the package and is left out."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from shmoo.harness.energy.probe import Counter, Probe, UnreadableError, read_counter_file

POWERCAP = "sys/class/powercap/intel-rapl"
PERMISSION_REMEDY = (
    "its energy_uj files are readable by root only (Linux 5.10 and later); allow it until the next boot with "
    "`sudo chmod -R a+r /sys/class/powercap/intel-rapl/`, or for good with a udev rule that does so"
)
UPDATE_PERIOD_S = 1e-3
"""Intel SDM vol. 3, "RAPL interfaces": energy status is updated about every millisecond."""
AGREE_S = 0.25
"""Time before pyRAPL's readings are compared with the files': 250 updates of a counter."""


class Zone(msgspec.Struct, frozen=True):
    """One powercap zone: its unique name ("package-0", "package-0/dram"), its domain ("package", "core", "uncore", "dram",
    "psys"), the number of its package (-1 for psys), and the value at which its counter starts again, `None` when unreadable."""

    name: str
    domain: str
    socket: int
    path: Path
    range_uj: float | None


def powercap_zones(root: Path = Path("/")) -> tuple[Zone, ...]:
    """Every RAPL zone below `root`, packages before what they contain; dies that mirror one counter appear once."""
    zones: list[Zone] = []
    for folder in sorted((root / POWERCAP).glob("intel-rapl:*"), key=lambda path: (len(path.name), path.name)):
        package = _zone(folder, "", -1)
        # Zen 1 and 2 show a socket's single counter once per die; Intel's dies have separate counters. Counting a mirror would
        # double the energy.
        if package is None or any(_mirrors(zone, package) for zone in zones if zone.domain == "package"):
            continue
        parts = (_zone(path, f"{package.name}/", package.socket) for path in sorted(folder.glob("intel-rapl:*:*")))
        zones += [package, *(zone for zone in parts if zone is not None)]
    return tuple(zones)


def _zone(path: Path, prefix: str, socket: int) -> Zone | None:
    try:
        label = (path / "name").read_text().strip()
    except (OSError, ValueError):
        return None
    try:
        span = read_counter_file(path / "max_energy_range_uj") or None
    except (OSError, ValueError):
        span = None
    domain, *numbers = label.split("-")
    if domain == "package" and numbers and numbers[0].isdigit():
        socket = int(numbers[0])
    return Zone(prefix + label, domain, socket, path / "energy_uj", span)


def _mirrors(a: Zone, b: Zone) -> bool:
    """True if two zones of one socket show the same counter: b's value lies between two readings of a."""
    if (a.domain, a.socket) != (b.domain, b.socket):
        return False
    try:
        first, between, last = read_counter_file(a.path), read_counter_file(b.path), read_counter_file(a.path)
    except (OSError, ValueError):
        return False
    return first <= between <= last


class PowercapProbe(Probe):
    """Every RAPL zone below `root`. Zones in `readings` are read through pyRAPL, which may raise as a counter may; others from
    their files."""

    update_period_s = UPDATE_PERIOD_S

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        readings: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        readings, zones = readings or {}, powercap_zones(root)
        self.name = " and ".join(["pyRAPL"] * bool(readings) + ["powercap"] * (len(readings) < len(zones)))
        sockets: dict[str, set[int]] = {}
        for zone in zones:
            sockets.setdefault(zone.domain, set()).add(zone.socket)
        packages = sockets.get("package", set())
        # A sum over some of the sockets would look like the machine's.
        incomplete = {
            domain: f"only {len(counted)} of {len(packages)} sockets count {domain}"
            for domain, counted in sockets.items()
            if domain != "psys" and counted != packages
        }
        counters = [
            Counter(zone.name, zone.domain, readings.get(zone.name, partial(_zone_value, zone)), span=zone.range_uj)
            for zone in zones
        ]
        super().__init__(counters, clock, incomplete)


def _zone_value(zone: Zone) -> float:
    try:
        return read_counter_file(zone.path)
    except PermissionError:
        raise UnreadableError(PERMISSION_REMEDY) from None


def import_pyrapl() -> ModuleType:
    """pyRAPL, with the root logger as it was: importing it logs a warning for each absent database client, which installs a
    handler, and its regular expressions raise SyntaxWarning on Python 3.12. `ImportError` where it is not installed."""
    logger = logging.getLogger()
    handlers, level, disabled = list(logger.handlers), logger.level, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyRAPL
    finally:
        logging.disable(disabled)
        logger.handlers[:] = handlers
        logger.setLevel(level)
    return pyRAPL


def pyrapl_readings(sleep: Callable[[float], None]) -> Mapping[str, Callable[[], float]]:
    """Name of a package's or a memory's zone -> its counter in µJ through pyRAPL, whose `PkgAPI().energy()` and
    `DramAPI().energy()` give one for each socket. `OSError` or `ValueError` where pyRAPL does not find every package, cannot read
    them, or reads something else than their files, `ImportError` where it is not installed."""
    module = import_pyrapl()
    try:
        apis = {"package": module.PkgAPI()}
    except (module.PyRAPLException, OSError, ValueError, IndexError) as error:
        raise OSError(f"pyRAPL cannot use this machine's packages ({type(error).__name__} {error})".replace(" )", ")")) from error
    with contextlib.suppress(module.PyRAPLException, OSError, ValueError, IndexError):
        apis["dram"] = module.DramAPI()  # fails on a socket without DRAM counters
    zones = [zone for zone in powercap_zones() if zone.domain in apis]
    readings = {zone.name: partial(_socket_value, apis[zone.domain], zone.socket) for zone in zones}
    for read_counter in readings.values():
        read_counter()  # so that a reading stuck at its first value shows below
    sleep(AGREE_S)
    for zone in zones:
        low, through, high = read_counter_file(zone.path), readings[zone.name](), read_counter_file(zone.path)
        if not low <= through <= high:
            raise OSError(f"disagrees with a direct reading ({zone.name}: {through:.0f} µJ, not {low:.0f} to {high:.0f} µJ)")
    return readings


def _socket_value(api: Any, socket: int) -> float:
    value: float = api.energy()[socket]
    return value
