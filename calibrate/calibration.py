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
from shmoo.calibrate.fit.energy import EnergyFit, fit_energy
from shmoo.calibrate.fit.fit import LatencyFit, fit_latency, log_errors, log_normal_coefficient, patient
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
RETILINGS = 2
"""How often tensor-core kernels are tiled again with the coefficients just fitted."""
MIN_PRODUCTS = 200
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
    """Fit a machine's coefficients to measurements.

    Args:
        sources: one or more run directories or operator tables (.csv) of one machine.
        base: profile that supplies the coefficients that are not fitted; required for tables, made from the machine's description
            for runs.
        name: name of the result; by default the base's name, or cpu_local.
        seed: seed of the fit's further starts.
        residual: whether to fit corrections to the physical model where they lower the held-out error.
        reduction: column of tables that holds the reduction of matrix products (`table_reduction` finds it).
        progress: receives a message at each step.
        hurry: called during the fit; once it returns true the fit ends with its best point and no corrections are fitted.

    Raises:
        InputError: sources of different machines, too little to fit, or an invalid name.
        NothingMeasuredError: no usable row.
    """
    if name is not None:
        check_name(name)
    progress(_standing("reading sources"))
    dataset, base = read_for(sources, base, reduction)
    return calibrate_cases(dataset, base, name=name or base.name, seed=seed, residual=residual, progress=progress, hurry=hurry)


def read_for(
    sources: str | Path | Sequence[str | Path], base: ArchitectureProfile | None, reduction: Reduction = "k"
) -> tuple[Sources, ArchitectureProfile]:
    """The cases of one machine's sources that a base profile can be fitted to, and that profile; for arguments and errors see
    `calibrate`."""
    paths = [Path(source) for source in ((sources,) if isinstance(sources, str | Path) else sources)]
    dataset = read_sources(paths, "cpu" if base is None else base.family, reduction)
    devices = sorted({case.case.device for case in dataset.cases})
    if base is None:
        if dataset.machine is None or any(path.suffix == ".csv" for path in paths):
            raise InputError(
                "an operator table does not say which machine it is from; name the nearest profile with --base PROFILE"
            )
        if len(devices) > 1:
            raise InputError(
                f"the sources hold rows of {', '.join(devices)}; calibrate one device at a time, with --base PROFILE"
            )
        base = base_profile(dataset.machine, devices[0])
    device = TABLE_DEVICE[base.family]
    cases = tuple(case for case in dataset.cases if case.case.device == device)
    if not cases:
        raise InputError(
            f"{', '.join(dataset.names)} holds rows of {', '.join(devices)}, and {base.name!r} is a {base.family}; "
            "name another --base"
        )
    if len(cases) < len(dataset.cases):
        logger.warning("%d cases of other devices than %r are left out", len(dataset.cases) - len(cases), device)
    return replace(dataset, cases=cases), base


