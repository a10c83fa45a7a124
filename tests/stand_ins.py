"""What several test files put in the place of the real thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shmoo.harness.energy.rapl import POWERCAP


class Clock:
    """A monotonic clock that moves only when it is told to; seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def no_nvml():
    """A machine without a driver."""
    raise OSError("no NVIDIA driver answers")


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
