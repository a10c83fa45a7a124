"""How well predicted kernels agree with real ones: pairs of operators that share a kernel, and the number of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec

Pair = tuple[int, int]


class FusionScore(msgspec.Struct, frozen=True):
    """Agreement of two groupings of one graph's calls.

    Attributes:
        precision: share of the predicted pairs that are real; recall: share of the real pairs that are predicted.
        f1: harmonic mean of both. All three are 1 where neither grouping has a pair.
        predicted_kernels, real_kernels: kernels of each.
    """

    precision: float
    recall: float
    f1: float
    predicted_kernels: int
    real_kernels: int


def shared_pairs(groups: Iterable[Sequence[int]]) -> set[Pair]:
    """Pairs of calls that share at least one kernel. A call alone in its kernel makes none; one that is computed in several
    kernels pairs with the calls of each."""
    return {pair for group in groups for pair in combinations(sorted(set(group)), 2)}


def fusion_score(predicted: Sequence[Sequence[int]], real: Sequence[Sequence[int]]) -> FusionScore:
    """Score predicted groups of calls against real ones.

    Example:
        >>> fusion_score([(0,), (1, 2, 3)], [(0,), (1, 2), (3,)]).precision  # 1 of 3 pairs
        0.3333333333333333
    """
    guessed, true = shared_pairs(predicted), shared_pairs(real)
    both = len(guessed & true)
    precision = both / len(guessed) if guessed else float(not true)
    recall = both / len(true) if true else float(not guessed)
    f1 = 2 * precision * recall / (precision + recall) if both else float(not guessed and not true)
    return FusionScore(precision, recall, f1, len(predicted), len(real))
