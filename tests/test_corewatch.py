import os

import pytest

from shmoo.harness.corewatch import ENOUGH, LONGEST_WAIT_S, CoreWatch, core_watch, reference_kernel
from shmoo.harness.timing import TimingSettings, time_callable
from shmoo.harness.undisturbed import time_undisturbed
from shmoo.runs.records import Timing


class Cores:
    """Two cores whose kernel takes 1 µs, on core 1 `slow` times that; a probe takes 1 ms."""

    def __init__(self):
        self.now, self.slow, self.probes = 0.0, 1.0, 0

    def __call__(self):
        self.now += 1e-3
        self.probes += 1
        return 1e-6, self.slow * 1e-6

    def sleep(self, seconds):
        self.now += seconds

    def watch(self):
        return CoreWatch(self, clock=lambda: self.now, sleep=self.sleep)


def window(cores, watch, milliseconds=1000):
    """Blocks of 1 ms with the watch beside them."""
    for _ in range(milliseconds):
        watch.beside()
        cores.now += 1e-3


def test_a_core_at_half_speed_for_half_of_the_window_is_a_doubt_that_names_it():
    """Core 1 takes 2 µs in the second half; the row says which core, how slow and for how long."""
    cores = Cores()
    watch = cores.watch()
    window(cores, watch, 500)
    cores.slow = 2.0
    window(cores, watch, 500)
    facts, reasons = watch.observe()
    assert facts["slow_share"] == pytest.approx(0.5, abs=0.06)
    assert reasons == (f"slow core: core 1 ran at 1/2.0 of its usual speed for {facts['slow_share']:.0%} of the window",)


def test_a_short_episode_and_a_wandering_clock_are_no_doubts():
    """A tenth of the window at half speed leaves the median alone; so does a clock that is 10 % lower."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 2.0
    window(cores, watch, 100)
    cores.slow = 1.1
    window(cores, watch, 900)
    facts, reasons = watch.observe()
    assert facts["core_slowdown"] == pytest.approx(1.1)
    assert reasons == ()


def test_probing_takes_two_percent_of_the_time():
    """A probe of 1 ms comes every 51 ms: 20 in a second of blocks."""
    cores = Cores()
    watch = cores.watch()
    window(cores, watch, 1000)
    assert cores.probes - ENOUGH == pytest.approx(20, abs=1)


def test_a_window_waits_for_quiet_and_forgets_what_was_before():
    """Core 1 is slow for 0.3 s: the wait ends soon after, and the window is clean."""
    cores = Cores()
    watch = cores.watch()
    window(cores, watch, 10_000)
    cores.slow, begin = 2.0, cores.now

    def sleep(seconds):
        cores.now += seconds
        if cores.now - begin > 0.3:
            cores.slow = 1.0

    watch._sleep = sleep
    watch.await_quiet()
    assert 0.3 < cores.now - begin < 0.6
    assert watch.observe()[1] == ()


def test_patience_is_a_quarter_of_the_time_and_five_seconds_at_most():
    """On a core that stays slow 40 s of measuring allow 5 s of waiting at once, and no more than a quarter in all."""
    cores = Cores()
    watch = cores.watch()
    window(cores, watch, 40_000)
    cores.slow = 2.0
    waits = []
    for _ in range(4):
        begin = cores.now
        watch.await_quiet()
        waits.append(cores.now - begin)
    assert waits[0] == pytest.approx(LONGEST_WAIT_S, rel=0.02)
    assert sum(waits) < 0.3 * cores.now


def test_a_lasting_change_becomes_the_usual():
    """A laptop on battery runs at half speed from now on: after enough probes that is no doubt any more."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 2.0
    for _ in range(45):
        window(cores, watch, 3000)
        watch.await_quiet()
    window(cores, watch)
    assert watch.observe()[1] == ()


def test_a_window_beside_a_slow_core_is_measured_again_and_then_suspect():
    """Core 1 stays slow: three retries, then the reason stands in the row with the observation."""
    cores = Cores()
    watch = cores.watch()
    cores.slow = 2.0
    windows = []

    def timed():
        windows.append(1)
        window(cores, watch, 200)
        return Timing((1e-3,) * 9)

    _, host, reasons = time_undisturbed(timed, 1, cores=watch)
    assert len(windows) == 4
    assert host["core_slowdown"] == pytest.approx(2.0)
    assert any(reason.startswith("slow core: core 1") for reason in reasons)


def test_what_runs_beside_comes_before_every_block_and_is_not_timed():
    """Blocks of 1 ms with 5 ms of other work before each are 1 ms long."""
    now, beside = [0.0], []

    def call():
        now[0] += 1e-3

    def other():
        beside.append(1)
        now[0] += 5e-3

    settings = TimingSettings(max_s=0.1, min_s=0.05, max_warmup_s=0.01)
    timing = time_callable(call, clock=lambda: now[0], settings=settings, beside=other)
    assert len(beside) == len(timing.samples_s)
    assert timing.samples_s == pytest.approx((1e-3,) * len(beside))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_the_real_watch_times_every_core_and_leaves_this_thread_where_it_may_run():
    """Each core gives a time between 10 ns and 10 ms; the affinity of the caller is as before."""
    before = os.sched_getaffinity(0)
    watch = core_watch()
    watch.await_quiet()
    watch.beside()
    facts, _ = watch.observe()
    assert facts["core_slowdown"] >= 1.0
    assert os.sched_getaffinity(0) == before
    seconds = watch._probe()
    assert len(seconds) == len(before)
    assert all(1e-8 < s < 1e-2 for s in seconds)


def test_the_reference_kernel_is_small_beside_a_first_level_cache():
    """Its three matrices hold less than 8 KB, a quarter of the smallest first-level cache in use."""
    kernel = reference_kernel()
    a, b = kernel.args
    assert a.nbytes + b.nbytes + kernel.keywords["out"].nbytes < 8 << 10
    assert kernel() == pytest.approx(24 * 0.25)
