"""How far off the fitted model is, per algorithm and per graph: the spread behind every interval.

The 90 % point of |log error| on cases the fit did not see, over 1.645, is the standard deviation of a normal law with the same
90 % interval (split conformal prediction with log residuals: Vovk, Gammerman and Shafer, 2005; Lei et al., 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shmoo.calibrate.dataset import Block
from shmoo.estimators.coefficients import ALGORITHMS, algorithm_codes
from shmoo.estimators.profile import Coefficient

MIN_VALIDATION = 10
"""Below this many validation cases of its own an algorithm takes the spread of all validation cases together: residuals of the
fit itself are too small wherever a coefficient has few cases."""
FIT_WIDENING = 1.3
"""Graphs share nearly all of their coefficients with the operators, so their residuals in the fit are little too small; with this
factor they stand beside the few that were held out."""
FLOOR = 0.02
"""No spread is below 2 %: repeat measurements themselves differ by that."""


def spreads(blocks: Sequence[Block], residuals: np.ndarray, family: str, reference: str) -> dict[str, Coefficient]:
    """`sigma.<algorithm>` and `sigma.graph` from residuals; an algorithm without cases keeps what it falls back to.

    Args:
        blocks: cases of the fit and validation splits.
        residuals: (S,) log(predicted / measured) of all of them, in order.
        family: architecture family, which decides the algorithms.
        reference: what the coefficients' `reference` field says.
    """
    algorithm = np.concatenate([_dominant(block, family) for block in blocks])
    several = np.concatenate([np.bincount(b.table.segment, minlength=b.table.segments) > 1 for b in blocks])
    validation = np.concatenate([block.splits for block in blocks]) == "validation"
    found: dict[str, Coefficient] = {}

    def note(name: str, errors: np.ndarray, whose: str) -> None:
        sigma = max(_quantile(np.abs(errors)) / 1.645, FLOOR)
        found[name] = Coefficient(sigma, "1", "fitted", f"{reference}; 90 % point over {len(errors)} {whose}")

    for code, name in enumerate(ALGORITHMS):
        here = (algorithm == code) & ~several
        own = residuals[here & validation]
        if len(own) >= MIN_VALIDATION:
            note(f"sigma.{name}", own, "held-out cases of its own")
        elif here.any():
            held_out = residuals[validation]
            note(f"sigma.{name}", held_out if len(held_out) else residuals, "held-out cases of all algorithms")
    if several.any():
        widened = np.where(validation, residuals, FIT_WIDENING * residuals)[several]
        note("sigma.graph", widened, "graphs, those of the fit widened")
    return found


def _dominant(block: Block, family: str) -> np.ndarray:
    """(S,) the algorithm of the kernel with the most work in each case."""
    table = block.table
    codes = algorithm_codes(table, family)
    order = np.lexsort((table.bytes, table.matrix_flops, table.segment))
    last = np.flatnonzero(np.diff(table.segment[order], append=table.segments))
    return codes[order[last]]


def _quantile(errors: np.ndarray) -> float:
    """The conformal 90 % point: the ceil(0.9 (n + 1))-th smallest error, the largest when there are too few."""
    rank = min(math.ceil(0.9 * (len(errors) + 1)), len(errors))
    return float(np.sort(errors)[rank - 1])
