"""Fronts of costs: which rows no other is better than in everything, and how much of the space they dominate. Less is better."""

from __future__ import annotations

import numpy as np


def pareto(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (P, J) costs that no other row dominates: none is at most as large in every column and smaller in one. Of equal
    rows the first stands for all.

    Returns:
        their places, ascending, and how many rows equal each.
    """
    if not len(costs):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    # Ascending in the first column, then in the others: only an earlier row can dominate a later one.
    distinct, first, counts = np.unique(costs, axis=0, return_index=True, return_counts=True)
    if distinct.shape[1] == 2:
        before = np.concatenate(([np.inf], np.minimum.accumulate(distinct[:, 1])[:-1]))
        kept = np.flatnonzero(distinct[:, 1] < before)
    else:
        kept = _undominated(distinct)
    order = np.argsort(first[kept])
    return first[kept][order], counts[kept][order]


def _undominated(rows: np.ndarray) -> np.ndarray:
    """Places of the rows, sorted and distinct, that no earlier row is at most as large as in every column."""
    left, kept = np.arange(len(rows)), []
    while len(left):
        kept.append(left[0])
        smaller = np.any(rows < rows[0], axis=1)
        left, rows = left[smaller], rows[smaller]
    return np.asarray(kept, dtype=int)


def relative_hypervolume(costs: np.ndarray, front: np.ndarray) -> float:
    """Share of the box between the best and the worst values in every column that the front dominates: 1 where one row is best
    in everything."""
    if not len(costs):
        return 0.0
    best, worst = costs.min(axis=0), costs.max(axis=0)
    span = worst - best
    if not np.any(span > 0):
        return 1.0
    rows = (costs[front][:, span > 0] - best[span > 0]) / span[span > 0]
    return hypervolume(rows, np.ones(rows.shape[1]))


def hypervolume(rows: np.ndarray, reference: np.ndarray) -> float:
    """Volume that is dominated by rows of costs, up to a reference point, by slices along the last column (Fonseca, Paquete and
    López-Ibáñez, CEC 2006, without their bookkeeping)."""
    rows = rows[np.all(rows < reference, axis=1)]
    if not len(rows):
        return 0.0
    if rows.shape[1] == 1:
        return float(reference[0] - rows[:, 0].min())
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    if rows.shape[1] == 2:
        lowest = np.minimum.accumulate(rows[:, 0])
        heights = np.diff(np.append(rows[:, 1], reference[1]))
        return float(np.sum((reference[0] - lowest) * heights))
    ends = np.append(rows[1:, -1], reference[-1])
    slices = (
        hypervolume(rows[: i + 1, :-1], reference[:-1]) * (end - row[-1])
        for i, (row, end) in enumerate(zip(rows, ends, strict=True))
        if end > row[-1]
    )
    return float(sum(slices))
