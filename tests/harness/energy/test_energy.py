import importlib.util
import logging
import math
import sys
from functools import partial
from pathlib import Path

import pytest

from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import NvmlProbe, list_gpus
from shmoo.harness.energy.probe import UNMOVED, Snapshot, counter_step, trail_energy
from shmoo.harness.energy.rapl import PowercapProbe, import_pyrapl, powercap_zones, pyrapl_readings
from shmoo.harness.energy.sampler import EnergyMeter, EnergySettings, measure_update_period
from shmoo.harness.energy.simulated import SimulatedProbe
from tests.stand_ins import Clock, no_nvml
from tests.virtual_hardware import ZoneFiles, write_powercap_tree

needs_pyrapl = pytest.mark.skipif(importlib.util.find_spec("pyRAPL") is None, reason="pyRAPL is installed on Linux only")
RANGE = 262_143_328_850.0


def step(before, after, span=RANGE, elapsed=1.0):
    return counter_step(before, after, span=span, joules_per_unit=1e-6, elapsed_s=elapsed)


def test_a_step_is_the_difference():
    """From 1 J to 21 J is 20 J."""
    assert step(1e6, 21e6).energy_j == pytest.approx(20)


def test_a_wrap_adds_the_range():
    """12 J before the top to 8 J after it is 20 J, not a quarter of a megajoule."""
    assert step(RANGE - 12e6, 8e6).energy_j == pytest.approx(20)


def test_an_unreadable_range_makes_a_fall_unknown():
    """Without the range a counter that fell says nothing."""
    assert step(RANGE - 12e6, 8e6, span=None).energy_j is None


@pytest.mark.parametrize(("before", "after", "elapsed"), [(5e6, 4.9e6, 1.0), (100e9, 0.0, 1.0), (0.0, 50e9, 1.0)])
def test_a_step_back_a_reset_and_a_jump_are_reasons(before, after, elapsed):
    """Steps that no wrap and no possible power explain are None with a reason, never 0 and never negative."""
    found = step(before, after, elapsed=elapsed)
    assert found.energy_j is None
    assert "counter" in found.reason


def test_a_stuck_counter_is_not_zero_joules():
    """No movement is None with its own reason."""
    assert step(7e6, 7e6).reason == UNMOVED


def test_two_wraps_between_readings_cannot_be_told_from_one():
    """262 kJ at up to 2 kW wraps after 131 s; a gap of 200 s is ambiguous."""
    assert "more than once" in step(0, 5e6, elapsed=200.0).reason


def test_readings_in_between_resolve_any_number_of_wraps():
    """1 kW for 1,000 s over a 262 kJ counter, read every 10 s, is 1 MJ."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=1000.0)
    trail = [probe.snapshot()]
    for _ in range(100):
        clock.advance(10)
        trail.append(probe.snapshot())
    assert trail_energy(probe, trail)["package"].energy_j == pytest.approx(1e6)


def test_a_step_in_which_the_counter_slept_is_no_fault():
    """A slow counter read often moves only now and then; the sum is right."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=100.0, update_period_s=0.1)
    trail = [probe.snapshot()]
    for _ in range(20):
        clock.advance(0.05)
        trail.append(probe.snapshot())
    assert trail_energy(probe, trail)["package"].energy_j == pytest.approx(100.0)


