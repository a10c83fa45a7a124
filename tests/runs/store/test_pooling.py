"""Visits weighed with those to calls like them: closed forms, and machines whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from shmoo.estimators.graph.records import NORMAL_90
from shmoo.runs.store.pooling import _lower_quartile, latencies
from shmoo.runs.store.records import CaseSpec, Timing
from shmoo.runs.store.statistics import FEW_CASES, Latency, deviation_of_cases, latency, visit_deviations

Case = list[Timing]


def visit(share: float, undisturbed_s: float = 2e-5, threads: int = 1) -> Timing:
    """Ten blocks that ran undisturbed and ten in which a core was taken away, so that calls were done at this share of their
    undisturbed speed; at 1 all of them ran undisturbed."""
    disturbed_s = undisturbed_s * (2 / share - 1)
    return Timing(
        (undisturbed_s,) * 10 + (disturbed_s,) * 10,
        switches=(0,) * 10 + (0 if share == 1 else 1,) * 10,
        cpu_s=20 * threads * undisturbed_s,
    )


def alike(scale: float = 1.0, **fields: float) -> list[Case]:
    """Nine cases whose shares of 1, 3/4 and 1/2 differ as they would if each visit had one of 1 or 1/2 by chance."""
    pairs = [(1.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.5, 0.5)] + 5 * [(1.0, 0.5)]
    return [[visit(scale * share, **fields) for share in pair] for pair in pairs]


def times(groups: Sequence[str], cases: Sequence[Case]) -> list[Latency | None]:
    """What a call of each case takes, by all visits."""
    return [time for time, _ in latencies([CaseSpec("relu", "operator", device=group) for group in groups], cases)]


def own(cases: Sequence[Case], groups: Sequence[str]) -> list[Latency]:
    """What each case's visits say alone."""
    samples = [[timing.samples_s for timing in case] for case in cases]
    return [latency(s, sd) for s, sd in zip(samples, visit_deviations(groups, samples), strict=True)]


# closed forms


def test_shares_that_differ_as_visits_do_are_one_share() -> None:
    """Visits have the variance 0.625 / 9, two of them half of it. The shares of the cases have 0.25 / 8, which is less, so 3/4 is
    the share of all, with an error of sqrt(0.25 / 8 / 9). A case 1/4 away from it counts that as a doubt, times sqrt(2 / 6)."""
    seen = times(["a"] * 9, alike())
    assert [s.value_s for s in seen] == pytest.approx([2e-5 / 0.75] * 9)
    mean_error = math.sqrt(0.25 / 8 / 9) / 0.75
    assert seen[8].relative_se == pytest.approx(mean_error)
    assert seen[0].relative_se == pytest.approx(math.hypot(mean_error, 0.25 * math.sqrt(2 / 6) / 0.75))
    assert {s.visits for s in seen} == {2}


def test_shares_in_which_visits_agree_are_each_case_s_own() -> None:
    """Cases at shares of 0.3 to 0.9 on each visit: nothing is to be corrected."""
    shares = np.linspace(0.3, 0.9, 9)
    seen = times(["a"] * 9, [[visit(share)] * 3 for share in shares])
    assert [s.value_s for s in seen] == pytest.approx(2e-5 / shares)
    assert [s.relative_se for s in seen] == pytest.approx([0.0] * 9, abs=1e-9)


def test_whole_visits_that_shift_are_averaged_as_their_rates() -> None:
    """Nothing is disturbed, and visits take 2, 2.2 and 2.1 µs a call as a whole: the undisturbed blocks of the fast one are no
    better than the others."""
    cases = [[visit(1.0, s) for s in (2.0e-6, 2.2e-6, 2.1e-6)] for _ in range(9)]
    for seen in times(["a"] * 9, cases):
        assert seen.value_s == pytest.approx(3 / (1 / 2.0e-6 + 1 / 2.2e-6 + 1 / 2.1e-6))


