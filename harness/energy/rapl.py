"""Intel's and AMD's RAPL counters through Linux powercap. pyRAPL ignores ranges and wraps, so only its raw readings are used; the
direct reader covers what pyRAPL does not: dies, core and uncore, psys, sockets without DRAM, offline CPUs. `intel-rapl-mmio`
repeats the package and is left out."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from shmoo.harness.energy.probe import Counter, DomainEnergy, Probe, UnreadableError, read_counter_file

POWERCAP = "sys/class/powercap/intel-rapl"
PERMISSION_REMEDY = (
    "its energy_uj files are readable by root only (Linux 5.10 and later); allow it until the next boot with "
    "`sudo chmod -R a+r /sys/class/powercap/intel-rapl/`, or for good with a udev rule that does so"
)
UPDATE_PERIOD_S = 1e-3
"""Intel SDM vol. 3, "RAPL interfaces": energy status is updated about every millisecond."""
TOLERANCE = 0.05
"""Relative difference up to which two readers agree."""


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
        # Zen 1 and 2 show the one counter of a socket once a die; Intel's dies have counters of their own. Counting a mirror
        # would double the energy.
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
    """True where both zones of one socket show one counter: b's value lies between two readings of a."""
    if (a.domain, a.socket) != (b.domain, b.socket):
        return False
    try:
        first, between, last = read_counter_file(a.path), read_counter_file(b.path), read_counter_file(a.path)
    except (OSError, ValueError):
        return False
    return first <= between <= last


class PowercapProbe(Probe):
    """Reads powercap itself: every zone below `root`, but no domain of `without`, which another probe reads."""

    name = "powercap"
    update_period_s = UPDATE_PERIOD_S

    def __init__(
        self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic, without: tuple[str, ...] = ()
    ) -> None:
        zones = powercap_zones(root)
        sockets: dict[str, set[int]] = {}
        for zone in zones:
            sockets.setdefault(zone.domain, set()).add(zone.socket)
        packages = sockets.get("package", set())
        # A sum over some of the sockets would pass for the machine's.
        incomplete = {
            domain: f"only {len(counted)} of {len(packages)} sockets count {domain}"
            for domain, counted in sockets.items()
            if domain not in ("psys", *without) and counted != packages
        }
        counters = [
            Counter(zone.name, zone.domain, partial(_zone_value, zone), span=zone.range_uj)
            for zone in zones
            if zone.domain not in without
        ]
        super().__init__(counters, clock, incomplete)


def _zone_value(zone: Zone) -> float:
    try:
        return read_counter_file(zone.path)
    except PermissionError:
        raise UnreadableError(PERMISSION_REMEDY) from None


class RaplProbe(Probe):
    """Package and DRAM energy through pyRAPL's raw readings (`PkgAPI().energy()` and `DramAPI().energy()`: µJ by socket, -1 where
    it has no counter), unwrapped here by the range of each counter ("package-0", "dram-0"). `OSError` or `ValueError` where a
    first reading fails."""

    name = "pyRAPL"
    update_period_s = UPDATE_PERIOD_S

    def __init__(
        self, package: Any, dram: Any, ranges_uj: dict[str, float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        readers = {"package": package} | ({} if dram is None else {"dram": dram})
        counters = [
            Counter(name := f"{domain}-{socket}", domain, partial(_socket_value, reader, socket), span=ranges_uj.get(name))
            for domain, reader in readers.items()
            for socket, value in enumerate(reader.energy())
            if value >= 0
        ]
        super().__init__(counters, clock)


def _socket_value(reader: Any, socket: int) -> float:
    return reader.energy()[socket]


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


def open_pyrapl() -> RaplProbe:
    """A probe over pyRAPL for this machine; `OSError` says which counters it does not find or may not read, and why."""
    module = import_pyrapl()
    zones = powercap_zones()
    try:
        package = module.PkgAPI()
    except PermissionError as error:
        raise PermissionError(PERMISSION_REMEDY) from error
    except (module.PyRAPLException, OSError, ValueError, IndexError) as error:
        raise OSError(f"pyRAPL cannot use this machine's packages ({type(error).__name__} {error})".replace(" )", ")")) from error
    try:
        dram = module.DramAPI()
    except (module.PyRAPLException, OSError, ValueError, IndexError):
        dram = None  # a socket without DRAM counters; the probe then has no such domain
    ranges = {f"{zone.domain}-{zone.socket}": zone.range_uj for zone in zones if zone.domain in ("package", "dram")}
    return RaplProbe(package, dram, ranges)


def disagreement(a: dict[str, DomainEnergy], b: dict[str, DomainEnergy]) -> str:
    """Why two readings of the same span differ in a domain both know, or "" when they agree within `TOLERANCE`."""
    for domain in a.keys() & b.keys():
        one, other = a[domain].energy_j, b[domain].energy_j
        if one is None or other is None:
            if (one is None) != (other is None):
                return f"{domain}: one reads {one} J ({a[domain].reason}), the other {other} J ({b[domain].reason})"
        elif abs(one - other) > TOLERANCE * max(one, other):
            return f"{domain}: {one:.4g} J against {other:.4g} J"
    return ""
