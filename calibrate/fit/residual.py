"""Fitting the residual: boosted symmetric trees on the physical model's errors, log(measured / physical), for each group of
kernels (Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29(5), 2001, with Huber's
loss). The validation split decides the number of trees and whether a group gets any, and sets the interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace

import numpy as np
from msgspec.structs import replace

from shmoo.calibrate.fit.dataset import Block
from shmoo.calibrate.fit.fit import log_errors, predicted_latency
from shmoo.calibrate.fit.intervals import FLOOR, conformal_point
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import NORMAL_90
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes
from shmoo.estimators.machine.profile import ArchitectureProfile, ResidualGroup, ResidualTree
from shmoo.estimators.predict.residual import GROUPS, in_group, log_features, support_of, tree_sum, types_of

MIN_FIT, MIN_VALIDATION = 60, 20
"""Fewest cases to fit a group's correction, and to judge it."""
TREES, LEVELS = 120, 5
"""Most trees of a group, and their levels: each level of each tree costs one comparison per kernel."""
RATE = 0.2
"""Share of the remaining error that a tree removes."""
LIMIT = 0.25
"""Log error beyond which a case pulls no harder (Huber's loss)."""
LEAST_RATIO, MOST_RATIO = 0.5, 3.0
"""Range of estimated / measured by which a case's pull is weighed. Errors are relative to the measurement, so an estimate twice
too high counts for more than one half as high."""
SHRINKAGE = 2.0
"""Number of cases without error that each leaf is averaged with."""
SUBSAMPLE = 0.8
"""Share of the fit cases that each tree sees."""
MAX_THRESHOLDS = 48
"""Most thresholds of a feature."""
TAIL = 0.002
"""Share of the fit cases beyond either end of a feature's measured range."""
MIN_SPREAD_CASES, FOLDS = 200, 5
"""With fewer validation cases, which also choose the number of trees, the fit cases are held out for the spread too, fold by
fold."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """n single-kernel cases of one group, type and runtime.

    Attributes:
        logs: (n, d) base-2 logarithms of the features. ratio: (n,) log(measured / physical). split: (n,) their splits.
        spread: (n,) standard deviations of the physical log error.
    """

    group: str
    dtype: str
    runtime: str
    logs: np.ndarray
    ratio: np.ndarray
    spread: np.ndarray
    split: np.ndarray


def fit_residual(
    all_blocks: Sequence[Block], profile: ArchitectureProfile, *, seed: int = 0
) -> tuple[tuple[ResidualGroup, ...], tuple[str, ...]]:
    """Corrections that lower the error of held-out cases, and a note on each group.

    Args:
        all_blocks: cases of the fit and validation splits.
        profile: the fitted machine, with its intervals and without a residual.
        seed: seed for drawing the cases that each tree sees.
    """
    kept_groups: list[ResidualGroup] = []
    notes = []
    for sample in _samples(all_blocks, profile):
        sample = _without_related(sample, kept_groups, profile.family)
        group = _fit_group(sample, seed)
        held_out = sample.split == "validation"
        ratio, factor = sample.ratio[held_out], _log_factor(group, sample.logs[held_out])
        error_without, error_with = np.abs(np.expm1(-ratio)), np.abs(np.expm1(factor - ratio))
        gain = error_without - error_with
        # A correction must lower the mean error of validation cases by more than chance.
        is_significant = gain.mean() > NORMAL_90 * gain.std(ddof=1) / math.sqrt(len(gain))
        if is_significant:
            kept_groups.append(group)
        notes.append(
            f"residual of {group.group} ({group.dtype}, {group.runtime}): error on {len(gain)} validation cases "
            f"{error_without.mean():.1%} -> {error_with.mean():.1%}{'' if is_significant else ', left out'}"
        )
    for group in [group for group in kept_groups if _worsens_graphs(all_blocks, profile, group, kept_groups)]:
        notes.append(
            f"residual of {group.group} ({group.dtype}) left out: it raises the error of validation graphs of several kernels"
        )
        kept_groups.remove(group)
    return tuple(kept_groups), tuple(notes)


def _without_related(sample: _Sample, earlier_groups: Sequence[ResidualGroup], family: str) -> _Sample:
    """A sample less the corrections that groups of another type already apply to the same kernels."""
    ratio = sample.ratio
    for place, group in enumerate(earlier_groups):
        is_same = (group.group, group.runtime) == (sample.group, sample.runtime)
        if is_same and sample.dtype in types_of(group, earlier_groups[:place], family):
            ratio = ratio - _log_factor(group, sample.logs)
    return dataclass_replace(sample, ratio=ratio)


def _samples(all_blocks: Sequence[Block], profile: ArchitectureProfile) -> list[_Sample]:
    """Groups with enough single-kernel cases of one type and runtime."""
    samples = []
    coefficients = Coefficients(profile)
    for block in all_blocks:
        table = block.table
        ratio = -log_errors([block], coefficients)
        single_kernel_cases = np.flatnonzero(table.counts == 1)
        kernels = np.searchsorted(table.segment, single_kernel_cases)
        spread = np.broadcast_to(coefficients.by_algorithm(algorithm_codes(table, profile), "sigma"), len(table))
        for group, names in GROUPS.items():
            for code in np.unique(table.dtype):
                dtype = COMPUTE_DTYPES[code]
                in_sample = in_group(table, group, (dtype,), profile.family)[kernels]
                cases, rows = single_kernel_cases[in_sample], kernels[in_sample]
                split = block.splits[cases]
                if (split == "fit").sum() < MIN_FIT or (split == "validation").sum() < MIN_VALIDATION:
                    continue
                logs = log_features(names, table, block.tiling, rows)
                case_values = ratio[cases], spread[rows], split
                samples.append(_Sample(group, dtype, block.runtime, logs, *case_values))
    return samples


def _fit_group(sample: _Sample, seed: int) -> ResidualGroup:
    """The correction as it is stored, rounded, with its interval from the validation split."""
    fit, held_out = sample.split == "fit", sample.split == "validation"
    low, high = np.quantile(sample.logs[fit], (TAIL, 1.0 - TAIL), axis=0)
    group = ResidualGroup(
        group=sample.group,
        dtype=sample.dtype,
        runtime=sample.runtime,
        features=GROUPS[sample.group],
        low=_round(low),
        high=_round(high),
        trees=_boost(sample.logs, sample.ratio, fit, held_out, seed),
        spread=FLOOR,
        cases=int(fit.sum()),
    )
    factor = _log_factor(group, sample.logs)
    if held_out.sum() < MIN_SPREAD_CASES:
        fold = np.random.default_rng(seed).integers(FOLDS, size=len(fit))
        for turn in range(FOLDS):
            fold_group = replace(group, trees=_boost(sample.logs, sample.ratio, fit & (fold != turn), held_out, seed))
            factor = np.where(fit & (fold == turn), _log_factor(fold_group, sample.logs), factor)
        held_out = held_out | fit
    error = (factor - sample.ratio)[held_out]
    share = support_of(group, sample.logs[held_out])
    # The squared spread with which the interval, mixed with the physical one, just contains each case.
    variance = ((error / NORMAL_90) ** 2 - (1.0 - share) * sample.spread[held_out] ** 2) / np.maximum(share, 1e-6)
    spread = min(math.sqrt(max(conformal_point(variance), FLOOR**2)), entry("sigma").range[1])
    return replace(group, spread=round(spread, 4))


def _log_factor(group: ResidualGroup, logs: np.ndarray) -> np.ndarray:
    return support_of(group, logs) * tree_sum(group, logs)


def _boost(logs: np.ndarray, ratio: np.ndarray, fit: np.ndarray, held_out: np.ndarray, seed: int) -> tuple[ResidualTree, ...]:
    """Trees for (n, d) features and (n,) log ratios, grown on the cases of `fit`; `held_out` cases choose their number."""
    cuts = [_cuts(column) for column in logs[fit].T]
    # Bin b of a feature lies above its first b thresholds.
    bins = np.stack([np.searchsorted(threshold, column) for threshold, column in zip(cuts, logs.T, strict=True)], axis=1)
    rng = np.random.default_rng(seed)
    prediction, trees, errors = np.zeros(len(ratio)), [], []
    for _ in range(TREES):
        subsample = fit & (rng.random(len(ratio)) < SUBSAMPLE)
        pull = np.clip(ratio - prediction, -LIMIT, LIMIT) * np.clip(np.exp(prediction - ratio), LEAST_RATIO, MOST_RATIO)
        questions = _questions(bins[subsample], pull[subsample], cuts)
        leaf = np.zeros(len(ratio), dtype=np.intp)
        for feature, threshold in questions:
            leaf = 2 * leaf + (bins[:, feature] > threshold)
        totals = np.bincount(leaf[subsample], weights=pull[subsample], minlength=2**LEVELS)
        counts = np.bincount(leaf[subsample], minlength=2**LEVELS)
        values = _round(RATE * totals / (counts + SHRINKAGE))
        prediction = prediction + np.asarray(values)[leaf]
        features, thresholds = zip(*((feature, float(cuts[feature][threshold])) for feature, threshold in questions), strict=True)
        trees.append(ResidualTree(features, thresholds, values))
        errors.append(np.abs(np.expm1(prediction - ratio))[held_out].mean())
    return tuple(trees[: int(np.argmin(errors)) + 1])


def _cuts(values: np.ndarray) -> np.ndarray:
    """At most `MAX_THRESHOLDS` thresholds of one feature, in float32: halfway between neighbouring values, with equally many
    cases between them."""
    distinct = np.unique(values)
    midpoints = (distinct[1:] + distinct[:-1]) / 2
    if len(midpoints) > MAX_THRESHOLDS:
        quantiles = np.quantile(values, np.linspace(0, 1, MAX_THRESHOLDS + 2)[1:-1])
        midpoints = midpoints[np.unique(np.searchsorted(midpoints, quantiles).clip(max=len(midpoints) - 1))]
    return np.unique(np.round(midpoints, 4)).astype(np.float32)


def _questions(bins: np.ndarray, pull: np.ndarray, cuts: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """The (feature, threshold) of each level, chosen greedily by the largest sum over the resulting leaves of
    total^2 / (cases + SHRINKAGE), where the total is over (n,) pulls."""
    leaf = np.zeros(len(pull), dtype=np.intp)
    questions: list[tuple[int, int]] = []
    for level in range(LEVELS):
        best_question = (-1.0, 0, 0)
        for feature, thresholds in enumerate(cuts):
            if not len(thresholds):
                continue
            width = len(thresholds) + 1
            key, shape = leaf * width + bins[:, feature], (2**level, width)
            totals = np.bincount(key, weights=pull, minlength=2**level * width).reshape(shape).cumsum(axis=1)
            counts = np.bincount(key, minlength=2**level * width).reshape(shape).cumsum(axis=1)
            upper_totals, upper_counts = totals[:, -1:] - totals, counts[:, -1:] - counts
            score = (totals**2 / (counts + SHRINKAGE) + upper_totals**2 / (upper_counts + SHRINKAGE)).sum(axis=0)[:-1]
            if score.max() > best_question[0]:
                best_question = (float(score.max()), feature, int(score.argmax()))
        questions.append(best_question[1:])
        leaf = 2 * leaf + (bins[:, best_question[1]] > best_question[2])
    return questions


def _worsens_graphs(
    all_blocks: Sequence[Block], profile: ArchitectureProfile, group: ResidualGroup, groups_with: Sequence[ResidualGroup]
) -> bool:
    """True where a correction beside the others raises the mean error of validation cases of several kernels."""
    has_several = np.concatenate([block.table.counts > 1 for block in all_blocks])
    is_validation = has_several & (np.concatenate([b.splits for b in all_blocks]) == "validation")
    if not is_validation.any():
        return False
    measured_s = np.concatenate([b.measured_s for b in all_blocks])[is_validation]

    def estimates(groups: Sequence[ResidualGroup]) -> np.ndarray:
        seconds = predicted_latency(all_blocks, Coefficients(profile.replacing(residual=tuple(groups))), residual=True)
        return np.asarray(seconds[is_validation])

    error_without, error_with = estimates([one for one in groups_with if one is not group]), estimates(groups_with)
    return bool(np.abs(error_with / measured_s - 1.0).mean() > np.abs(error_without / measured_s - 1.0).mean())


def _round(values: np.ndarray) -> tuple[float, ...]:
    """Values to four decimals."""
    return tuple(round(float(value), 4) for value in values)
