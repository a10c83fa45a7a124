import math
import random

import pytest

from shmoo.harness.measuring.timing import (
    LONGEST_S,
    NETWORK_VISIT,
    SPACED,
    VISIT,
    CudaTimer,
    HostTimer,
    TimingSettings,
    time_callable,
)
from shmoo.harness.measuring.watch import hostwatch
from shmoo.harness.measuring.watch.hostwatch import HostSnapshot, disturbances, host_snapshot, observe
from shmoo.runs.store.records import Reason, Timing
from shmoo.runs.store.statistics import median


class FakeClock:
    """Time passes only when something is called."""

    def __init__(self, read_s=0.0):
        self.now = 0.0
        self.read_s = read_s

    def __call__(self):
        self.now += self.read_s
        return self.now

    def work(self, durations):
        """A call that takes the next of `durations` seconds, the last one for ever."""
        durations = iter(durations)
        last = next(durations)

        def call():
            nonlocal last
            self.now += last
            last = next(durations, last)

        return call


def test_constant_calls_stop_on_precision_at_the_shortest_window():
    """Without noise the median is known at once, and the window lasts min_s only."""
    clock = FakeClock()
    timing = time_callable(clock.work([2e-3]), clock=clock, settings=TimingSettings(min_s=0.2))
    assert timing.stop_reason == "precision"
    assert median(timing.samples_s) == pytest.approx(2e-3)
    assert sum(timing.samples_s) * timing.block_calls == pytest.approx(0.2, rel=0.05)


def test_very_fast_calls_share_a_block():
    """A 100 ns call runs in blocks of block_s, so a clock that costs 50 ns to read adds less than 0.1 %."""
    clock = FakeClock(read_s=50e-9)
    timing = time_callable(clock.work([100e-9]), clock=clock, settings=TimingSettings(block_s=1e-3, max_s=0.4, min_s=0.02))
    assert timing.block_calls == pytest.approx(1e-3 / 100e-9, rel=0.05)
    assert median(timing.samples_s) == pytest.approx(100e-9, rel=1e-3)


def test_slow_calls_are_timed_one_by_one():
    """A call longer than the target block is a block of its own."""
    clock = FakeClock()
    timing = time_callable(clock.work([0.2]), clock=clock, settings=TimingSettings(max_s=3.0))
    assert timing.block_calls == 1
    assert timing.samples_s == pytest.approx((0.2,) * len(timing.samples_s))


def test_a_call_longer_than_the_window_gives_one_sample_and_says_timeout():
    """Nothing is thrown away, and the reason is in the row."""
    clock = FakeClock()
    timing = time_callable(clock.work([5.0]), clock=clock, settings=TimingSettings(max_s=1.0))
    assert (len(timing.samples_s), timing.stop_reason) == (1, "timeout")


def test_steady_noise_stops_on_a_plateau():
    """Noise too large for the precision, whose spread no longer changes, ends the window before its time."""
    clock = FakeClock()
    draw = random.Random(0)
    call = clock.work(draw.choice((1e-3, 2e-3)) for _ in range(10**6))
    settings = TimingSettings(block_s=1e-4, min_s=0.0, max_s=10.0, precision=1e-6)
    timing = time_callable(call, clock=clock, settings=settings)
    assert timing.stop_reason == "plateau"
    assert sum(timing.samples_s) < 5.0


def test_drifting_calls_run_into_the_timeout():
    """Calls that grow slower without end have no plateau and no precise median."""
    clock = FakeClock()
    call = clock.work(1e-3 * 1.01**i for i in range(10**6))
    timing = time_callable(call, clock=clock, settings=TimingSettings(min_s=0.0, max_s=5.0, max_warmup_s=0.01, precision=1e-4))
    assert timing.stop_reason == "timeout"


def test_warm_up_lasts_until_times_settle():
    """Calls that grow faster while caches fill are left out of the samples."""
    clock = FakeClock()
    call = clock.work([20e-3, 15e-3, 11e-3, 8e-3, 5e-3, 3e-3, 2e-3])
    timing = time_callable(call, clock=clock, settings=TimingSettings(max_warmup_s=1.0))
    assert max(timing.samples_s) == pytest.approx(2e-3)
    assert timing.warmup_calls >= 5


def test_what_the_call_raises_passes_through():
    """The core invents no result for a call that fails."""

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        time_callable(fail)


def test_synchronize_is_inside_the_timed_span():
    """Work that only a synchronisation waits for is counted: 1 ms a block here."""
    clock = FakeClock()
    waiting = []

    def synchronize():
        clock.now += 1e-3 * len(waiting)
        waiting.clear()

    settings = TimingSettings(block_s=1e-5, max_s=5e-3, min_s=1e-3)
    timing = time_callable(lambda: waiting.append(1), clock=clock, synchronize=synchronize, settings=settings)
    assert median(timing.samples_s) == pytest.approx(1e-3)