@pytest.mark.parametrize("other", ["threads", "length", "group"])
def test_only_calls_like_it_count(other: str) -> None:
    """Calls on two threads, calls ten times as long and those of another kind have a mean share of 0.3, and this class 0.75."""
    fields: dict[str, float] = {"threads": {"threads": 2}, "length": {"undisturbed_s": 2e-4}, "group": {}}[other]
    seen = times(["a"] * 9 + ["b" if other == "group" else "a"] * 9, alike() + alike(0.4, **fields))
    assert [s.value_s for s in seen[:9]] == pytest.approx([2e-5 / 0.75] * 9)
    assert [s.value_s for s in seen[9:]] == pytest.approx([fields.get("undisturbed_s", 2e-5) / 0.3] * 9)


def test_fewer_than_eight_cases_are_no_class() -> None:
    """The same case among nine and among seven."""
    assert FEW_CASES == 8
    cases = alike()[:7]
    assert times(["a"] * 7, cases) == own(cases, ["a"] * 7)


@pytest.mark.parametrize(
    "case",
    [
        [Timing((2e-5,) * 4), Timing((2.4e-5,) * 4)],
        [Timing((2e-5,) * 4, switches=(1,) * 4), Timing((2.4e-5,) * 4, switches=(0, 0, 1, 1))],
    ],
    ids=["switches unknown", "two undisturbed blocks"],
)
def test_a_case_without_undisturbed_time_goes_by_its_own_visits(case: Case) -> None:
    """Among cases that have one, which it leaves as they are."""
    cases = [*alike(), case]
    seen = times(["a"] * 10, cases)
    assert seen[9] == own(cases, ["a"] * 10)[9]
    assert [s.value_s for s in seen[:9]] == pytest.approx([2e-5 / 0.75] * 9)


def test_a_single_visit_goes_by_the_share_of_its_class() -> None:
    """Nine cases with two visits have a share of 3/4; what a visit to a tenth says is its undisturbed time."""
    seen = times(["a"] * 10, [*alike(), [visit(0.5)]])
    mean = (18 * 0.75 + 0.5) / 19
    assert seen[9].value_s == pytest.approx(2e-5 / mean)
    assert seen[9].visits == 1


def test_single_visits_alone_leave_each_other_s_times_and_widen_their_errors() -> None:
    """Nobody knows whether their shares differ by the case or by the visit: no time moves, and each is as uncertain as the shares
    are apart, at least."""
    shares = np.linspace(0.3, 0.9, 9)
    cases = [[visit(share)] for share in shares]
    seen, alone = times(["a"] * 9, cases), own(cases, ["a"] * 9)
    assert [s.value_s for s in seen] == [s.value_s for s in alone]
    apart = deviation_of_cases(np.log(shares))
    assert apart is not None
    assert [s.relative_se for s in seen] == pytest.approx([max(s.relative_se, apart) for s in alone])


def test_single_visits_of_a_crowded_machine_cover_the_truth() -> None:
    """Visits lose a share of their own to neighbours, equal in all of their blocks, so that samples of one visit agree: 85 % of
    the truths and more lie within 1.645 standard errors, where drift within the visits alone covers none."""
    draw = np.random.default_rng(5)
    shares = np.clip(0.6 * np.exp(draw.normal(0, 0.25, 60)), 0.1, 1.0)
    cases = [[Timing((2e-3 / s,) * 20, switches=(3,) * 20, on_core_s=(2e-3,) * 20)] for s in shares.tolist()]
    truth = 2e-3 / float(shares.mean())
    seen = [time for time in times(["a"] * 60, cases) if time is not None]
    inside = [abs(math.log(time.value_s / truth)) <= NORMAL_90 * time.relative_se for time in seen]
    assert 0.85 <= float(np.mean(inside)) <= 0.97


