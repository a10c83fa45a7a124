"""Held-out ranges of size on GPUs: the larger half of every group of operators predicted from the smaller, and the reverse.

Rows held out by chance tell how a fit interpolates. Networks hold shapes beyond those that anybody measured, so a form must also
extrapolate: an error there far above that of random rows says that a term of the form grows the wrong way. Files are those of
`kernels` (kernels on tensor cores) and `gpu` (operators in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks
from shmoo.calibrate.fit.intervals import HeldOut
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from tests.evaluation import gpu, kernels
from tests.evaluation.results import Result, of_cases

ROWS = 2000
"""Rows of a device, at most: enough for every coefficient, and few enough for a fit in seconds."""
Estimates = Callable[[Sequence[MeasuredCase]], HeldOut]
Fit = Callable[[Sequence[MeasuredCase]], Estimates]
"""Cases to fit -> what gives the estimates of other cases."""


def evaluate(folder: Path) -> list[Result]:
    """Errors by device and group, for each half predicted from the other and for random rows.

    Raises:
        InputError: a table is missing.
    """
    return [*tensor_cores(folder), *float32(folder)]


def tensor_cores(folder: Path) -> list[Result]:
    """Products and attention of the devices that these are fitted on, by the physics alone."""
    rows = [row for row in kernels.read(folder) if row.group.startswith(kernels.TEACHING)]
    found: list[Result] = []
    for name in kernels.FITTED:
        own = [row for row in rows if row.profile == name]
        own = own[:: -(-len(own) // ROWS)]
        groups = np.asarray([row.group for row in own])
        found += extrapolated(name, [row.case for row in own], groups, partial(_fit_tensor, name), load_profile(name))
    return found


def float32(folder: Path) -> list[Result]:
    """Operators of the devices whose tables are fitted, residual included."""
    found: list[Result] = []
    for device in gpu.DEVICES:
        table = gpu.read_device(folder, device)
        cases = table.cases[:: -(-len(table.cases) // ROWS)]
        groups = np.asarray([gpu.group_of(case) for case in cases])
        name = f"gpu_{device}"
        found += extrapolated(name, cases, groups, partial(_fit_float32, table, device), load_profile(name))
    return found


def _fit_tensor(name: str, cases: Sequence[MeasuredCase]) -> Estimates:
    profile = kernels.fitted(cases, name, residual=False)
    return lambda others: kernels.estimates(others, profile)


def _fit_float32(table: Sources, device: str, cases: Sequence[MeasuredCase]) -> Estimates:
    cards = gpu.fit_cards(replace(table, cases=tuple(cases)), device)
    return lambda others: gpu.sample_of(others, device, cards).found


def extrapolated(
    name: str, cases: Sequence[MeasuredCase], groups: np.ndarray, fit: Fit, profile: ArchitectureProfile
) -> list[Result]:
    """The errors of (n,) groups of a device's cases.

    Args:
        fit: makes the estimates from a part of the cases.
        profile: counts the work of a case.
    """
    large = larger_half(work_of(cases, profile), groups)
    random = np.asarray([case.case.split == "test" for case in cases])
    found = []
    for how, taught, judged in (
        ("random rows", ~random, random),
        ("larger half from the smaller", ~large, large),
        ("smaller half from the larger", large, ~large),
    ):
        estimates = fit([case for case, kept in zip(cases, taught, strict=True) if kept])
        for group in dict.fromkeys(groups.tolist()):
            of = [case for case, kept in zip(cases, judged & (groups == group), strict=True) if kept]
            if of:
                found.append(of_cases(f"{name}, {group}, {how}", estimates(of).entry()))
    return sorted(found, key=lambda result: result.what)


def work_of(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> np.ndarray:
    """(n,) operations of each case."""
    work = {}
    for block in blocks(cases, profile):
        table = block.table
        flops = np.add.reduceat(table.matrix_flops + table.vector_flops + table.special_flops, table.starts)
        work |= {id(case): amount for case, amount in zip(block.cases, flops.tolist(), strict=True)}
    return np.asarray([work[id(case)] for case in cases])


def larger_half(work: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) whether a case has more work than the middle one of its group."""
    middle = {group: np.median(work[groups == group]) for group in np.unique(groups).tolist()}
    return np.asarray(work > np.asarray([middle[group] for group in groups.tolist()]))
