"""Counters that are not there: one of known power that follows a clock, and the files of a powercap tree. For tests, and for
learning the tool without root."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shmoo.harness.energy.probe import MICRO, Counter, Probe
from shmoo.harness.energy.rapl import POWERCAP


def last_update(now_s: float, period_s: float) -> float:
    """The multiple of the period at or before a time; a multiple that floats miss by a little counts as reached."""
    return math.floor(now_s / period_s + 1e-9) * period_s


class SimulatedProbe(Probe):
    """A counter in µJ that follows a clock, at multiples of its update period: `energy_at` gives joules since time 0, by default
    those of a constant power."""

    name = "simulated"

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        power_w: float = 0.0,
        energy_at: Callable[[float], float] | None = None,
        range_uj: float = 262_143_328_850.0,
        update_period_s: float = 1e-3,
    ) -> None:
        self._energy_at = energy_at or (lambda at_s: power_w * at_s)
        self._range_uj = range_uj
        self.update_period_s = update_period_s
        super().__init__([Counter("package", "package", self._microjoules, MICRO, range_uj)], clock)

    def _microjoules(self) -> float:
        return self._energy_at(last_update(self._clock(), self.update_period_s)) / MICRO % self._range_uj


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
