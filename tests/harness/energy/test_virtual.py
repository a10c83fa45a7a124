"""End to end on a virtual machine of hardware: measured through fake counters and calibrated, known energies come back."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from shmoo.calibrate.fit.dataset import MeasuredCase, blocks, read_sources
from shmoo.calibrate.fit.energy import fit_energy
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import NvmlProbe
from shmoo.harness.energy.rapl import PowercapProbe
from shmoo.harness.energy.sampler import EnergyMeter, EnergySettings
from shmoo.harness.energy.simulated import virtual_package
from shmoo.harness.machine.doctor import probe_machine
from shmoo.harness.measuring.watch.gpuwatch import GpuWatch, gpu_doubts
from shmoo.runs.store.records import Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from shmoo.runs.tables.reading import TableRow
from tests.virtual_hardware import VirtualDevice, VirtualNvml, VirtualPowercap

SIDES = (64, 512, 2048, 8192)


def work(device: str, runtime: str) -> list[TableRow]:
    """Operators on both sides of the ridge: products of all shapes, and elementwise operators that only move bytes."""
    rows = [
        TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}, device=device, runtime=runtime)
        for m, n, k in itertools.product(SIDES, SIDES, SIDES)
    ]
    shapes = itertools.product((64, 1024, 16384, 65536), (256, 2048, 8192))
    for (r, c), op in itertools.product(shapes, ("add", "relu", "softmax")):
        rows.append(TableRow(0, op, {"shape": f"{r}x{c}"}, device=device, runtime=runtime))
    return rows


def physics(profile, truth, cases):
    """Seconds and joules of each case on a machine with these coefficients."""
    (block,) = blocks(cases, profile)
    seconds = predicted_latency([block], Coefficients(profile))
    table = block.table
    per_call = truth["matrix"] * table.matrix_flops + truth["vector"] * (table.vector_flops + table.special_flops)
    per_call = per_call + sum(truth[level] * block.tiling.level_bytes[level] for level in profile.levels)
    joules = np.bincount(table.segment, weights=per_call, minlength=table.segments) + truth["static"] * seconds
    return seconds.tolist(), joules.tolist()


@pytest.mark.parametrize(("profile_name", "device"), [("cpu_server_generic", "cpu"), ("gpu_h100", "cuda")])
def test_known_energies_per_flop_and_per_byte_are_recovered_within_5_percent(tmp_path, profile_name, device):
    """A device that uses 1.7 times the profile's energy a flop and 0.6 times its energy a byte of memory, with 2 % noise on each
    call, is measured through its counter (RAPL's on the CPU, wrapping every 30 kJ; NVML's on the GPU, updated every 100 ms),
    written as a run, read back and calibrated: both factors are found."""
    profile = load_profile(profile_name)
    base = {
        "matrix": profile.value("energy.flop.matrix.float32"),
        "vector": profile.value("energy.flop.vector.float32"),
        "static": profile.value("power.static"),
        **{level: profile.value(f"energy.byte.{level}") for level in profile.levels},
    }
    truth = base | {"matrix": 1.7 * base["matrix"], "dram": 0.6 * base["dram"]}
    rows = work(device, "eager")
    seconds, joules = physics(profile, truth, tuple(MeasuredCase(row.case, (row.graph(),), 1.0) for row in rows))
    hardware = VirtualDevice(idle_w=0.7 * base["static"], noise=0.02, seed=3)
    if device == "cpu":
        tree = VirtualPowercap(hardware, tmp_path / "root", range_uj=30e9)
        probe = PowercapProbe(tree.root, hardware.clock)
    else:
        nvml = VirtualNvml(hardware)
        probe = NvmlProbe(nvml, nvml.nvmlDeviceGetUUID("GPU-00000000-virtual"), clock=hardware.clock)
    # The sampling thread lives in real time: readings at the edges alone, which the virtual clock decides.
    settings = EnergySettings(window_s=0.5, trials=2, settle_s=0.05, idle_s=0.05, sample_s=60.0)
    meter = EnergyMeter([probe], {}, settings, clock=hardware.clock, sleep=hardware.sleep, draw=random.Random(5))
    with RunWriter(tmp_path / "run", RunManifest(Machine("Virtual CPU", 1, 1, 1 << 30), "virtual")) as writer:
        for row, call_s, call_j in zip(rows, seconds, joules, strict=True):
            # Calls of a few microseconds come in bundles: the pace is the same and the test is faster.
            bundle = max(1, round(2e-3 / call_s))

            def call(bundle=bundle, call_s=call_s, call_j=call_j):
                hardware.run(bundle * call_s, bundle * call_j)

            readings = meter.measure(call, bundle * call_s, device)
            assert [r.reason for r in readings if r.energy_j is None] == []
            energy = tuple(
                type(r)(r.domain, r.energy_j / bundle, low_j=r.low_j / bundle, high_j=r.high_j / bundle) for r in readings
            )
            graph = row.graph()
            timing = Timing((call_s,) * 3)
            writer.append(Measurement(row.case, "ok", (), (graph.content_hash,), timing, energy=energy), [graph])
    fitted = fit_energy(blocks(read_sources([tmp_path / "run"]).cases, profile), profile, "the virtual machine")
    found = {name: fitted.coefficients[name].value for name in ("energy.flop.matrix.float32", "energy.byte.dram")}
    assert found["energy.flop.matrix.float32"] == pytest.approx(truth["matrix"], rel=0.05)
    assert found["energy.byte.dram"] == pytest.approx(truth["dram"], rel=0.05)


def test_the_virtual_package_is_found_like_a_real_one(tmp_path):
    """50 W for 2 s are 100 J through the probe that the doctor finds, a wrap every 30 J included."""
    hardware = VirtualDevice(idle_w=10.0)
    tree = VirtualPowercap(hardware, tmp_path, range_uj=30e9)

    def no_nvml():
        raise OSError("no driver")

    ((probe,), _) = available_probes(tree.root, nvml_loader=no_nvml)
    assert probe.name == "powercap"
    probe = PowercapProbe(tree.root, hardware.clock)
    before = probe.snapshot()
    hardware.run(2.0, 100.0)
    assert probe.energy_j(before, probe.snapshot())["package"].energy_j == pytest.approx(100.0)
    assert hardware.joules == pytest.approx(100.0)


def test_the_switch_replaces_the_counters_of_this_machine(monkeypatch):
    """10 W for 2 s and 15 W for 3 core seconds are 65 J; without the switch the counters of the machine are looked for."""
    now = {"clock": 0.0, "core": 0.0}
    probe = virtual_package(lambda: now["clock"], lambda: now["core"])
    before = probe.snapshot()
    now.update(clock=2.0, core=3.0)
    assert probe.energy_j(before, probe.snapshot())["package"].energy_j == pytest.approx(65.0)
    plain = probe_machine().cpu_model
    monkeypatch.setenv("SHMOO_VIRTUAL_ENERGY", "1")
    ((found,), missing) = available_probes()
    assert found.name == "simulated"
    assert "SHMOO_VIRTUAL_ENERGY" in missing["gpu"]
    assert probe_machine().cpu_model == f"{plain} (virtual energy)"


def test_a_virtual_counter_moves_only_at_its_updates():
    """NVML's shows after 250 ms what was used after 200 ms."""
    hardware = VirtualDevice(idle_w=10.0)
    nvml = VirtualNvml(hardware, update_period_s=0.1)
    hardware.run(0.25, 25.0)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption("") == 20_000
    hardware.sleep(0.01)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption("") == 20_000


