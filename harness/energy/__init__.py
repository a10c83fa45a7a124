"""Energy counters, the sampler that reads them, and the list of counters on this machine.

The energy of a case in a row is stored by measuring.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmoo.harness.energy import simulated
from shmoo.harness.energy.linux import BatteryProbe, HwmonProbe, PerfProbe
from shmoo.harness.energy.nvml import NvmlProbe, load_nvml, visible_gpus
from shmoo.harness.energy.probe import Probe
from shmoo.harness.energy.rapl import AGREE_S, POWERCAP, PowercapProbe, pyrapl_readings

Availability = tuple[list[Probe], dict[str, str]]
"""Working probes, and domain -> reason why it has no probe."""


def available_probes(
    root: Path = Path("/"), nvml_loader: Callable[[], Any] = load_nvml, sleep: Callable[[float], None] = time.sleep
) -> tuple[tuple[Probe, ...], dict[str, str]]:
    """The working counters of this machine, each domain once, and domain ("package", "gpu", or "pyRAPL" where only the direct
    reader works) -> reason why it does not work. Only the virtual package if the user switched it on.

    Args:
        root: directory of the sys tree; pyRAPL, whose paths are fixed, is used only for "/".
    """
    if simulated.is_switched_on():
        return (simulated.virtual_package(),), {"gpu": f"{simulated.SWITCH}=1 replaces every counter of this machine; unset it"}
    probes, reasons = _cpu_probes(root, sleep)
    for kind in (HwmonProbe, BatteryProbe):
        with contextlib.suppress(OSError):  # few machines have one, so its absence needs no message
            probes.append(kind(root))
    try:
        nvml = nvml_loader()
        card = visible_gpus(nvml)[0]  # cases run there
        probes.append(NvmlProbe(nvml, card.uuid, card.mig))
    except OSError as error:
        reasons = reasons | {"gpu": str(error)}
    return tuple(probes), reasons


def _cpu_probes(root: Path, sleep: Callable[[float], None]) -> Availability:
    """RAPL through powercap; where that cannot be read, through perf."""
    probes, missing_reasons = _powercap_probes(root, sleep)
    if probes:
        return probes, missing_reasons
    try:
        probe = PerfProbe(root)
    except PermissionError as error:
        return [], {**missing_reasons, "package": f"{missing_reasons['package']}; {error}"}
    except OSError:
        return [], missing_reasons
    # A guest may see events that its hypervisor does not count.
    before = probe.snapshot()
    sleep(AGREE_S)
    if all(energy.energy_j is None for energy in probe.energy_j(before, probe.snapshot()).values()):
        probe.close()
        events = ", ".join(probe.domains)
        return [], {
            **missing_reasons,
            "package": f"{missing_reasons['package']}; perf shows {events}, but its counters do not move",
        }
    return [probe], {} if "package" in probe.domains else missing_reasons


def _powercap_probes(root: Path, sleep: Callable[[float], None]) -> Availability:
    if not (root / POWERCAP).is_dir():
        return [], {
            "package": f"no RAPL counters: /{POWERCAP} does not exist; usual in virtual machines and containers and outside "
            "Linux. On bare-metal Linux load them with `sudo modprobe intel_rapl_msr`"
        }
    direct = PowercapProbe(root)
    if "package" not in direct.domains:
        return [], {"package": f"/{POWERCAP} lists no package"}
    # A counter's name ends in its domain: "package-0", "package-0/core".
    unreadable = {name.rpartition("/")[2].partition("-")[0]: error for name, error in direct.snapshot().errors.items()}
    if "package" in unreadable:
        return [], {"package": unreadable["package"]}
    if root.as_posix() != "/":
        return [direct], unreadable
    try:
        return [PowercapProbe(readings=pyrapl_readings(sleep))], unreadable
    except (ImportError, OSError, ValueError) as error:
        return [direct], unreadable | {"pyRAPL": f"{error or type(error).__name__}; the counters are read directly instead"}
