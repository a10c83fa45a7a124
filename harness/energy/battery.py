"""A laptop's battery while it discharges: the whole machine's energy, screen and all, in coarse and slow steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shmoo.harness.energy.probe import DomainEnergy, Snapshot, energy_between
from shmoo.harness.energy.rapl import read_uj

SUPPLY = "sys/class/power_supply"
UPDATE_PERIOD_S = 2.0
"""Embedded controllers refresh the gauge every few seconds at best, in steps of 1 to 10 mWh."""
J_PER_UWH = 3.6e-3
"""One microwatt hour in joules."""
ON_MAINS = "the battery is not discharging: unplug the mains"


class BatteryProbe:
    """What the batteries gave.

    Args:
        root: holds the sys tree; a made-up one in tests.

    Raises:
        OSError: there is no battery with an energy gauge.
    """

    name = "battery"
    domains = ("battery",)
    update_period_s = UPDATE_PERIOD_S
    gain_error = 0.05  # fuel gauges state their charge to within a few per cent

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._folders = [path.parent for path in sorted((root / SUPPLY).glob("BAT*/energy_now"))]
        if not self._folders:
            raise OSError(f"no battery with an energy gauge below /{SUPPLY}")

    def snapshot(self) -> Snapshot:
        try:
            if any((folder / "status").read_text().strip() not in ("Discharging", "Full") for folder in self._folders):
                return Snapshot(self._clock(), errors={"battery": ON_MAINS})
            held = sum(read_uj(folder / "energy_now") for folder in self._folders)
        except (OSError, ValueError) as error:
            return Snapshot(self._clock(), errors={"battery": f"cannot be read: {error}"})
        return Snapshot(self._clock(), {"battery": held})

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        return {
            "battery": energy_between(
                "battery", before, after, joules_per_unit=J_PER_UWH, update_period_s=10 * UPDATE_PERIOD_S, falling=True
            )
        }
