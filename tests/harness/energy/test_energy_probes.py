import os
import struct
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from shmoo.harness.energy import available_probes
from shmoo.harness.energy.linux import ON_MAINS, BatteryProbe, HwmonProbe, PerfProbe
from shmoo.harness.energy.nvml import list_gpus
from shmoo.harness.energy.probe import UNMOVED, trail_energy
from shmoo.harness.energy.rapl import powercap_zones
from shmoo.harness.energy.sampler import EnergyMeter, EnergySettings
from shmoo.harness.energy.simulated import SimulatedProbe
from tests.stand_ins import Clock, no_nvml
from tests.virtual_hardware import ZoneFiles, write_powercap_tree

SCALE = 2.0**-32


@pytest.fixture
def power_events(tmp_path):
    """An event source of two packages (CPUs 0 and 16) with package and memory events, as Linux lays it out."""
    folder = tmp_path / "sys/bus/event_source/devices/power"
    (folder / "events").mkdir(parents=True)
    (folder / "type").write_text("27\n")
    (folder / "cpumask").write_text("0,16\n")
    for label, number in (("energy-pkg", "0x02"), ("energy-ram", "0x03")):
        (folder / "events" / label).write_text(f"event={number}\n")
        (folder / "events" / f"{label}.scale").write_text(f"{SCALE}\n")
        (folder / "events" / f"{label}.unit").write_text("Joules\n")
    return tmp_path


NO_FILE = 1 << 20
"""Above every descriptor that this process has open."""


class Counters:
    """Perf counters by number."""

    def __init__(self):
        self.opened = []
        self.joules = {}

    def open(self, kind, event, cpu):
        self.opened.append((kind, event, cpu))
        self.joules[len(self.opened)] = 0.0
        return NO_FILE + len(self.opened)

    def read(self, descriptor):
        return struct.pack("<Q", round(self.joules[descriptor - NO_FILE] / SCALE))


def test_perf_events_are_summed_over_packages(power_events):
    """10 J and 20 J on two packages are 30 J; memory is a domain of its own."""
    counters, clock = Counters(), Clock()
    probe = PerfProbe(power_events, counters.open, clock, counters.read)
    assert counters.opened == [(27, 2, 0), (27, 2, 16), (27, 3, 0), (27, 3, 16)]
    before = probe.snapshot()
    clock.advance(1)
    counters.joules = {1: 10.0, 2: 20.0, 3: 1.0, 4: 2.0}
    found = probe.energy_j(before, probe.snapshot())
    assert {domain: energy.energy_j for domain, energy in found.items()} == pytest.approx({"package": 30, "dram": 3})


def test_perf_that_is_refused_names_the_remedy(power_events):
    """Permission denied is told apart from absent."""

    def refuse(kind, event, cpu):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError, match="perf_event_paranoid"):
        PerfProbe(power_events, refuse)
    with pytest.raises(OSError, match="does not exist"):
        PerfProbe(power_events / "elsewhere")


def test_a_perf_counter_that_fails_in_the_window_is_a_reason(power_events):
    """Short reads and errors are no 0 J."""
    counters, clock = Counters(), Clock()
    probe = PerfProbe(power_events, counters.open, clock, counters.read)
    before = probe.snapshot()
    clock.advance(1)
    probe._read = lambda descriptor: b""
    found = probe.energy_j(before, probe.snapshot())["package"]
    assert found.energy_j is None
    assert "cannot be read" in found.reason


def test_perf_stands_in_where_powercap_is_for_root_only(power_events, monkeypatch):
    """Both doors lead to the same counter; the one that opens is taken."""
    write_powercap_tree(power_events, [ZoneFiles("package-0")])

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    counters = Counters()
    monkeypatch.setattr("shmoo.harness.energy.rapl.read_counter_file", refuse)
    monkeypatch.setattr("shmoo.harness.energy.linux.perf_event_open", counters.open)
    monkeypatch.setattr(os, "read", lambda descriptor, size: counters.read(descriptor))

    def flow(seconds):
        counters.joules[1] += 0.5
        counters.joules[2] += 0.5

    probes, reasons = available_probes(power_events, nvml_loader=no_nvml, sleep=flow)
    assert [probe.name for probe in probes] == ["perf"]
    assert "package" not in reasons


