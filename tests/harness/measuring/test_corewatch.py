import os
import statistics

import pytest

from shmoo.harness.measuring.timing import TimingSettings, time_callable
from shmoo.harness.measuring.watch.corewatch import (
    COST_SHARE,
    SETTLING_S,
    CoreWatch,
    core_watch,
    reference_kernel,
    watch_neighbours,
)
from shmoo.runs.store.pooling import WAITING
from shmoo.runs.store.statistics import QUIET

NOBODY = [0.0] * 16
"""Seconds that others used of each core."""


class Cores:
    """Two cores whose kernel takes 1 µs, on core 1 `slow` times that; a probe takes 1 ms."""

    def __init__(self):
        self.now, self.slow, self.probes = 0.0, 1.0, 0

    def __call__(self):
        self.now += 1e-3
        self.probes += 1
        return 1e-6, self.slow * 1e-6

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def watch(self):
        return CoreWatch(self, clock=self.clock)


def window(cores, watch, blocks=1000):
    """The slowdowns seen beside that many blocks of 10 ms."""
    seen = []
    for _ in range(blocks):
        seen.append(watch.slowdown())
        cores.now += 10e-3
    return [slowdown for slowdown in seen if slowdown is not None]


def test_the_slowest_core_counts():
    """Core 1 takes 2 µs where it took 1, core 0 stays as it was."""
    cores = Cores()
    watch = cores.watch()
    assert window(cores, watch, 10) == pytest.approx([1.0] * 10)
    cores.slow = 2.0
    assert window(cores, watch, 10) == pytest.approx([2.0] * 10)


def test_the_quiet_time_is_that_of_the_rare_quiet_moments():
    """A core that runs alone for a tenth of the time is slow for nine tenths, and not usual."""
    cores = Cores()
    watch = cores.watch()
    seen = []
    for number in range(2000):
        cores.slow = 1.0 if number % 10 == 0 else 1.8
        seen += window(cores, watch, 1)
    assert statistics.median(seen[-1000:]) == pytest.approx(1.8)
    assert sum(slowdown <= QUIET for slowdown in seen[-1000:]) == pytest.approx(100, abs=2)


def test_a_slow_start_is_known_for_slow_as_soon_as_the_core_was_quiet():
    """Nothing better is known at first; after a second of quiet the same speed is a slowdown of 2."""
    cores = Cores()
    cores.slow = 2.0
    watch = cores.watch()
    assert window(cores, watch, 10) == pytest.approx([1.0] * 10)
    cores.slow = 1.0
    window(cores, watch, 200)
    cores.slow = 2.0
    assert window(cores, watch, 10) == pytest.approx([2.0] * 10)


def test_a_neighbour_that_never_stops_does_not_soon_pass_for_quiet():
    """Ten thousand probes after it began, minutes of timing, core 1 is still slow."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 2.0
    assert window(cores, watch, 10_000) == pytest.approx([2.0] * 10_000)


def test_a_lasting_change_becomes_the_quiet_time():
    """A laptop on battery runs at half speed from now on: after a hundred thousand probes that is its speed."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 2.0
    window(cores, watch, 101_000)
    assert window(cores, watch, 10) == pytest.approx([1.0] * 10)


def test_a_wandering_clock_is_quiet():
    """A clock that is 10 % lower is no neighbour."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 1.1
    assert max(window(cores, watch, 100)) <= QUIET


def test_probing_takes_a_small_part_of_the_time():
    """A probe of 1 ms in blocks of 0.1 ms comes once in 1 / COST_SHARE ms; in between nothing is said."""
    cores = Cores()
    watch = cores.watch()
    begin, probes = cores.now, cores.probes
    seen = []
    for _ in range(20_000):
        seen.append(watch.slowdown())
        cores.now += 1e-4
    assert None in seen
    assert 1e-3 * (cores.probes - probes) / (cores.now - begin) == pytest.approx(COST_SHARE, rel=0.03)


def test_a_new_watch_probes_before_anything_is_timed():
    """So it has met quiet moments when the first block begins."""
    cores = Cores()
    cores.watch()
    assert cores.now == pytest.approx(SETTLING_S, abs=2e-3)


def test_each_block_knows_the_larger_of_the_probes_around_it():
    """Core 1 is slow during the third call of five; the blocks beside it know, and the probes' own time is in no sample."""
    cores = Cores()
    watch = cores.watch()
    calls = []

    def call():
        calls.append(1)
        cores.now += 10e-3
        cores.slow = 2.0 if len(calls) == 4 else 1.0

    settings = TimingSettings(block_s=1e-3, warmup_s=0.0, max_warmup_s=0.0, min_s=0.05, max_s=0.05, min_samples=1)
    timing = time_callable(call, clock=cores.clock, settings=settings, watch=watch)
    assert timing.samples_s == pytest.approx((10e-3,) * 5)
    assert timing.slowdowns == pytest.approx((1.0, 1.0, 2.0, 2.0, 1.0))


