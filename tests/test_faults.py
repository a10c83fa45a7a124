"""Faults that a measurement must survive and that no other test covers; docs/measuring.md lists all of them."""

from __future__ import annotations

import doctest
import math
import os
import re
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.energy import fit_energy
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import NvmlProbe
from shmoo.harness.energy.probe import DomainEnergy, Snapshot, counter_step
from shmoo.harness.energy.rapl import PowercapProbe
from shmoo.harness.energy.sampler import EnergyMeter, EnergySettings, TrailSampler
from shmoo.harness.energy.simulated import SimulatedProbe
from shmoo.harness.measuring import measure as measure_module
from shmoo.harness.measuring.measure import Measurer
from shmoo.harness.measuring.timing import MeasureSettings, TimingSettings
from shmoo.harness.measuring.watch.hostwatch import HostSnapshot
from shmoo.harness.module import Built
from shmoo.runs.store.records import CaseSpec, Reason, Timing
from shmoo.runs.store.visits import merge_visits
from shmoo.runs.tables.reading import TableRow
from tests.stand_ins import Clock
from tests.virtual_hardware import VirtualDevice, VirtualNvml, ZoneFiles, write_powercap_tree

SHORT = TimingSettings(block_s=1e-5, warmup_s=0.0, max_warmup_s=0.01, min_s=0.0, max_s=0.01, min_samples=3)
UUID = "GPU-00000000-virtual"
DOCS = Path(__file__).parents[1] / "docs" / "measuring.md"


def relu(case):
    return Built(torch.nn.ReLU(), (torch.randn(64),))


def measured(settings=None, **changes):
    quick = MeasureSettings(operator=SHORT, network=SHORT, energy=EnergySettings(window_s=0.0), **changes)
    return Measurer(settings or quick, relu, ((), {})).measure(CaseSpec("relu", "operator"))[0]


# counters


