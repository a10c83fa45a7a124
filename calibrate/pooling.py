"""A profile of a kind of machine from several machines of that kind: one fit to all, and the spread between them in its ranges: n
times the jackknife variance of the fit without one machine (Efron, The jackknife, the bootstrap and other resampling plans, SIAM,
1982, chapter 3). A further machine lies within sqrt(variance of the fit + (1 + 1/n) x variance between machines)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shmoo.calibrate.calibration import Calibration, calibrate_cases, error_card, of_splits
from shmoo.calibrate.fit.dataset import Block, Sources, blocks
from shmoo.calibrate.fit.fit import log_errors, ranged
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
        together: those of all of them, read as if of one machine. Other arguments and errors as of `calibrate_cases`.
    """
    if len(specimens) < 2:
        raise InputError(
            f"pooling needs the runs of at least two machines, got {len(specimens)}; without --pool one is calibrated"
        )
    whole = calibrate_cases(together, base, name=name, seed=seed, residual=residual, progress=progress)
    without = []
    for left_out, own in enumerate(specimens):
        progress(Standing("pooling", left_out, len(specimens), now=f"the fit without {', '.join(own.names)}"))
        rest = [case for number, other in enumerate(specimens) if number != left_out for case in other.cases]
        read = replace(together, cases=tuple(rest))
        without.append(calibrate_cases(read, base, name=name, seed=seed, residual=False).profile)
    reference = (
        f"pooled over {len(specimens)} machines; {next(c.reference for c in whole.profile.coefficients.values() if c.from_fit)}"
    )
    widened = _with_ranges(whole.profile, without, reference)
    seen = [of_splits(blocks(own.cases, widened), widened, ("fit", "validation")) for own in specimens]
    listed = [block for of_specimen in seen for block in of_specimen]
    errors = np.concatenate([log_errors(own, Coefficients(profile)) for own, profile in zip(seen, without, strict=True)])
    sigmas = spreads(listed, errors, reach_of_ranges(listed, widened), widened, reference)
    # Machines can agree by chance: no spread is below that of the cases themselves.
    kept = {n: max(c, widened.coefficients.get(n, c), key=lambda one: one.value) for n, c in sigmas.items()}
    profile = widened.replacing(coefficients={**widened.coefficients, **kept})
    everything = blocks(together.cases, profile)
    profile = profile.replacing(error_card=error_card(everything, profile))
    return Calibration(profile, (*whole.notes, _note(seen, whole.profile, len(specimens))))


def _with_ranges(profile: ArchitectureProfile, without: Sequence[ArchitectureProfile], reference: str) -> ArchitectureProfile:
    """The profile with the spread between machines in the range of each fitted coefficient."""
    n = len(without)
    coefficients = dict(profile.coefficients)
    for name, c in profile.coefficients.items():
        values = [one.coefficients[name].value for one in without if name in one.coefficients]
        if c.source != "fitted" or c.stderr is None or c.value <= 0 or len(values) < n or min(values) <= 0:
            continue
        logs = np.log(values)
        between = (n - 1) * float(np.sum((logs - logs.mean()) ** 2))
        sd = math.hypot(c.stderr / c.value, math.sqrt((1 + 1 / n) * between))
        coefficients[name] = ranged(c.value, c.unit, "fitted", reference, sd)
    return profile.replacing(coefficients=coefficients)


def _note(seen: Sequence[Sequence[Block]], profile: ArchitectureProfile, machines: int) -> str:
    """How far the machines lie apart, by what the common fit says of each."""
    levels = [-float(np.median(log_errors(own, Coefficients(profile)))) for own in seen]
    return f"pooled over {machines} machines, whose times differ from the common fit by {min(levels):+.1%} to {max(levels):+.1%}"