def test_one_unreadable_sample_makes_the_window_unknown():
    """An error is a reason for the window; it is never read as 0 and unwrapped."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=100.0)
    trail = []
    for _ in range(3):
        trail.append(probe.snapshot())
        clock.advance(1)
    trail[1] = Snapshot(trail[1].at_s, errors={"package": "cannot be read: EIO"})
    found = trail_energy(probe, trail)["package"]
    assert (found.energy_j, found.reason) == (None, "cannot be read: EIO")


# powercap trees


def add(file, joules):
    file.write_text(f"{float(file.read_text()) + joules * 1e6:.0f}\n")


def measured(probe, clock, changes):
    before = probe.snapshot()
    clock.advance(1)
    for file, joules in changes.items():
        add(file, joules)
    return {domain: found.energy_j or found.reason for domain, found in probe.energy_j(before, probe.snapshot()).items()}


def test_domains_are_summed_over_sockets_and_never_over_each_other(tmp_path):
    """Two sockets of 10 J and 20 J are 30 J of package; core, dram and psys stay domains of their own."""
    core, dram = ZoneFiles("core"), ZoneFiles("dram")
    files = write_powercap_tree(
        tmp_path, [ZoneFiles("package-0", inside=(core, dram)), ZoneFiles("package-1", inside=(core, dram)), ZoneFiles("psys")]
    )
    clock = Clock()
    probe = PowercapProbe(tmp_path, clock)
    joules = {
        "package-0": 10,
        "package-1": 20,
        "package-0/core": 6,
        "package-1/core": 7,
        "package-0/dram": 1,
        "package-1/dram": 2,
    }
    found = measured(probe, clock, {files[name]: j for name, j in joules.items()} | {files["psys"]: 50})
    assert found == pytest.approx({"package": 30, "core": 13, "dram": 3, "psys": 50})


def test_a_socket_without_dram_makes_dram_unknown_and_leaves_the_package(tmp_path):
    """Half of the memory's energy would pass for all of it."""
    files = write_powercap_tree(
        tmp_path, [ZoneFiles("package-0", inside=(ZoneFiles("dram"),)), ZoneFiles("package-1", 5_000_000)]
    )
    clock = Clock()
    found = measured(
        PowercapProbe(tmp_path, clock), clock, {files["package-0"]: 3, files["package-1"]: 4, files["package-0/dram"]: 1}
    )
    assert found["package"] == pytest.approx(7)
    assert found["dram"] == "only 1 of 2 sockets count dram"


def test_mirrored_dies_count_once_and_distinct_dies_add_up(tmp_path):
    """Zen shows one counter a die, Intel one counter each."""
    mirrored = [ZoneFiles("package-0-die-0", 5e6), ZoneFiles("package-0-die-1", 5e6)]
    write_powercap_tree(tmp_path / "zen", mirrored)
    assert [zone.name for zone in powercap_zones(tmp_path / "zen")] == ["package-0-die-0"]
    distinct = [ZoneFiles("package-0-die-0", 5e6), ZoneFiles("package-0-die-1", 9e6)]
    files = write_powercap_tree(tmp_path / "intel", distinct)
    clock = Clock()
    found = measured(PowercapProbe(tmp_path / "intel", clock), clock, {files["package-0-die-0"]: 3, files["package-0-die-1"]: 4})
    assert found == pytest.approx({"package": 7})


@pytest.mark.parametrize("content", ["", "garbage\n", "-5\n"])
def test_an_empty_or_garbage_counter_is_a_reason(tmp_path, content):
    """What is no number is not read as 0."""
    files = write_powercap_tree(tmp_path, [ZoneFiles("package-0")])
    clock = Clock()
    probe = PowercapProbe(tmp_path, clock)
    before = probe.snapshot()
    clock.advance(1)
    files["package-0"].write_text(content)
    found = probe.energy_j(before, probe.snapshot())["package"]
    assert found.energy_j is None
    assert "package-0: cannot be read" in found.reason


def test_a_missing_range_matters_only_at_a_wrap(tmp_path):
    """Without max_energy_range_uj a rising counter still counts."""
    files = write_powercap_tree(tmp_path, [ZoneFiles("package-0", range_uj=None)])
    clock = Clock()
    probe = PowercapProbe(tmp_path, clock)
    assert measured(probe, clock, {files["package-0"]: 2}) == pytest.approx({"package": 2})
    assert "range cannot be read" in measured(probe, clock, {files["package-0"]: -1})["package"]


def test_no_counters_say_why_and_what_to_do(tmp_path):
    """An absent powercap tree and an absent driver are reasons by domain."""
    probes, reasons = available_probes(tmp_path, nvml_loader=no_nvml)
    assert probes == ()
    assert "modprobe" in reasons["package"]
    assert reasons["gpu"] == "no NVIDIA driver answers"


def test_counters_only_root_may_read_name_the_remedy(tmp_path, monkeypatch):
    """Permission denied is told apart from absent."""
    write_powercap_tree(tmp_path, [ZoneFiles("package-0")])

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shmoo.harness.energy.rapl.read_counter_file", refuse)
    probes, reasons = available_probes(tmp_path, nvml_loader=no_nvml)
    assert probes == ()
    assert "sudo chmod" in reasons["package"]


