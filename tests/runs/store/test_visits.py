"""Visits to a case merged into one row, and what they say a call takes, checked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shmoo.estimators.errors import FormatError, NothingMeasuredError
from shmoo.estimators.graph.records import NORMAL_90
from shmoo.runs.store.records import CaseSpec, ChildTime, EnergyReading, Measurement, OperatorTime, Reason, Timing
from shmoo.runs.store.statistics import UNKNOWN, latency, latency_alone, normal_deviation, visit_deviations
from shmoo.runs.store.store import Run
from shmoo.runs.store.visits import NOISY, decode_row, merge_visits

NOISY_RUN = Path(__file__).parents[4] / "shared" / "reference" / "noisy_run"
CASE = CaseSpec("relu", "operator", {"m": 8})


def visit(number: int, *samples: float, case: CaseSpec = CASE, status: str = "ok", **fields) -> Measurement:
    return Measurement(case, status, timing=Timing(samples) if samples else None, visit=number, **fields)


def merged(*lines: Measurement) -> Measurement:
    (row,) = merge_visits(lines)
    return row


# what a call takes


def test_one_visit_is_the_median_of_its_samples() -> None:
    """One stalled block moves a mean and no median; four parts whose means are 1, 1, 1 and 2 drift by ln 2 / 4."""
    seen = latency([(1.0, 1.0, 1.0, 2.0)])
    assert (seen.value_s, seen.visits) == (1.0, 1)
    assert seen.relative_se == pytest.approx(math.log(2) / 2 / 2)  # the deviation of 0 0 0 ln 2 is ln 2 / 2, of four means


def test_one_visit_knows_no_less_than_visits_of_other_cases_spread_by() -> None:
    """Steady within its window, it may still have met a bad moment; a single sample beside nothing else is 10 % off."""
    assert latency([(1.0, 1.0, 1.0)], visit_sd=0.08).relative_se == 0.08
    assert latency([(1.0,)]).relative_se == UNKNOWN == 0.1
    assert latency([(1.0,)], visit_sd=0.08).relative_se == 0.08


def test_two_visits_average_their_rates() -> None:
    """1 s and 2 s a call are 1 and 0.5 calls a second, in the mean 0.75; the variance ln(2)^2 / 2 of one, halved, is theirs."""
    seen = latency([(1.0, 1.0), (2.0, 2.0)])
    assert seen.value_s == pytest.approx(1 / 0.75)
    assert seen.relative_se == pytest.approx(math.log(2) / 2)
    assert seen.visits == 2


def test_the_spread_of_other_cases_weighs_as_two_visits() -> None:
    """Three equal visits of a machine whose visits spread by 10 %: 2 of 4 degrees of freedom are that spread."""
    seen = latency([(1.0,)] * 3, visit_sd=0.1)
    assert seen.relative_se == pytest.approx(math.sqrt(2 * 0.1**2 / 4 / 3))


def test_a_visit_that_stalled_counts_for_the_time_it_takes() -> None:
    """Rates 1, 1, 1, 1 and 1/100: the machine did 4.01 calls in 5 s. That is neither the stall nor what is left without it."""
    assert latency([(1.0,)] * 4 + [(100.0,)]).value_s == pytest.approx(5 / 4.01)


def test_no_visit_is_an_error_and_not_a_zero() -> None:
    """A case that failed has no latency."""
    with pytest.raises(NothingMeasuredError):
        latency([])
    with pytest.raises(NothingMeasuredError):
        latency([()])


def test_standard_errors_are_true() -> None:
    """Of 2,000 cases with four visits 6 % apart, 90 % should have their true time inside the 90 % interval. Three points are
    lost, because the interval takes a standard error of five degrees of freedom for exact."""
    draw = np.random.default_rng(3)
    times = np.exp(0.06 * draw.standard_normal((2000, 4)))
    # The rate 1 has the true mean exp(0.06^2 / 2), which is off by less than 0.2 %.
    cases = [[(time,) for time in visits] for visits in times.tolist()]
    deviations = visit_deviations(["a"] * len(cases), cases)
    assert deviations[0] == pytest.approx(0.06, rel=0.1)
    seen = [latency(visits, deviation) for visits, deviation in zip(cases, deviations, strict=True)]
    assert 0.86 <= np.mean([abs(math.log(s.value_s)) <= NORMAL_90 * s.relative_se for s in seen]) <= 0.92


# the spread between visits


def test_the_spread_of_visits_needs_eight_cases_visited_twice() -> None:
    """Seven say nothing; cases with one visit do not count, and learn from the others."""
    twice, once = [(1.0,), (1.1,)], [(1.0,)]
    assert visit_deviations(["a"] * 16, [twice] * 7 + [once] * 9) == [None] * 16
    # Each of two visits is ln(1.1) / 2 from their mean, which is 1 / sqrt(2) of a standard deviation's residual.
    expected = math.log(1.1) / 2 * math.sqrt(2) / 0.6745
    assert visit_deviations(["a"] * 9, [twice] * 8 + [once]) == pytest.approx([expected] * 9)


def test_cases_learn_from_calls_that_last_as_long_and_from_no_other_group() -> None:
    """Calls of a second spread by 10 % and calls of a millisecond by 30 %; one of a microsecond goes by all of its group, and a
    network by none of them."""
    slow, fast = [(1.1,), (1.21,)], [(1.1e-3,), (1.43e-3,)]
    cases = [slow] * 8 + [fast] * 8 + [[(1.1e-6,)], slow]
    deviations = visit_deviations(["operator"] * 17 + ["network"], cases)
    # Their residuals are sqrt(1 / 2) of the distance of two visits, over that of a normal law's median.
    one, other = (math.log(ratio) * math.sqrt(0.5) / 0.6745 for ratio in (1.1, 1.3))
    assert deviations[:16] == pytest.approx([one] * 8 + [other] * 8)
    assert deviations[16] == pytest.approx((one + other) / 2)
    assert deviations[17] is None


def test_the_wider_of_two_quantiles_is_the_deviation() -> None:
    """Half of the distances at 0.6745 and the 90th percentile at 3.29, twice a normal law's: the tail decides."""
    distances = np.concatenate([np.full(80, 0.6745), np.full(20, 2 * NORMAL_90)])
    assert normal_deviation(distances) == pytest.approx(2.0)
    assert normal_deviation(np.full(100, 0.6745)) == pytest.approx(1.0)


