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
from shmoo.estimators.predict.residual import GROUPS, in_group, log_features, summed, supported, types_of

MIN_FIT, MIN_VALIDATION = 60, 20
"""Fewest cases to fit a group's correction, and to judge it."""
TREES, LEVELS = 120, 5
"""Most trees of a group, and their levels: each level of each tree costs one comparison per kernel."""
RATE = 0.2
"""Share of the remaining error that a tree removes."""
LIMIT = 0.25
"""Log error beyond which a case pulls no harder."""
UNDER, OVER = 0.5, 3.0
"""Range of estimated / measured by which a case's pull is weighed. Errors are relative to the measurement, so an estimate twice
too high counts for more than one half as high."""
SHRINKAGE = 2.0
"""Number of cases without error that each leaf is averaged with."""
DRAWN = 0.8
"""Share of the fit cases that each tree sees."""
CUTS = 48
"""Most thresholds of a feature."""
OUTSIDE = 0.002
"""Share of the fit cases beyond either end of a feature's measured range."""
ENOUGH, FOLDS = 200, 5
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
    everything: Sequence[Block], profile: ArchitectureProfile, *, seed: int = 0
) -> tuple[tuple[ResidualGroup, ...], tuple[str, ...]]:
    """Corrections of a fitted machine, which has its intervals and no residual, that lower the error of held-out cases, and a
    note on each group; from cases of its fit and validation splits. The seed is that of the cases that each tree sees."""
    useful: list[ResidualGroup] = []
    notes = []
    for sample in _samples(everything, profile):
        sample = _beyond(sample, useful, profile.family)
        group = _fitted(sample, seed)
        held_out = sample.split == "validation"
        ratio, factor = sample.ratio[held_out], _log_factor(group, sample.logs[held_out])
        before, after = np.abs(np.expm1(-ratio)), np.abs(np.expm1(factor - ratio))
        gain = before - after
        # A correction must lower the mean error of validation cases by more than chance.
        significant = gain.mean() > NORMAL_90 * gain.std(ddof=1) / math.sqrt(len(gain))
        if significant:
            useful.append(group)
        notes.append(
            f"residual of {group.group} ({group.dtype}, {group.runtime}): error on {len(gain)} validation cases "
            f"{before.mean():.1%} -> {after.mean():.1%}{'' if significant else ', left out'}"
        )
    for group in [group for group in useful if _worsens_graphs(everything, profile, group, useful)]:
        notes.append(
            f"residual of {group.group} ({group.dtype}) left out: it raises the error of validation graphs of several kernels"
        )
        useful.remove(group)
    return tuple(useful), tuple(notes)


def _beyond(sample: _Sample, known: Sequence[ResidualGroup], family: str) -> _Sample:
    """A sample without what corrections of the same kernels in another type say of it."""
    ratio = sample.ratio
    for place, group in enumerate(known):
        same = (group.group, group.runtime) == (sample.group, sample.runtime)
        if same and sample.dtype in types_of(group, known[:place], family):
            ratio = ratio - _log_factor(group, sample.logs)
    return dataclass_replace(sample, ratio=ratio)


def _samples(everything: Sequence[Block], profile: ArchitectureProfile) -> list[_Sample]:
    """Groups with enough single-kernel cases of one type and runtime."""
    samples = []
    coefficients = Coefficients(profile)
    for block in everything:
        table = block.table
        ratio = -log_errors([block], coefficients)
        alone = np.flatnonzero(table.counts == 1)
        kernels = np.searchsorted(table.segment, alone)
        spread = np.broadcast_to(coefficients.by_algorithm(algorithm_codes(table, profile), "sigma"), len(table))
        for group, names in GROUPS.items():
            for code in np.unique(table.dtype):
                dtype = COMPUTE_DTYPES[code]
                here = in_group(table, group, (dtype,), profile.family)[kernels]
                cases, rows = alone[here], kernels[here]
                split = block.splits[cases]
                if (split == "fit").sum() < MIN_FIT or (split == "validation").sum() < MIN_VALIDATION:
                    continue
                logs = log_features(names, table, block.tiling, rows)
                of_cases = ratio[cases], spread[rows], split
                samples.append(_Sample(group, dtype, block.runtime, logs, *of_cases))
    return samples


def _fitted(sample: _Sample, seed: int) -> ResidualGroup:
    """The correction as it is stored, rounded, with its interval from the validation split."""
    fit, held_out = sample.split == "fit", sample.split == "validation"
    low, high = np.quantile(sample.logs[fit], (OUTSIDE, 1.0 - OUTSIDE), axis=0)
    group = ResidualGroup(
        group=sample.group,
        dtype=sample.dtype,
        runtime=sample.runtime,
        features=GROUPS[sample.group],
        low=_rounded(low),
        high=_rounded(high),
        trees=_boosted(sample.logs, sample.ratio, fit, held_out, seed),
        spread=FLOOR,
        cases=int(fit.sum()),
    )
    factor = _log_factor(group, sample.logs)
    if held_out.sum() < ENOUGH:
        fold = np.random.default_rng(seed).integers(FOLDS, size=len(fit))
        for turn in range(FOLDS):
            rest = replace(group, trees=_boosted(sample.logs, sample.ratio, fit & (fold != turn), held_out, seed))
            factor = np.where(fit & (fold == turn), _log_factor(rest, sample.logs), factor)
        held_out = held_out | fit
    error = (factor - sample.ratio)[held_out]
    share = supported(group, sample.logs[held_out])
    # The squared spread with which the interval, mixed with the physical one, just contains each case.
    needed = ((error / NORMAL_90) ** 2 - (1.0 - share) * sample.spread[held_out] ** 2) / np.maximum(share, 1e-6)
    spread = min(math.sqrt(max(conformal_point(needed), FLOOR**2)), entry("sigma").range[1])
    return replace(group, spread=round(spread, 4))