def test_a_made_up_tree_is_read_directly(tmp_path):
    """pyRAPL, whose paths are fixed, is not asked about another root."""
    write_powercap_tree(tmp_path, [ZoneFiles("package-0")])
    probes, reasons = available_probes(tmp_path, nvml_loader=no_nvml)
    assert [probe.name for probe in probes] == ["powercap"]
    assert "pyRAPL" not in reasons


# pyRAPL


def through_pyrapl(root, readings, changed):
    """Energies over a second in which the readings of zones turn into others; an error is raised."""
    now, clock = dict(readings), Clock()

    def read(name):
        if isinstance(now[name], Exception):
            raise now[name]
        return now[name]

    probe = PowercapProbe(root, clock, {name: partial(read, name) for name in readings})
    before = probe.snapshot()
    clock.advance(1)
    now.update(changed)
    return probe, probe.energy_j(before, probe.snapshot())


def test_pyrapl_readings_are_unwrapped_by_socket(tmp_path):
    """One socket wraps and the other does not: 20 J + 5 J, where pyRAPL itself would report minus a quarter of a megajoule."""
    write_powercap_tree(tmp_path, [ZoneFiles("package-0"), ZoneFiles("package-1")])
    before, after = {"package-0": RANGE - 12e6, "package-1": 1e6}, {"package-0": 8e6, "package-1": 6e6}
    probe, found = through_pyrapl(tmp_path, before, after)
    assert found["package"].energy_j == pytest.approx(25)
    assert probe.name == "pyRAPL"


def test_pyrapl_failing_in_the_window_is_a_reason(tmp_path):
    """A line that is empty raises ValueError in pyRAPL; the domain says so and the others stand."""
    write_powercap_tree(tmp_path, [ZoneFiles("package-0", inside=(ZoneFiles("dram"),))])
    empty = ValueError("could not convert string to float: ''")
    before, after = {"package-0": 1e6, "package-0/dram": 1e6}, {"package-0": 6e6, "package-0/dram": empty}
    _, found = through_pyrapl(tmp_path, before, after)
    assert found["package"].energy_j == pytest.approx(5)
    assert "could not convert" in found["dram"].reason


