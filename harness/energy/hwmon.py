"""Energy counters of Linux hwmon drivers (`energy*_input`, µJ since the driver was loaded), such as sensors of a board."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shmoo.harness.energy.probe import DomainEnergy, Snapshot, energy_between
from shmoo.harness.energy.rapl import MICRO, read_uj

HWMON = "sys/class/hwmon"
UPDATE_PERIOD_S = 1e-2
"""Usual time between updates of such sensors; the meter measures it."""


class HwmonProbe:
    """Every energy counter below /sys/class/hwmon, each a domain of its own ("hwmon amdgpu energy1"): what they measure, and
    what contains what, only the board's maker knows, so they are never summed.

    Args:
        root: holds the sys tree; a made-up one in tests.

    Raises:
        OSError: there is none that can be read.
    """

    name = "hwmon"
    update_period_s = UPDATE_PERIOD_S
    gain_error = 0.0

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._files: dict[str, Path] = {}
        for path in sorted((root / HWMON).glob("hwmon*/energy*_input")):
            try:
                read_uj(path)
                chip = (path.parent / "name").read_text().strip()
            except (OSError, ValueError):
                continue
            self._files[f"hwmon {chip} {path.name.removesuffix('_input')}"] = path
        if not self._files:
            raise OSError(f"no readable energy counter below /{HWMON}")
        self.domains = tuple(self._files)

    def snapshot(self) -> Snapshot:
        values, errors = {}, {}
        for domain, path in self._files.items():
            try:
                values[domain] = read_uj(path)
            except (OSError, ValueError) as error:
                errors[domain] = f"cannot be read: {error}"
        return Snapshot(self._clock(), values, errors)

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        return {
            domain: energy_between(domain, before, after, joules_per_unit=MICRO, update_period_s=10 * UPDATE_PERIOD_S)
            for domain in self.domains
        }
