"""NVIDIA's energy counter: millijoules since the driver was loaded, on Volta and later (package nvidia-ml-py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import msgspec

from shmoo.harness.energy.probe import Counter, Probe, UnreadableError

MILLI = 1e-3
FIELD_POWER_INSTANT = 186
"""NVML field identifier NVML_FI_DEV_POWER_INSTANT, in mW."""


class GpuInfo(msgspec.Struct, frozen=True):
    """One card, as NVML describes it. Its memory is `None`, with the reason, where the driver does not report it: cards that
    share the CPU's memory have none. With `mig` it is split into instances."""

    uuid: str
    name: str
    memory_bytes: int | None
    driver: str
    mig: bool = False
    memory_bytes_reason: str = ""


def load_nvml() -> ModuleType:
    """The NVML binding, initialized; `OSError` with the remedy where nvidia-ml-py is not installed, or no driver answers."""
    try:
        import pynvml
    except ImportError:
        raise OSError("nvidia-ml-py is not installed; `pip install nvidia-ml-py` where there is an NVIDIA GPU") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise OSError(f"no NVIDIA driver answers ({error})") from None
    return pynvml


def visible_gpus(nvml: Any) -> tuple[GpuInfo, ...]:
    """The cards that CUDA programs started from here see, at least one; `OSError` with the reason where there is none."""
    cards = list_gpus(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not cards:
        raise OSError("the driver shows no GPU to this process; look at CUDA_VISIBLE_DEVICES")
    return cards


def list_gpus(nvml: Any, visible: str | None = None) -> tuple[GpuInfo, ...]:
    """The cards in the order in which CUDA shows them under `visible` (the value of CUDA_VISIBLE_DEVICES, which NVML ignores).
    Numbers in it count in bus order, which CUDA follows among equal cards; "MIG-..." names an instance of one. A card that does
    not answer, such as one that fell off its bus, is left out and keeps its number. `OSError` where the driver does not answer.
    """
    try:
        driver, count = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise OSError(f"the NVIDIA driver does not list its cards ({error}); nvidia-smi may say why") from None
    numbered: dict[int, GpuInfo] = {}
    failure = None
    for index in range(count):
        try:
            numbered[index] = _card(nvml, index, driver)
        except nvml.NVMLError as error:
            failure = error
    if failure is not None and not numbered:
        raise OSError(f"no NVIDIA card answers ({failure}); nvidia-smi may say why")
    cards = list(numbered.values())
    if visible is None:
        return tuple(cards)
    chosen = []
    for item in filter(None, (part.strip() for part in visible.split(","))):
        match = [card for i, card in numbered.items() if item == str(i) or card.uuid.startswith(item)]
        if not match and item.startswith("MIG-"):
            older = item.removeprefix("MIG-").partition("/")[0]  # MIG-GPU-<card>/<instance>/<part>
            match = [card for card in cards if card.mig and card.uuid == older] or _card_of_instance(nvml, item, cards)
        if not match:
            break  # CUDA, too, shows no device after the first it does not know
        chosen.append(match[0])
    return tuple(chosen)


def _card(nvml: Any, index: int, driver: str) -> GpuInfo:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    try:
        mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        mig = False  # cards without MIG answer NotSupported
    memory, reason = _memory(nvml, handle)
    return GpuInfo(uuid, name, memory, driver, mig, reason)


def _memory(nvml: Any, handle: Any) -> tuple[int | None, str]:
    """Bytes of a card's memory, or the reason why they are unknown."""
    try:
        total, reason = int(nvml.nvmlDeviceGetMemoryInfo(handle).total), "it says 0"
    except nvml.NVMLError as error:
        total, reason = 0, str(error)
    if total > 0:
        return total, ""
    return None, f"the driver does not say how much memory the card has ({reason}); it may share the CPU's"


def _card_of_instance(nvml: Any, uuid: str, cards: Sequence[GpuInfo]) -> list[GpuInfo]:
    """The card with the instance "MIG-...", marked as split; empty if there is none."""
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError:
        return []
    try:
        parent = _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except (AttributeError, nvml.NVMLError):
        # The binding or driver does not report it; with a single split card there is no doubt.
        split = [card for card in cards if card.mig]
        parent = split[0].uuid if len(split) == 1 else ""
    memory, reason = _memory(nvml, handle)
    return [
        msgspec.structs.replace(card, mig=True, memory_bytes=memory, memory_bytes_reason=reason)
        for card in cards
        if card.uuid == parent
    ]


class NvmlProbe(Probe):
    """Total energy of one card, by its UUID: indices differ between processes. With MIG on, the counter covers the whole card,
    other instances included, and the domain says so. `OSError` where the card has no energy counter (older than Volta, or hidden
    by WSL or a virtual GPU)."""

    name = "NVML"
    update_period_s = 0.1  # usual; the meter measures it
    gain_error = 0.05  # of one board against a meter (Yang et al., SC'24, arXiv 2312.02741)
    slack_periods = 10  # cards differ in their period; a second of full power is not a jump
    senses_power = True

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
        # 64 bits of mJ never wrap, so a falling counter was reset with the driver.
        super().__init__([Counter(domain, domain, self._millijoules, MILLI)], clock)

    def _millijoules(self) -> float:
        if os.getpid() != self._pid:
            raise UnreadableError("opened before a fork; NVML's handles do not survive one")
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None

    def power_w(self) -> float | None:
        """Current power in W, where the driver has the field; a check of the counter, not a substitute."""
        try:
            answer = self._nvml.nvmlDeviceGetFieldValues(self._handle, [FIELD_POWER_INSTANT])[0]
        except (AttributeError, self._nvml.NVMLError):  # old bindings have no fields
            return None
        return answer.value.uiVal * MILLI if answer.nvmlReturn == 0 and answer.value.uiVal > 0 else None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
