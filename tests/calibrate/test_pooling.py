"""Several machines of one kind: a profile of the kind whose ranges hold another machine of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shmoo.calibrate.calibration import Calibration, calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks
from shmoo.calibrate.fit.intervals import held_out
from shmoo.calibrate.pooling import pool
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile
from tests.calibrate.test_calibration import TRUTH, known_cpu, measured_on, sources_of

BASE = known_cpu()
BOARDS = (0.86, 1.0, 1.14)


def board(factor: float, seed: int, step: int = 2) -> tuple[MeasuredCase, ...]:
    """Every second case of a machine that takes `factor` times as long as the kind does."""
    cases = measured_on(BASE, TRUTH, 0.01, seed)[::step]
    return tuple(replace(case, latency_s=case.latency_s * factor) for case in cases)


def together(specimens: list[Sources]) -> Sources:
    return sources_of(tuple(case for own in specimens for case in own.cases))


@pytest.fixture(scope="module")
def specimens() -> list[Sources]:
    return [sources_of(board(factor, seed)) for seed, factor in enumerate(BOARDS)]


@pytest.fixture(scope="module")
def made(specimens: list[Sources]) -> Calibration:
    return pool(specimens, together(specimens), BASE, name="kind", residual=False)


def test_a_further_machine_of_the_kind_is_inside_the_intervals(specimens: list[Sources], made: Calibration) -> None:
    """One machine's profile has never seen another: its intervals hold few cases of it, those of the kind 90 % of them."""
    single = calibrate_cases(specimens[1], BASE, name="one", residual=False).profile
    fresh = blocks([case for case in board(1.11, 9, 1) if case.case.split == "test"], BASE)

    def covered(profile: ArchitectureProfile) -> float:
        of = held_out(fresh, profile)
        return float(np.mean((of.low <= of.measured) & (of.measured <= of.high)))

    assert covered(single) < 0.7
    assert covered(made.profile) > 0.85


def test_ranges_hold_the_spread_between_machines(specimens: list[Sources], made: Calibration) -> None:
    """Values are those of one fit to all machines; ranges are as wide as the machines lie apart, and the notes say how far."""
    joint = calibrate_cases(together(specimens), BASE, name="kind", residual=False).profile
    for name in ("efficiency.gemm", "bandwidth.l2", "launch.eager.linear"):
        kind, one = made.profile.coefficients[name], joint.coefficients[name]
        assert kind.value == one.value, name
        assert math.log(kind.high / kind.low) > 1.5 * math.log(one.high / one.low), name
        assert kind.reference.startswith("pooled over 3 machines")
    # Machines that differ by a standard deviation of 14 % need ranges of 1.645 x 1.15 x 14 % to either side.
    gemm = made.profile.coefficients["efficiency.gemm"]
    assert math.log(gemm.high / gemm.value) == pytest.approx(1.645 * 1.15 * 0.14, rel=0.5)
    assert made.notes[-1].startswith("pooled over 3 machines, whose times differ from the common fit by -1")


def test_equal_machines_add_no_spread() -> None:
    """Their ranges stay those of one fit to all of them."""
    specimens = [sources_of(board(1.0, seed)) for seed in range(3)]
    single = calibrate_cases(together(specimens), BASE, name="kind", residual=False).profile
    made = pool(specimens, together(specimens), BASE, name="kind", residual=False).profile
    for name in ("bandwidth.dram", "launch.eager.relu", "efficiency.gemm"):
        wide, narrow = made.coefficients[name], single.coefficients[name]
        assert math.log(wide.high / wide.low) < math.log(narrow.high / narrow.low) + 0.1, name


def test_one_machine_is_no_pool(specimens: list[Sources]) -> None:
    """The remedy is named."""
    with pytest.raises(InputError, match="at least two machines, got 1; to calibrate one"):
        pool(specimens[:1], specimens[0], BASE, name="kind")