def test_an_offline_cpu_does_not_hide_the_counters(tmp_path, monkeypatch):
    """pyRAPL fails where a listed CPU has no topology; the packages are then read directly, and pyRAPL's failure is a note."""
    write_powercap_tree(tmp_path, [ZoneFiles("package-0")])

    def fail(sleep):
        raise OSError("pyRAPL cannot use this machine's packages (FileNotFoundError cpu7/topology/physical_package_id)")

    monkeypatch.setattr("shmoo.harness.energy.pyrapl_readings", fail)
    monkeypatch.setattr("shmoo.harness.energy.POWERCAP", str(tmp_path / "sys/class/powercap/intel-rapl"))
    monkeypatch.setattr("shmoo.harness.energy.PowercapProbe", lambda root, **_: PowercapProbe(tmp_path))

    def no_nvml():
        raise OSError("no driver")

    probes, reasons = available_probes(nvml_loader=no_nvml)
    assert "package" in probes[0].domains
    assert "read directly" in reasons["pyRAPL"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_counter_that_reads_no_number_is_a_reason(value):
    """NaN compares as neither more nor less; it must not slip through as an energy."""
    for before, after in ((value, 5e6), (5e6, value)):
        found = counter_step(before, after, span=1e12, joules_per_unit=1e-6, elapsed_s=1.0)
        assert found.energy_j is None
        assert "not numbers" in found.reason


@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
def test_a_counter_file_that_holds_no_number_is_a_reason(tmp_path, text):
    """float() accepts these words; a counter never means them."""
    files = write_powercap_tree(tmp_path, [ZoneFiles("package-0")])
    probe = PowercapProbe(tmp_path)
    before = probe.snapshot()
    files["package-0"].write_text(text)
    assert probe.energy_j(before, probe.snapshot())["package"].energy_j is None


def test_a_sensor_of_0_watts_is_no_power():
    """NVML answers 0 mW for a field it does not have; nothing is integrated and the counter stands."""
    hardware = VirtualDevice(idle_w=50.0)
    nvml = VirtualNvml(hardware, power_gain=0.0)
    probe = NvmlProbe(nvml, UUID, clock=hardware.clock)
    assert probe.power_w() is None
    meter = EnergyMeter([probe], {}, EnergySettings(window_s=0.5, trials=1), clock=hardware.clock, sleep=hardware.sleep)
    (reading,) = meter.measure(lambda: hardware.run(0.02, 8.0), 0.02, "cuda")
    assert reading.integrated_j is None
    assert reading.energy_j == pytest.approx(8.0, rel=0.05)


def test_a_suspend_in_the_window_is_a_reason():
    """After a suspend the counter starts anew: it fell by more than a wrap explains."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=50.0)
    before = Snapshot(0.0, {"package": 90e9})
    clock.advance(5)
    assert "was reset" in probe.energy_j(before, Snapshot(5.0, {"package": 1e6}))["package"].reason


def test_nvml_handles_do_not_survive_a_fork(monkeypatch):
    """In a child process the probe says so instead of reading through a handle that is not its own."""
    hardware = VirtualDevice(idle_w=50.0)
    probe = NvmlProbe(VirtualNvml(hardware), UUID, clock=hardware.clock)
    before = probe.snapshot()
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    assert "fork" in probe.energy_j(before, probe.snapshot())["gpu"].reason


# the sampler


class Dying(SimulatedProbe):
    """Raises, against the contract, in any thread but the one it was made in."""

    def snapshot(self):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("driver bug")
        return super().snapshot()


def test_a_sampling_thread_that_dies_leaves_the_edges():
    """The energy between the edges is right without it, and why it ended is kept."""
    clock = Clock()
    probe = Dying(clock, power_w=100.0)
    sampler = TrailSampler([probe], 1e-4)
    sampler.start()
    deadline = time.monotonic() + 5
    while not sampler.failed and time.monotonic() < deadline:
        time.sleep(1e-3)
    clock.advance(10)
    (trail,) = sampler.stop()
    assert sampler.failed == "RuntimeError: driver bug"
    assert len(trail) == 2
    assert probe.energy_j(*trail)["package"].energy_j == pytest.approx(1000)


def test_a_sampling_thread_that_lags_behind_a_wrap_makes_the_window_unknown():
    """A counter of 1 kJ may wrap twice in a second at the largest power believed: without readings in between, nothing is known,
    and the reason names the thread's end."""
    clock = Clock()
    probe = Dying(clock, power_w=100.0, range_uj=1e9)
    settings = EnergySettings(window_s=2.0, trials=1, idle_s=0.0, sample_s=1e-4, settle_s=0.0)

    def call():
        time.sleep(2e-3)
        clock.advance(0.02)

    (reading,) = EnergyMeter([probe], {}, settings, clock=clock, sleep=clock.advance).measure(call, 0.02)
    assert reading.energy_j is None
    assert "more than once" in reading.reason
    assert "driver bug" in reading.reason


def test_the_wall_clock_plays_no_part(monkeypatch):
    """A wall clock that is stepped back by a day while time and energy are measured changes neither."""
    monkeypatch.setattr(time, "time", lambda: -86400.0)
    row = measured()
    assert all(sample > 0 for sample in row.timing.samples_s)
    clock = Clock()
    meter = EnergyMeter([SimulatedProbe(clock, power_w=50.0)], {}, EnergySettings(window_s=1.0), clock=clock, sleep=clock.advance)
    (reading,) = meter.measure(lambda: clock.advance(0.02), 0.02)
    assert reading.energy_j == pytest.approx(1.0, rel=0.01)


def test_idle_power_is_measured_on_both_sides():
    """A neighbour that begins in between shows as 20 W before and 35 W after; nothing is subtracted."""
    clock = Clock()
    probe = SimulatedProbe(clock, energy_at=lambda t: 20 * t if t < 3 else 60 + 35 * (t - 3))
    settings = EnergySettings(window_s=4.0, trials=1, idle_s=1.0, settle_s=0.0)
    (reading,) = EnergyMeter([probe], {}, settings, clock=clock, sleep=clock.advance).measure(lambda: clock.advance(0.02), 0.02)
    assert reading.idle_power_w == pytest.approx(20, rel=0.01)
    assert reading.idle_power_after_w == pytest.approx(35, rel=0.01)


def test_an_energy_is_never_zero_negative_or_nan():
    """Whatever two readings say, the outcome is a positive number or a reason."""
    draw = np.random.default_rng(0)
    odd = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e18, 262_143_328_850.0]
    for _ in range(3000):
        before, after = (draw.choice(odd) if draw.random() < 0.3 else draw.uniform(0, 3e11) for _ in range(2))
        span = draw.choice([None, 262_143_328_850.0])
        found = counter_step(before, after, span=span, joules_per_unit=1e-6, elapsed_s=draw.choice([-1.0, 0.0, 1e-3, 1.0, 500.0]))
        assert isinstance(found, DomainEnergy)
        assert found.reason if found.energy_j is None else 0 < found.energy_j < math.inf


# the host


@pytest.fixture
def busy_host(monkeypatch):
    """Host snapshots one second apart; while a case is timed a neighbour takes a core and a half of two."""
    state = {"n": 0, "cpu": 0.0, "switches": 0}

    def snapshot():
        if state["n"] % 2:
            state["cpu"] += 0.5
            state["switches"] += 1000
        state["n"] += 1
        return HostSnapshot(float(state["n"]), state["cpu"], state["switches"])

    monkeypatch.setattr("shmoo.harness.measuring.watch.hostwatch.host_snapshot", snapshot)
    monkeypatch.setattr(measure_module.torch, "get_num_threads", lambda: 1)