def test_perf_events_that_no_hypervisor_counts_are_no_probe(power_events, monkeypatch):
    """Virtual machines show events that stay at 0: nobody waits for them, and the reason says so."""
    counters = Counters()
    monkeypatch.setattr("shmoo.harness.energy.linux.perf_event_open", counters.open)
    monkeypatch.setattr(os, "read", lambda descriptor, size: counters.read(descriptor))
    monkeypatch.setattr(os, "close", lambda descriptor: None)
    probes, reasons = available_probes(power_events, nvml_loader=no_nvml, sleep=lambda seconds: None)
    assert probes == ()
    assert "perf shows package, dram, but its counters do not move" in reasons["package"]


def test_a_stuck_counter_costs_no_window():
    """It is watched once for 3 s and then left alone, case after case."""
    clock, calls = Clock(), []
    meter = EnergyMeter([SimulatedProbe(clock, power_w=0.0)], {}, EnergySettings(), clock=clock, sleep=clock.advance)
    for _ in range(3):
        (reading,) = meter.measure(lambda: calls.append(1), 1e-3)
        assert (reading.energy_j, reading.reason) == (None, UNMOVED)
    assert calls == []
    assert clock.now == pytest.approx(3.0, rel=0.01)


def test_hwmon_counters_are_domains_of_their_own(tmp_path):
    """Two counters of one chip are never summed; one that cannot be read is left out."""
    folder = tmp_path / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("board\n")
    for number, value in ((1, "1000000"), (2, "5000000"), (3, "garbage")):
        (folder / f"energy{number}_input").write_text(f"{value}\n")
    clock = Clock()
    probe = HwmonProbe(tmp_path, clock)
    assert probe.domains == ("hwmon board energy1", "hwmon board energy2")
    before = probe.snapshot()
    clock.advance(1)
    (folder / "energy1_input").write_text("3000000\n")
    found = probe.energy_j(before, probe.snapshot())
    assert found["hwmon board energy1"].energy_j == pytest.approx(2)
    assert found["hwmon board energy2"].energy_j is None
    with pytest.raises(OSError, match="no readable energy counter"):
        HwmonProbe(tmp_path / "elsewhere")


@pytest.fixture
def battery(tmp_path):
    folder = tmp_path / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    (folder / "status").write_text("Discharging\n")
    (folder / "energy_now").write_text("50000000\n")
    return folder


def test_a_battery_gives_what_its_gauge_loses(battery, tmp_path):
    """10,000 µWh less are 36 J."""
    clock = Clock()
    probe = BatteryProbe(tmp_path, clock)
    before = probe.snapshot()
    clock.advance(2)
    (battery / "energy_now").write_text("49990000\n")
    assert probe.energy_j(before, probe.snapshot())["battery"].energy_j == pytest.approx(36)


def test_a_battery_on_the_mains_is_a_reason(battery, tmp_path):
    """Charging says nothing of what is used."""
    probe = BatteryProbe(tmp_path, Clock())
    before = probe.snapshot()
    (battery / "status").write_text("Charging\n")
    assert probe.energy_j(before, probe.snapshot())["battery"].reason == ON_MAINS


def test_a_gauge_slower_than_the_run_is_a_reason_and_runs_nothing(battery, tmp_path):
    """2 s between updates would take windows of 40 s."""
    calls = []
    meter = EnergyMeter([BatteryProbe(tmp_path, Clock())], {}, EnergySettings(), clock=Clock())
    (reading,) = meter.measure(lambda: calls.append(1), 1e-3)
    assert reading.energy_j is None
    assert "40 s (limit 30 s)" in reading.reason
    assert calls == []


def test_one_refused_perf_event_leaves_the_others(power_events):
    """Memory is not counted on this machine: its reason stands beside the package's energy."""
    counters, clock = Counters(), Clock()

    def without_memory(kind, event, cpu):
        if event == 3:
            raise OSError(19, "No such device")
        return counters.open(kind, event, cpu)

    probe = PerfProbe(power_events, without_memory, clock, counters.read)
    before = probe.snapshot()
    clock.advance(1)
    counters.joules = {1: 10.0, 2: 20.0}
    found = probe.energy_j(before, probe.snapshot())
    assert found["package"].energy_j == pytest.approx(30)
    assert found["dram"].energy_j is None
    assert "No such device" in found["dram"].reason
    trail = [before, probe.snapshot()]
    assert trail_energy(probe, trail)["package"].energy_j == pytest.approx(30)


