"""How warm a board is, from 0 (idle) to 1 (under load for long).

A die that works warms within seconds, a warm one leaks more, and at a power cap that leaves less for work: a board computes
faster right after a pause than under sustained load. Warmth follows load with one time constant, as the temperature of one body
does (Newton's law of cooling).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WARM_UP_S = 20.0
"""Time constant. On a T4, products of more than 5 ms that were measured after little load ran faster than those after much; 10 to
30 s describe them equally well (docs/model.md, "Tried")."""
CALLS, FASTEST = 25, 5
"""How often a call is repeated, and how many of these count: the fastest, which on a board that warms are the first. So were the
tables and models measured that coefficients of GPUs come from (Lee et al., ASPLOS 2025)."""
PAUSE_S = 0.03
"""Between one operator of a campaign and the next: an engineering value, for allocation and set-up."""


def repeated(call_s: np.ndarray) -> np.ndarray:
    """Warmth while calls of so many seconds each are measured that start on a cool board: its mean over those that count."""
    return 1.0 - _left(FASTEST * call_s)


def in_turn(call_s: Sequence[float]) -> np.ndarray:
    """(S,) warmth while each of S operators was measured, one after another, from a cool board on.

    Args:
        call_s: seconds of one call of each. The shortest is all launch: it loads the device with nothing.
    """
    seconds = np.asarray(call_s)
    load = 1.0 - seconds.min() / seconds
    left, cooled = _left(FASTEST * seconds), np.exp(-PAUSE_S / WARM_UP_S)
    after = np.exp(-CALLS * seconds / WARM_UP_S)
    found, warm = np.empty(len(seconds)), 0.0
    for i, towards in enumerate(load):
        found[i] = towards + (warm - towards) * left[i]
        warm = (towards + (warm - towards) * after[i]) * cooled
    return found


def _left(seconds: np.ndarray) -> np.ndarray:
    """Mean over so many seconds of what is left of a difference in warmth."""
    times = np.maximum(seconds / WARM_UP_S, 1e-9)
    return -np.expm1(-times) / times