def test_a_busy_host_makes_a_visit_noisy_and_costs_nothing(busy_host):
    """It is timed once, its samples stay, and the reason says what was seen."""
    row = measured()
    assert (row.status, row.timed) == ("noisy", True)
    assert [reason.code for reason in row.reasons] == ["disturbed"]
    assert "50% of its CPU time" in row.reasons[0].text


def test_visits_that_agree_are_ok_however_busy_the_host_was(busy_host):
    """Three disturbed visits within a few per cent of each other are a known time: what counts is their standard error."""
    line = measured()
    lines = [
        msgspec.structs.replace(line, visit=number, timing=Timing((seconds,) * 9))
        for number, seconds in enumerate((1e-3, 1.02e-3, 0.99e-3))
    ]
    (row,) = merge_visits(lines)
    assert (row.status, row.reasons) == ("ok", ())
    assert row.latency.relative_se < 0.02


def test_visits_that_disagree_are_noisy_and_say_by_how_much():
    """Twice as long on one visit of three: 0, ln 2 and 0 have the variance ln(2)^2 / 3, of which a third is theirs together. The
    standard error is in the reason, and the row is used."""
    line = measured()
    lines = [
        msgspec.structs.replace(line, visit=number, timing=Timing((seconds,) * 9))
        for number, seconds in enumerate((1e-3, 2e-3, 1e-3))
    ]
    (row,) = merge_visits(lines)
    assert (row.status, row.timed) == ("noisy", True)
    assert row.reasons[0].code == "noisy"
    assert "over 3 visits" in row.reasons[0].text
    assert row.latency.relative_se == pytest.approx(math.log(2) / 3)


def test_a_recompilation_inside_the_window_makes_the_visit_suspect(monkeypatch):
    """The compiler's time would pass for the model's; the visits without it stand."""
    frames = iter(range(100))
    monkeypatch.setattr(measure_module, "compilations", lambda: next(frames))
    monkeypatch.setattr(measure_module, "compile_model", lambda model, runtime, device: model)
    monkeypatch.setattr(measure_module, "compile_seconds", lambda: 0.1)
    settings = MeasureSettings(operator=SHORT, energy=EnergySettings(window_s=0.0))
    case = CaseSpec("relu", "operator", runtime="inductor")
    first, _ = Measurer(settings, relu, ((), {})).measure(case)
    assert (first.status, first.timed) == ("suspect", False)
    assert Reason("recompiled", "1 compilations while it was timed") in first.reasons
    monkeypatch.setattr(measure_module, "compilations", lambda: 0)
    second, _ = Measurer(settings, relu, ((), {})).measure(case, 1)
    (row,) = merge_visits([first, second])
    assert row.timing.samples_s == second.timing.samples_s
    assert [reason.code for reason in row.reasons][-1] == "visits left out"


def test_a_failing_compiler_is_a_failed_row(monkeypatch):
    """Its first line is the reason."""

    def fail(model, runtime, device):
        raise RuntimeError("no C++ compiler found\nand a long trace")

    monkeypatch.setattr(measure_module, "compile_model", fail)
    row = measured()
    assert (row.status, row.reasons) == ("failed", (Reason("RuntimeError", "no C++ compiler found"),))


# calibration


def test_a_rank_deficient_energy_fit_says_so():
    """One operator in one shape, measured ten times over, cannot tell flops from bytes from time: every coefficient stays finite,
    not negative and near its prior, and is named as not told apart."""
    profile = load_profile("cpu_server_generic")
    row = TableRow(0, "linear", {"b": 1, "m": 512, "n": 512, "k": 512})
    cases = tuple(MeasuredCase(row.case, (row.graph(),), 1e-3, 0.2) for _ in range(10))
    fitted = fit_energy(blocks(cases, profile), profile, "synthetic")
    assert set(fitted.unidentified) == set(fitted.coefficients)
    for name, coefficient in fitted.coefficients.items():
        low, high = profile.coefficients[name].bounds
        if name.startswith("energy."):
            assert low <= coefficient.value <= high, name
    # 0.2 J in 1 ms are 200 W, which static power alone can explain: no more.
    assert 80.0 <= fitted.coefficients["power.static"].value <= 200.0
    assert fitted.condition > 1e6


# the documentation


def test_every_test_that_the_documentation_names_exists():
    """The table of faults in docs/measuring.md names tests by file and function, and none of them has gone."""
    named = re.findall(r"`(test_\w+)\.(test_\w+)`", DOCS.read_text(encoding="utf-8"))
    assert len(named) > 35
    missing = [
        f"{file}.{name}"
        for file, name in named
        if not any(f"def {name}(" in path.read_text() for path in Path(__file__).parent.rglob(f"{file}.py"))
    ]
    assert missing == []


def test_the_example_of_the_documentation_runs():
    """What docs/measuring.md shows of the virtual machine is what it prints."""
    failed, tried = doctest.testfile(str(DOCS), module_relative=False)
    assert failed == 0 < tried