def on_core(share: float, call_s: float = 2e-2) -> Timing:
    """A visit to calls so long that each was disturbed: half of its time another program ran, and the thread knows."""
    return Timing((call_s / share,) * 3, switches=(5,) * 3, cpu_s=3 * call_s, on_core_s=(call_s,) * 3)


def test_long_calls_go_by_the_time_that_their_thread_had_a_core() -> None:
    """Their visits ran at 1 and 1/2, at 1/2 and 1/2, ...: 3/4 of the speed on average, which visits explain."""
    pairs = [(1.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.5, 0.5)] + 5 * [(1.0, 0.5)]
    seen = times(["a"] * 9, [[on_core(share) for share in pair] for pair in pairs])
    assert [s.value_s for s in seen] == pytest.approx([2e-2 / 0.75] * 9)


def waiting(call_s: float = 8e-3, blocks: int = 7) -> Timing:
    """A visit in which two threads waited for each other at every call, each spinning while the other had no core."""
    return Timing((call_s,) * blocks, switches=(2,) * blocks, cpu_s=blocks * call_s, on_core_s=(call_s / 2,) * blocks)


def threaded(share: float) -> Timing:
    """Calls of two threads, half of the blocks undisturbed; both threads had a core for all that they did."""
    calls = visit(share, threads=2)
    return msgspec.structs.replace(calls, on_core_s=(2e-5,) * len(calls.samples_s))


@pytest.mark.parametrize("visits", [1, 2, 3])
def test_threads_that_only_waited_leave_a_case_in_doubt(visits: int) -> None:
    """Calls of 10 us that took 8 ms each time, among 18 visits that went well: however well samples agree, the case may be off by
    e^2, with the chance that all of its visits are of the kind that does nothing but wait."""
    cases = [*([threaded(share) for share in (1.0, 0.5)] for _ in range(9)), [waiting()] * visits]
    groups = ["a"] * len(cases)
    seen, alone = times(groups, cases)[-1], own(cases, groups)[-1]
    chance = (visits / (18 + visits)) ** visits
    assert seen.value_s == alone.value_s == pytest.approx(8e-3)
    assert seen.relative_se == pytest.approx(math.hypot(alone.relative_se, 2.0 * math.sqrt(chance)))


def test_blocks_in_which_a_thread_waited_do_not_tell_the_undisturbed_time() -> None:
    """Calls of 20 ms on two threads: nine cases have a visit at full speed and one with three of four blocks at a sixth of it, a
    tenth case only the latter. Its only good block says 20 ms, and the share is that of the class."""
    good = Timing((20e-3,) * 4, switches=(1,) * 4, cpu_s=160e-3, on_core_s=(20e-3,) * 4)
    poor = Timing((20e-3,) + (120e-3,) * 3, switches=(9,) * 4, cpu_s=400e-3, on_core_s=(20e-3,) + (60e-3,) * 3)
    seen = times(["a"] * 10, [*([good, poor] for _ in range(9)), [poor]])
    share = 20 / np.mean([20, 120, 120, 120])
    assert seen[9].value_s == pytest.approx(20e-3 / ((9 * (1 + share) + share) / 19))


def test_one_visit_without_waiting_ends_the_doubt() -> None:
    """Two visits waited and one did not: the rate of that one counts, and those of its class."""
    cases = [*([threaded(share) for share in (1.0, 0.5)] for _ in range(9)), [waiting(), threaded(0.75), waiting()]]
    seen = times(["a"] * len(cases), cases)[-1]
    assert 2e-5 / 0.75 < seen.value_s < 2e-5 / 0.25


def test_each_visit_s_blocks_last_as_long_as_its_own_calls() -> None:
    """Two undisturbed blocks of a single call say nothing, two of a thousand calls do, whichever visit was made first."""
    few = Timing((2e-5,) * 2 + (4e-5,) * 2, switches=(0, 0, 1, 1), cpu_s=8e-5)
    many = msgspec.structs.replace(few, block_calls=1000, cpu_s=8e-2)
    first, second = (times(["a"] * 10, [*alike(), pair])[9] for pair in ([few, many], [many, few]))
    assert first == second
    assert first != own([*alike(), [few, many]], ["a"] * 10)[9]