def _standing(step: str) -> Standing:
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
    if len(products) < MIN_PRODUCTS:
        return "k", ""
    sample = products[:: max(1, len(products) // COMPARED_PRODUCTS)]
    errors: dict[str, float] = {}
    readings: tuple[Reduction, ...] = ("k", "n")
    for column in readings:
        cases = tuple(case_of(msgspec.structs.replace(row, reduction=column)) for row in sample)
        dataset = Sources(cases, "", tuple(path.name for path in tables), None, column)
        card = calibrate_cases(dataset, base, name=base.name, residual=False).profile.error_card["validation"].values()
        errors[column] = sum(family.n * family.mean for family in card) / sum(family.n for family in card)
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
    case_blocks = blocks(cases, base)
    fit = fit_latency(case_blocks, parameters_for(case_blocks, base), base, starts=1, folds=0)
    return base.replacing(coefficients={**base.coefficients, **_coefficients(fit, f"fitted to {run.path.name} so far")})


def calibrate_cases(
    dataset: Sources,
    base: ArchitectureProfile,
    *,
    name: str,
    seed: int = 0,
    residual: bool = True,
    progress: Progress = silent,
    only: Collection[str] | None = None,
    hurry: Callable[[], bool] = patient,
) -> Calibration:
    """`calibrate` for cases already read. With `only`, just the coefficients whose names end in one of these parts are fitted."""
    progress(_standing(f"tabulating {len(dataset.cases)} cases"))
    # Measurements include the launches of the machine they were taken on, not those of a named host.
    base = base.replacing(residual=(), host="") if dataset.machine is None else beside_own_host(base)
    all_blocks = blocks(dataset.cases, base)
    fit_blocks = blocks_of_splits(all_blocks, base, ("fit",), physics_only=True)
    if not fit_blocks:
        raise InputError(
            f"{len(dataset.cases)} cases are too few to fit anything: none falls into the part that is fitted; measure more"
        )
    reference = f"fitted to {', '.join(dataset.names)} ({dataset.rows_hash})"
    # Energies come first: they decide where the power cap slows the clock, and so times.
    energy = fit_energy(fit_blocks, base, reference)
    if energy is not None:
        base = base.replacing(coefficients={**base.coefficients, **energy.coefficients})
    progress(_standing("fitting latency"))
    fit = fit_latency(fit_blocks, parameters_for(fit_blocks, base, only), base, seed=seed, hurry=hurry)
    # Tensor-core kernels use the tile that the model finds fastest, which depends on the fitted coefficients: tile and fit again.
    for _ in range(RETILINGS if any(on_tensor_cores(block.table, base).any() for block in fit_blocks) else 0):
        if hurry():
            break
        director = AnalysisDirector(base.replacing(coefficients={**base.coefficients, **_coefficients(fit, reference)}))
        all_blocks, fit_blocks = (
            [replace(block, tiling=director.tile(block.table)) for block in blocks_of_both]
            for blocks_of_both in (all_blocks, fit_blocks)
        )
        fit = fit_latency(fit_blocks, parameters_for(fit_blocks, base, only), base, seed=seed, starts=1, hurry=hurry)
    dtype_codes = np.unique(np.concatenate([block.table.dtype for block in all_blocks]))
    launches = _typical_launches(fit, reference)
    profile = base.replacing(
        name=name,
        table_reduction=dataset.table_reduction,
        coefficients={**base.coefficients, **_coefficients(fit, reference), **launches},
        fitted_from=FittedFrom(
            rows_hash=dataset.rows_hash,
            sources=dataset.names,
            fingerprint={} if dataset.machine is None else {f: getattr(dataset.machine, f) for f in FINGERPRINT_FIELDS},
            seed=seed,
            dtypes=tuple(COMPUTE_DTYPES[code] for code in dtype_codes),
        ),
    )
    progress(_standing("setting intervals"))
    learning_blocks = blocks_of_splits(all_blocks, profile, ("fit", "validation"), physics_only=True)
    errors = _held_out_errors(learning_blocks, profile, fit)
    sigmas = spreads(learning_blocks, errors, reach_of_ranges(learning_blocks, profile), profile, reference)
    profile = profile.replacing(coefficients={**profile.coefficients, **sigmas})
    hurried = hurry()
    notes = _notes(fit, energy)
    if residual and not hurried:
        learning_blocks = blocks_of_splits(all_blocks, profile, ("fit", "validation"))
        corrections, group_notes = fit_residual(learning_blocks, profile, seed=seed)
        profile, notes = profile.replacing(residual=corrections), (*notes, *group_notes)
    progress(_standing("testing on held-out cases"))
    profile = profile.replacing(error_card=error_card(all_blocks, profile))
    if (problem := first_problem(profile)) is not None:
        raise InputError(
            f"the measurements do not describe a machine like {base.name!r}: {problem}; check them, or name another --base"
        )
    return Calibration(profile, notes, hurried)


def blocks_of_splits(
    all_blocks: Sequence[Block], profile: ArchitectureProfile, splits: tuple[str, ...], *, physics_only: bool = False
) -> list[Block]:
    """The cases of these splits, tiled for `profile`; with `physics_only`, those alone that the physics is fitted to."""
    director = AnalysisDirector(profile)
    masks = [np.isin(block.splits, splits) for block in all_blocks]
    if physics_only:
        masks = [mask & [not case.other_release for case in block.cases] for mask, block in zip(masks, all_blocks, strict=True)]
    return [block.subset(mask, director) for block, mask in zip(all_blocks, masks, strict=True) if mask.any()]


def _held_out_errors(learning_blocks: Sequence[Block], profile: ArchitectureProfile, fit: LatencyFit) -> np.ndarray:
    """(S,) log(predicted / measured) of cases of the fit and validation splits, each by a fit without it."""
    errors = log_errors(learning_blocks, Coefficients(profile))
    errors[np.concatenate([block.splits for block in learning_blocks]) == "fit"] += fit.left_out - fit.residuals
    return errors


def _coefficients(fit: LatencyFit, reference: str) -> dict[str, Coefficient]:
    coefficients = {}
    for name, value in fit.values.items():
        unit, is_identified = entry(name).unit, name not in fit.unidentified
        source: Source = "at bound" if name in fit.at_bound else "fitted" if is_identified else "prior"
        fields = value, unit, source, reference
        coefficients[name] = log_normal_coefficient(*fields, fit.log_sd[name]) if is_identified else Coefficient(*fields)
    return coefficients


def _typical_launches(fit: LatencyFit, reference: str) -> dict[str, Coefficient]:
    """launch.<runtime> of operators that were not measured alone: geometric mean and range over the measured ones."""
    by_runtime: dict[str, list[float]] = {}
    for name in under("launch", fit.values):
        runtime = runtime_of(name)
        if runtime is not None and name not in fit.unidentified:
            by_runtime.setdefault(runtime, []).append(fit.values[name])
    launches = {}
    for runtime, values in by_runtime.items():
        mean = float(np.exp(np.mean(np.log(values))))
        origin = f"geometric mean and range over {len(values)} operators; {reference}"
        launches[f"launch.{runtime}"] = Coefficient(mean, "s", "fitted", origin, low=min(mean, *values), high=max(mean, *values))
    return launches


def error_card(all_blocks: Sequence[Block], profile: ArchitectureProfile) -> dict[str, dict[str, ErrorCardEntry]]:
    """Errors of the validation and the test split by operator family, synthetic models and networks."""
    card: dict[str, dict[str, ErrorCardEntry]] = {}
    for split in ("validation", "test"):
        split_blocks = blocks_of_splits(all_blocks, profile, (split,))
        if split_blocks:
            names = np.asarray([name for block in split_blocks for name in groups(block)])
            estimates = held_out(split_blocks, profile)
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


def _notes(fit: LatencyFit, energy: EnergyFit | None) -> tuple[str, ...]:
    notes = [f"condition number of the latency fit: {fit.condition:.3g}"]
    if fit.at_bound:
        notes.append(f"at a bound: {', '.join(fit.at_bound)}")
    if fit.unidentified:
        notes.append(f"not identified by these data, held by the prior: {', '.join(fit.unidentified)}")
    if energy is None:
        notes.append("no energy was measured: energy coefficients stay those of the base profile")
    else:
        notes += [f"condition number of the energy fit: {energy.condition:.3g}", energy.static_power]
        if energy.at_bound:
            notes.append(f"energy coefficients at their lower bound: {', '.join(energy.at_bound)}")
        if energy.unidentified:
            notes.append(f"energy coefficients these data cannot tell apart: {', '.join(energy.unidentified)}")
    return tuple(notes)
