"""Held-out errors on GPUs: single operators of four devices, each fitted on its own rows, and each predicted from the others.

Files: `gpu_ops/{p100,v100,t4,a100_40g}.csv`, operator tables of eager PyTorch in float32 (NeuSight's measurements: Lee et al.,
ASPLOS 2025).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shmoo.calibrate.calibration import calibrate_cases, case_intervals
from shmoo.calibrate.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.evaluate import Result
from shmoo.calibrate.transfer import transfer
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, load_profile

DEVICES = ("p100", "v100", "t4", "a100_40g")
GROUPS = {"linear": 0.09, "bmm": 0.11, "conv": 0.17, "elementwise, norm, softmax": 0.08}
"""Group of operators -> largest mean error over the devices."""
WORST = 1.5
"""No device may err more than this times the bound."""
LEFT_OUT = 0.20
"""Bound for linear and bmm of a device that was left out."""


def evaluate(folder: Path) -> list[Result]:
    """All GPU numbers; each device's test split is 15 % of its rows by the hash of their identity.

    Raises:
        InputError: a table is missing.
    """
    cases = {device: _read(folder / "gpu_ops" / f"{device}.csv") for device in DEVICES}
    fitted = {d: calibrate_cases(cases[d], published(f"gpu_{d}"), name=f"gpu_{d}").profile for d in DEVICES}
    results: list[Result] = []
    tested = {d: [c for c in cases[d].cases if c.case.split == "test"] for d in DEVICES}
    errors = {d: group_errors(tested[d], fitted[d]) for d in DEVICES}
    for group, bound in GROUPS.items():
        means = [float(errors[d][group].mean()) for d in DEVICES]
        count = sum(len(errors[d][group]) for d in DEVICES)
        results.append(Result(f"{group}, mean over devices", count, float(np.mean(means)), bound))
        for device, mean in zip(DEVICES, means, strict=True):
            results.append(Result(f"   {device}", len(errors[device][group]), mean, bound * WORST))
    for device in DEVICES:
        others = [fitted[d] for d in DEVICES if d != device]
        left_out = group_errors(cases[device].cases, transfer(others, published(f"gpu_{device}")))
        both = np.concatenate([left_out["linear"], left_out["bmm"]])
        results.append(Result(f"{device} left out, linear and bmm", len(both), float(both.mean()), LEFT_OUT))
    return results


def published(name: str) -> ArchitectureProfile:
    """The machine as its datasheet and the literature describe it, without what was fitted or transferred to it."""
    profile = load_profile(name)
    known = {n: c for n, c in profile.coefficients.items() if c.source not in ("fitted", "transferred")}
    return profile.replacing(coefficients=known, fitted_from=None, error_card={})


def group_errors(cases: list[MeasuredCase] | tuple[MeasuredCase, ...], profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """Absolute relative errors of the cases of each group, (n,) each."""
    (block,) = blocks(cases, profile)
    estimated = case_intervals(block, profile)[:, 0]
    error = np.abs(estimated / block.measured_s - 1.0)
    rest = list(GROUPS)[-1]
    names = np.asarray([c.case.workload if c.case.workload in GROUPS else rest for c in cases])
    return {group: error[names == group] for group in GROUPS}


def _read(path: Path) -> Sources:
    if not path.is_file():
        raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds gpu_ops")
    return read_sources([path], "gpu")
