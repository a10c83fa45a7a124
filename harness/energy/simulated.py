"""Hardware that is not there: a counter with known power, range, update period and faults, and a powercap tree on disk.

For tests, and for learning the tool without root. Rows measured with it say so by the machine they name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shmoo.harness.energy.probe import DomainEnergy, Snapshot, energy_between
from shmoo.harness.energy.rapl import MICRO, POWERCAP


class SimulatedProbe:
    """A counter in µJ that follows a clock.

    Args:
        clock: seconds; whatever makes it advance makes energy flow.
        energy_at: joules since time 0 as a function of time; a constant power of `power_w` where it is not given.
        range_uj: the counter starts again at 0 there.
        update_period_s: the counter moves only at multiples of it.
        faults: reading number (from 0) -> error text of that reading.
    """

    name = "simulated"
    gain_error = 0.0

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        power_w: float = 0.0,
        energy_at: Callable[[float], float] | None = None,
        domain: str = "package",
        range_uj: float | None = 262_143_328_850.0,
        update_period_s: float = 1e-3,
        faults: dict[int, str] | None = None,
    ) -> None:
        self._clock = clock
        self._energy_at = energy_at or (lambda at_s: power_w * at_s)
        self._domain = domain
        self._range_uj = range_uj
        self._faults = faults or {}
        self._readings = 0
        self.domains = (domain,)
        self.update_period_s = update_period_s

    def snapshot(self) -> Snapshot:
        now = self._clock()
        number, self._readings = self._readings, self._readings + 1
        if number in self._faults:
            return Snapshot(now, errors={self._domain: self._faults[number]})
        # The small offset keeps a multiple of the period, which floats miss by a little, on its own side.
        updated = math.floor(now / self.update_period_s + 1e-9) * self.update_period_s
        value = self._energy_at(updated) / MICRO
        return Snapshot(now, {self._domain: value if self._range_uj is None else value % self._range_uj})

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        step = energy_between(
            self._domain,
            before,
            after,
            joules_per_unit=MICRO,
            update_period_s=self.update_period_s,
            span=self._range_uj,
        )
        return {self._domain: step}


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
