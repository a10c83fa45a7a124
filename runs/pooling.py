"""What a call takes on a machine whose cores others use too: what a case's few visits say, weighed with what all visits say.

    undisturbed time u   lower quartile of the blocks in which the system took no core away
    share r              u over the mean time of a visit: 1 where nothing disturbs, 0.3 where two threads wait for each other
    prevailing time      u / (shrunken share)

On a machine whose cores are shared, one visit may run undisturbed and the next at a hundredth of its speed, so that a few visits
to a case say little of its share. But calls that use the same number of threads and last about as long have the same share: on two
cores that others kept busy for 90 % of the time, shares of cases differed by no more than those of visits to one case (0.30 on two
threads and 0.85 on one, for calls below a millisecond). So a case's share is drawn towards that of its class as far as the run says
that the members of the class are alike (empirical Bayes: Efron and Morris, JASA 70, 1975).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from shmoo.runs.records import Timing
from shmoo.runs.statistics import FEW_CASES, MAD_OF_NORMAL, PRIOR_VISITS, Latency, latency, visit_deviations

UNDISTURBED_BLOCKS = 5
"""Fewer undisturbed blocks than this do not say what a call takes undisturbed."""
SEVERAL_THREADS = 1.5
"""CPU time over undisturbed wall time above which a call uses several threads."""


@dataclass(slots=True)
class _Case:
    """One case as a share of its undisturbed time.

    Attributes:
        undisturbed_s: what a call takes undisturbed; its relative standard error beside it.
        shares: (V,) of each visit.
    """

    undisturbed_s: float
    undisturbed_se: float
    shares: np.ndarray
    alike: Hashable


@dataclass(frozen=True, slots=True)
class _Class:
    """Shares of alike cases: mean, variance between visits to one case, variance between cases, standard error of the mean."""

    mean: float
    visits: float
    cases: float
    mean_se: float


def latencies(groups: Sequence[Hashable], cases: Sequence[Sequence[Timing]]) -> list[Latency | None]:
    """What a call of each case takes; `None` for a case without samples.

    Args:
        groups: what each case is of, such as its kind and device; only cases of one group are weighed together.
        cases: the usable visits to each case.
    """
    samples = [[visit.samples_s for visit in visits if visit.samples_s] for visits in cases]
    deviations = visit_deviations(groups, samples)
    shares = [_case(group, visits) for group, visits in zip(groups, cases, strict=True)]
    classes = _classes([case for case in shares if case is not None])
    results: list[Latency | None] = []
    for own, deviation, case in zip(samples, deviations, shares, strict=True):
        alone = latency(own, deviation) if own else None
        together = None if case is None or case.alike not in classes else _shrunken(case, classes[case.alike])
        results.append(together if together is not None and alone is not None and len(own) > 1 else alone)
    return results


def _case(group: Hashable, visits: Sequence[Timing]) -> _Case | None:
    """`None` where too few blocks ran undisturbed, or nobody knows which did."""
    timed = [visit for visit in visits if visit.samples_s]
    if len(timed) < 2 or any(len(visit.switches) != len(visit.samples_s) for visit in timed):
        return None
    quiet = [np.asarray(visit.samples_s)[np.asarray(visit.switches) == 0] for visit in timed]
    blocks = np.concatenate(quiet)
    if blocks.size < UNDISTURBED_BLOCKS:
        return None
    undisturbed = float(np.quantile(blocks, 0.25))
    by_visit = np.log([np.quantile(part, 0.25) for part in quiet if part.size >= UNDISTURBED_BLOCKS])
    spread = float(np.std(by_visit, ddof=1)) / math.sqrt(by_visit.size) if by_visit.size > 1 else 0.0
    threads = _threads(timed, undisturbed)
    return _Case(
        undisturbed,
        spread,
        np.asarray([undisturbed / float(np.mean(visit.samples_s)) for visit in timed]),
        (group, threads is not None and threads > SEVERAL_THREADS, math.floor(math.log10(undisturbed))),
    )


def _threads(visits: Sequence[Timing], undisturbed_s: float) -> float | None:
    """CPU time of a call over its undisturbed time, on the visit where least of it went into waiting."""
    known = [
        visit.cpu_s / (len(visit.samples_s) * visit.block_calls * undisturbed_s) for visit in visits if visit.cpu_s is not None
    ]
    return min(known, default=None)


def _classes(cases: Sequence[_Case]) -> dict[Hashable, _Class]:
    members: defaultdict[Hashable, list[_Case]] = defaultdict(list)
    for case in cases:
        members[case.alike].append(case)
    return {alike: _class(alike_cases) for alike, alike_cases in members.items() if len(alike_cases) >= FEW_CASES}


def _class(cases: Sequence[_Case]) -> _Class:
    means = np.asarray([case.shares.mean() for case in cases])
    counts = np.asarray([case.shares.size for case in cases])
    # Residuals around a mean of n are smaller than errors by sqrt((n - 1) / n).
    apart = [np.abs(case.shares - case.shares.mean()) * math.sqrt(case.shares.size / (case.shares.size - 1)) for case in cases]
    visits = (float(np.median(np.concatenate(apart))) / MAD_OF_NORMAL) ** 2
    spread = (float(np.median(np.abs(means - np.median(means)))) / MAD_OF_NORMAL) ** 2
    return _Class(
        mean=float(means.mean()),
        visits=visits,
        cases=max(spread - visits * float(np.mean(1.0 / counts)), 0.0),
        mean_se=float(np.std(means, ddof=1)) / math.sqrt(means.size),
    )


def _shrunken(case: _Case, alike: _Class) -> Latency:
    count = case.shares.size
    own = ((count - 1) * float(np.var(case.shares, ddof=1)) + PRIOR_VISITS * alike.visits) / (count - 1 + PRIOR_VISITS) / count
    weight = alike.cases / (alike.cases + own) if own > 0 else 1.0
    share = alike.mean + weight * (float(case.shares.mean()) - alike.mean)
    error = math.sqrt(weight * own + (1.0 - weight) ** 2 * alike.mean_se**2) / share
    return Latency(case.undisturbed_s / share, math.hypot(error, (1.0 - weight) * case.undisturbed_se), count)
