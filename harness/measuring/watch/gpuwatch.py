"""Observes the GPU during a timing, through NVML: clocks, why they are reduced, temperature, other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shmoo.runs.store.records import AxisValue, Reason

MIN_CLOCK_SHARE = 0.75
"""nvbench's limit: samples below this share of the clock show the clock rather than the code."""
THROTTLE_EVENTS = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons (nvml.h, nvmlClocksEventReason*) that make a timing doubtful. The power cap (0x4) is only
recorded, since large cards reach it under any heavy load."""
POWER_CAP = 0x4
CLOCK_SM, TEMPERATURE_GPU = 1, 0
"""NVML_CLOCK_SM and NVML_TEMPERATURE_GPU."""


class GpuWatch:
    """Observes the card of that UUID, used by process `pid`; `OSError` where NVML does not know it."""

    def __init__(self, nvml: Any, uuid: str, pid: int | None = None) -> None:
        self._nvml = nvml
        self._pid = os.getpid() if pid is None else pid
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            raise OSError(f"NVML does not know GPU {uuid} ({error})") from None

    def observe(self) -> dict[str, AxisValue | None]:
        """The card now: gpu_clock_hz, gpu_clock_max_hz, gpu_events (bits), gpu_temperature_c, gpu_others (other processes that
        compute on it); `None` where the driver does not answer."""
        events = "nvmlDeviceGetCurrentClocksEventReasons"
        if not hasattr(self._nvml, events):
            events = "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before driver 535
        clock = self._query("nvmlDeviceGetClockInfo", CLOCK_SM)
        highest = self._query("nvmlDeviceGetMaxClockInfo", CLOCK_SM)
        processes = self._query("nvmlDeviceGetComputeRunningProcesses")
        other_processes = None
        if processes is not None:
            other_processes = sum(process.pid != self._pid for process in processes)
            if other_processes and other_processes == len(processes):
                other_processes -= 1  # in a container NVML lists the host's process numbers, among which ours is another
        return {
            "gpu_clock_hz": None if clock is None else 1e6 * clock,
            "gpu_clock_max_hz": None if highest is None else 1e6 * highest,
            "gpu_events": self._query(events),
            "gpu_temperature_c": self._query("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
            "gpu_others": other_processes,
        }

    def _query(self, function: str, *arguments: int) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def gpu_doubts(host: Mapping[str, Any]) -> tuple[Reason, ...]:
    """Why a timing under these observations cannot be trusted, with numbers."""
    reasons = []
    clock, highest = host.get("gpu_clock_hz"), host.get("gpu_clock_max_hz")
    events = host.get("gpu_events") or 0
    # A card at its power limit lowers its clock by design; that is its real speed under such work.
    if clock and highest and clock < MIN_CLOCK_SHARE * highest and not events & POWER_CAP:
        text = f"{clock / 1e6:.0f} MHz of {highest / 1e6:.0f} MHz (limit {MIN_CLOCK_SHARE:.0%})"
        reasons.append(Reason("GPU clock", text))
    if throttles := [name for bit, name in THROTTLE_EVENTS.items() if events & bit]:
        reasons.append(Reason("GPU throttled", ", ".join(throttles)))
    if other_processes := host.get("gpu_others"):
        reasons.append(Reason("shared GPU", f"{other_processes} other processes compute on it"))
    return tuple(reasons)
