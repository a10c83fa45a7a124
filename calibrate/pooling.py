"""A profile of a kind of machine from several machines of that kind: one fit to all, and the spread between them in its ranges: n
times the jackknife variance of the fit without one machine (Efron, The jackknife, the bootstrap and other resampling plans, SIAM,
1982, chapter 3). A further machine lies within sqrt(variance of the fit + (1 + 1/n) x variance between machines)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shmoo.calibrate.calibration import Calibration, blocks_of_splits, calibrate_cases, error_card
from shmoo.calibrate.fit.dataset import Block, Sources, blocks
from shmoo.calibrate.fit.fit import log_errors, log_normal_coefficient
from shmoo.calibrate.fit.intervals import reach_of_ranges, spreads
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.progress import Progress, Standing, silent


def pool(
    specimens: Sequence[Sources],
    together: Sources,
    base: ArchitectureProfile,
    *,
    name: str,
    seed: int = 0,
    residual: bool = True,
    progress: Progress = silent,
) -> Calibration:
    """Fit a kind of machine to the measurements of several machines of that kind. Spreads come from the cases of each machine,
    predicted by the fit to the others.

    Args:
        specimens: the cases of each machine; at least two.
        together: the cases of all machines, read as if of one. For other arguments and errors see `calibrate_cases`.
    """
    if len(specimens) < 2:
        raise InputError(
            f"pooling needs the runs of at least two machines, got {len(specimens)}; to calibrate one, leave out --pool"
        )
    pooled = calibrate_cases(together, base, name=name, seed=seed, residual=residual, progress=progress)
    jackknife = []
    for index, machine in enumerate(specimens):
        progress(Standing("pooling", index, len(specimens), now=f"the fit without {', '.join(machine.names)}"))
        other_cases = [case for number, other in enumerate(specimens) if number != index for case in other.cases]
        dataset = replace(together, cases=tuple(other_cases))
        jackknife.append(calibrate_cases(dataset, base, name=name, seed=seed, residual=False).profile)
    reference = (
        f"pooled over {len(specimens)} machines; {next(c.reference for c in pooled.profile.coefficients.values() if c.from_fit)}"
    )
    draft = _with_ranges(pooled.profile, jackknife, reference)
    by_machine = [blocks_of_splits(blocks(machine.cases, draft), draft, ("fit", "validation")) for machine in specimens]
    all_blocks = [block for machine_blocks in by_machine for block in machine_blocks]
    errors = np.concatenate(
        [log_errors(machine, Coefficients(profile)) for machine, profile in zip(by_machine, jackknife, strict=True)]
    )
    sigmas = spreads(all_blocks, errors, reach_of_ranges(all_blocks, draft), draft, reference)
    # Machines can agree by chance, so no spread may fall below that of the cases themselves.
    spread = {n: max(c, draft.coefficients.get(n, c), key=lambda one: one.value) for n, c in sigmas.items()}
    profile = draft.replacing(coefficients={**draft.coefficients, **spread})
    pooled_blocks = blocks(together.cases, profile)
    profile = profile.replacing(error_card=error_card(pooled_blocks, profile))
    return Calibration(profile, (*pooled.notes, _note(by_machine, pooled.profile, len(specimens))))


def _with_ranges(profile: ArchitectureProfile, jackknife: Sequence[ArchitectureProfile], reference: str) -> ArchitectureProfile:
    """The profile with the spread between machines in the range of each fitted coefficient."""
    n = len(jackknife)
    coefficients = dict(profile.coefficients)
    for name, c in profile.coefficients.items():
        values = [other.coefficients[name].value for other in jackknife if name in other.coefficients]
        if c.source != "fitted" or c.stderr is None or c.value <= 0 or len(values) < n or min(values) <= 0:
            continue
        logs = np.log(values)
        between_variance = (n - 1) * float(np.sum((logs - logs.mean()) ** 2))
        sd = math.hypot(c.stderr / c.value, math.sqrt((1 + 1 / n) * between_variance))
        coefficients[name] = log_normal_coefficient(c.value, c.unit, "fitted", reference, sd)
    return profile.replacing(coefficients=coefficients)


def _note(by_machine: Sequence[Sequence[Block]], profile: ArchitectureProfile, machines: int) -> str:
    """How far the machines' times lie from the common fit."""
    levels = [-float(np.median(log_errors(machine_blocks, Coefficients(profile)))) for machine_blocks in by_machine]
    return f"pooled over {machines} machines, whose times differ from the common fit by {min(levels):+.1%} to {max(levels):+.1%}"
