"""Profiles from the runs that stand in the repository: a machine measured by Shmoo itself, and others with its chip.

A run of a few hundred cases, one visit each, knows less of products and attention on tensor cores than the published tables that
their coefficients are from, so those stay; convolutions there, loops, poolings and norms are the run's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import read_sources
from shmoo.calibrate.transfer import transfer
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.algorithms import TENSOR
from shmoo.estimators.machine.catalogue import whose
from shmoo.estimators.machine.hosts import FRAMEWORK, of_host
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile

PROFILES: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({"h200/time": ("gpu_h200", ("gpu_h100", "gpu_h20"))})
"""Run -> profile of the machine, and those of other cards with its chip."""
FROM_TABLES = tuple(name for name in TENSOR if name != "conv_tensor")


def published_runs(folder: Path) -> Iterator[ArchitectureProfile]:
    """Every measured machine as its run and the tables say, then its siblings.

    Raises:
        InputError: a run is missing.
    """
    for run, (name, siblings) in PROFILES.items():
        fitted = fitted_to_run(folder / run, load_profile(name))
        yield fitted
        for sibling in siblings:
            yield beside_run(fitted, load_profile(sibling))


def fitted_to_run(path: Path, base: ArchitectureProfile) -> ArchitectureProfile:
    """A profile fitted to a run, but for products and attention on tensor cores.

    A run of a GPU times calls that follow each other without waiting, so that the host's time passes beside the device's.
    Launches beside other hosts say nothing of it.
    """
    device = {n: c for n, c in base.coefficients.items() if not of_host(n)}
    start = base.replacing(coefficients={**device, "launch_tail": FRAMEWORK["launch_tail"]})
    made = calibrate_cases(read_sources([path], base.family), start, name=base.name, residual=False).profile
    tables = {n: c for n, c in base.coefficients.items() if whose(n) in FROM_TABLES}
    own = {n: c for n, c in made.coefficients.items() if whose(n) not in FROM_TABLES}
    return made.replacing(host=base.host, coefficients={**own, **tables}, residual=base.residual)


def beside_run(fitted: ArchitectureProfile, target: ArchitectureProfile) -> ArchitectureProfile:
    """A card with the coefficients of a fitted one's chip in place of those that came from farther machines."""
    carried: dict[str, Coefficient] = {}
    for name, c in transfer([fitted], target).coefficients.items():
        before = target.coefficients.get(name, c)
        loops = whose(name) not in FROM_TABLES and not of_host(name)
        if loops and c.source == before.source == "transferred":
            carried[name] = c
    return target.replacing(coefficients={**target.coefficients, **carried})
