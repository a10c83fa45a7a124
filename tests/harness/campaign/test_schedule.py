"""The order of visits, with errors as visits give them."""

from collections import Counter

import pytest

from shmoo.harness.campaign.campaign import CampaignSettings
from shmoo.harness.campaign.schedule import Schedule
from shmoo.runs.store.records import CaseSpec, Measurement, Timing
from shmoo.runs.store.visits import merge_visits

STEADY, UNSTEADY = (1.0, 1.001), (1.0, 1.5)


def cases(operators, networks):
    named = [CaseSpec(workload=f"linear{i}", kind="operator") for i in range(operators)]
    return named + [CaseSpec(workload=f"net{i}", kind="network") for i in range(networks)]


def schedule_of(chosen, **changes):
    settings = {"visits": 2, "most_visits": 8, "precision": 0.02, "seed": 1, "shuffle": True} | changes
    return Schedule(chosen, CampaignSettings(**settings))


def visit(schedule, factors):
    """Visit the next case: its time alternates between the factors of its workload. Returns the case, `None` at the end."""
    case = schedule.next()
    if case is not None:
        pair = factors(case)
        seconds = 1e-3 * pair[schedule.visits_of(case) % 2]
        timing = Timing(samples_s=(seconds,) * 8, block_calls=1, warmup_calls=1, stop_reason="timeout")
        schedule.add(Measurement(case, "ok", timing=timing))
    return case


def test_every_case_is_visited_once_before_any_is_visited_twice():
    """20 cases: the first 20 visits are of 20 cases, and the next 22 have each once and each network once more."""
    schedule = schedule_of(cases(18, 2))
    first = Counter(visit(schedule, lambda case: STEADY).workload for _ in range(20))
    assert set(first.values()) == {1}
    second = Counter(visit(schedule, lambda case: STEADY).workload for _ in range(22))
    assert {count for workload, count in second.items() if workload.startswith("net")} == {2}
    assert {count for workload, count in second.items() if workload.startswith("linear")} == {1}


def test_cases_that_are_hardly_known_come_before_second_visits():
    """Threads of ten of forty cases only waited for each other on their first visit, so these are visited again at once."""
    unlucky = {f"linear{i}" for i in range(10)}
    schedule = schedule_of(cases(40, 0))

    def take():
        case = schedule.next()
        waits = case.workload in unlucky and not schedule.visits_of(case)
        wall_s, on_core = (8e-3, 0.5) if waits else (1e-5, 1.0)
        cpu_s = 8 * wall_s * 2 * on_core
        timing = Timing((wall_s,) * 8, switches=(2 * waits,) * 8, cpu_s=cpu_s, on_core_s=(wall_s * on_core,) * 8)
        schedule.add(Measurement(case, "ok", timing=timing))
        return case.workload

    assert len({take() for _ in range(40)}) == 40
    assert {take() for _ in range(10)} == unlucky
    assert {take() for _ in range(30)} == {f"linear{i}" for i in range(10, 40)}


def test_steady_cases_need_their_visits_only():
    """Errors of 0.1 %: the schedule ends after two rounds."""
    schedule = schedule_of(cases(18, 2))
    for _ in range(20 + 22):
        assert visit(schedule, lambda case: STEADY) is not None
    assert visit(schedule, lambda case: STEADY) is None


def test_later_rounds_go_to_the_worst_tenth_and_to_noisy_networks():
    """Of 30 operators two are unsteady, and so is one of two networks, which had a visit with each tenth of the second visits and
    goes on with one in each round."""

    def factors(case):
        return UNSTEADY if case.workload in ("linear3", "linear4", "net0") else STEADY

    schedule = schedule_of(cases(30, 2), precision=0.001)
    first_two = Counter(visit(schedule, factors).workload for _ in range(32 + 30 + 8 + 2))
    assert (first_two["net0"], first_two["net1"]) == (1 + 8, 3)
    assert Counter(visit(schedule, factors).workload for _ in range(3)) == {"linear3": 1, "linear4": 1, "net0": 1}


def test_a_round_is_a_tenth_of_the_cases():
    """40 operators that never settle: the third round has the four that differ most."""
    spreads = {f"linear{i}": (1.0, 1.1 + 0.01 * i) for i in range(40)}
    schedule = schedule_of(cases(40, 0))
    for _ in range(80):
        visit(schedule, lambda case: spreads[case.workload])
    assert {visit(schedule, lambda case: spreads[case.workload]).workload for _ in range(4)} == {
        f"linear{i}" for i in range(36, 40)
    }


