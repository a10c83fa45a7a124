"""The savings of fusion on a machine, and the agreement of predicted kernels with real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec

from shmoo.estimators.fusion.rules import fusion_groups
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import check_runtime
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import tabulate
from shmoo.estimators.units import html_table, percent, si

QUANTITIES = (("kernels", "kernels", ""), ("bytes", "bytes", "B"), ("latency_s", "time", "s"), ("energy_j", "energy", "J"))
"""Fields of `FusionTotals`, their names for people, and units."""


def amount(value: float | None, unit: str) -> str:
    """A value of one of `QUANTITIES` as text; kernel counts are whole numbers."""
    return f"{value:,}" if isinstance(value, int) else si(value, unit)


class FusionTotals(msgspec.Struct, frozen=True):
    """Totals of some graphs in one grouping. `energy_j` is `None` where the machine's profile has no energy coefficients."""

    kernels: int
    bytes: float
    latency_s: float
    energy_j: float | None


class FusionSavings(msgspec.Struct, frozen=True):
    """Totals without fusion (`alone`) and with it."""

    alone: FusionTotals
    fused: FusionTotals

    def saved(self, name: str) -> float | None:
        """Share of a total that fusion saves, such as 0.25; negative where fusion costs, `None` where a total is unknown."""
        unfused_total, fused_total = getattr(self.alone, name), getattr(self.fused, name)
        return None if unfused_total is None or fused_total is None or not unfused_total else 1 - fused_total / unfused_total

    def rows(self) -> list[list[str]]:
        """One row of text for each quantity: name, call by call, fused, saved."""
        return [
            [name, amount(getattr(self.alone, field), unit), amount(getattr(self.fused, field), unit), percent(self.saved(field))]
            for field, name, unit in QUANTITIES
        ]


class FusionSummary(msgspec.Struct, frozen=True):
    """A model fused as a runtime fuses it on an architecture. `groups` are operators that share a kernel ("batch_norm + relu")
    and how many such kernels there are, most frequent first; kernels of one operator are left out."""

    model: str
    arch: str
    runtime: str
    savings: FusionSavings
    groups: tuple[tuple[str, int], ...]

    def _repr_html_(self) -> str:
        """The savings and the groups as tables for notebooks."""
        title = f"{self.model} as {self.runtime} fuses it on {self.arch}"
        savings_table = html_table(["", "call by call", "fused", "saved"], self.savings.rows(), title)
        return savings_table + html_table(
            ["operators in one kernel", "kernels"], [[ops, str(count)] for ops, count in self.groups]
        )


def fusion_savings(
    director: AnalysisDirector, graphs: Sequence[Graph], runtime: str | None = None, *, compute_dtype: str | None = None
) -> FusionSavings:
    """Estimate graphs twice with the same overheads per kernel: call by call, and as `runtime` fuses them; arguments and errors
    as of `AnalysisDirector.estimate`."""
    chosen_runtime = check_runtime(director.profile, runtime)
    totals = []
    for is_fused in (False, True):
        table, _ = tabulate(graphs, chosen_runtime, director.profile.family, compute_dtype, is_fused)
        prices = director.price(table, chosen_runtime)
        energy_j = None if prices.energy_j is None else float(prices.energy_j.sum())
        totals.append(FusionTotals(len(table), float(table.bytes.sum()), float(prices.latency_s.sum()), energy_j))
    return FusionSavings(*totals)


def summarize_fusion(
    director: AnalysisDirector,
    graphs: Sequence[Graph],
    runtime: str | None = None,
    model: str = "",
    *,
    compute_dtype: str | None = None,
) -> FusionSummary:
    """The operators that share a kernel, and the savings; arguments and errors as of `AnalysisDirector.estimate`."""
    profile = director.profile
    chosen_runtime = check_runtime(profile, runtime)
    counts: Counter[str] = Counter()
    savings = fusion_savings(director, graphs, chosen_runtime, compute_dtype=compute_dtype)
    for graph in graphs:
        for group in fusion_groups(graph, chosen_runtime, profile.family):
            if len(group.calls) > 1:
                counts[graph.operators(group.calls)] += 1
    label = model or next((graph.name for graph in graphs if graph.name), "model")
    return FusionSummary(label, profile.name, chosen_runtime, savings, tuple(counts.most_common()))


class FusionScore(msgspec.Struct, frozen=True):
    """Agreement of two groupings of one graph's calls: share of the predicted pairs of calls that are real, share of the real
    pairs that are predicted, and the harmonic mean of both. All three are 1 where neither grouping has a pair."""

    precision: float
    recall: float
    f1: float
    predicted_kernels: int
    real_kernels: int


def shared_pairs(groups: Iterable[Sequence[int]]) -> set[tuple[int, int]]:
    """Pairs of calls that share at least one kernel. A call alone in its kernel makes none; one that is computed in several
    kernels pairs with the calls of each."""
    return {pair for group in groups for pair in combinations(sorted(set(group)), 2)}


def fusion_score(predicted: Sequence[Sequence[int]], real: Sequence[Sequence[int]]) -> FusionScore:
    """Score predicted groups of calls against real ones.

    Example:
        >>> fusion_score([(0,), (1, 2, 3)], [(0,), (1, 2), (3,)]).precision  # 1 of 3 pairs
        0.3333333333333333
    """
    predicted_pairs, real_pairs = shared_pairs(predicted), shared_pairs(real)
    common_count = len(predicted_pairs & real_pairs)
    precision = common_count / len(predicted_pairs) if predicted_pairs else float(not real_pairs)
    recall = common_count / len(real_pairs) if real_pairs else float(not predicted_pairs)
    f1 = 2 * precision * recall / (precision + recall) if common_count else float(not predicted_pairs and not real_pairs)
    return FusionScore(precision, recall, f1, len(predicted), len(real))