# what a call takes alone


def test_alone_is_the_median_over_quiet_blocks() -> None:
    """Five quiet blocks of each visit, beside blocks that met a neighbour and took twice as long."""
    one = ((1.0,) * 5 + (2.0,) * 5, (1.0,) * 5 + (1.9,) * 5, (0,) * 10)
    seen = latency_alone([one, one])
    assert seen is not None
    assert (seen.value_s, seen.relative_se, seen.visits) == (1.0, 0.0, 2)


def test_alone_needs_eight_quiet_blocks_of_two_visits() -> None:
    """Seven in two visits, or nine in one, say too little; so do blocks beside which no core was probed."""
    three, four, nine = (((1.0,) * n, (1.0,) * n, (0,) * n) for n in (3, 4, 9))
    assert latency_alone([three, four]) is None
    assert latency_alone([nine]) is None
    assert latency_alone([((1.0,) * 9, (), ())] * 2) is None
    assert latency_alone([four, four]) is not None


def test_a_block_whose_core_was_taken_away_was_not_alone() -> None:
    """A context switch within it; where the system does not tell, slowdowns decide."""
    taken = ((5.0,) * 8, (1.0,) * 8, (1,) * 8)
    quiet = ((1.0,) * 8, (1.0,) * 8, ())
    assert latency_alone([taken, quiet]) is None
    seen = latency_alone([taken, quiet, quiet])
    assert seen is not None
    assert seen.value_s == 1.0


def test_the_error_of_alone_comes_from_its_visits_where_they_differ() -> None:
    """Medians of 1 and 1.2 in two visits: ln(1.2) / sqrt(2) is their deviation, over sqrt(2)."""
    seen = latency_alone([((value,) * 8, (1.0,) * 8, ()) for value in (1.0, 1.2)])
    assert seen is not None
    within = 1.2533 * math.log(1.2) / (2 * 0.6745) / math.sqrt(16)
    assert seen.relative_se == pytest.approx(max(math.log(1.2) / 2, within))


# merging