def test_cuda_events_time_the_device_and_keep_the_host_apart():
    """Device time comes from the events in milliseconds; launching is a number of its own."""
    clock = FakeClock()
    device = FakeClock()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = device.now

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    class Cuda:
        pass

    cuda = Cuda()
    cuda.Event, cuda.synchronize = Event, lambda: None

    def launch():
        clock.now += 5e-6
        device.now += 2e-3

    timer = CudaTimer(cuda, clock)
    assert timer(launch, 10) == pytest.approx(20e-3)
    assert timer.host_s == pytest.approx(5e-6)


def observed(cpu, switches, busy, steal=0.0, throttles=0, threads=2):
    before = HostSnapshot(0.0, 0.0, 0, 0.0, 0.0, 0)
    return observe(before, HostSnapshot(1.0, cpu, switches, busy, steal, throttles), threads=threads, cores=2)


def codes(reasons):
    return [reason.code for reason in reasons]


def test_an_idle_host_disturbs_nothing():
    """Two threads of two cores, nobody else: 99 % of the CPU time and a few switches."""
    assert disturbances(observed(cpu=1.98, switches=30, busy=2.0)) == ()


def test_a_busy_neighbour_is_noticed_twice():
    """Half of the CPU time with a thousand switches is a disturbance, and the neighbour's own core is counted."""
    assert codes(disturbances(observed(cpu=1.0, switches=1000, busy=2.0))) == ["disturbed", "busy host"]


def test_an_operator_that_uses_one_thread_of_two_is_not_disturbed():
    """Half of the CPU time without switches means that the second thread had nothing to do."""
    assert disturbances(observed(cpu=1.0, switches=20, busy=1.05)) == ()


def test_a_neighbour_beside_free_cores_disturbs_nothing():
    """One thread on two cores leaves one for others."""
    assert disturbances(observed(cpu=1.0, switches=20, busy=1.9, threads=1)) == ()


def test_steal_and_throttling_are_named():
    """Each has its own reason with its number."""
    reasons = disturbances(observed(cpu=2.0, switches=0, busy=2.0, steal=0.2, throttles=3))
    assert codes(reasons) == ["steal", "throttled"]
    assert "10%" in reasons[0].text


def test_unknown_counters_disturb_nothing():
    """Where the system counts nothing, observations are None and nothing is claimed."""
    host = observe(HostSnapshot(0.0, 0.0), HostSnapshot(1.0, 2.0), threads=2, cores=2)
    assert host["switches_per_s"] is None
    assert host["crowding"] is None
    assert disturbances(host) == ()


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ((), "ok"),
        (("not captured",), "ok"),
        (("steal", "busy host"), "noisy"),
        (("disturbed", "recompiled"), "suspect"),
        (("throttled",), "suspect"),
    ],
)
def test_only_what_makes_a_time_useless_makes_a_visit_suspect(found, status):
    """Noise is said and can be used; remarks change nothing."""
    assert hostwatch.status_of(tuple(Reason(code) for code in found)) == status


@pytest.fixture
def throttling_host(monkeypatch):
    """Ten throttle events in each second, and steal."""
    snapshots = iter(range(1000))

    def snapshot():
        number = next(snapshots)
        return HostSnapshot(float(number), 1.0 * number, 0, 1.0 * number, 0.5 * number, 10 * number)

    monkeypatch.setattr("shmoo.harness.measuring.watch.hostwatch.host_snapshot", snapshot)


@pytest.mark.parametrize(
    ("slowdowns", "suspect"), [((1.0, 1.1, 1.2), False), ((1.5, 1.6, 1.7), False), ((2.0, 2.1, 2.2), True), ((), False)]
)
def test_throttling_counts_where_it_makes_another_machine(throttling_host, slowdowns, suspect):
    """Throttle events beside cores at half their speed are another machine; beside cores at their speed they are no reason."""
    timing = Timing((1.0, 1.0, 1.0)[: len(slowdowns) or 3], slowdowns)
    _, host, reasons = hostwatch.observed(lambda: timing, 1)
    assert host["throttles"] == 10
    assert codes(reasons) == ["steal"] + ["throttled"] * suspect
    assert hostwatch.status_of(reasons) == ("suspect" if suspect else "noisy")


def test_a_device_of_its_own_clock_is_not_doubted_for_the_hosts_sake(throttling_host):
    """The host is observed, and no reason comes of it; the card's own doubts stay."""
    doubt = Reason("GPU clock", "low")
    _, host, reasons = hostwatch.observed(
        lambda: Timing((1.0,), (3.0,)), 1, lambda: ({"gpu_clock_hz": 1e9}, (doubt,)), device_time=True
    )
    assert (host["throttles"], host["gpu_clock_hz"]) == (10, 1e9)
    assert reasons == (doubt,)


