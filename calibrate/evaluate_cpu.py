"""Held-out errors on the CPU that runs were measured on: whole networks, from operators and synthetic models only.

DATA_DIR is a run directory of `shmoo measure`, or a folder of several campaigns of the same machine: each is then calibrated for
itself and also held against the others' networks, and their spread stands beside the errors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shmoo.calibrate.base import base_profile
from shmoo.calibrate.calibration import calibrate_cases, case_intervals, groups
from shmoo.calibrate.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.evaluate import Result
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.runs.metrics import campaign_spread

NETWORKS, FAR, FAR_SHARE = 0.12, 0.20, 0.15
"""Bounds on networks: mean error, and the share of them that may err more than 20 %."""
QUIET, ABOVE_SPREAD, MOST = 0.06, 0.06, 0.18
"""Where the networks' own spread is above 6 %, their mean error may be 6 % above it, but never above 18 %."""
COVERAGE, COVERAGE_MARGIN, LEAST_JUDGED = 0.9, 0.05, 60
"""Intervals hold when they cover 85 to 95 % of a group, to the share's standard error; fewer cases than 60 are only shown."""
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
    first = next(iter(runs.values()))
    return [*results, *coverage(first, _base(first))]


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
    networks = [case for case in cases if case.case.kind == "network"]
    results = []
    for block in blocks(networks, profile):
        estimated, low, high = case_intervals(block, profile).T
        error = np.abs(estimated / block.measured_s - 1.0)
        batches = np.asarray([case.case.axes["batch"] for case in block.cases])
        own = spread.get(block.runtime, (0, 0.0))[1]
        bound = NETWORKS if own <= QUIET else min(own + ABOVE_SPREAD, MOST)
        label = f"networks in {block.runtime}, {where}"
        results.append(Result(label, len(error), float(error.mean()), bound))
        results += [
            Result(f"   batch {batch}", int((batches == batch).sum()), float(error[batches == batch].mean()))
            for batch in np.unique(batches)
        ]
        results.append(Result("   more than 20 % off", len(error), float((error > FAR).mean()), FAR_SHARE))
        outside = (block.measured_s < low) | (block.measured_s > high)
        results.append(Result("   outside the 90 % interval", len(error), float(outside.mean()), 1 - COVERAGE + COVERAGE_MARGIN))
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
            found[runtime] = len(shared), campaign_spread([first[c] for c in shared], [second[c] for c in shared])
    return found


def coverage(run: Sources, base: ArchitectureProfile) -> list[Result]:
    """How far from 90 % the intervals' coverage is, by operator family and for synthetic models: every case is predicted by a
    calibration without its fold."""
    inside: dict[str, list[bool]] = {}
    for fold in range(FOLDS):
        kept = tuple(c for c in run.cases if c.case.kind == "network" or _fold(c) != fold)
        out = [c for c in run.cases if c.case.kind != "network" and _fold(c) == fold]
        profile = calibrate_cases(Sources(kept, run.rows_hash, run.names, run.machine), base, name="fold").profile
        for block in blocks(out, profile):
            _, low, high = case_intervals(block, profile).T
            for group, covered in zip(groups(block), (low <= block.measured_s) & (block.measured_s <= high), strict=True):
                inside.setdefault(group, []).append(bool(covered))
    inside["operators together"] = [c for name, covered in inside.items() if name != "synthetic" for c in covered]
    return [
        Result(
            f"coverage off 90 %, {group} ({np.mean(covered):.0%})",
            len(covered),
            float(abs(np.mean(covered) - COVERAGE)),
            _margin(len(covered)) if len(covered) >= LEAST_JUDGED else None,
        )
        for group, covered in inside.items()
    ]


def _margin(cases: int) -> float:
    """How far from 90 % a coverage may be found: 5 %, and the standard error of a share of so many cases."""
    return COVERAGE_MARGIN + math.sqrt(COVERAGE * (1.0 - COVERAGE) / cases)


def _fold(case: MeasuredCase) -> int:
    """0 to 4 by a hash of the identity, salted so that folds and splits are independent."""
    return hashlib.sha256(f"fold {case.case.identity}".encode()).digest()[0] % FOLDS
