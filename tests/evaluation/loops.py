"""Loops of GPUs in 16 bits: fitted where their device times are at hand, and carried to other cards of the generation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile
from tests.evaluation.transfer import transfer

OF_LOOPS = ("pointwise", "normalization", "softmax", "add", "gelu", "layer_norm")
"""Last parts of the names of what such rows say."""
SOURCES = ("loops of vidur @ 7d475133 and LLMCompass @ 2e015fd2",)


def digest_of(cases: Sequence[MeasuredCase]) -> str:
    """A short hash of cases and their times."""
    return hashlib.sha256("".join(f"{case.case.identity}{case.latency_s!r}" for case in cases).encode()).hexdigest()[:16]


def with_loops(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> ArchitectureProfile:
    """A profile with its loops fitted to cases of its device, all else as it was; itself where there are none."""
    if not cases:
        return profile
    read = Sources(tuple(cases), digest_of(cases), SOURCES, None)
    made = calibrate_cases(read, profile, name=profile.name, residual=False, only=OF_LOOPS).profile
    own = {n: c for n, c in made.coefficients.items() if _is_of_loops(n) and c.from_fit}
    return profile.replacing(coefficients={**profile.coefficients, **own})


def with_loops_of(measured: Sequence[ArchitectureProfile], target: ArchitectureProfile) -> ArchitectureProfile:
    """A card with the loops of measured ones of its generation in place of those that came from farther machines."""
    alike = [p for p in measured if capability(p) == capability(target) and "device_launch.add" in p.coefficients]
    if not alike:
        return target
    own = {whose(n) for n, c in target.coefficients.items() if c.from_fit and not c.assumed}
    others = {n: c for n, c in target.coefficients.items() if not _is_of_loops(n, own) or c.source != "transferred"}
    moved = {n: c for n, c in transfer(alike, target).coefficients.items() if _is_of_loops(n, own)}
    return target.replacing(coefficients={**others, **moved})


def _is_of_loops(name: str, but: Collection[str] = ()) -> bool:
    """Whether a coefficient is one of loops, not of those algorithms and operators, and not what a fit errs: a few operators say
    nothing of that of others."""
    return whose(name) in OF_LOOPS and whose(name) not in but and entry(name).role != "spread"


def capability(profile: ArchitectureProfile) -> float | None:
    """A card's generation, where it is known."""
    own = profile.get("compute.capability")
    return None if own is None else own.value