def test_visits_of_a_case_become_one_row() -> None:
    """Samples of all, visits apart, and what only the first knows: its graph, first call and operators."""
    first = Timing((1.0, 1.0), slowdowns=(1.0, 1.1), switches=(0, 1), warmup_calls=3, first_call_s=9.0, stop_reason="timeout")
    second = Timing((1.02,), slowdowns=(1.2,), switches=(2,), warmup_calls=4, stop_reason="precision")
    operators = (OperatorTime("aten.relu", (0,), 1.0),)
    row = merged(
        Measurement(CASE, "ok", graph_hashes=("g",), timing=first, operators=operators, peak_memory_bytes=64.0),
        Measurement(CASE, "ok", timing=second, visit=1),
    )
    assert row.visits == (first, second)
    assert row.timing is not None
    assert row.timing.samples_s == (1.0, 1.0, 1.02)
    assert (row.timing.slowdowns, row.timing.switches) == ((1.0, 1.1, 1.2), (0, 1, 2))
    assert (row.timing.warmup_calls, row.timing.first_call_s, row.timing.stop_reason) == (7, 9.0, "precision")
    assert (row.graph_hashes, row.operators, row.peak_memory_bytes) == (("g",), operators, 64.0)
    assert row.estimable


def test_rows_stand_in_the_order_of_first_visits() -> None:
    """Each case once, however the visits are mixed."""
    others = [CaseSpec("relu", "operator", {"m": m}) for m in range(3)]
    lines = [visit(n, 1.0, case=case) for n in range(2) for case in (others if n == 0 else others[::-1])]
    assert [row.case for row in merge_visits(lines)] == others


def test_noise_beside_visits_is_no_remark_of_the_row() -> None:
    """What went on beside each visit is in the standard error; a remark on the case stays, once."""
    row = merged(
        visit(0, 1.0, status="noisy", reasons=(Reason("steal", "20 %"), Reason("not captured", "a loop"))),
        visit(1, 1.0, status="noisy", reasons=(Reason("slow core", "0"), Reason("not captured", "a loop"))),
    )
    assert (row.status, row.why) == ("ok", "not captured: a loop")


def test_a_row_is_noisy_by_its_standard_error() -> None:
    """ln(1.08) / 2 is below the limit of 5 %, ln(1.3) / 2 above, and its reason says so with numbers."""
    assert merged(visit(0, 1.0), visit(1, 1.08)).status == "ok"
    row = merged(visit(0, 1.0), visit(1, 1.3))
    assert (row.status, row.timed) == ("noisy", True)
    assert row.latency.relative_se == pytest.approx(math.log(1.3) / 2)
    assert row.why == f"noisy: standard error 13% over 2 visits (limit {NOISY:.0%})"


def test_rows_know_the_spread_of_cases_like_them() -> None:
    """Eight operators visited twice tell what a lone visit to a ninth is worth, and one to a network; a case on a GPU learns
    nothing from them."""
    cases = [CaseSpec("relu", "operator", {"m": m}) for m in range(9)]
    lines = [visit(n, 1.0 + 0.1 * n, case=case) for case in cases[:8] for n in (0, 1)]
    others = [CaseSpec("net", "network"), CaseSpec("net", "network", device="cuda")]
    lines += [visit(0, 1.0, case=case) for case in (cases[8], *others)]
    *_, lone, network, on_gpu = merge_visits(lines)
    assert lone.visit_sd == pytest.approx(math.log(1.1) / 2 * math.sqrt(2) / 0.6745)
    assert (lone.status, lone.latency.relative_se) == ("noisy", lone.visit_sd)
    assert network.visit_sd == lone.visit_sd
    assert (on_gpu.visit_sd, on_gpu.latency.relative_se) == (None, UNKNOWN)


def test_rows_weigh_their_visits_with_those_of_like_cases() -> None:
    """Nine cases whose visits were undisturbed or had half of their speed by chance: merged rows hold what all of them say."""
    undisturbed = Timing((2e-5,) * 10, switches=(0,) * 10)
    halved = Timing((2e-5,) * 5 + (6e-5,) * 5, switches=(0,) * 5 + (1,) * 5)
    pairs = [(undisturbed, undisturbed), (halved, halved)] * 2 + [(undisturbed, halved)] * 5
    lines = [
        Measurement(CaseSpec("relu", "operator", {"m": m}), "ok", timing=timing, visit=number)
        for m, pair in enumerate(pairs)
        for number, timing in enumerate(pair)
    ]
    rows = merge_visits(lines)
    assert [row.latency.value_s for row in rows] == pytest.approx([2e-5 / 0.75] * 9)
    assert all(row.latency == row.prevailing for row in rows)
    assert rows[0].status == "noisy"


