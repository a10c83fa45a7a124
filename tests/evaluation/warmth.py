"""Warmth of a board while the operators of a published table were measured, one after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.estimators.predict.energy import CALLS, FASTEST, WARM_UP_S, mean_decay

PAUSE_S = 0.03
"""Pause between two operators of a campaign: an engineering value, for allocation and set-up."""


def warmth_in_turn(call_s: Sequence[float]) -> np.ndarray:
    """(S,) warmth while each of S operators was measured, one after another, starting on a cool board.

    Args:
        call_s: seconds of one call of each. The shortest is all launch: it puts no load on the device.
    """
    seconds = np.asarray(call_s)
    load = 1.0 - seconds.min() / seconds
    remaining, cooled = mean_decay(FASTEST * seconds), np.exp(-PAUSE_S / WARM_UP_S)
    after = np.exp(-CALLS * seconds / WARM_UP_S)
    measured, warm = np.empty(len(seconds)), 0.0
    for i, target in enumerate(load):
        measured[i] = target + (warm - target) * remaining[i]
        warm = (target + (warm - target) * after[i]) * cooled
    return measured
