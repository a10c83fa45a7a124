"""Held-out errors on GPUs: single operators of four devices, each fitted on its own rows, and each predicted from the others.

Files: `gpu_ops/{p100,v100,t4,a100_40g}.csv`, operator tables of eager PyTorch in float32 (NeuSight's measurements: Lee et al.,
ASPLOS 2025). In them the reduction of linear layers and products stands in column `n`. Read so, the tiles that the
rows' kernels are named after explain batched products of P100 and A100 to 3 %; read as other tables are, to 23 and 37 %.
Convolutions of the A100's table were run on the card with 80 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shmoo.calibrate.calibration import calibrate_cases, case_intervals
from shmoo.calibrate.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.evaluate import Result
from shmoo.calibrate.transfer import transfer
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, load_profile

DEVICES = {"p100": "P100", "v100": "V100", "t4": "T4", "a100_40g": "A100"}
"""Table and profile of a measured device -> what the table's authors call it."""
CONV_CARD = {"a100_40g": "a100_80g"}
"""Device -> profile of the card that its convolutions were measured on, where that is another."""
GROUPS = {"linear": 0.09, "bmm": 0.11, "conv": 0.17, "elementwise, norm, softmax": 0.08}
"""Group of operators -> largest mean error over the devices."""
HELD = "held by its prior"
"""How the reference of a coefficient begins that a fit left to its prior: no fact of the machine either."""
WORST = 1.5
"""No device may err more than this times the bound."""
OUTSIDE = 0.15
"""Largest share of cases outside their 90 % intervals."""
LEFT_OUT = 0.20
"""Bound for linear and bmm of a device that was left out."""


@dataclass(frozen=True, slots=True)
class GroupErrors:
    """(n,) absolute relative errors of a group's cases, and whether each measurement lies in its 90 % interval."""

    error: np.ndarray
    inside: np.ndarray


def evaluate(folder: Path) -> list[Result]:
    """All GPU numbers; each device's test split is 15 % of its rows by the hash of their identity.

    Raises:
        InputError: a table is missing.
    """
    tables = {device: read_device(folder, device) for device in DEVICES}
    fitted = {device: fit_cards(table, device) for device, table in tables.items()}
    tested = {device: [c for c in table.cases if c.case.split == "test"] for device, table in tables.items()}
    errors = {d: card_errors(tested[d], fitted[d]) for d in DEVICES}
    physical = {d: card_errors(tested[d], {k: p.replacing(residual=()) for k, p in fitted[d].items()}) for d in DEVICES}
    results: list[Result] = []
    for group, bound in GROUPS.items():
        means = {d: float(errors[d][group].error.mean()) for d in DEVICES}
        count = sum(len(errors[d][group].error) for d in DEVICES)
        results.append(Result(f"{group}, mean over devices", count, float(np.mean([*means.values()])), bound))
        without = float(np.mean([physical[d][group].error.mean() for d in DEVICES]))
        results.append(Result("   without the residual", count, without))
        for device, mean in means.items():
            here = errors[device][group]
            results.append(Result(f"   {device}", len(here.error), mean, bound * WORST))
            results.append(Result("      outside the 90 % interval", len(here.error), float(1 - here.inside.mean()), OUTSIDE))
    for device in DEVICES:
        others = [fitted[d][d] for d in DEVICES if d != device]
        left_out = group_errors(tables[device].cases, transfer(others, published(f"gpu_{device}")))
        both = np.concatenate([left_out["linear"].error, left_out["bmm"].error])
        results.append(Result(f"{device} left out, linear and bmm", len(both), float(both.mean()), LEFT_OUT))
    return results


def card_of(case: MeasuredCase, device: str) -> str:
    """The profile of the card that a case of a device's table was measured on, without its family."""
    return CONV_CARD.get(device, device) if case.case.workload == "conv" else device


def fit_cards(table: Sources, device: str) -> dict[str, ArchitectureProfile]:
    """Card -> profile fitted to the rows of a device's table that were measured on it."""
    cards = dict.fromkeys(card_of(case, device) for case in table.cases)
    of = {card: tuple(case for case in table.cases if card_of(case, device) == card) for card in cards}
    return {card: fit_device(replace(table, cases=cases), card) for card, cases in of.items()}


def card_errors(cases: Sequence[MeasuredCase], fitted: Mapping[str, ArchitectureProfile]) -> dict[str, GroupErrors]:
    """`group_errors` of cases of one table, each with the profile of its card."""
    device = next(iter(fitted))
    parts = [group_errors([c for c in cases if card_of(c, device) == card], profile) for card, profile in fitted.items()]
    return {
        group: GroupErrors(*(np.concatenate([getattr(p[group], field) for p in parts]) for field in ("error", "inside")))
        for group in GROUPS
    }


def fit_device(table: Sources, device: str) -> ArchitectureProfile:
    """A profile fitted to a table, starting from what is published of the device."""
    name = f"gpu_{device}"
    return calibrate_cases(table, published(name), name=name).profile


def published(name: str) -> ArchitectureProfile:
    """The machine as its datasheet and the literature describe it, without what was fitted or transferred to it."""
    profile = load_profile(name)
    known = {
        n: c
        for n, c in profile.coefficients.items()
        if c.source not in ("fitted", "transferred") and not c.reference.startswith(HELD)
    }
    return profile.replacing(coefficients=known, fitted_from=None, error_card={}, residual=())


def group_errors(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> dict[str, GroupErrors]:
    """How far off a profile is on the cases of each of `GROUPS`."""
    (block,) = blocks(cases, profile)
    estimated, low, high = case_intervals(block, profile).T
    error = np.abs(estimated / block.measured_s - 1.0)
    inside = (low <= block.measured_s) & (block.measured_s <= high)
    rest = list(GROUPS)[-1]
    names = np.asarray([c.case.workload if c.case.workload in GROUPS else rest for c in cases])
    return {group: GroupErrors(error[names == group], inside[names == group]) for group in GROUPS}


def read_device(folder: Path, device: str) -> Sources:
    """The table of a device of `DEVICES`.

    Raises:
        InputError: it is not there.
    """
    path = folder / "gpu_ops" / f"{device}.csv"
    if not path.is_file():
        raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds gpu_ops")
    whose = f"NeuSight's operator measurements on a {DEVICES[device]}, eager float32 (Lee et al., ASPLOS 2025)"
    return replace(read_sources([path], "gpu", reduction="n"), names=(whose,))