def test_without_a_watch_a_block_knows_nothing_of_the_cores():
    """Absent, and not 1."""
    assert time_callable(lambda: None, settings=TimingSettings(max_warmup_s=0.0, min_s=0.0, max_s=0.0)).slowdowns == ()


def test_neighbours_are_described():
    """Core 1 at 1/1.8 of its speed for three quarters of each second: the share, how slow, and the spread between tenths."""
    cores = Cores()

    def probe():
        cores.slow = 1.8 if (cores.now % 1.0) > 0.25 else 1.0
        return cores()

    neighbours = watch_neighbours(5.0, probe, cores.clock, cores.sleep, lambda: NOBODY)
    assert neighbours.slow_share == pytest.approx(0.75, abs=0.02)
    assert neighbours.slowdown == pytest.approx(1.8)
    assert neighbours.expected_error(4) == neighbours.spread / 2 > 0.05


def test_programs_on_the_same_cores_are_neighbours():
    """One on core 1 during every second half of a second, which no probe feels: a call then has half of the core, so that rates
    are 1 and 1/2 and spread by 1/3."""
    cores = Cores()

    def used():
        halves, into = divmod(cores.now, 0.5)
        return [0.0, (halves // 2) * 0.5 + (into if halves % 2 else 0.0)]

    neighbours = watch_neighbours(5.0, cores, cores.clock, cores.sleep, used)
    assert (neighbours.slow_share, neighbours.slowdown) == (0.0, 1.0)
    assert neighbours.cores_used == pytest.approx(0.5, abs=0.02)
    assert neighbours.spread == pytest.approx(1 / 3, abs=0.03)


def test_programs_on_all_cores_leave_little_to_know():
    """Both cores are used all the time: nothing spreads, and three visits may have done nothing but wait."""
    cores = Cores()
    neighbours = watch_neighbours(5.0, cores, cores.clock, cores.sleep, lambda: [cores.now, cores.now])
    assert neighbours.cores_used == pytest.approx(2.0)
    assert neighbours.spread == pytest.approx(0.0, abs=1e-9)
    assert neighbours.expected_error(3) == pytest.approx(WAITING)


def test_cores_that_differ_are_no_neighbours():
    """Sixteen cores, of which eight take a turn at a time and one is twice as slow as the others: each goes by itself."""
    cores = Cores()
    turn = [0]

    def probe():
        cores()  # takes its time
        turn[0] ^= 8
        return [(3e-6 if core == 5 else 1.5e-6) if core & 8 == turn[0] else 0.0 for core in range(16)]

    neighbours = watch_neighbours(5.0, probe, cores.clock, cores.sleep, lambda: NOBODY)
    assert (neighbours.slow_share, neighbours.slowdown) == (0.0, 1.0)


def test_a_quiet_machine_has_no_neighbours():
    """No slow moment, no spread, nothing to expect."""
    cores = Cores()
    neighbours = watch_neighbours(5.0, cores, cores.clock, cores.sleep, lambda: NOBODY)
    assert (neighbours.slow_share, neighbours.slowdown) == (0.0, 1.0)
    assert neighbours.expected_error(1) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_the_real_watch_times_every_core_and_leaves_this_thread_where_it_may_run():
    """Each core gives a time between 10 ns and 10 ms; the affinity of the caller is as before."""
    before = os.sched_getaffinity(0)
    watch = core_watch()
    assert watch.slowdown() >= 1.0
    assert os.sched_getaffinity(0) == before
    seconds = watch._probe()
    assert len(seconds) == len(before)
    assert sum(1e-8 < s < 1e-2 for s in seconds) == min(len(before), 8)


def test_the_reference_kernel_is_small_beside_a_first_level_cache():
    """Its three matrices hold less than 8 KB, a quarter of the smallest first-level cache in use."""
    kernel = reference_kernel()
    a, b = kernel.args
    assert a.nbytes + b.nbytes + kernel.keywords["out"].nbytes < 8 << 10
    assert kernel() == pytest.approx(24 * 0.25)