def _log_factor(group: ResidualGroup, logs: np.ndarray) -> np.ndarray:
    return supported(group, logs) * summed(group, logs)


def _boosted(logs: np.ndarray, ratio: np.ndarray, fit: np.ndarray, held_out: np.ndarray, seed: int) -> tuple[ResidualTree, ...]:
    """Trees for (n, d) features and (n,) log ratios, grown on the cases of `fit`; `held_out` cases choose their number."""
    cuts = [_cuts(column) for column in logs[fit].T]
    # Bin b of a feature lies above its first b thresholds.
    bins = np.stack([np.searchsorted(cut, column) for cut, column in zip(cuts, logs.T, strict=True)], axis=1)
    rng = np.random.default_rng(seed)
    reached, trees, errors = np.zeros(len(ratio)), [], []
    for _ in range(TREES):
        drawn = fit & (rng.random(len(ratio)) < DRAWN)
        pull = np.clip(ratio - reached, -LIMIT, LIMIT) * np.clip(np.exp(reached - ratio), UNDER, OVER)
        questions = _questions(bins[drawn], pull[drawn], cuts)
        place = np.zeros(len(ratio), dtype=np.intp)
        for feature, cut in questions:
            place = 2 * place + (bins[:, feature] > cut)
        totals = np.bincount(place[drawn], weights=pull[drawn], minlength=2**LEVELS)
        counts = np.bincount(place[drawn], minlength=2**LEVELS)
        values = _rounded(RATE * totals / (counts + SHRINKAGE))
        reached = reached + np.asarray(values)[place]
        features, thresholds = zip(*((feature, float(cuts[feature][cut])) for feature, cut in questions), strict=True)
        trees.append(ResidualTree(features, thresholds, values))
        errors.append(np.abs(np.expm1(reached - ratio))[held_out].mean())
    return tuple(trees[: int(np.argmin(errors)) + 1])


def _cuts(values: np.ndarray) -> np.ndarray:
    """Thresholds of one feature, in float32: at most `CUTS`, halfway between neighbouring values, with equally many cases
    between them."""
    distinct = np.unique(values)
    between = (distinct[1:] + distinct[:-1]) / 2
    if len(between) > CUTS:
        wanted = np.quantile(values, np.linspace(0, 1, CUTS + 2)[1:-1])
        between = between[np.unique(np.searchsorted(between, wanted).clip(max=len(between) - 1))]
    return np.unique(np.round(between, 4)).astype(np.float32)


def _questions(bins: np.ndarray, pull: np.ndarray, cuts: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """The (feature, threshold) of each level, chosen greedily by the largest sum over the resulting leaves of
    total^2 / (cases + SHRINKAGE), where the total is over (n,) pulls."""
    place = np.zeros(len(pull), dtype=np.intp)
    chosen: list[tuple[int, int]] = []
    for level in range(LEVELS):
        best = (-1.0, 0, 0)
        for feature, cut in enumerate(cuts):
            if not len(cut):
                continue
            width = len(cut) + 1
            key, shape = place * width + bins[:, feature], (2**level, width)
            totals = np.bincount(key, weights=pull, minlength=2**level * width).reshape(shape).cumsum(axis=1)
            counts = np.bincount(key, minlength=2**level * width).reshape(shape).cumsum(axis=1)
            above, others = totals[:, -1:] - totals, counts[:, -1:] - counts
            score = (totals**2 / (counts + SHRINKAGE) + above**2 / (others + SHRINKAGE)).sum(axis=0)[:-1]
            if score.max() > best[0]:
                best = (float(score.max()), feature, int(score.argmax()))
        chosen.append(best[1:])
        place = 2 * place + (bins[:, best[1]] > best[2])
    return chosen


def _worsens_graphs(
    everything: Sequence[Block], profile: ArchitectureProfile, group: ResidualGroup, all_of_them: Sequence[ResidualGroup]
) -> bool:
    """Whether a correction among others raises the mean error of validation cases of several kernels; `False` without such
    cases."""
    several = np.concatenate([block.table.counts > 1 for block in everything])
    judged = several & (np.concatenate([b.splits for b in everything]) == "validation")
    if not judged.any():
        return False
    measured = np.concatenate([b.measured_s for b in everything])[judged]

    def estimated(groups: Sequence[ResidualGroup]) -> np.ndarray:
        seconds = predicted_latency(everything, Coefficients(profile.replacing(residual=tuple(groups))), residual=True)
        return np.asarray(seconds[judged])

    before, after = estimated([other for other in all_of_them if other is not group]), estimated(all_of_them)
    return bool(np.abs(after / measured - 1.0).mean() > np.abs(before / measured - 1.0).mean())


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Values to four decimals: a ten-thousandth of a log ratio or of a doubling."""
    return tuple(round(float(value), 4) for value in values)
