"""Sources in, profile out: read, fit on the fit split, set intervals on validation, report errors on every split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shmoo.calibrate.base import base_profile
from shmoo.calibrate.dataset import TABLE_DEVICE, Block, Sources, blocks, read_sources, run_cases
from shmoo.calibrate.energy import FittedEnergy, fit_energy
from shmoo.calibrate.fit import Fitted, fit_latency, predicted_latency
from shmoo.calibrate.held_out import held_out
from shmoo.calibrate.intervals import reach_of_ranges, spreads
from shmoo.calibrate.parameters import parameters_for
from shmoo.calibrate.residual import FittedResidual, fit_residual
from shmoo.estimators.catalogue import entry, runtime_of, under
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, ErrorCardEntry, FittedFrom, Reduction
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.estimators.records import FAMILIES, NORMAL_90, Coefficient, Source
from shmoo.runs.records import FINGERPRINT_FIELDS
from shmoo.runs.store import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted profile and what a reader must know about the fit."""

    profile: ArchitectureProfile
    notes: tuple[str, ...]


def calibrate(
    sources: str | Path | Sequence[str | Path],
    *,
    base: ArchitectureProfile | None = None,
    name: str | None = None,
    seed: int = 0,
    residual: bool = True,
    reduction: Reduction = "k",
    progress: Progress | None = None,
) -> Calibration:
    """Fit a machine's coefficients to what was measured on it.

    Args:
        sources: run directories or operator tables (.csv) of one machine, or a single one.
        base: profile whose unfitted numbers are kept; needed for tables, made from the machine's description for runs.
        name: name of the result; the base's name, or cpu_local, for `None`.
        seed: of the fit's further starts.
        residual: whether to fit corrections beside the physical model where they lower held-out error.
        reduction: column of tables that holds the reduction of matrix products (`columns.table_reduction` finds it).
        progress: told what is being done.

    Raises:
        InputError: sources of different machines, or too little to fit.
        NothingMeasuredError: no usable row.
    """
    progress = progress or silent
    progress(_doing("reading sources"))
    paths = [Path(source) for source in ((sources,) if isinstance(sources, str | Path) else sources)]
    read = read_sources(paths, "cpu" if base is None else base.family, reduction)
    start = base if base is not None else _base_of(read)
    read = _on_device(read, start)
    return calibrate_cases(read, start, name=name or start.name, seed=seed, residual=residual, progress=progress)


def _doing(step: str) -> Standing:
    return Standing("calibrating", now=step)


def _on_device(read: Sources, base: ArchitectureProfile) -> Sources:
    """The sources' rows of the device that the profile is of."""
    device = TABLE_DEVICE[base.family]
    kept = tuple(case for case in read.cases if case.case.device == device)
    if not kept:
        devices = ", ".join(sorted({case.case.device for case in read.cases}))
        raise InputError(
            f"{', '.join(read.names)} holds rows of {devices}, and {base.name!r} is a {base.family}; name another --base"
        )
    if len(kept) < len(read.cases):
        logger.warning("%d cases of other devices than %r are left out", len(read.cases) - len(kept), device)
    return replace(read, cases=kept)


def _base_of(read: Sources) -> ArchitectureProfile:
    if read.machine is None:
        raise InputError("an operator table does not say which machine it is from; name the nearest profile with --base PROFILE")
    devices = {case.case.device for case in read.cases}
    if len(devices) > 1:
        raise InputError(
            f"the sources hold rows of {', '.join(sorted(devices))}; calibrate one device at a time, with --base PROFILE"
        )
    return base_profile(read.machine, devices.pop())


def quick_profile(run: Run) -> ArchitectureProfile:
    """A profile from what a run holds so far, within seconds: one start, no residual, intervals as wide as the fit's noise.

    Raises:
        InputError: too little to fit.
    """
    cases = tuple(case for case in run_cases(run) if case.case.kind != "network" and case.case.runtime == "eager")
    if not cases:
        raise InputError("no operator was measured yet")
    base = base_profile(run.manifest.machine, cases[0].case.device)
    measured = blocks(cases, base)
    parameters = parameters_for(measured, base)
    fitted = fit_latency(measured, parameters, base, starts=1, folds=0)
    units = {p.name: p.unit for p in parameters}
    return base.replacing(coefficients={**base.coefficients, **_coefficients(fitted, units, f"fitted to {run.path.name} so far")})