@pytest.mark.parametrize(("most_visits", "network", "operator"), [(2, 2, 2), (3, 18, 3)])
def test_visits_have_a_limit(most_visits, network, operator):
    """Cases that never settle: operators stop at `most_visits`, networks at six times as many where more visits than those to
    every case are wanted."""
    schedule = schedule_of(cases(1, 1), most_visits=most_visits)
    seen = Counter()
    while (case := visit(schedule, lambda case: UNSTEADY)) is not None:
        seen[case.kind] += 1
    assert seen["operator"] == operator
    assert seen["network"] == network


@pytest.mark.parametrize(("factors", "compiled_first"), [(STEADY, 7), (UNSTEADY, 5)])
def test_compiling_takes_a_share_of_the_time_left(factors, compiled_first):
    """Ten cases of ten seconds each to compile, 100 s left: first visits to them end once they took more than 60 s, or 45 s where
    visits are known badly. Then the others have their second visits, and what waits comes last; nothing is lost."""
    compiled = [CaseSpec(f"net{i}", "operator", runtime="inductor") for i in range(10)]
    chosen = [*cases(18, 0), *compiled]
    schedule = schedule_of(chosen, shuffle=False, precision=0.001, most_visits=2)
    order, left_s = [], 100.0
    while (case := schedule.next(left_s)) is not None:
        order.append(case)
        compiles = case.runtime != "eager" and schedule.visits_of(case) == 0
        seconds = 1e-3 * factors[len(order) % 2]
        left_s -= 10.0 if compiles else 0.0
        timing = Timing(samples_s=(seconds,) * 4 + (seconds * factors[1],) * 4)
        schedule.add(Measurement(case, "ok", timing=timing), 10.0 if compiles else 0.0)
    first = next(i for i, case in enumerate(order) if case in order[:i])
    assert first == 18 + compiled_first
    counts = Counter(case.workload for case in order)
    assert set(counts.values()) == {2}
    assert len(counts) == len(chosen)


def test_compiling_ahead_counts_as_time_for_compiling():
    """Ten cases to compile, 100 s left, of which 60 may go into that: six that were compiled in 61 s are visited first, and the
    others wait until the rest has had its visits; then each is compiled by its visit."""
    compiled = [CaseSpec(f"net{i}", "operator", runtime="inductor") for i in range(10)]
    schedule = schedule_of([*cases(4, 0), *compiled], shuffle=False, precision=0.001, most_visits=2)

    def take():
        case = schedule.next(100.0)
        waiting.append(schedule.uncompiled(case))
        schedule.add(Measurement(case, "ok", timing=Timing((1e-3,) * 8)), 0.1)
        return case.workload

    names = [case.workload for case in compiled]
    waiting = []
    first = [take() for _ in range(4)]
    assert waiting == [[]] * 4
    case = schedule.next(100.0)
    assert schedule.uncompiled(case) == compiled
    assert schedule.compiling_left_s() == pytest.approx(60.0)
    schedule.add_compiled(compiled[:6], 61.0)
    schedule.add(Measurement(case, "ok", timing=Timing((1e-3,) * 8)), 0.1)
    assert [take() for _ in range(5)] == names[1:6]
    assert {take() for _ in range(10)} == {*first, *names[:6]}
    waiting.clear()
    assert {take() for _ in range(4)} == set(names[6:])
    assert waiting == [[]] * 4


def test_the_count_of_a_campaign_is_that_of_its_run():
    """Visits to some cases move the standard errors of others, whose status was found before: judged together at the end, the
    count is that of a reader of the run."""
    chosen = cases(24, 0)
    schedule = schedule_of(chosen, shuffle=False, most_visits=2)
    lines = []
    for number, case in enumerate([*chosen, *chosen]):
        # The later half of the second visits differs from the first by a quarter.
        seconds = 1e-3 * (1.25 if number >= 36 else 1.0)
        line = Measurement(case, "ok", timing=Timing((seconds,) * 8), visit=number // 24)
        schedule.add(line)
        lines.append(line)
    found = Counter(row.status for row in merge_visits(lines))
    before = schedule.counts()
    schedule.judge()
    assert schedule.counts() == {status: found[status] for status in ("ok", "noisy", "suspect", "failed")}
    assert schedule.counts() != before