def test_classes_of_other_lengths_lend_their_shares() -> None:
    """Four decades that share 0.6 but for chance: together they know it better than each by itself."""
    decades, each = (-6, -5, -4, -3), 12
    together, alone = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        by_decade = [
            [[visit(float(np.clip(rng.normal(0.6, 0.2), 0.1, 1.0)), 2 * 10.0**decade) for _ in range(2)] for _ in range(each)]
            for decade in decades
        ]
        seen = times(["a"] * each * len(decades), [case for cases in by_decade for case in cases])
        for number, (decade, cases) in enumerate(zip(decades, by_decade, strict=True)):
            lent = seen[number * each : (number + 1) * each]
            for errors, latencies_seen in ((together, lent), (alone, times(["a"] * each, cases))):
                errors.append(np.mean([2 * 10.0**decade / known.value_s for known in latencies_seen]) - 0.6)
    assert np.std(together) < 0.85 * np.std(alone)


def test_a_visit_without_undisturbed_blocks_borrows_those_of_the_others() -> None:
    """Every block of it is disturbed and takes three times as long: a share of 1/3, by the undisturbed time of the others."""
    stalled = Timing((6e-5,) * 20, switches=(1,) * 20, cpu_s=20 * 2e-5)
    cases = [[visit(1.0), visit(1.0), stalled] if number % 2 else [visit(1.0)] * 3 for number in range(16)]
    seen = times(["a"] * 16, cases)
    # Shares are 1 and 7/9; the variance between visits explains all of it but what the slope leaves.
    visits = 8 * (2 * (2 / 9) ** 2 + (4 / 9) ** 2) / 32
    between = 16 * (1 / 9) ** 2 / 15 - visits / 3
    assert between < 0
    assert [s.value_s for s in seen] == pytest.approx([2e-5 / (8 / 9)] * 16)


def test_a_case_without_samples_has_no_latency() -> None:
    """Visits without samples do not count either."""
    assert times(["a", "a"], [[], [Timing(())]]) == [None, None]


# machines whose truth is known

BLOCKS = 40
Draw = Callable[[np.random.Generator, float], np.ndarray]


