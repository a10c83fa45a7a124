"""Runs and duels beside a simulated neighbour that slows two blocks of three while it works."""

import random

import msgspec
import pytest

from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.compare_noise import CASE_SD, PROCESS_SD
from shmoo.runs.analysis.compare_verdict import FALSE_ALARM
from shmoo.runs.store.records import Measurement, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.runs.analysis.test_compare import case, in_memory

CASES = [case(m) for m in range(8)]
SLOWER = 1.2


def lines(seed, factor=1.0, *, slow_case=None, visits=20, blocks=12, parts=None, told=True, busy=(0.1, 0.9), process=False):
    """Visits to the cases, in each of which the neighbour works for another part of the blocks and slows them differently.

    Args:
        factor: of all calls, or of those of `slow_case`.
        parts: pairs of processes of a duel.
        told: whether the cores were watched.
        busy: least and largest part of a visit that the neighbour works.
        process: whether the run has a process of its own, which makes all calls and each slower or faster.
    """
    draw = random.Random(seed)
    placed = draw.gauss(1, PROCESS_SD if process else 0.0)
    laid_out = [placed * draw.gauss(1, CASE_SD if process else 0.0) for _ in CASES]
    for visit in range(visits):
        for number, spec in enumerate(CASES):
            slower = factor if slow_case in (None, number) else 1.0
            level, share, neighbour = draw.gauss(1, 0.01), draw.uniform(*busy), draw.uniform(1.3, 3.0)
            slowdowns = tuple(round(neighbour if draw.random() < share else draw.uniform(1, 1.1), 2) for _ in range(blocks))
            samples = tuple(1e-3 * slower * level * laid_out[number] * max(s, 1.0) * draw.gauss(1, 0.02) for s in slowdowns)
            timing = Timing(samples, slowdowns if told else ())
            yield Measurement(spec, "ok", timing=timing, visit=visit, process=None if parts is None else visit * parts // visits)


def pair(seed, factor=1.0, **given):
    """A base run and a new one."""
    return in_memory(lines(2 * seed, **given)), in_memory(lines(2 * seed + 1, factor, **given))


@pytest.mark.parametrize(("paired", "parts"), [(False, None), (True, 10)], ids=["runs", "processes"])
def test_a_case_slower_by_a_fifth_is_found_beside_a_neighbour(paired, parts):
    """All samples together are too noisy to tell it; those of quiet moments are not."""
    given = {"slow_case": 3, "parts": parts}
    found = [compare_runs(*pair(seed, SLOWER, **given), paired=paired) for seed in range(20)]
    verdicts = [one.answer("slower") for one in found]
    assert [verdict.yes for verdict in verdicts].count((CASES[3].label,)) >= 18
    assert all(case.alone for one in found for case in one.cases)
    blind = [compare_runs(*pair(seed, SLOWER, told=False, **given), paired=paired).answer("slower").answer for seed in range(20)]
    assert blind.count("yes") <= 2


@pytest.mark.parametrize(("paired", "parts"), [(False, None), (True, 10)], ids=["runs", "processes"])
@pytest.mark.parametrize("visits", [4, 10])
def test_equal_sides_are_called_slower_no_more_often_than_stated(visits, paired, parts):
    """Beside a neighbour that leaves some visits no quiet moment at all."""
    answers = [
        compare_runs(*pair(seed, visits=visits, parts=parts, busy=(0.3, 1.0)), paired=paired).answer("slower").answer
        for seed in range(200)
    ]
    assert answers.count("yes") / len(answers) <= 2 * FALSE_ALARM


def test_equal_runs_of_two_processes_are_called_slower_no_more_often_than_stated():
    """Their times alone agree within each run far better than between the runs; 20 % more in one case are found."""
    answers = [compare_runs(*pair(seed, process=True)).answer("slower") for seed in range(200)]
    assert [verdict.answer for verdict in answers].count("yes") / len(answers) <= 2 * FALSE_ALARM
    slower = [compare_runs(*pair(seed, SLOWER, process=True, slow_case=3)).answer("slower").yes for seed in range(20)]
    assert slower.count((CASES[3].label,)) >= 18


def test_the_times_of_the_table_are_those_compared():
    """Prevailing times that moved the other way would contradict the ratio."""
    found = compare_runs(*pair(1, SLOWER)).cases
    assert all(c.compared_s[1] / c.compared_s[0] == pytest.approx(c.ratio.value) for c in found)
    assert all(c.compared_s[0] < c.a_s for c in found)


def test_cases_with_few_quiet_visits_on_a_side_are_compared_by_all_their_samples():
    """Fewer than half of the visits, in one of the runs."""
    watched, busy = list(lines(1)), list(lines(2))
    few = [
        msgspec.structs.replace(line, timing=msgspec.structs.replace(line.timing, slowdowns=(2.0,) * 12))
        if line.visit > 8
        else line
        for line in busy
    ]
    for paired in (False, True):
        found = compare_runs(in_memory(watched), in_memory(few), paired=paired).cases
        assert not any(c.alone for c in found)
        assert all(c.unequal != paired for c in found)
        assert all(c.alone for c in compare_runs(in_memory(watched), in_memory(busy), paired=paired).cases)


def test_a_neighbour_beside_one_run_only_is_no_change():
    """It slows every block of some cases in the new run: those are too noisy, and the others tell the geometric mean."""
    base, new = list(lines(1)), list(lines(2))
    slowed = [
        msgspec.structs.replace(line, timing=Timing(tuple(2 * s for s in line.timing.samples_s), (2.0,) * 12))
        if line.case in CASES[:3]
        else line
        for line in new
    ]
    found = compare_runs(in_memory(base), in_memory(slowed))
    verdict = found.answer("slower")
    assert (verdict.yes, set(verdict.noisy)) == ((), {spec.label for spec in CASES[:3]})
    assert verdict.suite == "no"
    assert {c.case.label for c in found.cases if c.unequal} == {spec.label for spec in CASES[:3]}
    throughout = [msgspec.structs.replace(line, timing=Timing(line.timing.samples_s, (2.0,) * 12)) for line in new]
    assert compare_runs(in_memory(base), in_memory(throughout)).answer("slower").suite == "too noisy"


def test_spreads_remain_those_of_the_prevailing_times():
    """What campaigns differ by includes their neighbours."""
    told, blind = (compare_runs(*pair(1, told=told)) for told in (True, False))
    assert (told.spreads, told.within_errors) == (blind.spreads, blind.within_errors)
    assert [c.a_s for c in sorted(told.cases, key=lambda c: c.case.label)] == [
        c.a_s for c in sorted(blind.cases, key=lambda c: c.case.label)
    ]


@pytest.mark.parametrize("paired", [False, True])
def test_runs_without_their_samples_compare_alike(tmp_path, paired):
    """To the last digit, also where quiet times were learned in the course of the run."""
    runs = pair(1, SLOWER)
    for name, run in zip("ab", runs, strict=True):
        with RunWriter(tmp_path / name, run.manifest) as writer:
            for line in run.lines:
                quiet = (1.1e-4 if line.visit < 5 else 1e-4,) * 2
                writer.append(msgspec.structs.replace(line, timing=msgspec.structs.replace(line.timing, quiet_s=quiet)))
    whole, slim = ([Run.open(tmp_path / name, *shared) for name in "ab"] for shared in ((), ({},)))
    assert compare_runs(*slim, paired=paired) == compare_runs(*whole, paired=paired)
    assert all(c.alone for c in compare_runs(*slim, paired=paired).cases)