def test_slowdowns_go_by_the_least_quiet_time_of_the_run() -> None:
    """A worker that began beside a neighbour took 3 µs on the second core for quiet, where a later one met 1.5 µs. Its blocks
    were beside a core twice as slow, and are not alone; the first core was the same to both."""
    early = Timing((2.0,) * 8, slowdowns=(1.0,) * 7 + (1.1,), quiet_s=(1.5e-6, 3e-6))
    late = Timing((1.0,) * 8, slowdowns=(1.0,) * 8, quiet_s=(1.5e-6, 1.5e-6))
    lines = [Measurement(CASE, "ok", timing=timing, visit=number) for number, timing in enumerate((early, late, late))]
    row = merged(*lines)
    assert row.visits[0].slowdowns == (2.0,) * 7 + (2.2,)
    assert row.visits[1] == late
    assert {visit.quiet_s for visit in row.visits} == {(1.5e-6, 1.5e-6)}
    assert row.alone is not None
    assert row.alone.value_s == 1.0
    assert merged(row) == row


def test_visits_that_do_not_know_the_quiet_time_stay_as_they_are() -> None:
    """Lines of older versions, beside one that knows it."""
    old = Timing((2.0,) * 8, slowdowns=(1.0,) * 8)
    new = Timing((2.0,) * 8, slowdowns=(1.0,) * 8, quiet_s=(1e-6,))
    row = merged(*(Measurement(CASE, "ok", timing=timing, visit=number) for number, timing in enumerate((old, new))))
    assert row.visits == (old, new)


def test_suspect_and_failed_visits_are_left_out() -> None:
    """A throttled visit ten times slower moves nothing, and the row tells of it."""
    row = merged(
        visit(0, 1.0),
        visit(1, 10.0, status="suspect", reasons=(Reason("throttled", "3 events"),)),
        visit(2, status="failed", reasons=(Reason("worker", "it died"),)),
        visit(3, 1.0),
    )
    assert (row.status, row.latency.value_s, len(row.visits)) == ("ok", 1.0, 2)
    assert row.why == "visits left out: 2 of 4, failed: worker: it died"


def test_a_case_without_a_usable_visit_says_why() -> None:
    """Suspect where a visit was, so that its samples can be looked at; failed where all failed."""
    throttled = visit(1, 10.0, status="suspect", reasons=(Reason("throttled"),))
    died = visit(0, status="failed", reasons=(Reason("worker"),))
    assert (merged(died, throttled).status, merged(died, throttled).why) == ("suspect", "throttled")
    assert (merged(died).status, merged(died).timed) == ("failed", False)


def test_energy_is_merged_by_domain() -> None:
    """Three visits of 1, 2 and 4 J are 2 J over all windows; a domain that no visit read keeps its last reason."""

    def readings(energy: float, reason: str) -> tuple[EnergyReading, ...]:
        read = EnergyReading("package", energy, low_j=energy / 2, high_j=2 * energy, window_s=3.0, calls=10, trials_j=(energy,))
        return read, EnergyReading("dram", reason=reason)

    row = merged(*(visit(n, 1.0, energy=readings(energy, f"reason {n}")) for n, energy in enumerate((1.0, 2.0, 4.0))))
    package, dram = row.energy
    assert (package.energy_j, package.low_j, package.high_j) == (2.0, 1.0, 4.0)
    assert (package.window_s, package.calls, package.trials_j) == (9.0, 30, (1.0, 2.0, 4.0))
    assert (dram.energy_j, dram.reason) == (None, "reason 2")
    assert row.energy_reading == package
    alone = merged(*(visit(n, 1.0, energy=(EnergyReading("package", 1.0),)) for n in range(2)))
    assert alone.energy_reading is not None, "a window that no visit knows is unknown, and not zero seconds long"


def test_one_visit_with_energy_speaks_for_the_case() -> None:
    """Windows are long, so one visit has them and the others do not; an unread one does not hide it."""
    reading = EnergyReading("package", 1.0, low_j=0.9, high_j=1.1)
    unread = EnergyReading("package", reason="measured at another pace")
    row = merged(visit(0, 1.0), visit(1, 1.0, energy=(reading,)), visit(2, 1.0, energy=(unread,)))
    assert row.energy == (reading,)


# rows of older versions