def test_counters_are_read_from_an_injected_tree(tmp_path):
    """Busy time is user + nice + system + irq + softirq; steal is the eighth field of proc/stat."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 10 20 5000 7 3 2 50 0 0\ncpu0 1 2 3\n")
    folder = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle"
    folder.mkdir(parents=True)
    (folder / "core_throttle_count").write_text("4\n")
    snapshot = host_snapshot(tmp_path)
    ticks = snapshot.busy_s / snapshot.steal_s
    assert ticks == pytest.approx((100 + 10 + 20 + 3 + 2) / 50)
    assert snapshot.throttles == 4


def test_a_block_of_one_call_keeps_what_runs_before_it_out_of_the_time():
    """A flush of 5 ms before each call of 1 ms leaves samples of 1 ms."""
    clock = FakeClock()
    flushes = []

    def flush():
        clock.now += 5e-3
        flushes.append(1)

    timer = HostTimer(clock, before=flush)
    timing = time_callable(clock.work([1e-3]), clock=clock, timer=timer, block_calls=1, settings=TimingSettings(max_s=0.1))
    assert timing.block_calls == 1
    assert timing.samples_s == pytest.approx((1e-3,) * len(timing.samples_s))
    assert len(flushes) == len(timing.samples_s) + timing.warmup_calls


def test_the_hottest_cpu_zone_is_the_temperature(tmp_path):
    """Two packages at 61 and 64 degrees, and a battery that is no CPU."""
    for number, (kind, millidegrees) in enumerate((("x86_pkg_temp", 61000), ("x86_pkg_temp", 64000), ("BAT0", 90000))):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{millidegrees}\n")
    assert host_snapshot(tmp_path).temperature_c == pytest.approx(64)


@pytest.mark.parametrize("settings", [VISIT, NETWORK_VISIT])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_visit_lasts_as_long_whatever_it_meets(settings, spread):
    """Steady or not, a visit ends when its time is up, so that every moment of the machine has the same chance."""
    clock, draw = FakeClock(), random.Random(0)
    call = clock.work(1e-3 * draw.uniform(1, 1 + spread) for _ in range(10**6))
    timing = time_callable(call, clock=clock, settings=settings)
    assert timing.stop_reason == "timeout"
    assert sum(timing.samples_s) * timing.block_calls == pytest.approx(settings.max_s, rel=0.05)


def test_a_target_visited_once_gets_windows_with_pauses_between():
    """Five windows of 60 ms; the pauses differ from each other and none is longer than it may be."""
    clock = FakeClock()
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock.now += seconds

    timing = time_callable(clock.work([1e-3]), clock=clock, settings=SPACED, sleep=sleep)
    assert len(pauses) == 4
    assert len(set(pauses)) == 4
    assert max(pauses) <= SPACED.gap_s
    assert sum(timing.samples_s) * timing.block_calls == pytest.approx(5 * 0.06, rel=0.05)


def test_windows_of_a_long_call_are_a_call_each_and_end_after_ten_seconds():
    """A call of 1 s is timed five times; one of 6 s twice, because no further window begins after 10 s."""
    for call_s, samples in ((1.0, 5), (6.0, math.ceil(LONGEST_S / 6.0))):
        clock = FakeClock()
        timing = time_callable(clock.work([call_s]), clock=clock, settings=SPACED, sleep=lambda seconds: None)
        assert timing.samples_s == pytest.approx((call_s,) * samples)


def test_what_happens_in_a_pause_is_no_part_of_the_next_block(monkeypatch):
    """The system takes the core away a hundred times while nothing is timed: every block was left alone."""
    clock, switches = FakeClock(), [0]
    monkeypatch.setattr("shmoo.harness.measuring.timing.involuntary_switches", lambda: switches[0])

    def sleep(seconds):
        switches[0] += 100

    timing = time_callable(clock.work([1e-3]), clock=clock, settings=SPACED, sleep=sleep)
    assert len(timing.switches) == len(timing.samples_s)
    assert set(timing.switches) == {0}


def test_a_block_from_which_the_core_was_taken_says_so(monkeypatch):
    """Two switches in the third call, none in the others."""
    clock, state = FakeClock(), {"calls": 0, "switches": 0}
    monkeypatch.setattr("shmoo.harness.measuring.timing.involuntary_switches", lambda: state["switches"])

    def call():
        clock.now += 10e-3
        state["calls"] += 1
        state["switches"] += 2 if state["calls"] == 4 else 0

    settings = TimingSettings(block_s=1e-3, warmup_s=0.0, max_warmup_s=0.0, min_s=0.05, max_s=0.05, min_samples=1)
    assert time_callable(call, clock=clock, settings=settings).switches == (0, 0, 2, 0, 0)
