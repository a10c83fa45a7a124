"""Held-out errors on the CPU that runs were measured on: whole networks, from operators and synthetic models only.

DATA_DIR is a run directory of `shmoo measure`, or a folder of several campaigns of the same machine: each is then calibrated for
itself and also held against the others' networks, and their spread stands beside the errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shmoo.calibrate.calibration import calibrate_cases, groups
from shmoo.calibrate.fit.base import base_profile
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.fit.intervals import held_out
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.runs.analysis.metrics import repeat_spread
from tests.evaluation.results import HOLDS, Result, of_cases, together

NETWORKS, FAR, FAR_SHARE = 0.12, 0.20, 0.15
"""Bounds on networks: mean error, and the share of them that may err more than 20 %."""
QUIET, ABOVE_SPREAD, MOST = 0.06, 0.06, 0.18
"""Where the networks' own spread is above 6 %, their mean error may be 6 % above it, but never above 18 %."""
FOLDS = 5


def evaluate(folder: Path) -> list[Result]:
    """All CPU numbers.

    Raises:
        InputError: no run there, or none with networks.
    """
    paths = [folder] if (folder / "run.json").is_file() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not paths:
        raise InputError(f"no run in {str(folder)!r}; DATA_DIR is a run directory of `shmoo measure`, or a folder of some")
    runs = {path.name: read_sources([path]) for path in paths}
    fitted = {name: calibrate_cases(run, _base(run), name=name).profile for name, run in runs.items()}
    spread = _spread(list(runs.values()))
    results = []
    for calibrated, profile in fitted.items():
        for tested, run in runs.items():
            results += _networks(run.cases, profile, f"{tested}, calibrated on {calibrated}", spread)
    if spread:
        results += [Result(f"spread of the networks between campaigns, {runtime}", n, s) for runtime, (n, s) in spread.items()]
    return [*results, *cross_validated(list(runs.values()))]


def _base(run: Sources) -> ArchitectureProfile:
    if run.machine is None or not any(case.case.kind == "network" for case in run.cases):
        raise InputError(
            f"{', '.join(run.names)} holds no networks; measure some into it: `shmoo measure --model M --out RUN --resume`"
        )
    return base_profile(run.machine)


def _networks(
    cases: Sequence[MeasuredCase], profile: ArchitectureProfile, where: str, spread: dict[str, tuple[int, float]]
) -> list[Result]:
    """Errors of the networks of a run by runtime and batch."""
    results = []
    for block in blocks([case for case in cases if case.case.kind == "network"], profile):
        found = held_out([block], profile)
        batches = np.asarray([case.case.axes["batch"] for case in block.cases])
        own = spread.get(block.runtime, (0, 0.0))[1]
        bound = NETWORKS if own <= QUIET else min(own + ABOVE_SPREAD, MOST)
        results.append(of_cases(f"networks in {block.runtime}, {where}", found.entry(), bound, covers=HOLDS))
        results += [of_cases(f"   batch {batch}", found.entry(batches == batch)) for batch in np.unique(batches)]
        far = np.abs(found.estimated / found.measured - 1.0) > FAR
        results.append(Result("   more than 20 % off", len(far), float(far.mean()), FAR_SHARE))
    return results


def _spread(runs: Sequence[Sources]) -> dict[str, tuple[int, float]]:
    """Runtime -> number of networks that the first two campaigns share, and the median of |a - b| / min(a, b)."""
    if len(runs) < 2:
        return {}
    first, second = (
        {(c.case.runtime, c.case.identity): c.latency_s for c in run.cases if c.case.kind == "network"} for run in runs[:2]
    )
    found = {}
    for runtime in sorted({runtime for runtime, _ in first}):
        shared = [case for case in first if case in second and case[0] == runtime]
        if shared:
            found[runtime] = len(shared), float(np.median([repeat_spread(first[case], second[case]) for case in shared]))
    return found


def cross_validated(runs: Sequence[Sources]) -> list[Result]:
    """Errors and coverage by operator family and for synthetic models, over all campaigns: every case is predicted by a
    calibration of its campaign without its fold."""
    names: list[str] = []
    parts = []
    for run in runs:
        base = _base(run)
        for fold in range(FOLDS):
            kept = tuple(c for c in run.cases if c.case.kind == "network" or _fold(c) != fold)
            profile = calibrate_cases(replace(run, cases=kept), base, name="fold").profile
            out = blocks([c for c in run.cases if c.case.kind != "network" and _fold(c) == fold], profile)
            parts.append(held_out(out, profile))
            names += [name for block in out for name in groups(block)]
    found, of = together(parts), np.asarray(names)
    masks = {name: of == name for name in dict.fromkeys(names)} | {"operators together": of != "synthetic"}
    return [of_cases(f"cross-validated, {name}", found.entry(mask), covers=HOLDS) for name, mask in masks.items()]


def _fold(case: MeasuredCase) -> int:
    """0 to 4 by a hash of the identity, salted so that folds and splits are independent."""
    return hashlib.sha256(f"fold {case.case.identity}".encode()).digest()[0] % FOLDS
