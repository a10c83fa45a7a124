"""From sources to a profile: read, fit on the fit split, set intervals on validation, report errors on the held-out splits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from shmoo.calibrate.fit.base import base_profile, beside_own_host
from shmoo.calibrate.fit.dataset import TABLE_DEVICE, Block, Sources, blocks, case_of, read_rows, read_sources, run_cases
from shmoo.calibrate.fit.energy import FittedEnergy, fit_energy
from shmoo.calibrate.fit.fit import Fitted, fit_latency, log_errors, patient, ranged
from shmoo.calibrate.fit.intervals import held_out, reach_of_ranges, spreads
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.calibrate.fit.residual import fit_residual
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import FAMILIES, Coefficient, Source
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients, on_tensor_cores
from shmoo.estimators.machine.names import runtime_of, under
from shmoo.estimators.machine.profile import ArchitectureProfile, ErrorCardEntry, FittedFrom, Reduction
from shmoo.estimators.machine.validation import check_name, first_problem
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.runs.store.records import FINGERPRINT_FIELDS
from shmoo.runs.store.store import Run
from shmoo.runs.tables.reading import PRODUCTS

COMPARED_PRODUCTS = 600
"""Matrix products used to find a table's reduction column; both fits together take some seconds."""
CUTS = 2
"""How often the tiles of tensor-core kernels are chosen again with the coefficients just fitted."""
ENOUGH = 200
"""With fewer matrix products the reduction is taken to be in column k."""
DECISIVE = 0.75
"""The reduction is in column n where that reading's held-out error is below this share of the other's."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted profile and remarks on the fit; `hurried` where the fit had to end before it was done."""

    profile: ArchitectureProfile
    notes: tuple[str, ...]
    hurried: bool = False


def calibrate(
    sources: str | Path | Sequence[str | Path],
    *,
    base: ArchitectureProfile | None = None,
    name: str | None = None,
    seed: int = 0,
    residual: bool = True,
    reduction: Reduction = "k",
    progress: Progress = silent,
    hurry: Callable[[], bool] = patient,
) -> Calibration:
    """Fit a machine's coefficients to what was measured on it.

    Args:
        sources: run directories or operator tables (.csv) of one machine, or a single one.
        base: profile that supplies what is not fitted; required for tables, made from the machine's description for runs.
        name: name of the result; by default the base's name, or cpu_local.
        seed: of the fit's further starts.
        residual: whether to fit corrections to the physical model where they lower the held-out error.
        reduction: column of tables that holds the reduction of matrix products (`table_reduction` finds it).
        progress: receives a message at each step.
        hurry: asked during the fit; once it is true the fit ends with what it has and no corrections are fitted.

    Raises:
        InputError: sources of different machines, too little to fit, or a name that is none.
        NothingMeasuredError: no usable row.
    """
    if name is not None:
        check_name(name)
    progress(_doing("reading sources"))
    read, base = read_for(sources, base, reduction)
    return calibrate_cases(read, base, name=name or base.name, seed=seed, residual=residual, progress=progress, hurry=hurry)


def read_for(
    sources: str | Path | Sequence[str | Path], base: ArchitectureProfile | None, reduction: Reduction = "k"
) -> tuple[Sources, ArchitectureProfile]:
    """The cases of one machine's sources that a base profile can be fitted to, and that profile; arguments and errors as of
    `calibrate`."""
    paths = [Path(source) for source in ((sources,) if isinstance(sources, str | Path) else sources)]
    read = read_sources(paths, "cpu" if base is None else base.family, reduction)
    devices = sorted({case.case.device for case in read.cases})
    if base is None:
        if read.machine is None or any(path.suffix == ".csv" for path in paths):
            raise InputError(
                "an operator table does not say which machine it is from; name the nearest profile with --base PROFILE"
            )
        if len(devices) > 1:
            raise InputError(
                f"the sources hold rows of {', '.join(devices)}; calibrate one device at a time, with --base PROFILE"
            )
        base = base_profile(read.machine, devices[0])
    device = TABLE_DEVICE[base.family]
    cases = tuple(case for case in read.cases if case.case.device == device)
    if not cases:
        raise InputError(
            f"{', '.join(read.names)} holds rows of {', '.join(devices)}, and {base.name!r} is a {base.family}; "
            "name another --base"
        )
    if len(cases) < len(read.cases):
        logger.warning("%d cases of other devices than %r are left out", len(read.cases) - len(cases), device)
    return replace(read, cases=cases), base


def _doing(step: str) -> Standing:
    return Standing("calibrating", now=step)


