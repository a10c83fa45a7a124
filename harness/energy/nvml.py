"""NVIDIA's energy counter: millijoules since the driver was loaded, on Volta and later (package nvidia-ml-py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from shmoo.harness.energy.probe import DomainEnergy, Snapshot, energy_between

UPDATE_PERIOD_S = 0.1
"""Usual time between updates; `sampler.measure_update_period` measures it."""
MILLI = 1e-3
FIELD_POWER_INSTANT = 186
FIELD_POWER_AVERAGE = 185
"""NVML field identifiers NVML_FI_DEV_POWER_INSTANT and NVML_FI_DEV_POWER_AVERAGE, in mW."""


class GpuInfo(msgspec.Struct, frozen=True):
    """What NVML says about one card."""

    uuid: str
    name: str
    memory_bytes: int
    driver: str
    mig: bool = False


def load_nvml():
    """The NVML binding, initialised.

    Raises:
        OSError: nvidia-ml-py is not installed, or there is no driver; the message says what to do.
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


def list_gpus(nvml: Any, visible: str | None = None) -> tuple[GpuInfo, ...]:
    """The cards in the order CUDA shows them under `visible` (the value of CUDA_VISIBLE_DEVICES, which NVML ignores). Numbers in
    it are taken in bus order, which CUDA follows among equal cards."""
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    cards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        except nvml.NVMLError:
            mig = False  # cards without MIG answer NotSupported
        cards.append(
            GpuInfo(
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                name=_text(nvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver=driver,
                mig=mig,
            )
        )
    if visible is None:
        return tuple(cards)
    chosen = []
    for item in filter(None, (part.strip() for part in visible.split(","))):
        match = [card for i, card in enumerate(cards) if item == str(i) or card.uuid.startswith(item)]
        if not match:
            break  # CUDA, too, shows no device after the first it does not know
        chosen.append(match[0])
    return tuple(chosen)


def visible_gpus(nvml: Any) -> tuple[GpuInfo, ...]:
    """The cards CUDA programs started from here see."""
    return list_gpus(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))


class NvmlProbe:
    """Total energy of one card. With MIG on, the counter is the whole card's, other instances included, and the domain says so.

    Args:
        nvml: the initialised binding, or a stand-in.
        uuid: which card; indices move between processes, UUIDs do not.

    Raises:
        OSError: the card has no energy counter (older than Volta, or hidden by WSL or a virtual GPU).
    """

    name = "NVML"
    update_period_s = UPDATE_PERIOD_S
    gain_error = 0.05  # of one board against a meter (Yang et al., SC'24, arXiv 2312.02741)

    def __init__(self, nvml: Any, uuid: str, mig: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._domain = "gpu (whole card, MIG)" if mig else "gpu"
        self.domains = (self._domain,)
        self.uuid = uuid
        self._pid = os.getpid()
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except nvml.NVMLError as error:
            raise OSError(f"GPU {uuid} has no energy counter ({error})") from None

    def snapshot(self) -> Snapshot:
        if os.getpid() != self._pid:
            return Snapshot(self._clock(), errors={self._domain: "opened before a fork; NVML's handles do not survive one"})
        try:
            value = float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            return Snapshot(self._clock(), errors={self._domain: f"cannot be read: {error}"})
        return Snapshot(self._clock(), {self._domain: value})

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        # 64 bits of mJ do not wrap; a counter that falls was reset with the driver. Cards differ in their period; a second of
        # full power is still no jump.
        step = energy_between(self._domain, before, after, joules_per_unit=MILLI, update_period_s=10 * UPDATE_PERIOD_S)
        return {self._domain: step}

    def power_w(self) -> dict[str, float]:
        """Instantaneous and average power by field, W, where the driver has them; a check of the counter, not a substitute."""
        found = {}
        for label, field in (("instant", FIELD_POWER_INSTANT), ("average", FIELD_POWER_AVERAGE)):
            try:
                answer = self._nvml.nvmlDeviceGetFieldValues(self._handle, [field])[0]
            except self._nvml.NVMLError:
                continue
            if answer.nvmlReturn == 0 and answer.value.uiVal > 0:
                found[label] = answer.value.uiVal * MILLI
        return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
