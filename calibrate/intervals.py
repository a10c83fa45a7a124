"""How far off the fitted model is, per algorithm and per graph: the spread behind every interval.

Split conformal prediction on log errors (Vovk, Gammerman and Shafer, 2005; Lei et al., 2018): the 90 % point of what held-out
cases were off by, over 1.645, is the standard deviation of a normal law with the same 90 % interval. What the ranges of unfitted
coefficients already add to an interval is taken off first, in squares, so that nothing counts twice.

Held out are the validation split, and each case of the fit by the error of a fit without it (`fit.py`), so that an algorithm with
some dozens of cases has a spread of its own; with fewer it leans on its family's and on that of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shmoo.calibrate.dataset import Block
from shmoo.calibrate.held_out import case_intervals
from shmoo.estimators.catalogue import ALGORITHMS, FAMILY_OF, without_spreads
from shmoo.estimators.coefficients import MANY_KERNELS, algorithm_codes
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import NORMAL_90, Coefficient

COVERAGE = 0.9
BORROWED = 10
"""Cases that an algorithm's spread counts its family's for, and a family's that of all: few of its own say little of their 90 %
point. Chosen on one campaign of a CPU and confirmed on two (`docs/calibration.md`)."""
ONE_SIGMA = 0.6827
"""Share of a normal law within one standard deviation."""
MIN_LONG = 8
"""Fewer graphs of many kernels than this say nothing."""
SURELY = 50
"""Fewer graphs of many kernels than this are taken for draws of a normal law, whose spread is their 68 % point: their 90 % point
would be one or two cases that were disturbed."""
FLOOR = 0.02
"""No spread is below 2 %: repeat measurements themselves differ by that."""


def spreads(
    blocks: Sequence[Block], errors: np.ndarray, reach: np.ndarray, profile: ArchitectureProfile, reference: str
) -> dict[str, Coefficient]:
    """`sigma.<algorithm>`, `sigma.graph` and `sigma.graph.many`; an algorithm without cases keeps what it falls back to.

    Args:
        blocks: the cases.
        errors: (S,) log(predicted / measured) of all of them in order, as held out; NaN for cases not to count.
        reach: (S, 2) how far the intervals reach below and above the estimates without any spread, as positive logarithms.
        profile: the machine, which decides the algorithms.
        reference: what the coefficients' `reference` field says.
    """
    algorithm = np.concatenate([_dominant(block, profile) for block in blocks])
    kernels = np.concatenate([block.table.counts for block in blocks])
    several = kernels > 1
    counted = np.isfinite(errors)
    # An estimate above the measurement needs an interval that reaches down.
    reached = np.where(errors > 0, reach[:, 0], reach[:, 1])
    needed = np.sqrt(np.clip(errors**2 - reached**2, 0.0, None)) / NORMAL_90
    coefficients: dict[str, Coefficient] = {}

    def note(name: str, sigma: float, count: int, whose: str) -> None:
        coefficients[name] = Coefficient(
            max(sigma, FLOOR), "1", "fitted", f"{reference}; 90 % point over {count} held-out {whose}"
        )

    alone = counted & ~several
    long = counted & (kernels >= MANY_KERNELS)
    family_of = np.asarray([ALGORITHMS.index(FAMILY_OF.get(name, name)) for name in ALGORITHMS])
    for code in np.unique(algorithm[alone]):
        own, kin = alone & (algorithm == code), alone & (family_of[algorithm] == family_of[code])
        sigma = _shrunk(needed[own], _shrunk(needed[kin], conformal_point(needed[alone])))
        note(f"sigma.{ALGORITHMS[code]}", sigma, int(own.sum()), f"cases of its own, its family's counting for {BORROWED}")
    if (counted & several).any():
        note("sigma.graph", conformal_point(needed[counted & several]), int((counted & several).sum()), "graphs")
    if long.sum() >= SURELY:
        note("sigma.graph.many", conformal_point(needed[long]), int(long.sum()), f"graphs of at least {MANY_KERNELS} kernels")
    elif long.sum() >= MIN_LONG:
        sigma = max(float(np.quantile(np.abs(errors[long]), ONE_SIGMA)), FLOOR)
        why = f"{reference}; 68 % point over {int(long.sum())} held-out graphs of at least {MANY_KERNELS} kernels"
        coefficients["sigma.graph.many"] = Coefficient(sigma, "1", "fitted", why)
    return coefficients


def _shrunk(own: np.ndarray, wider: float) -> float:
    """The 90 % point of n errors, averaged in squares with that of a wider group, which counts for `BORROWED` cases: partial
    pooling, as of coefficients."""
    return math.sqrt((len(own) * conformal_point(own) ** 2 + BORROWED * wider**2) / (len(own) + BORROWED))


def reach_of_ranges(blocks: Sequence[Block], profile: ArchitectureProfile) -> np.ndarray:
    """(S, 2) how far intervals reach below and above the estimates by what was not fitted alone, as logarithms."""
    sharp = profile.replacing(coefficients=without_spreads(profile.coefficients), residual=())
    estimated, low, high = np.concatenate([case_intervals(block, sharp) for block in blocks]).T
    return np.log(np.stack([estimated / low, high / estimated], axis=1))


def _dominant(block: Block, profile: ArchitectureProfile) -> np.ndarray:
    """(S,) the algorithm of the kernel with the most work in each case."""
    table = block.table
    codes = algorithm_codes(table, profile)
    order = np.lexsort((table.bytes, table.matrix_flops, table.segment))
    last = np.flatnonzero(np.diff(table.segment[order], append=table.segments))
    return codes[order[last]]


def conformal_point(errors: np.ndarray) -> float:
    """The 90 % point of n held-out errors: the ceil(0.9 (n + 1))-th smallest, the largest when there are too few."""
    rank = min(math.ceil(COVERAGE * (len(errors) + 1)), len(errors))
    return float(np.sort(errors)[rank - 1])
