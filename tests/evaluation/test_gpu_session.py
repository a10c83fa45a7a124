import msgspec
import pytest

from shmoo.harness.energy.nvml import NvmlProbe
from shmoo.harness.energy.sampler import EnergyMeter
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.suites import work_of
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, Timing
from shmoo.runs.store.store import Run
from tests.evaluation.gpu_session import ENERGY, Part, energy_operators, plan, run_session
from tests.virtual_hardware import VirtualDevice, VirtualNvml

MACHINE = Machine("Example CPU", 16, 32, 128 << 30, gpu_model="Example GPU", gpu_memory_bytes=80 << 30, driver="555.42")
CALL_S, CALL_J = 0.02, 8.0


class OnVirtualCard:
    """Measures cases on a card that takes 20 ms and 8 J a call; its time is the session's."""

    def __init__(self, card):
        self.card = card
        self.asked = []
        probe = NvmlProbe(VirtualNvml(card), "GPU-00000000-virtual", clock=card.clock)
        self.meter = EnergyMeter([probe], {}, ENERGY.energy, clock=card.clock, sleep=card.sleep)

    def call(self):
        self.card.run(CALL_S, CALL_J)

    def measure(self, case, visit=0, details=True):
        self.asked.append((case, visit))
        for _ in range(50):
            self.call()
        readings = self.meter.measure(self.call, CALL_S, "cuda") if details and "energy" in case.axes else ()
        return Measurement(case, "ok", timing=Timing((CALL_S,) * 50), energy=readings, visit=visit), ()


def cases(count, **axes):
    return tuple(CaseSpec("relu", "operator", {"m": m, **axes}, device="cuda") for m in range(count))


@pytest.fixture
def session(tmp_path):
    card = VirtualDevice(idle_w=70.0)
    measurer = OnVirtualCard(card)
    parts = (
        Part("time", "operators", cases(20), 0.3),
        Part("energy", "operators", cases(4, energy=1), 0.9),
        Part("time", "operators again", cases(20), 1.0, visits=2),
    )

    def run(minutes, **changes):
        return run_session(
            tmp_path / "out",
            minutes,
            MACHINE,
            parts=parts,
            measurer=measurer,
            clock=card.clock,
            lock=str(tmp_path / "lock"),
            **changes,
        )

    return run, measurer, tmp_path / "out"


def test_a_session_measures_time_and_energy_on_the_virtual_card(session):
    """8 J a call come back, the counter updates every 100 ms, visits agree, and nothing is left."""
    run, _, out = session
    found = run(30)
    assert found["left"] == 0
    assert found["rows"]["time"] == {"ok": 20, "noisy": 0, "suspect": 0, "failed": 0}
    assert found["energy_readings"] == 4
    assert found["update_period_s"] == pytest.approx(0.1, rel=0.1)
    assert found["spread_of_time_visits"] == 0
    (reading,) = Run.open(out / "energy").rows[0].energy
    assert reading.energy_j == pytest.approx(CALL_J, rel=0.03)
    assert len(reading.trials_j) == 2
    assert msgspec.json.decode((out / "findings.json").read_bytes()) == found


def test_a_session_stops_in_time_and_goes_on(session):
    """One minute at a time, no visit is repeated and the rest is done in the end."""
    run, measurer, _ = session
    first = run(1)
    assert 0 < first["left"] < 44
    begun = len(measurer.asked)
    assert measurer.card.clock() < 120
    left = first["left"]
    for _ in range(10):
        left = run(2)["left"]
    assert left == 0
    assert len(measurer.asked) > begun
    assert len({(case.identity, number) for case, number in measurer.asked}) == len(measurer.asked) == 44


def test_every_energy_case_gets_its_windows(tmp_path):
    """Energy is what its part of the session is for: no share of the time ends it early. Two visits are compared."""
    card = VirtualDevice(idle_w=70.0)
    part = Part("energy", "operators", cases(6, energy=1), 1.0, visits=2)
    arguments = {"parts": (part,), "measurer": OnVirtualCard(card), "clock": card.clock, "lock": str(tmp_path / "lock")}
    begin = card.clock()
    run_session(tmp_path / "out", 30, MACHINE, **arguments)
    lines = Run.open(tmp_path / "out" / "energy").lines
    energy_s = sum(reading.window_s for line in lines for reading in line.energy)
    assert [line.visit for line in lines if line.energy] == [1] * 6
    assert energy_s > 0.35 * (card.clock() - begin)


def test_a_case_that_failed_is_not_left_to_do(tmp_path):
    """It would fail again: the session is over though the case has no second visit."""

    class Failing:
        def measure(self, case, visit=0, details=True):
            return Measurement(case, "failed", (Reason("error", "on purpose"),), visit=visit), ()

    part = Part("time", "operators", cases(3), 1.0, visits=2)
    found = run_session(tmp_path / "out", 30, MACHINE, parts=(part,), measurer=Failing(), lock=str(tmp_path / "lock"))
    assert found["left"] == 0
    assert len(Run.open(tmp_path / "out" / "time").lines) == 3


def test_checks_add_to_the_findings(session):
    """A comparison gets both runs, and what it returns is written down."""
    run, _, _ = session
    assert run(30, checks=(lambda times, energies: {"rows_seen": len(times.rows) + len(energies.rows)},))["rows_seen"] == 24


def test_the_plan_covers_what_a_session_is_for():
    """At least 60 operator cases in four dtypes and 16 networks in three runtimes for time, 40 cases for energy; all known."""
    parts = plan(MACHINE)
    timed = [case for part in parts if part.run == "time" for case in part.cases]
    energy = {case.identity: case for part in parts if part.run == "energy" for case in part.cases}
    operators = {case.identity: case for case in timed if case.kind == "operator" and case.cache_state == "warm"}
    assert len(operators) >= 60
    assert {case.dtype for case in operators.values()} == {"float32", "tf32", "bfloat16", "float16"}
    networks = {(case.workload, case.runtime) for case in timed if case.kind == "network"}
    assert len({name for name, _ in networks}) >= 16
    assert {runtime for _, runtime in networks} == {"eager", "inductor", "cudagraphs"}
    assert len(energy) >= 40
    assert sum(case.kind == "network" for case in energy.values()) >= 12
    assert len([case for case in timed if case.cache_state == "cold"]) == 10
    for case in (*timed, *energy.values()):
        find_workload(case.workload).resolve(case.axes)


def test_energy_operators_lie_on_both_sides_of_the_ridge():
    """Flops a byte range from below 1 to above 100, and no case takes more than a sixteenth of the card's memory."""
    intensities = []
    for case in energy_operators(MACHINE):
        work = work_of(case.workload, case.axes, case.dtype)
        assert work.bytes < (80 << 30) / 16
        intensities.append(work.flops / work.bytes)
    assert min(intensities) < 1
    assert max(intensities) > 100