def test_one_unreadable_zone_leaves_the_package(tmp_path):
    """The cores' counter cannot be read: the package is measured, and the cores have the reason."""
    files = write_powercap_tree(tmp_path, [ZoneFiles("package-0", inside=(ZoneFiles("core"), ZoneFiles("dram")))])
    files["package-0/core"].unlink()
    files["package-0/core"].mkdir()
    probes, reasons = available_probes(tmp_path, nvml_loader=no_nvml)
    (probe,) = [probe for probe in probes if probe.name == "powercap"]
    assert "cannot be read" in reasons["core"]
    assert "package" not in reasons
    before = probe.snapshot()
    for name in ("package-0", "package-0/dram"):
        files[name].write_text("3000000\n")
    energies = probe.energy_j(before, msgspec.structs.replace(probe.snapshot(), at_s=before.at_s + 1))
    assert (energies["package"].energy_j, energies["dram"].energy_j) == pytest.approx((2, 2))
    assert energies["core"].energy_j is None


class OddDriver:
    """NVML of one card, with questions that the driver refuses."""

    class NVMLError(Exception):
        """What the binding raises."""

    def __init__(self, refuses: tuple[str, ...] = (), mig: bool = False, lost: int | None = None, cards: int = 1) -> None:
        self._refuses, self._mig, self._lost, self._cards = refuses, mig, lost, cards

    def _answer(self, question, value):
        if question in self._refuses:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlSystemGetDriverVersion(self):
        return "580.1"

    def nvmlDeviceGetCount(self):
        return self._answer("count", self._cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        if index == self._lost:
            raise self.NVMLError("GPU is lost")
        return f"GPU-{index + 1}" + "111"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in ("GPU-1111", "MIG-2222"):
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle

    def nvmlDeviceGetName(self, handle):
        return b"a card\xff"

    def nvmlDeviceGetMigMode(self, handle):
        return self._answer("mig", [int(self._mig)] * 2)

    def nvmlDeviceGetMemoryInfo(self, handle):
        if "no memory" in self._refuses:
            return SimpleNamespace(total=0)
        return self._answer("memory", SimpleNamespace(total=(10 if handle.startswith("MIG") else 80) << 30))


def test_a_card_that_does_not_tell_its_memory_is_listed():
    """It may share the CPU's memory: unknown, with the reason."""
    (card,) = list_gpus(OddDriver(refuses=("memory", "mig")))
    assert card.memory_bytes is None
    assert "Not Supported" in card.memory_bytes_reason


def test_a_card_with_no_memory_of_its_own_shares_it():
    """0 bytes are an answer that means not known."""
    (card,) = list_gpus(OddDriver(refuses=("no memory",)))
    assert (card.memory_bytes, card.name) == (None, "a card\ufffd")
    assert "says 0" in card.memory_bytes_reason


def test_a_lost_card_leaves_the_others_and_their_numbers():
    """The second of three fell off its bus: the third is still number 2."""
    driver = OddDriver(lost=1, cards=3)
    assert [card.uuid for card in list_gpus(driver)] == ["GPU-1111", "GPU-3111"]
    assert [card.uuid for card in list_gpus(driver, "2,0")] == ["GPU-3111", "GPU-1111"]
    assert list_gpus(driver, "1,0") == ()
    with pytest.raises(OSError, match="is lost"):
        list_gpus(OddDriver(lost=0))


def test_zones_with_odd_names_are_left_out(tmp_path):
    """A zone whose name is no text, and a folder without a number, beside eleven packages in order."""
    files = write_powercap_tree(tmp_path, [ZoneFiles(f"package-{i}") for i in range(11)])
    folder = files["package-0"].parent.parent
    (folder / "intel-rapl:odd").mkdir()
    (folder / "intel-rapl:11").mkdir()
    (folder / "intel-rapl:11" / "name").write_bytes(b"\xff\xfe")
    assert [zone.name for zone in powercap_zones(tmp_path)] == [f"package-{i}" for i in range(11)]


def test_a_driver_that_lists_no_cards_is_a_reason():
    """CPU counters are found all the same."""
    with pytest.raises(OSError, match="Not Supported"):
        list_gpus(OddDriver(refuses=("count",)))
    _, reasons = available_probes(Path("/nonexistent"), lambda: OddDriver(refuses=("count",)))
    assert "Not Supported" in reasons["gpu"]


@pytest.mark.parametrize(("visible", "memory"), [("MIG-2222", 10 << 30), ("MIG-GPU-1111/1/0", 80 << 30)])
def test_an_instance_of_a_split_card_stands_for_the_card(visible, memory):
    """CUDA names it by its own UUID, or in the older way by the card's."""
    (card,) = list_gpus(OddDriver(mig=True), visible)
    assert (card.uuid, card.mig, card.memory_bytes) == ("GPU-1111", True, memory)
    assert list_gpus(OddDriver(mig=True), "MIG-3333") == ()
