"""Energy counters that Linux shows as single files: those of hwmon drivers, and a laptop's battery."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shmoo.harness.energy.probe import Counter, CounterProbe, UnreadableError, read_counter_file

HWMON = "sys/class/hwmon"
SUPPLY = "sys/class/power_supply"
J_PER_UWH = 3.6e-3
"""One microwatt hour in joules."""
ON_MAINS = "the battery is not discharging: unplug the mains"


class HwmonProbe(CounterProbe):
    """Every `energy*_input` (µJ since the driver was loaded) below /sys/class/hwmon, each a domain of its own, such as
    "hwmon amdgpu energy1". They are never summed: only the board's maker knows which of them contains another.

    Args:
        root: holds the sys tree; a made-up one in tests.

    Raises:
        OSError: there is none that can be read.
    """

    name = "hwmon"
    update_period_s = 1e-2  # usual; the meter measures it
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


class BatteryProbe(CounterProbe):
    """Energy that the batteries gave: the whole machine's, screen included.

    Args:
        root: holds the sys tree; a made-up one in tests.

    Raises:
        OSError: there is no battery with an energy gauge.
    """

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