def disturbed(rng: np.random.Generator, call_s: float, share: float) -> Timing:
    """A visit at this share of its speed: half of its blocks are disturbed, by random parts."""
    samples, switches = call_s * np.exp(0.02 * rng.standard_normal(BLOCKS)), np.zeros(BLOCKS, dtype=int)
    places = rng.choice(BLOCKS, BLOCKS // 2, replace=False)
    samples[places] += max(BLOCKS * call_s / share - samples.sum(), 0.0) * rng.dirichlet(np.full(places.size, 0.5))
    switches[places] = 1
    return Timing(tuple(samples.tolist()), switches=tuple(switches.tolist()), cpu_s=BLOCKS * call_s)


def beta(rng: np.random.Generator, mean: float, deviation: float) -> float:
    weight = mean * (1 - mean) / deviation**2 - 1
    return float(rng.beta(mean * weight, (1 - mean) * weight))


def quiet(rng: np.random.Generator, shift: float) -> Timing:
    """A visit that the clock shifts as a whole."""
    samples = 2e-5 * math.exp(shift) * np.exp(0.005 * rng.standard_normal(BLOCKS))
    return Timing(tuple(samples.tolist()), switches=(0,) * BLOCKS, cpu_s=BLOCKS * 2e-5)


def shared_machine(
    rng: np.random.Generator, visits: int, count: int, share_of: Callable[[], float], deviation: float
) -> tuple[list[Case], list[float]]:
    """Cases whose visits have shares around each case's own, and their true times: one over the mean rate."""
    cases, truths = [], []
    for _ in range(count):
        call_s, share = 10 ** rng.uniform(-4.9, -4.1), share_of()
        shifts = np.exp(0.01 * rng.standard_normal(visits))
        cases.append([disturbed(rng, call_s * shift, beta(rng, share, deviation)) for shift in shifts])
        truths.append(call_s / share)
    return cases, truths


def alike_machine(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    return shared_machine(rng, visits, count, lambda: 0.8, 0.12)


def busy_machine(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    return shared_machine(rng, visits, count, lambda: 0.3, 0.12)


def machine_of_own_shares(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    return shared_machine(rng, visits, count, lambda: rng.uniform(0.3, 0.9), 0.05)


def stalling_machine(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    """One visit of ten runs at a tenth of its speed."""
    cases = [[disturbed(rng, 2e-5, 0.1 if rng.random() < 0.1 else 0.97) for _ in range(visits)] for _ in range(count)]
    return cases, [2e-5 / (0.1 * 0.1 + 0.9 * 0.97)] * count


def quiet_machine(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    """Whole visits are shifted by 3 %."""
    return [[quiet(rng, 0.03 * rng.standard_normal()) for _ in range(visits)] for _ in range(count)], [2e-5] * count


def quiet_machine_with_tails(rng: np.random.Generator, visits: int, count: int) -> tuple[list[Case], list[float]]:
    """By 3 %, with the tails of Student's t of three degrees of freedom."""
    shifts = 0.03 * rng.standard_t(3, (count, visits)) / math.sqrt(3)
    return [[quiet(rng, shift) for shift in of_case] for of_case in shifts.tolist()], [2e-5] * count


def judged(machine, visits: int, count: int = 30, runs: int = 16) -> tuple[float, float, float, float]:
    """Root mean square error with and without other cases, bias, and how many truths lie within 1.645 standard errors."""
    errors, alone, inside = [], [], []
    for run in range(runs):
        cases, truths = machine(np.random.default_rng([run, visits]), visits, count)
        groups = ["a"] * count
        for seen, by_itself, truth in zip(times(groups, cases), own(cases, groups), truths, strict=True):
            errors.append(math.log(seen.value_s / truth))
            alone.append(math.log(by_itself.value_s / truth))
            inside.append(abs(errors[-1]) <= NORMAL_90 * seen.relative_se)
    return (
        math.hypot(*errors) / len(errors) ** 0.5,
        math.hypot(*alone) / len(alone) ** 0.5,
        float(np.mean(errors)),
        float(np.mean(inside)),
    )


@pytest.mark.parametrize("visits", [2, 4])
@pytest.mark.parametrize("machine", [alike_machine, busy_machine, stalling_machine])
def test_where_shares_are_alike_few_visits_do(machine, visits: int) -> None:
    """The error falls to less than half, and the mean error is below 3 %."""
    error, alone, bias, inside = judged(machine, visits)
    assert error < 0.5 * alone
    assert abs(bias) < 0.03
    assert 0.8 <= inside <= 0.985


@pytest.mark.parametrize("visits", [2, 4])
@pytest.mark.parametrize("machine", [machine_of_own_shares, quiet_machine, quiet_machine_with_tails])
def test_where_other_cases_tell_nothing_they_do_no_harm(machine, visits: int) -> None:
    """Shares of each case's own, and whole visits that shift: within 5 % of the error that a case's own visits have."""
    error, alone, bias, inside = judged(machine, visits)
    assert error < 1.05 * alone
    assert abs(bias) < 0.02
    assert 0.8 <= inside <= 0.97


def test_the_lower_quartile_is_that_of_numpy_to_the_last_digit() -> None:
    """For every number of blocks, so that no time of a recorded run moves."""
    rng = np.random.default_rng(1)
    for count in range(1, 60):
        values = rng.lognormal(-9, 0.3, count)
        assert _lower_quartile(values) == np.quantile(values, 0.25)
