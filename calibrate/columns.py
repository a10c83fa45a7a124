"""Which column of an operator table is the reduction of its matrix products: published tables call it k or n, and do not say.

Sizes do not tell: flops and bytes of (m, k) by (k, n) and (m, n) by (n, k) are the same. How a library cuts them into tiles and
runs through a reduction is not, so the model is fitted to some of the rows read one way and the other, and held against others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.dataset import MeasuredCase, Sources, read_sources
from shmoo.estimators.profile import ArchitectureProfile, Reduction
from shmoo.runs.tables import PRODUCTS

CASES = 600
"""Matrix products that are looked at; both fits together take some seconds."""
ENOUGH = 200
"""Fewer say too little: they are read as k."""
DECISIVE = 0.75
"""Column n it is where its held-out error is below this share of the other's."""


def table_reduction(sources: Sequence[Path], base: ArchitectureProfile) -> tuple[Reduction, str]:
    """The column that holds the reduction in tables of one machine, and what speaks for it ("" where nothing was compared).

    Raises:
        InputError: a source that cannot be read.
    """
    tables = [path for path in sources if path.suffix == ".csv"]
    if not tables:
        return "k", ""
    read = {column: read_sources(tables, base.family, column) for column in ("k", "n")}
    products = [i for i, case in enumerate(read["k"].cases) if case.case.workload in PRODUCTS]
    if len(products) < ENOUGH:
        return "k", ""
    step = max(1, len(products) // CASES)
    errors = {column: _error(sources, [sources.cases[i] for i in products[::step]], base) for column, sources in read.items()}
    column: Reduction = "n" if errors["n"] < DECISIVE * errors["k"] else "k"
    return column, (
        f"the reduction of matrix products stands in column {column}: held-out error {errors['k']:.1%} read as (m, k) by (k, n), "
        f"{errors['n']:.1%} read as (m, n) by (n, k)"
    )


def _error(sources: Sources, cases: Sequence[MeasuredCase], base: ArchitectureProfile) -> float:
    """Mean error on the validation split of a fit to the others."""
    card = calibrate_cases(replace(sources, cases=tuple(cases)), base, name=base.name, residual=False).profile.error_card
    groups = card["validation"].values()
    return sum(entry.n * entry.mean for entry in groups) / sum(entry.n for entry in groups)