def table_reduction(sources: Sequence[Path], base: ArchitectureProfile) -> tuple[Reduction, str]:
    """The column that holds the reduction of matrix products in one machine's tables, and the evidence ("" without a comparison);
    `InputError` for a source that cannot be read.

    Published tables do not say which it is, and sizes cannot tell, because flops and bytes of (m, k) by (k, n) and of (m, n) by
    (n, k) are equal. How a library tiles a reduction can: the held-out errors of fits to both readings are compared.
    """
    tables = [path for path in sources if path.suffix == ".csv"]
    if not tables:
        return "k", ""
    products = [row for path in tables for row in read_rows(path, base.family) if row.op in PRODUCTS]
    if len(products) < ENOUGH:
        return "k", ""
    compared = products[:: max(1, len(products) // COMPARED_PRODUCTS)]
    errors: dict[str, float] = {}
    readings: tuple[Reduction, ...] = ("k", "n")
    for column in readings:
        cases = tuple(case_of(msgspec.structs.replace(row, reduction=column)) for row in compared)
        read = Sources(cases, "", tuple(path.name for path in tables), None, column)
        card = calibrate_cases(read, base, name=base.name, residual=False).profile.error_card["validation"].values()
        errors[column] = sum(entry.n * entry.mean for entry in card) / sum(entry.n for entry in card)
    column = "n" if errors["n"] < DECISIVE * errors["k"] else "k"
    return column, (
        f"the reduction of matrix products stands in column {column}: held-out error {errors['k']:.1%} read as (m, k) by (k, n), "
        f"{errors['n']:.1%} read as (m, n) by (n, k)"
    )


def quick_profile(run: Run) -> ArchitectureProfile:
    """A profile from an unfinished run, within seconds: one start, no residual, intervals from the fit's noise only. `InputError`
    for too little to fit."""
    cases = tuple(case for case in run_cases(run) if case.case.kind != "network" and case.case.runtime == "eager")
    if not cases:
        raise InputError("no operator was measured yet")
    base = beside_own_host(base_profile(run.manifest.machine, cases[0].case.device))
    measured = blocks(cases, base)
    fitted = fit_latency(measured, parameters_for(measured, base), base, starts=1, folds=0)
    return base.replacing(coefficients={**base.coefficients, **_coefficients(fitted, f"fitted to {run.path.name} so far")})


def calibrate_cases(
    read: Sources,
    base: ArchitectureProfile,
    *,
    name: str,
    seed: int = 0,
    residual: bool = True,
    progress: Progress = silent,
    only: Collection[str] | None = None,
    hurry: Callable[[], bool] = patient,
) -> Calibration:
    """`calibrate` on cases already read. `only` holds last parts of the names of coefficients, where all others stay as they
    are."""
    progress(_doing(f"tabulating {len(read.cases)} cases"))
    # Measurements include the launches of the machine they were taken on, not those of a named host.
    base = base.replacing(residual=(), host="") if read.machine is None else beside_own_host(base)
    everything = blocks(read.cases, base)
    fit_cases = of_splits(everything, base, ("fit",), taught=True)
    if not fit_cases:
        raise InputError(
            f"{len(read.cases)} cases are too few to fit anything: none falls into the part that is fitted; measure more"
        )
    reference = f"fitted to {', '.join(read.names)} ({read.rows_hash})"
    # Joules come first: they meet the power cap, on which times rest.
    energy = fit_energy(fit_cases, base, reference)
    if energy is not None:
        base = base.replacing(coefficients={**base.coefficients, **energy.coefficients})
    progress(_doing("fitting latency"))
    fitted = fit_latency(fit_cases, parameters_for(fit_cases, base, only), base, seed=seed, hurry=hurry)
    # Kernels on tensor cores take the tile that the model finds fastest: they are cut anew, and fitted again.
    for _ in range(CUTS if any(on_tensor_cores(block.table, base).any() for block in fit_cases) else 0):
        if hurry():
            break
        director = AnalysisDirector(base.replacing(coefficients={**base.coefficients, **_coefficients(fitted, reference)}))
        everything, fit_cases = (
            [replace(block, tiling=director.tile(block.table)) for block in of_both] for of_both in (everything, fit_cases)
        )
        fitted = fit_latency(fit_cases, parameters_for(fit_cases, base, only), base, seed=seed, starts=1, hurry=hurry)
    dtype_codes = np.unique(np.concatenate([block.table.dtype for block in everything]))
    launches = _typical_launches(fitted, reference)
    profile = base.replacing(
        name=name,
        table_reduction=read.table_reduction,
        coefficients={**base.coefficients, **_coefficients(fitted, reference), **launches},
        fitted_from=FittedFrom(
            rows_hash=read.rows_hash,
            sources=read.names,
            fingerprint={} if read.machine is None else {f: getattr(read.machine, f) for f in FINGERPRINT_FIELDS},
            seed=seed,
            dtypes=tuple(COMPUTE_DTYPES[code] for code in dtype_codes),
        ),
    )
    progress(_doing("setting intervals"))
    seen = of_splits(everything, profile, ("fit", "validation"), taught=True)
    errors = _held_out_errors(seen, profile, fitted)
    sigmas = spreads(seen, errors, reach_of_ranges(seen, profile), profile, reference)
    profile = profile.replacing(coefficients={**profile.coefficients, **sigmas})
    hurried = hurry()
    notes = _notes(fitted, energy)
    if residual and not hurried:
        seen = of_splits(everything, profile, ("fit", "validation"))
        corrections, of_groups = fit_residual(seen, profile, seed=seed)
        profile, notes = profile.replacing(residual=corrections), (*notes, *of_groups)
    progress(_doing("testing on held-out cases"))
    profile = profile.replacing(error_card=error_card(everything, profile))
    if (problem := first_problem(profile)) is not None:
        raise InputError(
            f"the measurements do not describe a machine like {base.name!r}: {problem}; check them, or name another --base"
        )
    return Calibration(profile, notes, hurried)


def of_splits(
    everything: Sequence[Block], profile: ArchitectureProfile, splits: tuple[str, ...], *, taught: bool = False
) -> list[Block]:
    """The cases of these splits, tiled for `profile`; of `taught` only those that the physics is fitted to."""
    director = AnalysisDirector(profile)
    masks = [np.isin(block.splits, splits) & (block.teaches | (not taught)) for block in everything]
    return [block.subset(mask, director) for block, mask in zip(everything, masks, strict=True) if mask.any()]


def _held_out_errors(seen: Sequence[Block], profile: ArchitectureProfile, fitted: Fitted) -> np.ndarray:
    """(S,) log(predicted / measured) of cases of the fit and validation splits, each by a fit without it."""
    errors = log_errors(seen, Coefficients(profile))
    errors[np.concatenate([block.splits for block in seen]) == "fit"] += fitted.left_out - fitted.residuals
    return errors


def _coefficients(fitted: Fitted, reference: str) -> dict[str, Coefficient]:
    coefficients = {}
    for name, value in fitted.values.items():
        unit, known = entry(name).unit, name not in fitted.unidentified
        source: Source = "at bound" if name in fitted.at_bound else "fitted" if known else "prior"
        of_value = value, unit, source, reference
        coefficients[name] = ranged(*of_value, fitted.log_sd[name]) if known else Coefficient(*of_value)
    return coefficients


def _typical_launches(fitted: Fitted, reference: str) -> dict[str, Coefficient]:
    """launch.<runtime> of operators that were not measured alone: geometric mean and range over the measured ones."""
    by_runtime: dict[str, list[float]] = {}
    for name in under("launch", fitted.values):
        runtime = runtime_of(name)
        if runtime is not None and name not in fitted.unidentified:
            by_runtime.setdefault(runtime, []).append(fitted.values[name])
    launches = {}
    for runtime, values in by_runtime.items():
        mean = float(np.exp(np.mean(np.log(values))))
        why = f"geometric mean and range over {len(values)} operators; {reference}"
        launches[f"launch.{runtime}"] = Coefficient(mean, "s", "fitted", why, low=min(mean, *values), high=max(mean, *values))
    return launches


def error_card(everything: Sequence[Block], profile: ArchitectureProfile) -> dict[str, dict[str, ErrorCardEntry]]:
    """Errors of the validation and the test split by operator family, synthetic models and networks."""
    card: dict[str, dict[str, ErrorCardEntry]] = {}
    for split in ("validation", "test"):
        of_split = of_splits(everything, profile, (split,))
        if of_split:
            names = np.asarray([name for block in of_split for name in groups(block)])
            estimates = held_out(of_split, profile)
            card[split] = {name: estimates.entry(names == name) for name in dict.fromkeys(names.tolist())}
    return card


def groups(block: Block) -> list[str]:
    """(S,) error-card group of each case: "networks", "synthetic", or the operator family."""
    table = block.table
    first = np.searchsorted(table.segment, np.arange(table.segments))
    return [
        {"network": "networks", "synthetic": "synthetic"}.get(case.case.kind, FAMILIES[table.family[row]])
        for case, row in zip(block.cases, first, strict=True)
    ]


def _notes(fitted: Fitted, energy: FittedEnergy | None) -> tuple[str, ...]:
    notes = [f"condition number of the latency fit: {fitted.condition:.3g}"]
    if fitted.at_bound:
        notes.append(f"at a bound: {', '.join(fitted.at_bound)}")
    if fitted.unidentified:
        notes.append(f"not identified by these data, held by the prior: {', '.join(fitted.unidentified)}")
    if energy is None:
        notes.append("no energy was measured: energy coefficients stay those of the base profile")
    else:
        notes += [f"condition number of the energy fit: {energy.condition:.3g}", energy.static_power]
        if energy.at_bound:
            notes.append(f"energy coefficients at the least they may be: {', '.join(energy.at_bound)}")
        if energy.unidentified:
            notes.append(f"energy coefficients these data cannot tell apart: {', '.join(energy.unidentified)}")
    return tuple(notes)
