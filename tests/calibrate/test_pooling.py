"""Several machines of one kind: a profile of the kind whose ranges hold another machine of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks
from shmoo.calibrate.fit.intervals import held_out
from shmoo.calibrate.pooling import pool, pool_cases
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from tests.calibrate.fit.test_calibrate import TRUTH, measured_on, sources_of

BASE = load_profile("cpu_server_generic")
BOARDS = (0.94, 1.0, 1.06)


def board(factor: float, seed: int) -> tuple[MeasuredCase, ...]:
    """Every fourth case of a machine that takes `factor` times as long as the kind does."""
    cases = measured_on(BASE, TRUTH, 0.01, seed)[seed % 2 :: 2]
    return tuple(replace(case, latency_s=case.latency_s * factor) for case in cases)


def pooled(specimens: list[Sources]):
    together = sources_of(tuple(case for own in specimens for case in own.cases))
    return pool_cases(specimens, together, BASE, name="kind", residual=False)


def test_a_further_machine_of_the_kind_is_inside_the_intervals():
    """One machine's profile has never seen another: its intervals hold few cases of it, those of the kind 90 % of them."""
    specimens = [sources_of(board(factor, seed)) for seed, factor in enumerate(BOARDS)]
    made = pooled(specimens)
    single = calibrate_cases(specimens[1], BASE, name="one", residual=False).profile
    fresh = blocks([case for case in board(1.05, 9) if case.case.split == "test"], BASE)

    def covered(profile):
        of = held_out(fresh, profile)
        return float(np.mean((of.low <= of.measured) & (of.measured <= of.high)))

    assert covered(single) < 0.6
    assert covered(made.profile) > 0.85
    assert "-6" in made.notes[-1] or "-5" in made.notes[-1]


def test_ranges_hold_the_spread_between_machines():
    """A bandwidth of each machine lies within the range of the kind; the value is that of all of them."""
    specimens = [sources_of(board(factor, seed)) for seed, factor in enumerate(BOARDS)]
    made = pooled(specimens).profile
    dram = made.coefficients["bandwidth.dram"]
    assert dram.value == pytest.approx(TRUTH["bandwidth.dram"], rel=0.04)
    assert dram.low < TRUTH["bandwidth.dram"] / 1.06 < TRUTH["bandwidth.dram"] / 0.94 < dram.high
    assert math.log(dram.high / dram.low) < 0.8
    assert dram.reference.startswith("pooled over 3 machines")


def test_equal_machines_add_no_spread():
    """Their ranges stay those of one fit to all of them."""
    specimens = [sources_of(board(1.0, seed)) for seed in range(3)]
    together = sources_of(tuple(case for own in specimens for case in own.cases))
    single = calibrate_cases(together, BASE, name="kind", residual=False).profile
    made = pooled(specimens).profile
    for name in ("bandwidth.dram", "launch.eager.relu", "efficiency.gemm"):
        wide, narrow = made.coefficients[name], single.coefficients[name]
        assert math.log(wide.high / wide.low) < math.log(narrow.high / narrow.low) + 0.1, name


def test_one_machine_is_no_pool(tmp_path):
    """The remedy is named."""
    with pytest.raises(InputError, match="at least two machines, got 1; without --pool"):
        pool([tmp_path / "run"])
