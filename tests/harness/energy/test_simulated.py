"""Odd hardware, played through with virtual counters."""

from __future__ import annotations

import pytest

from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import list_gpus
from shmoo.harness.energy.rapl import PowercapProbe
from tests.stand_ins import Clock, no_nvml
from tests.virtual_hardware import VirtualDevice, VirtualNvml, VirtualNvmlError, ZoneFiles, write_powercap_tree


def test_a_card_that_shares_the_memory_of_the_cpu_is_listed_by_the_name_it_was_given(tmp_path):
    """A GB10 answers NotSupported when asked for its memory; it is listed without it, and its energy is counted."""

    class Unified(VirtualNvml):
        def nvmlDeviceGetMemoryInfo(self, handle):
            raise VirtualNvmlError("Not Supported")

    nvml = Unified(VirtualDevice(idle_w=5.0), name="NVIDIA GB10")
    (card,) = list_gpus(nvml)
    assert (card.name, card.memory_bytes) == ("NVIDIA GB10", None)
    assert "Not Supported" in card.memory_bytes_reason
    probes, missing = available_probes(tmp_path, lambda: nvml)
    assert [domain for probe in probes for domain in probe.domains] == ["gpu"]
    assert "no RAPL counters" in missing["package"]


def test_a_card_that_does_not_answer_is_a_reason(tmp_path):
    """What NVML says of it, and where to ask."""

    class Lost(VirtualNvml):
        def nvmlDeviceGetName(self, handle):
            raise VirtualNvmlError("GPU is lost")

    missing = available_probes(tmp_path, lambda: Lost(VirtualDevice(idle_w=50.0)))[1]
    assert missing["gpu"] == "no NVIDIA card answers (GPU is lost); nvidia-smi may say why"


def test_one_unreadable_zone_leaves_the_package(tmp_path):
    """The package rises by 5 J; the zone of the cores, which is a folder, has a reason instead."""
    files = write_powercap_tree(tmp_path, [ZoneFiles("package-0", 1_000_000, inside=(ZoneFiles("core"),))])
    files["package-0/core"].unlink()
    files["package-0/core"].mkdir()
    probes, missing = available_probes(tmp_path, no_nvml)
    assert len(probes) == 1
    assert "cannot be read" in missing["core"]
    clock = Clock()
    probe = PowercapProbe(tmp_path, clock)
    before = probe.snapshot()
    clock.advance(1.0)
    files["package-0"].write_text("6000000\n")
    energy = probe.energy_j(before, probe.snapshot())
    assert energy["package"].energy_j == pytest.approx(5.0)
    assert energy["core"].energy_j is None
