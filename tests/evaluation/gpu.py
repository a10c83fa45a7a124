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

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.fit.intervals import HeldOut, held_out
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, ErrorCardEntry, load_profile
from tests.evaluation.results import HOLDS, HOLDS_ELSEWHERE, Kept, Result, of_cases, together
from tests.evaluation.transfer import looked_up, off_by, transfer, typical
from tests.evaluation.warmth import warmth_in_turn

DEVICES = {"p100": "P100", "v100": "V100", "t4": "T4", "a100_40g": "A100"}
"""Table and profile of a measured device -> what the table's authors call it."""
CONV_CARD = {"a100_40g": "a100_80g"}
"""Device -> profile of the card that its convolutions were measured on, where that is another."""
GROUPS = {"linear": 0.09, "bmm": 0.11, "conv": 0.17, "elementwise, norm, softmax": 0.08}
"""Group of operators -> largest mean error over the devices."""
WORST = 1.5
"""No device may err more than this times the bound."""
PRODUCTS, LEFT_OUT = ("linear", "bmm"), 0.20
"""Groups that are judged together on a device that was left out, and their bound."""
TESTED, ELSEWHERE = "test by operator", "left out"
"""Splits of error cards: the test split of a device's own fit, and all its cases predicted from the other devices."""
SPREAD_CASES = 2000
"""Cases of a device that say how far off coefficients from elsewhere are: enough for a 90 % point of each algorithm."""

Cards = Mapping[str, ArchitectureProfile]
"""Card -> profile fitted to the rows of one device's table that were measured on it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """n cases of a device with what a profile says of them, and the group of each, (n,)."""

    found: HeldOut
    groups: np.ndarray

    def entry(self, *groups: str) -> ErrorCardEntry:
        """The error card of some groups together."""
        return self.found.entry(np.isin(self.groups, groups))


def evaluate(folder: Path) -> list[Result]:
    """All GPU numbers; each device's test split is 15 % of its rows by the hash of their identity.

    Raises:
        InputError: a table is missing.
    """
    tables = {device: read_device(folder, device) for device in DEVICES}
    return results(tables, {device: fit_cards(table, device) for device, table in tables.items()})


def results(tables: Mapping[str, Sources], fitted: Mapping[str, Cards]) -> list[Result]:
    """`evaluate` on tables already read and fitted."""
    return [*_of_fitted(tables, fitted), *_of_left_out(tables, fitted)]


def _of_fitted(tables: Mapping[str, Sources], fitted: Mapping[str, Cards]) -> list[Result]:
    tested = {device: [case for case in table.cases if case.case.split == "test"] for device, table in tables.items()}
    samples = {device: sample_of(tested[device], device, cards) for device, cards in fitted.items()}
    found: list[Result] = []
    for group, bound in GROUPS.items():
        entries = {device: sample.entry(group) for device, sample in samples.items()}
        cases = sum(entry.n for entry in entries.values())
        alone = [entry.mean if entry.physics is None else entry.physics for entry in entries.values()]
        found.append(Result(f"{group}, mean over devices", cases, float(np.mean([e.mean for e in entries.values()])), bound))
        found.append(Result("   without the residual", cases, float(np.mean(alone))))
        found += [
            of_cases(f"   {device}", entry, bound * WORST, covers=HOLDS, kept=_kept(device, TESTED, group))
            for device, entry in entries.items()
        ]
    return found


def _of_left_out(tables: Mapping[str, Sources], fitted: Mapping[str, Cards]) -> list[Result]:
    samples = {}
    for device, table in tables.items():
        others = {name: cards for name, cards in fitted.items() if name != device}
        sigma = left_out_sigma(tables, others)
        made = {card: transfer(measured_cards(others), published(f"gpu_{card}"), sigma) for card in fitted[device]}
        samples[device] = sample_of(table.cases, device, made)
    everywhere = Sample(together([s.found for s in samples.values()]), np.concatenate([s.groups for s in samples.values()]))
    found: list[Result] = []
    for groups in (PRODUCTS, *((group,) for group in GROUPS), tuple(GROUPS)):
        name = "all operators" if len(groups) == len(GROUPS) else " and ".join(groups)
        bound = LEFT_OUT if groups == PRODUCTS else None
        found.append(of_cases(f"left out, {name}, all devices", everywhere.entry(*groups), covers=HOLDS_ELSEWHERE))
        found += [
            of_cases(f"   {device}", sample.entry(*groups), bound, kept=_kept(device, ELSEWHERE, name))
            for device, sample in samples.items()
        ]
    return found


def left_out_sigma(tables: Mapping[str, Sources], fitted: Mapping[str, Cards]) -> dict[str, Coefficient]:
    """`sigma.*` for a device that is none of these: what each of them is off by, predicted from the others."""
    found = []
    for device, cards in fitted.items():
        others = measured_cards({name: of for name, of in fitted.items() if name != device})
        for card in cards:
            cases = [case for case in tables[device].cases if card_of(case, device) == card]
            found.append(off_by(transfer(others, published(f"gpu_{card}")), cases[:: -(-len(cases) // SPREAD_CASES)]))
    return typical(found)


def measured_cards(fitted: Mapping[str, Cards]) -> list[ArchitectureProfile]:
    """What other machines are carried from: each device's first card, and of its others what the first has nothing of. The rest
    is the same chip twice."""
    found = []
    for cards in fitted.values():
        own, *others = cards.values()
        found.append(own)
        for other in others:
            added = {n: c for n, c in other.coefficients.items() if n not in own.coefficients or n == "compute.capability"}
            found.append(other.replacing(coefficients=added))
    return found


def sample_of(cases: Sequence[MeasuredCase], device: str, cards: Cards) -> Sample:
    """Cases of one table, each with the profile of its card."""
    parts, groups = [], []
    for card, profile in cards.items():
        found = blocks([case for case in cases if card_of(case, device) == card], profile)
        if not found:
            continue
        parts.append(held_out(found, profile))
        groups += [group_of(case) for block in found for case in block.cases]
    return Sample(together(parts), np.asarray(groups))


def group_of(case: MeasuredCase) -> str:
    """The group of operators that a case is judged with."""
    return case.case.workload if case.case.workload in GROUPS else list(GROUPS)[-1]


def _kept(device: str, split: str, group: str) -> Kept:
    """Where a device's error card has a group: convolutions in that of the card they were measured on."""
    return Kept(f"gpu_{CONV_CARD.get(device, device) if group == 'conv' else device}", split, group)


