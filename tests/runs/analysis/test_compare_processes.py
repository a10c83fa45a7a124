"""Duels of simulated processes, each of which makes all its calls slower or faster by factors of its own."""

import math
import random

import msgspec
import pytest

from shmoo.harness.campaign.duel import PARTS
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.compare_verdict import FALSE_ALARM
from shmoo.runs.store.records import Measurement, Timing
from tests.runs.analysis.test_compare import case, in_memory

CASES = [case(m) for m in range(8)]
DUELS = 200


def duel(seed, *, placed=0.0, laid_out=0.0, odd=0.0, factor=1.0, slow_case=None, pairs=10, parts=PARTS):
    """The runs of a duel.

    Args:
        placed: standard deviation of what a process does to all cases; laid_out: of what it does to each; odd: of what it does to
            the first case besides.
        factor: of the new side, for all cases or for `slow_case` alone.
    """
    draw = random.Random(seed)
    sides = ([], [])
    for part in range(parts):
        processes = [
            [place + draw.gauss(0, laid_out) + (draw.gauss(0, odd) if number == 0 else 0.0) for number in range(len(CASES))]
            for place in (draw.gauss(0, placed), draw.gauss(0, placed))
        ]
        for visit in range(part * pairs // parts, (part + 1) * pairs // parts):
            for number, spec in enumerate(CASES):
                level = draw.gauss(0, 0.3)
                for side, process, slower in zip(sides, processes, (1.0, factor), strict=True):
                    slower = slower if slow_case in (None, number) else 1.0
                    call_s = 1e-3 * slower * math.exp(level + process[number] + draw.gauss(0, 0.02))
                    row = Measurement(spec, "ok", timing=Timing((call_s,)), visit=visit, process=part)
                    side.append(row)
    return tuple(in_memory(rows) for rows in sides)


def share_of_yes(question, **simulated):
    """Of two hundred duels."""
    answers = [compare_runs(*duel(seed, **simulated), paired=True).answer(question).answer for seed in range(DUELS)]
    return answers.count("yes") / DUELS


@pytest.mark.parametrize(
    "processes", [{"placed": 0.1}, {"laid_out": 0.1}, {"odd": 0.2}, {"placed": 0.05, "laid_out": 0.05}, {}], ids=str
)
def test_equal_sides_are_called_slower_no_more_often_than_stated(processes):
    """Wherever the difference of two processes lies: in all cases, in each, in one of them, or nowhere."""
    stated = 2 * FALSE_ALARM  # of any case, and of the mean
    assert share_of_yes("slower", **processes) <= stated


def test_a_duel_of_one_process_each_is_too_noisy_to_decide():
    """Nothing tells what two processes differ by, whether or not the rows say which process made them."""
    runs = duel(1, parts=1)
    unnamed = [in_memory([msgspec.structs.replace(line, process=None) for line in run.lines]) for run in runs]
    assert compare_runs(*runs, paired=True).answer("slower").answer == "too noisy"
    assert compare_runs(*unnamed, paired=True).answer("slower").answer == "too noisy"


def test_five_per_cent_over_the_suite_are_found():
    """Beside processes that differ by 2 % in each case and by 1 % as a whole."""
    found = [compare_runs(*duel(seed, placed=0.01, laid_out=0.02, factor=1.05), paired=True) for seed in range(20)]
    verdicts = [one.answer("slower") for one in found]
    assert [verdict.suite for verdict in verdicts].count("yes") >= 18
    assert sum(one.suite["time"].ratio.low < 1.05 < one.suite["time"].ratio.high for one in found) >= 15


def test_fifteen_per_cent_in_one_case_are_found():
    """And nothing else is."""
    found = [compare_runs(*duel(seed, laid_out=0.01, factor=1.15, slow_case=3), paired=True) for seed in range(20)]
    verdicts = [one.answer("slower") for one in found]
    assert [verdict.yes for verdict in verdicts].count((CASES[3].label,)) >= 18


def test_lines_of_an_older_version_count_as_one_pair_of_processes():
    """A duel that went on."""
    base, new = duel(1, placed=0.02)
    older = [
        in_memory([msgspec.structs.replace(line, process=None if line.process == 0 else line.process) for line in run.lines])
        for run in (base, new)
    ]
    assert compare_runs(*older, paired=True).cases == compare_runs(base, new, paired=True).cases


def test_a_stall_in_one_pair_of_a_process_is_left_out():
    """One of the four pairs that two processes share was ten times slower on one side."""

    def stalled(run, factor):
        return in_memory(
            msgspec.structs.replace(line, timing=Timing(tuple(factor * s for s in line.timing.samples_s)))
            if line.visit % 4 == 1
            else line
            for line in run.lines
        )

    base, new = duel(1, pairs=4 * PARTS)
    found = compare_runs(stalled(base, 10.0), new, paired=True)
    assert found.answer("faster").answer == found.answer("slower").answer == "no"
