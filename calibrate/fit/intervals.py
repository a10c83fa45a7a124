"""Errors of the fitted model on held-out cases, and the spread per algorithm and per graph behind every interval: split
conformal prediction on log errors (Vovk, Gammerman and Shafer, 2005; Lei et al., 2018). The 90 % point of held-out errors,
over `NORMAL_90`, is the standard deviation of a normal law with the same 90 % interval. An algorithm's spread covers the whole
error of its kernels. Graphs hold kernels of algorithms that were not measured, so the ranges of unfitted coefficients cover a
part of their error, which is subtracted in squares. Held-out cases are the validation split, and each case of the fit with
the error of a fit without it (`fit.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from msgspec.structs import astuple, replace

from shmoo.calibrate.fit.dataset import Block
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.estimators.graph.records import NORMAL_90, Coefficient, Interval
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import ALGORITHMS, FAMILY_OF, MANY_KERNELS, Coefficients, algorithm_codes
from shmoo.estimators.machine.profile import ArchitectureProfile, ErrorCardEntry
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.draws import without_spreads
from shmoo.estimators.table import Floats
from shmoo.runs.analysis.metrics import error_card
from shmoo.runs.store.statistics import HARDLY_KNOWN

COVERAGE = 0.9
BORROWED = 10
"""Number of cases that the family's spread counts for in an algorithm's, and the spread of all cases in a family's, because few
cases do not determine a 90 % point. Chosen on one campaign of a CPU and confirmed on two (`docs/calibration.md`)."""
ONE_SIGMA = 0.6827
"""Share of a normal law within one standard deviation."""
MIN_LONG = 8
"""Fewest graphs of many kernels that give a spread."""
MIN_TAIL = 50
"""With fewer graphs of many kernels, the spread is their 68 % point, as for a normal law: their 90 % point would be one or two
disturbed cases."""
FLOOR = 0.02
"""No spread is below 2 %, because repeated measurements differ by that much."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Estimates beside the measurements of n cases that no fit saw, (n,) each, in seconds. `physical` are estimates without the
    residual; `noise` holds the relative standard errors of the measurements."""

    estimated: np.ndarray
    low: np.ndarray
    high: np.ndarray
    physical: np.ndarray
    measured: np.ndarray
    noise: np.ndarray

    @property
    def width(self) -> float:
        """The high end of an interval over its low end, median over the cases."""
        return float(np.median(self.high / self.low))

    def entry(self, mask: np.ndarray | None = None) -> ErrorCardEntry:
        """The error card of the cases of an (n,) mask, of all for `None`. It has the error of the physical model alone where the
        residual changes an estimate.

        Raises:
            NothingMeasuredError: the mask selects no case.
        """
        cases = self if mask is None else HeldOut(*(getattr(self, field.name)[mask] for field in fields(HeldOut)))
        card = error_card(cases.estimated, cases.measured, cases.low, cases.high, cases.noise if cases.noise.any() else None)
        if np.allclose(cases.estimated, cases.physical):
            return card
        return replace(card, physics=float(np.abs(cases.physical / cases.measured - 1.0).mean()))


def held_out(blocks: Sequence[Block], profile: ArchitectureProfile) -> HeldOut:
    """A profile's estimates of the cases of all blocks, in order."""
    measured_s = np.concatenate([block.measured_s for block in blocks])
    estimate_s, low, high = case_intervals(blocks, profile)
    physical = predicted_latency(blocks, Coefficients(profile)) if profile.residual else estimate_s
    noise = np.concatenate([block.relative_se for block in blocks])
    return HeldOut(estimate_s, low, high, physical, measured_s, noise)


def case_intervals(blocks: Sequence[Block], profile: ArchitectureProfile) -> Floats:
    """(3, S) estimate, low and high end of its interval, in seconds, of every case of all blocks, in order."""
    estimates: list[Interval] = []
    for block in blocks:
        prices = AnalysisDirector(profile).price(block.table, block.runtime, tiling=block.tiling, seed=0)
        estimates += [time for time, _ in (prices.device_intervals() if block.time == "device" else prices.intervals())]
    return np.asarray([astuple(estimate) for estimate in estimates]).T