def test_a_pass_of_format_1_is_a_visit() -> None:
    """Its reasons get a code, and a row that was only disturbed is noisy."""
    line = {
        "case": msgspec.to_builtins(CASE),
        "status": "suspect",
        "reasons": ["slow core: core 0 at 1/1.8: often", "steal"],
        "timing": {"samples_s": [1.0, 2.0]},
        "pass_index": 1,
        "format": 1,
    }
    row = decode_row(msgspec.json.encode(line), "here")
    assert (row.visit, row.status, row.format) == (1, "noisy", 2)
    assert row.reasons == (Reason("slow core", "core 0 at 1/1.8: often"), Reason("steal"))
    throttled = {**line, "reasons": ["steal: 20 %", "throttled: 3 events"]}
    assert decode_row(msgspec.json.encode(throttled), "here").status == "suspect"


@pytest.mark.parametrize("damage", [{"status": "fine"}, {"reasons": [1]}, {"timing": {"samples_s": ["a"]}}])
def test_a_damaged_row_of_format_1_says_where(damage: dict[str, object]) -> None:
    """As one of today does."""
    line = {"case": msgspec.to_builtins(CASE), "status": "ok", "format": 1, **damage}
    with pytest.raises(FormatError, match="row here of format 1"):
        decode_row(msgspec.json.encode(line), "here")


@pytest.mark.skipif(not NOISY_RUN.is_dir(), reason="the recorded run of a noisy machine is not here")
def test_a_run_that_a_noisy_machine_spoilt_is_usable() -> None:
    """All of its 109 rows were suspect in format 1: they open, are noisy, have a standard error and can be estimated."""
    run = Run.open(NOISY_RUN)
    assert len(run.lines) == len(run.rows) == 109
    assert {row.status for row in run.rows} == {"noisy"}
    assert all(row.estimable and row.latency.relative_se > 0 for row in run.rows)
    assert float(np.median([row.latency.relative_se for row in run.rows])) < 0.1


def test_a_lone_visit_beside_others_is_judged_by_what_visits_spread_by() -> None:
    """Visits to eight cases like it are 1 % apart, so that its time is known to about 1 % though another program ran beside it.
    Where no case was visited twice nobody knows, and it stays noisy."""
    cases = [CaseSpec("relu", "operator", {"m": m}) for m in range(9)]
    beside = visit(0, *(1.0,) * 8, case=cases[8], status="noisy", reasons=(Reason("disturbed", "45 %"), Reason("not captured")))
    lines = [visit(n, *(1.0 + 0.01 * n,) * 8, case=case) for case in cases[:8] for n in (0, 1)]
    row = merge_visits([*lines, beside])[-1]
    assert row.latency.relative_se < 0.02
    assert (row.status, row.reasons) == ("ok", (Reason("not captured"),))
    assert (merged(beside).status, merged(beside).visit_sd) == ("noisy", None)


@pytest.mark.parametrize(("factor", "said"), [(1.1055, "5.01% over 2 visits"), (1.108, "5.1% over"), (1.3, "13% over")])
def test_a_standard_error_above_the_limit_does_not_look_like_it(factor: float, said: str) -> None:
    """ln(1.1055) / 2 is 5.01 %, and 5 % over a limit of 5 % would say nothing."""
    assert f"standard error {said}" in merged(visit(0, 1.0), visit(1, factor)).why


LONE = Measurement(
    CaseSpec("linear", "operator", {"m": 8}),
    "noisy",
    (Reason("steal", "0.2"), Reason("not captured"), Reason("steal", "0.2")),
    ("0123456789abcdef",),
    Timing((1.0, 1.1, 1.2), block_calls=3, warmup_calls=2, stop_reason="plateau", first_call_s=2.0),
    (ChildTime(0, "aten.linear", 1.0, "profiler"),),
    (EnergyReading("package", 2.0, low_j=1.9, high_j=2.1, trials_j=(2.0,)), EnergyReading("dram", reason="no counter")),
    peak_memory_bytes=64.0,
    operators=(OperatorTime("aten.linear", (0,), 1.0),),
)


@pytest.mark.parametrize("changed", [{}, {"energy": ()}, {"reasons": ()}, {"energy": LONE.energy[:1] * 2}])
def test_a_lone_line_is_its_row(changed: dict[str, object]) -> None:
    """As beside a line that cannot be used, but for the remark on that: with its one visit, and each reason once."""
    line = msgspec.structs.replace(LONE, **changed)
    (row,) = merge_visits([line])
    (beside,) = merge_visits([line, msgspec.structs.replace(line, status="failed", reasons=(Reason("error"),), visit=1)])
    remarks = tuple(reason for reason in beside.reasons if reason.code != "visits left out")
    assert row == msgspec.structs.replace(beside, reasons=remarks)
    assert row.visits == (line.timing,)