def calibrate_cases(
    read: Sources,
    base: ArchitectureProfile,
    *,
    name: str,
    seed: int = 0,
    residual: bool = True,
    progress: Progress | None = None,
) -> Calibration:
    """`calibrate` on cases already read."""
    base = base.replacing(residual=())
    progress = progress or silent
    progress(_doing(f"tabulating {len(read.cases)} cases"))
    everything = blocks(read.cases, base)
    fit_cases = _only(everything, base, ("fit",))
    progress(_doing("fitting latency"))
    parameters = parameters_for(fit_cases, base)
    fitted = fit_latency(fit_cases, parameters, base, seed=seed)
    reference = f"fitted to {', '.join(read.names)} ({read.rows_hash})"
    profile = base.replacing(
        name=name,
        table_reduction=read.table_reduction,
        coefficients={**base.coefficients, **_coefficients(fitted, reference)},
        fitted_from=FittedFrom(
            rows_hash=read.rows_hash,
            sources=read.names,
            fingerprint={} if read.machine is None else {f: getattr(read.machine, f) for f in FINGERPRINT_FIELDS},
            seed=seed,
            dtypes=_types(everything),
        ),
    )
    profile = profile.replacing(coefficients={**profile.coefficients, **_typical_launches(fitted, reference)})
    progress(_doing("setting intervals"))
    seen = _only(everything, profile, ("fit", "validation"))
    errors = _held_out(seen, profile, fitted)
    reach = reach_of_ranges(seen, profile)
    found_spreads = spreads(seen, errors, reach, profile, reference)
    profile = profile.replacing(coefficients={**profile.coefficients, **found_spreads})
    energy = fit_energy(fit_cases, profile, reference)
    if energy is not None:
        profile = profile.replacing(coefficients={**profile.coefficients, **energy.coefficients})
    corrections = fit_residual(seen, profile, reach, seed=seed) if residual else FittedResidual((), ())
    profile = profile.replacing(residual=corrections.groups)
    progress(_doing("testing on held-out cases"))
    profile = profile.replacing(error_card=error_card(everything, profile))
    return Calibration(profile, (*_notes(fitted, energy), *corrections.notes))


def _types(everything: Sequence[Block]) -> tuple[str, ...]:
    """Types that the kernels of all cases compute in."""
    codes = np.unique(np.concatenate([block.table.dtype for block in everything]))
    return tuple(COMPUTE_DTYPES[code] for code in codes)


def _only(everything: Sequence[Block], profile: ArchitectureProfile, splits: tuple[str, ...]) -> list[Block]:
    director = AnalysisDirector(profile)
    kept = []
    for block in everything:
        mask = np.isin(block.splits, splits)
        if mask.any():
            kept.append(block.subset(mask, director))
    return kept


def _held_out(seen: Sequence[Block], profile: ArchitectureProfile, fitted: Fitted) -> np.ndarray:
    """(S,) log(predicted / measured) of cases of the fit and validation splits, as a fit without them leaves them."""
    measured = np.concatenate([block.measured_s for block in seen])
    errors = np.log(predicted_latency(seen, Coefficients(profile)) / measured)
    errors[np.concatenate([block.splits for block in seen]) == "fit"] += fitted.left_out - fitted.residuals
    return errors


def _coefficients(fitted: Fitted, reference: str) -> dict[str, Coefficient]:
    result = {}
    for name, value in fitted.values.items():
        sd = fitted.log_sd[name]
        # A standard error beyond a factor of ten says "unknown"; wider would only overflow the draws.
        spread = float(np.exp(NORMAL_90 * min(sd, 1.4)))
        unit = entry(name).unit
        source: Source = "at bound" if name in fitted.at_bound else "prior" if name in fitted.unidentified else "fitted"
        if name in fitted.unidentified:
            result[name] = Coefficient(value, unit, source, reference)
        else:
            result[name] = Coefficient(value, unit, source, reference, value * sd, value / spread, value * spread)
    return result


def _typical_launches(fitted: Fitted, reference: str) -> dict[str, Coefficient]:
    """launch.<runtime> for operators that were not measured alone: the geometric mean and range of those that were."""
    by_runtime: dict[str, list[float]] = {}
    for name in under("launch", fitted.values):
        runtime = runtime_of(name)
        if runtime is not None and name not in fitted.unidentified:
            by_runtime.setdefault(runtime, []).append(fitted.values[name])
    return {
        f"launch.{runtime}": Coefficient(
            float(np.exp(np.mean(np.log(values)))),
            "s",
            "fitted",
            f"geometric mean and range over {len(values)} operators; {reference}",
            low=min(values),
            high=max(values),
        )
        for runtime, values in by_runtime.items()
    }


def error_card(everything: Sequence[Block], profile: ArchitectureProfile) -> dict[str, dict[str, ErrorCardEntry]]:
    """Errors of the validation and the test split by operator family, synthetic models and networks."""
    card: dict[str, dict[str, ErrorCardEntry]] = {}
    for split in ("validation", "test"):
        kept = _only(everything, profile, (split,))
        if kept:
            names = np.asarray([name for block in kept for name in groups(block)])
            estimates = held_out(kept, profile)
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