def card_of(case: MeasuredCase, device: str) -> str:
    """The profile of the card that a case of a device's table was measured on, without its family."""
    return CONV_CARD.get(device, device) if case.case.workload == "conv" else device


def fit_cards(table: Sources, device: str) -> dict[str, ArchitectureProfile]:
    """Card -> profile fitted to the rows of a device's table that were measured on it."""
    cards = dict.fromkeys(card_of(case, device) for case in table.cases)
    of = {card: tuple(case for case in table.cases if card_of(case, device) == card) for card in cards}
    return {card: fit_device(replace(table, cases=cases), card) for card, cases in of.items()}


def fit_device(table: Sources, device: str) -> ArchitectureProfile:
    """A profile fitted to a table, starting from what is published of the device."""
    name = f"gpu_{device}"
    return calibrate_cases(table, published(name), name=name).profile


def published(name: str) -> ArchitectureProfile:
    """The machine as its datasheet and the literature describe it, without what was fitted or transferred to it."""
    profile = load_profile(name)
    return profile.replacing(coefficients=looked_up(profile), host="", fitted_from=None, error_card={}, residual=())


def read_device(folder: Path, device: str) -> Sources:
    """The table of a device of `DEVICES`.

    Raises:
        InputError: it is not there.
    """
    path = folder / "gpu_ops" / f"{device}.csv"
    if not path.is_file():
        raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds gpu_ops")
    whose = f"NeuSight's operator measurements on a {DEVICES[device]}, eager float32 (Lee et al., ASPLOS 2025)"
    table = read_sources([path], "gpu", reduction="n")
    # One row was measured after the other.
    warmth = warmth_in_turn([case.latency_s for case in table.cases])
    cases = tuple(replace(case, warm=float(warm)) for case, warm in zip(table.cases, warmth, strict=True))
    return replace(table, cases=cases, names=(whose,))
