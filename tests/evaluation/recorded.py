"""Profiles from the runs that stand in the repository: a machine measured by Shmoo itself, and others with its chip.

A run of a few hundred cases, one visit each, knows less of products and attention on tensor cores than the published tables that
their coefficients are from, so those stay. Convolutions there are not fitted either: few cases made single operators 4 % better
and replayed networks 11 % worse. Loops, poolings, norms and products of float32 are the run's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import read_sources
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import TENSOR
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from tests.evaluation.transfer import transfer

PROFILES: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({"h200": ("gpu_h200", ("gpu_h100",))})
"""Folder of a machine's runs -> its profile, and those of other cards with its chip."""
RUNS = ("time", "energy")
"""Runs of a machine. Of the second, with large operators, only the times are fitted: `publish energy` fits joules."""
UNSEEN = ("softmax",)
"""Algorithms of which almost all rows wait for the host. Fitted, the large softmaxes of the second run are 60 % too fast; as
carried from other cards they are 20 % off."""


def published_runs(folder: Path) -> Iterator[ArchitectureProfile]:
    """Every measured machine as its run and the tables say, then its siblings.

    Raises:
        InputError: a run is missing.
    """
    for machine, (name, siblings) in PROFILES.items():
        fitted = fitted_to_runs([folder / machine / run for run in RUNS], load_profile(name))
        yield fitted
        for sibling in siblings:
            yield beside_run(fitted, load_profile(sibling))


def fitted_to_runs(paths: Sequence[Path], base: ArchitectureProfile) -> ArchitectureProfile:
    """A profile fitted to the times of runs, but for kernels on tensor cores."""
    read = read_sources(paths, base.family)
    timed = replace(read, cases=tuple(replace(case, energy_j=None) for case in read.cases))
    made = calibrate_cases(timed, base, name=base.name, residual=False).profile
    others = {n: c for n, c in base.coefficients.items() if not _from_runs(n)}
    own = {n: c for n, c in made.coefficients.items() if _from_runs(n)}
    return made.replacing(host=base.host, coefficients={**others, **own}, residual=base.residual)


def _from_runs(name: str) -> bool:
    """Whether a coefficient is one that the runs say: of time, and neither of kernels on tensor cores nor of `UNSEEN`. Most of
    their operators wait for the host, whose errors are none of the kernels'; what kernels err is what it is on other cards."""
    return whose(name) not in (*TENSOR, *UNSEEN) and entry(name).role not in ("energy", "board", "spread")


def beside_run(fitted: ArchitectureProfile, target: ArchitectureProfile) -> ArchitectureProfile:
    """A card with the coefficients of a fitted one's chip in place of those that came from farther machines, and with what it
    errs."""
    carried: dict[str, Coefficient] = {}
    for name, c in transfer([fitted], target).coefficients.items():
        before = target.coefficients.get(name, c)
        if _from_runs(name) and not entry(name).of_host and c.source == before.source == "transferred":
            carried[name] = c
    others = {n: c for n, c in target.coefficients.items() if not _errs(n)}
    return target.replacing(coefficients={**others, **{n: c for n, c in fitted.coefficients.items() if _errs(n)}, **carried})


def _errs(name: str) -> bool:
    """Whether a coefficient is what kernels err that do not run on tensor cores."""
    return entry(name).role == "spread" and whose(name) not in TENSOR