@needs_pyrapl
def test_importing_pyrapl_leaves_logging_as_it_was(monkeypatch):
    """Its warnings about database clients install no handler on the root logger."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pyRAPL"]:
        monkeypatch.delitem(sys.modules, name)
    before = list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable
    import_pyrapl()
    assert (list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable) == before


@pytest.fixture(params=["package-0", "package-1"])
def one_socket(fs, request):
    """The files that pyRAPL looks for on a machine of one socket, whose number need not be 0, with core and memory; the name of
    its package, and a function that lets energy flow."""
    package = request.param
    fs.create_file("/sys/devices/system/cpu/present", contents="0-1\n")
    for cpu in (0, 1):
        fs.create_file(f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", contents=f"{package[-1]}\n")
    files = write_powercap_tree(Path("/"), [ZoneFiles(package, inside=(ZoneFiles("core"), ZoneFiles("dram")))])

    def flow(seconds):
        for name, joules in ((package, 0.010), (f"{package}/core", 0.006), (f"{package}/dram", 0.002)):
            add(files[name], joules)

    return package, flow


@needs_pyrapl
def test_pyrapl_reads_package_and_dram_and_the_files_the_rest(one_socket):
    """On a machine with one socket both readers see the same 10 mJ of package and 2 mJ of dram, and 6 mJ of core are read too."""
    package, flow = one_socket
    assert set(pyrapl_readings(flow)) == {package, f"{package}/dram"}
    (probe,), reasons = available_probes(nvml_loader=no_nvml, sleep=flow)
    assert probe.name == "pyRAPL and powercap"
    before = probe.snapshot()
    flow(1.0)
    found = probe.energy_j(before, probe.snapshot())
    assert {domain: energy.energy_j for domain, energy in found.items()} == pytest.approx(
        {"package": 0.010, "core": 0.006, "dram": 0.002}
    )
    assert set(reasons) == {"gpu"}


@needs_pyrapl
@pytest.mark.parametrize("wrong", [lambda right, first: first, lambda right, first: right + 1e6])
def test_a_pyrapl_that_reads_something_else_gives_way(one_socket, monkeypatch, wrong):
    """Readings that stay at their first value, or are 1 J off, are not believed; the files are read, and a note says why."""
    package, flow = one_socket
    module = import_pyrapl()
    right, seen = module.PkgAPI.energy, []

    def energy(api):
        seen.append(right(api))
        return tuple(map(wrong, seen[-1], seen[0]))

    monkeypatch.setattr(module.PkgAPI, "energy", energy)
    (probe,), reasons = available_probes(nvml_loader=no_nvml, sleep=flow)
    assert probe.name == "powercap"
    assert f"disagrees with a direct reading ({package}: " in reasons["pyRAPL"]
    assert "read directly" in reasons["pyRAPL"]


# NVML


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two cards, the second with MIG on."""

    NVMLError = NVMLError

    def __init__(self):
        self.millijoules = {"GPU-aaaa": 1000, "GPU-bbbb": 1000}
        self.lost = False

    def nvmlSystemGetDriverVersion(self):
        return b"555.42"

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return ("GPU-aaaa", "GPU-bbbb")[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle

    def nvmlDeviceGetName(self, handle):
        return "Example GPU"

    def nvmlDeviceGetMigMode(self, handle):
        if handle == "GPU-aaaa":
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMemoryInfo(self, handle):
        class Memory:
            total = 80 << 30

        return Memory()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.lost:
            raise NVMLError("GPU is lost")
        return self.millijoules[handle]


def test_nvml_counts_millijoules():
    """300,000 mJ in a second are 300 J."""
    nvml, clock = FakeNvml(), Clock()
    probe = NvmlProbe(nvml, "GPU-aaaa", clock=clock)
    before = probe.snapshot()
    clock.advance(1)
    nvml.millijoules["GPU-aaaa"] += 300_000
    assert probe.energy_j(before, probe.snapshot())["gpu"].energy_j == pytest.approx(300)


def test_a_lost_gpu_and_a_reloaded_driver_are_reasons():
    """Neither is 0 J."""
    nvml, clock = FakeNvml(), Clock()
    probe = NvmlProbe(nvml, "GPU-aaaa", clock=clock)
    before = probe.snapshot()
    clock.advance(1)
    nvml.millijoules["GPU-aaaa"] = 10
    assert "fell" in probe.energy_j(before, probe.snapshot())["gpu"].reason
    nvml.lost = True
    assert "GPU is lost" in probe.energy_j(before, probe.snapshot())["gpu"].reason


def test_an_unsupported_counter_is_refused_at_the_start():
    """A card without the counter is no probe."""
    nvml = FakeNvml()
    nvml.lost = True
    with pytest.raises(OSError, match="no energy counter"):
        NvmlProbe(nvml, "GPU-aaaa")


def test_cards_are_chosen_by_uuid_or_number_as_cuda_does():
    """NVML ignores CUDA_VISIBLE_DEVICES, so the mapping is made here; MIG is labelled as the whole card's energy."""
    nvml = FakeNvml()
    assert [card.uuid for card in list_gpus(nvml)] == ["GPU-aaaa", "GPU-bbbb"]
    assert [card.uuid for card in list_gpus(nvml, "1")] == ["GPU-bbbb"]
    assert [card.uuid for card in list_gpus(nvml, "GPU-bb,0")] == ["GPU-bbbb", "GPU-aaaa"]
    assert list_gpus(nvml, "") == ()
    card = list_gpus(nvml, "1")[0]
    assert NvmlProbe(nvml, card.uuid, card.mig).domains == ("gpu (whole card, MIG)",)


# the energy pass


def meter(clock, probe, **settings):
    return EnergyMeter([probe], {}, EnergySettings(**settings), clock=clock, sleep=clock.advance)


def test_energy_per_call_of_a_known_power():
    """50 W for calls of 20 ms is 1 J a call, with idle power beside it."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=50.0)
    (reading,) = meter(clock, probe, window_s=2.0, idle_s=1.0).measure(lambda: clock.advance(0.02), 0.02)
    assert reading.energy_j == pytest.approx(1.0, rel=0.01)
    assert reading.low_j <= 1.0 <= reading.high_j
    assert reading.calls == pytest.approx(300, abs=3)
    assert (reading.idle_power_w, reading.idle_power_after_w) == pytest.approx((50.0, 50.0), rel=0.01)
    assert reading.trials_j == pytest.approx((1.0,) * 3, rel=0.01)


def test_a_slow_counter_lengthens_the_window():
    """100 ms between updates asks for 20 updates, 2 s."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=50.0, update_period_s=0.1)
    (reading,) = meter(clock, probe, window_s=1.0, trials=1).measure(lambda: clock.advance(0.02), 0.02)
    assert reading.window_s == pytest.approx(2.0, rel=0.05)
    assert reading.energy_j == pytest.approx(1.0, rel=0.02)


def test_no_power_at_all_is_unknown_and_not_zero():
    """A stuck counter leaves a reason in the row."""
    clock = Clock()
    (reading,) = meter(clock, SimulatedProbe(clock, power_w=0.0), window_s=1.0).measure(lambda: clock.advance(0.02), 0.02)
    assert (reading.energy_j, reading.reason) == (None, UNMOVED)


def test_missing_counters_put_their_reason_in_the_row():
    """A CPU case says why package energy is missing and nothing about GPUs."""
    readings = EnergyMeter([], {"package": "no RAPL", "gpu": "no driver"}).measure(lambda: None, 1e-3)
    assert [(r.domain, r.energy_j, r.reason) for r in readings] == [("package", None, "no RAPL")]
    readings = EnergyMeter([], {"package": "no RAPL", "gpu": "no driver"}).measure(lambda: None, 1e-3, device="cuda")
    assert [r.domain for r in readings] == ["package", "gpu"]


def test_energy_not_asked_for_runs_no_call():
    """A window of 0 s costs nothing."""
    clock = Clock()
    calls = []
    (reading,) = meter(clock, SimulatedProbe(clock, power_w=5.0), window_s=0.0).measure(lambda: calls.append(1), 1e-3)
    assert (reading.energy_j, calls) == (None, [])
    assert "not asked for" in reading.reason


def test_trials_widen_the_interval_to_their_spread():
    """Power that rises from 50 W to 100 W between two windows gives an interval that holds both: the mean times or over
    exp(6.314 s / sqrt 2), with s the deviation of two logarithms and 6.314 Student's 95 % point of one degree of freedom."""
    clock = Clock()
    probe = SimulatedProbe(clock, energy_at=lambda t: 50 * t if t < 2.1 else 105 + 100 * (t - 2.1))
    settings = {"window_s": 2.0, "trials": 2, "idle_s": 0.0, "settle_s": 0.0}
    (reading,) = meter(clock, probe, **settings).measure(lambda: clock.advance(0.02), 0.02)
    assert reading.trials_j == pytest.approx((1.0, 2.0), rel=0.02)
    reach = math.exp(6.314 * math.log(reading.trials_j[1] / reading.trials_j[0]) / 2)
    assert (reading.low_j, reading.high_j) == pytest.approx((reading.energy_j / reach, reading.energy_j * reach), rel=1e-3)
    assert reading.low_j < 1.0 < 2.0 < reading.high_j


def test_the_update_period_is_measured():
    """A counter that moves every 100 ms, read every 7 ms, shows 98 to 105 ms between movements."""
    clock = Clock()
    probe = SimulatedProbe(clock, power_w=50.0, update_period_s=0.1)

    def ticking():
        clock.advance(0.007)
        return clock.now

    assert measure_update_period(probe, clock=ticking, sleep=clock.advance) == pytest.approx(0.1, abs=0.012)


def test_a_step_between_close_readings_of_a_slow_counter_is_no_jump():
    """70 J appear at once when a 700 W card updates every 100 ms."""
    assert counter_step(
        0, 70_000, span=None, joules_per_unit=1e-3, elapsed_s=1e-3, update_period_s=0.1
    ).energy_j == pytest.approx(70)


def test_snapshots_are_plain_records():
    """A snapshot compares by value, so trails can be stored and replayed."""
    assert Snapshot(1.0, {"a": 2.0}) == Snapshot(1.0, {"a": 2.0})
