"""Watches the GPU while something is timed, through NVML: clocks, why they are held down, temperature, other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from shmoo.runs.records import AxisValue, Reason

MIN_CLOCK_SHARE = 0.75
"""nvbench's limit: samples below this share of the clock say more about the clock than about the code."""
HELD_DOWN = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons (nvml.h, nvmlClocksEventReason*) that make a timing doubtful. The power cap (0x4) is not
among them: large cards run into it under any heavy load, and it is recorded."""
POWER_CAP = 0x4
CLOCK_SM = 1
TEMPERATURE_GPU = 0
"""NVML_CLOCK_SM and NVML_TEMPERATURE_GPU."""


class GpuWatch:
    """Reads one card.

    Args:
        nvml: the initialised binding, or a stand-in.
        uuid: which card.
        pid: of the process whose work is measured.

    Raises:
        OSError: NVML does not know the card.
    """

    def __init__(self, nvml: Any, uuid: str, pid: int | None = None) -> None:
        self._nvml = nvml
        self._pid = os.getpid() if pid is None else pid
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            raise OSError(f"NVML does not know GPU {uuid} ({error})") from None

    def observe(self) -> dict[str, AxisValue | None]:
        """The card now: gpu_clock_hz, gpu_clock_max_hz, gpu_events (bits), gpu_temperature_c, gpu_others (other processes that
        compute on it); `None` where the driver does not say."""
        nvml = self._nvml
        events = self._ask(lambda: getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", _old_reasons(nvml))(self._handle))
        clock = self._ask(lambda: nvml.nvmlDeviceGetClockInfo(self._handle, CLOCK_SM))
        highest = self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(self._handle, CLOCK_SM))
        return {
            "gpu_clock_hz": None if clock is None else 1e6 * clock,
            "gpu_clock_max_hz": None if highest is None else 1e6 * highest,
            "gpu_events": events,
            "gpu_temperature_c": self._ask(lambda: nvml.nvmlDeviceGetTemperature(self._handle, TEMPERATURE_GPU)),
            "gpu_others": self._others(),
        }

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._nvml.NVMLError:
            return None

    def _others(self) -> int | None:
        processes = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        if processes is None:
            return None
        pids = [process.pid for process in processes]
        # In a container NVML lists the host's process numbers, among which ours has another number.
        return len(pids) - 1 if pids and self._pid not in pids else sum(pid != self._pid for pid in pids)


def _old_reasons(nvml: Any) -> Callable[[Any], int] | None:
    """The name this query had before driver 535."""
    return getattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None)


def gpu_doubts(host: dict[str, AxisValue | None]) -> tuple[Reason, ...]:
    """Why a timing under these observations cannot be trusted, with numbers."""
    reasons = []
    clock, highest = host.get("gpu_clock_hz"), host.get("gpu_clock_max_hz")
    capped = bool((host.get("gpu_events") or 0) & POWER_CAP)
    # A card at its power limit lowers its clock on purpose: that is how fast it is with such work.
    if clock and highest and clock < MIN_CLOCK_SHARE * highest and not capped:
        text = f"{clock / 1e6:.0f} MHz of {highest / 1e6:.0f} MHz (limit {MIN_CLOCK_SHARE:.0%})"
        reasons.append(Reason("GPU clock", text))
    held = [name for bit, name in HELD_DOWN.items() if (host.get("gpu_events") or 0) & bit]
    if held:
        reasons.append(Reason("GPU throttled", ", ".join(held)))
    if others := host.get("gpu_others"):
        reasons.append(Reason("shared GPU", f"{others} other processes compute on it"))
    return tuple(reasons)
