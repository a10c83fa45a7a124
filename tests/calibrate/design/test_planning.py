"""Planning: the order of cases, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest

from shmoo.calibrate.design.planning import HELD_OUT_PERIOD, most_telling, plan, sensitivities
from shmoo.calibrate.fit.dataset import MeasuredCase
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from tests.calibrate.test_calibration import measured_on, table_rows


def unmeasured() -> list[MeasuredCase]:
    """Cases of which only the graphs are known."""
    return [MeasuredCase(row.case, (row.graph(),), 1.0) for row in table_rows()]


def test_the_first_case_is_the_one_felt_most_and_the_next_something_new():
    """Rows (3, 0), (2.9, 0), (0, 1): after the first, the second tells nearly nothing, the third all of its coefficient."""
    assert most_telling(np.array([[2.9, 0.0], [0.0, 1.0], [3.0, 0.0]]), [1, 1, 1]) == [2, 1, 0]


def test_a_dear_case_must_tell_more():
    """Alone, 3 lowers its variance of 9 to about 0, 1 that of 1: nine times as much, which ten times the time is not worth."""
    rows = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert most_telling(rows, [1, 1]) == [0, 1]
    assert most_telling(rows, [10, 1]) == [1, 0]


def test_what_tells_of_important_cases_comes_first():
    """The second coefficient decides the third case, which is worth twenty times the others, and is cheap to learn."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert most_telling(rows, [1, 1, 100], np.array([1.0, 1.0, 20.0]))[0] == 1
    assert most_telling(rows, [1, 3, 100], np.array([1.0, 1.0, 1.0]))[0] == 0


def test_greedy_choice_beats_random_choice_of_as_many():
    """After 10 planned rows the variances left are below those after any of 50 random tens."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 12)) * rng.uniform(0.01, 2.0, size=12)

    def left(chosen) -> float:
        picked = rows[list(chosen)] / 0.1
        return float(np.trace(rows @ np.linalg.inv(np.eye(12) + picked.T @ picked) @ rows.T))

    planned = left(most_telling(rows, np.ones(200))[:10])
    assert planned < min(left(rng.choice(200, 10, replace=False)) for _ in range(50))


def test_planning_looks_at_no_measurement():
    """The order of unmeasured cases is that of measured ones."""
    base = load_profile("cpu_server_generic")
    cases = unmeasured()
    measured = measured_on(base, {"bandwidth.dram": 50e9}, noise=0.3)
    assert plan(cases, base, [1.0] * len(cases)) == plan(measured, base, [1.0] * len(cases))


def test_held_out_cases_are_among_the_first():
    """Every eighth of the first 40 is kept out of the fit, and every case is planned once."""
    base = load_profile("cpu_server_generic")
    cases = unmeasured()
    order = plan(cases, base, [1.0] * len(cases))
    assert sorted(order) == list(range(len(cases)))
    chosen = order[:40]
    assert sum(cases[i].case.split != "fit" for i in chosen) == 40 // HELD_OUT_PERIOD
    assert len({cases[i].case.workload for i in chosen[:16]}) == 4  # every operator early on


def test_sensitivities_are_small_where_a_coefficient_is_not_felt():
    """A relu does not feel the matrix unit; every row feels something."""
    rows = sensitivities(unmeasured(), load_profile("cpu_server_generic"))
    assert rows.shape[0] == len(table_rows())
    assert (np.linalg.norm(rows, axis=1) > 0.01).all()


def test_as_many_times_as_cases():
    """Otherwise the counts are named."""
    cases = unmeasured()[:3]
    with pytest.raises(InputError, match="3 cases and 2 times"):
        plan(cases, load_profile("cpu_server_generic"), [1.0, 1.0])