def spreads(
    blocks: Sequence[Block],
    errors: np.ndarray,
    reach: np.ndarray,
    profile: ArchitectureProfile,
    reference: str,
    *,
    fitted: bool = True,
) -> dict[str, Coefficient]:
    """`sigma.<algorithm>`, `sigma.graph` and `sigma.graph.many`; an algorithm without cases keeps what it falls back to.

    Args:
        errors: (S,) held-out log(predicted / measured) of all cases in order; NaN for cases to ignore.
        reach: (S, 2) as `reach_of_ranges` gives it.
        reference: the coefficients' `reference` field.
        fitted: whether algorithms were fitted to the machine. Elsewhere the ranges of coefficients cover a part of their errors,
            which is subtracted as for graphs.
    """
    algorithm = np.concatenate([_dominant(block, profile) for block in blocks])
    kernels = np.concatenate([block.table.counts for block in blocks])
    has_several = kernels > 1
    is_usable = np.isfinite(errors) & (np.concatenate([block.relative_se for block in blocks]) <= HARDLY_KNOWN)
    # An estimate above the measurement needs an interval that reaches down.
    range_reach = np.where(errors > 0, reach[:, 0], reach[:, 1])
    excess = np.sqrt(np.clip(errors**2 - range_reach**2, 0.0, None)) / NORMAL_90
    sigmas = np.abs(errors) / NORMAL_90 if fitted else excess
    coefficients: dict[str, Coefficient] = {}

    def add(name: str, sigma: float, cases: np.ndarray, kind: str, point: int = 90) -> None:
        reference_text = f"{reference}; {point} % point over {cases.sum()} held-out {kind}"
        # Measurements that a neighbour spoiled can be off by any factor; a profile says so by the widest spread there is.
        coefficients[name] = Coefficient(min(max(sigma, FLOOR), entry("sigma").range[1]), "1", "fitted", reference_text)

    single_kernel, graphs, long_graphs = is_usable & ~has_several, is_usable & has_several, is_usable & (kernels >= MANY_KERNELS)
    family_of = np.asarray([ALGORITHMS.index(FAMILY_OF.get(name, name)) for name in ALGORITHMS])
    for code in np.unique(algorithm[single_kernel]):
        members, relatives = single_kernel & (algorithm == code), single_kernel & (family_of[algorithm] == family_of[code])
        sigma = _pooled_point(sigmas[members], _pooled_point(sigmas[relatives], conformal_point(sigmas[single_kernel])))
        add(f"sigma.{ALGORITHMS[code]}", sigma, members, f"cases of its own, its family's counting for {BORROWED}")
    if graphs.any():
        add("sigma.graph", conformal_point(excess[graphs]), graphs, "graphs")
    kind = f"graphs of at least {MANY_KERNELS} kernels"
    if long_graphs.sum() >= MIN_TAIL:
        add("sigma.graph.many", conformal_point(excess[long_graphs]), long_graphs, kind)
    elif long_graphs.sum() >= MIN_LONG:
        add("sigma.graph.many", float(np.quantile(np.abs(errors[long_graphs]), ONE_SIGMA)), long_graphs, kind, point=68)
    return coefficients


def _pooled_point(errors: np.ndarray, family_point: float) -> float:
    """The 90 % point of n errors, averaged in squares with that of a wider group, which counts for `BORROWED` cases (partial
    pooling, as for coefficients)."""
    return math.sqrt((len(errors) * conformal_point(errors) ** 2 + BORROWED * family_point**2) / (len(errors) + BORROWED))


def reach_of_ranges(blocks: Sequence[Block], profile: ArchitectureProfile) -> np.ndarray:
    """(S, 2) distance of the intervals' ends below and above the estimates from unfitted coefficients alone, as logarithms."""
    without_spread = profile.replacing(coefficients=without_spreads(profile.coefficients), residual=())
    estimate_s, low, high = case_intervals(blocks, without_spread)
    ends: Floats = np.stack([estimate_s / low, high / estimate_s], axis=1)
    return np.log(ends)


def _dominant(block: Block, profile: ArchitectureProfile) -> np.ndarray:
    """(S,) code of the algorithm of each case's kernel with the most work."""
    table = block.table
    codes = algorithm_codes(table, profile)
    order = np.lexsort((table.bytes, table.matrix_flops, table.segment))
    heaviest = np.flatnonzero(np.diff(table.segment[order], append=table.segments))
    return codes[order[heaviest]]


def conformal_point(errors: np.ndarray) -> float:
    """The 90 % point of n held-out errors: the ceil(0.9 (n + 1))-th smallest, the largest when there are too few."""
    rank = min(math.ceil(COVERAGE * (len(errors) + 1)), len(errors))
    return float(np.sort(errors)[rank - 1])