def test_sensors_that_disagree_are_both_recorded():
    """A power sensor that shows 70 % of what the counter counts is stored beside it and widens the interval down to it."""
    hardware = VirtualDevice(idle_w=50.0)
    nvml = VirtualNvml(hardware, power_gain=0.7)
    probe = NvmlProbe(nvml, "GPU-00000000-virtual", clock=hardware.clock)
    settings = EnergySettings(window_s=1.0, trials=2, sample_s=1e-3, settle_s=0.5)
    meter = EnergyMeter([probe], {}, settings, clock=hardware.clock, sleep=hardware.sleep)

    def call():
        time.sleep(5e-4)  # lets the sampling thread, which lives in real time, see the window from within
        hardware.run(0.02, 8.0)

    (reading,) = meter.measure(call, 0.02, "cuda")
    assert reading.energy_j == pytest.approx(8.0, rel=0.02)
    assert reading.integrated_j == pytest.approx(0.7 * 8.0, rel=0.02)
    assert reading.low_j == pytest.approx(reading.integrated_j)


def test_the_virtual_card_is_watched_like_a_real_one():
    """Full speed and alone at first; then held down, and shared."""
    nvml = VirtualNvml(VirtualDevice(idle_w=50.0))
    watch = GpuWatch(nvml, "GPU-00000000-virtual")
    assert gpu_doubts(watch.observe()) == ()
    nvml.events, nvml.pids = 0x40, [*nvml.pids, 1]
    assert [reason.code for reason in gpu_doubts(watch.observe())] == ["GPU throttled", "shared GPU"]
