"""Warmth of a board, from 0 (idle) to 1 (under load for long).

A die under load warms within seconds, a warm one leaks more, and a power cap then leaves less for work: a board computes
faster right after a pause than under sustained load. Warmth follows load with one time constant, like the temperature of one body
(Newton's law of cooling).
"""

from __future__ import annotations

import numpy as np

WARM_UP_S = 20.0
"""Time constant. On a T4, products of more than 5 ms ran faster after little load than after much; 10 to 30 s describe these
measurements equally well (docs/model.md, "Tried")."""
CALLS, FASTEST = 25, 5
"""Repetitions of a call, and how many of them count: the fastest, which on a board that warms are the first. The tables and
models that the coefficients of GPUs come from were measured so (Lee et al., ASPLOS 2025)."""


def repeated(call_s: np.ndarray) -> np.ndarray:
    """Mean warmth during the measured repetitions, for calls of these seconds that start on a cool board."""
    return 1.0 - mean_decay(FASTEST * call_s)


def mean_decay(seconds: np.ndarray) -> np.ndarray:
    """Share of a difference in warmth that remains, averaged over periods of these lengths."""
    times = np.maximum(seconds / WARM_UP_S, 1e-9)
    return -np.expm1(-times) / times
