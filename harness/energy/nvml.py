"""NVIDIA's energy counter: millijoules since the driver was loaded, on Volta and later (package nvidia-ml-py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec

from shmoo.harness.energy.probe import Counter, CounterProbe, UnreadableError

MILLI = 1e-3
FIELD_POWER_INSTANT = 186
"""NVML field identifier NVML_FI_DEV_POWER_INSTANT, in mW."""


class GpuInfo(msgspec.Struct, frozen=True):
    """One card, as NVML describes it."""

    uuid: str
    name: str
    memory_bytes: int
    driver: str
    mig: bool = False


def load_nvml() -> ModuleType:
    """The NVML binding, initialized.

    Raises:
        OSError: nvidia-ml-py is not installed, or no driver answers; the message says what to do.
    """
    try:
        import pynvml
    except ImportError:
        raise OSError("nvidia-ml-py is not installed; `pip install 'shmoo[gpu]'` where there is an NVIDIA GPU") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise OSError(f"no NVIDIA driver answers ({error})") from None
    return pynvml


def visible_gpus(nvml: Any) -> tuple[GpuInfo, ...]:
    """The cards that CUDA programs started from here see."""
    return list_gpus(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))


def list_gpus(nvml: Any, visible: str | None = None) -> tuple[GpuInfo, ...]:
    """The cards in the order in which CUDA shows them under `visible` (the value of CUDA_VISIBLE_DEVICES, which NVML ignores).
    Numbers in it count in bus order, which CUDA follows among equal cards."""
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    cards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        except nvml.NVMLError:
            mig = False  # cards without MIG answer NotSupported
        uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
        cards.append(GpuInfo(uuid, name, int(nvml.nvmlDeviceGetMemoryInfo(handle).total), driver, mig))
    if visible is None:
        return tuple(cards)
    chosen = []
    for item in filter(None, (part.strip() for part in visible.split(","))):
        match = [card for i, card in enumerate(cards) if item == str(i) or card.uuid.startswith(item)]
        if not match:
            break  # CUDA, too, shows no device after the first it does not know
        chosen.append(match[0])
    return tuple(chosen)


class NvmlProbe(CounterProbe):
    """Total energy of one card. With MIG on, the counter covers the whole card, other instances included, and the domain says so.

    Args:
        nvml: the initialized binding, or a stand-in.
        uuid: of the card; indices differ between processes, UUIDs do not.

    Raises:
        OSError: the card has no energy counter (older than Volta, or hidden by WSL or a virtual GPU).
    """

    name = "NVML"
    update_period_s = 0.1  # usual; the meter measures it
    gain_error = 0.05  # of one board against a meter (Yang et al., SC'24, arXiv 2312.02741)
    slack_periods = 10  # cards differ in their period; a second of full power is still no jump

    def __init__(self, nvml: Any, uuid: str, mig: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self.uuid = uuid
        self._pid = os.getpid()
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except nvml.NVMLError as error:
            raise OSError(f"GPU {uuid} has no energy counter ({error})") from None
        domain = "gpu (whole card, MIG)" if mig else "gpu"
        # 64 bits of mJ do not wrap; a counter that falls was reset with the driver.
        super().__init__([Counter(domain, domain, self._millijoules, MILLI)], clock)

    def _millijoules(self) -> float:
        if os.getpid() != self._pid:
            raise UnreadableError("opened before a fork; NVML's handles do not survive one")
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None

    def power_w(self) -> float | None:
        """Power now, W, where the driver has the field; a check of the counter, not a substitute."""
        try:
            answer = self._nvml.nvmlDeviceGetFieldValues(self._handle, [FIELD_POWER_INSTANT])[0]
        except self._nvml.NVMLError:
            return None
        return answer.value.uiVal * MILLI if answer.nvmlReturn == 0 and answer.value.uiVal > 0 else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
