"""Intervals: conformal points, whose errors count for whom, and coverage per operator family on cases never seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.intervals import BORROWED, FLOOR, conformal_point, spreads
from shmoo.estimators.graph.records import NORMAL_90
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import MANY_KERNELS
from shmoo.estimators.predict.draws import normals, spread_draws
from shmoo.runs.store.records import CaseSpec
from tests.build import GraphBuilder
from tests.calibrate.test_calibration import TRUTH, known_cpu, measured_on, sources_of

NOISE = {"linear": 0.12, "add": 0.03, "relu": 0.06, "softmax": 0.25}


def noisy_cases(seed: int):
    """What a machine measures whose operators differ in how well the model describes them."""
    cases = measured_on(known_cpu(), TRUTH)
    rng = np.random.default_rng(seed)
    return tuple(type(c)(c.case, c.graphs, float(c.latency_s * np.exp(rng.normal(0, NOISE[c.case.workload])))) for c in cases)


def test_the_conformal_point_of_few_is_the_largest():
    """Of 9 errors the 9th, of 19 the 18th, of 99 the 90th."""
    assert conformal_point(np.arange(1, 10)) == 9
    assert conformal_point(np.arange(1, 20)) == 18
    assert conformal_point(np.arange(1, 100)) == 90


def test_few_cases_of_an_algorithm_lean_on_its_family_and_on_all():
    """All errors' 90 % point is 0.3, that of linear layers. Of n operators off by e, their family counts for 10 cases, and of a
    family all do: sqrt((n e^2 + 10 f^2) / (n + 10)), f^2 = (n e^2 + 10 x 0.3^2) / (n + 10)."""
    base = known_cpu()
    cases = [c for c in noisy_cases(0) if c.case.workload != "softmax" or int(c.case.identity, 16) % 4 == 0]
    (block,) = blocks(cases, base)
    of = np.asarray([c.case.workload for c in cases])
    few, many = (of == "softmax").sum(), np.isin(of, ("add", "relu")).sum()
    assert 0 < few < BORROWED < many
    errors = np.where(of == "linear", 0.3, np.where(of == "softmax", 0.2, 0.1))
    found = spreads([block], errors, np.zeros((len(cases), 2)), base, "here")

    def leaning(n: int, own: float) -> float:
        family = (n * own**2 + BORROWED * 0.3**2) / (n + BORROWED)
        return np.sqrt((n * own**2 + BORROWED * family) / (n + BORROWED)) / NORMAL_90

    assert found["sigma.gemm"].value == pytest.approx(0.3 / NORMAL_90)
    assert found["sigma.pointwise"].value == pytest.approx(leaning(many, 0.1))
    assert found["sigma.softmax"].value == pytest.approx(leaning(few, 0.2))
    assert 0.2 < found["sigma.softmax"].value * NORMAL_90 < 0.3


def test_what_unfitted_ranges_reach_is_not_added_again_for_graphs():
    """Errors of 0.5 where ranges alone reach 0.3 down and 0.4 up: 0.4 and 0.3 are left, in squares; never below the floor. Of an
    algorithm's errors all count."""
    base = known_cpu()
    cases = [c for c in noisy_cases(0) if c.case.workload == "linear"] + graphs_of(30, 2)
    (block,) = blocks(cases, base)
    reach = np.tile((0.3, 0.4), (len(cases), 1))

    def found(error: float) -> tuple[float, float]:
        sigma = spreads([block], np.full(len(cases), error), reach, base, "")
        return sigma["sigma.graph"].value, sigma["sigma.gemm"].value

    assert found(0.5) == (pytest.approx(0.4 / NORMAL_90), pytest.approx(0.5 / NORMAL_90))
    assert found(-0.5) == (pytest.approx(0.3 / NORMAL_90), pytest.approx(0.5 / NORMAL_90))
    assert found(0.2) == (FLOOR, pytest.approx(0.2 / NORMAL_90))
    assert found(0.01) == (FLOOR, FLOOR)


def test_errors_of_any_factor_give_the_widest_spread_that_a_profile_may_have():
    """Measurements beside a neighbour that stalled them for a second: off by e^9, and the profile still is one."""
    base = known_cpu()
    (block,) = blocks([c for c in noisy_cases(0) if c.case.workload == "linear"], base)
    errors = np.full(len(block.cases), 9.0)
    assert spreads([block], errors, np.zeros((errors.size, 2)), base, "")["sigma.gemm"].value == entry("sigma").range[1]


def test_measurements_that_say_little_do_not_widen_a_spread():
    """Off by 0.3, but for every second one, measured to 60 % only and off by e^5."""
    base = known_cpu()
    linear = [c for c in noisy_cases(0) if c.case.workload == "linear"]
    cases = [replace(case, relative_se=0.6 if place % 2 else 0.02) for place, case in enumerate(linear)]
    (block,) = blocks(cases, base)
    errors = np.where(block.relative_se > 0.5, 5.0, 0.3)
    assert spreads([block], errors, np.zeros((errors.size, 2)), base, "")["sigma.gemm"].value == pytest.approx(0.3 / NORMAL_90)


def test_cases_that_are_not_known_do_not_count():
    """NaN errors are left out; an algorithm without any has no spread of its own."""
    base = known_cpu()
    (block,) = blocks([c for c in noisy_cases(0) if c.case.workload == "linear"], base)
    errors = np.full(len(block.cases), 0.1)
    errors[::2] = np.nan
    assert spreads([block], errors, np.zeros((len(errors), 2)), base, "")["sigma.gemm"].value == pytest.approx(0.1 / NORMAL_90)
    assert not spreads([block], errors * np.nan, np.zeros((len(errors), 2)), base, "")


def graphs_of(count: int, kernels: int) -> list[MeasuredCase]:
    """Chains of so many elementwise kernels, of different sizes."""
    found = []
    for i in range(count):
        b = GraphBuilder()
        x = b.tensor((64 + i, 64))
        for _ in range(kernels):
            x = b.relu(x)
        found.append(MeasuredCase(CaseSpec("chain", "synthetic", {"rows": 64 + i, "kernels": kernels}), (b.graph(x),), 1.0))
    return found


def test_graphs_of_many_kernels_have_a_spread_of_their_own():
    """Short graphs err by 0.4. Of 10 long ones one errs by 0.6: their 68 % point of 0.1 decides; of 60, their 90 % point."""
    base = known_cpu()
    for count, expected in ((10, 0.1), (60, 0.1 / NORMAL_90)):
        cases = graphs_of(30, 2) + graphs_of(count, MANY_KERNELS)
        (block,) = blocks(cases, base)
        errors = np.append(np.full(30, 0.4), np.full(count, 0.1))
        errors[-1] = 0.6
        found = spreads([block], errors, np.zeros((len(cases), 2)), base, "")
        assert found["sigma.graph.many"].value == pytest.approx(expected)
        assert found["sigma.graph"].value == pytest.approx(0.4 / NORMAL_90)


def test_draws_have_the_quantiles_of_the_law():
    """The 5 % and 95 % points of 200 draws are 1.645, in every column, whatever the seed. Columns that are made at once are
    uncorrelated, and the first ones the same whatever their number."""
    nominal, drawn = np.split(normals(3, 200, 90), [1])
    assert nominal.tolist() == [[0.0] * 90]
    assert np.quantile(drawn, (0.05, 0.95), axis=0) == pytest.approx(np.array([[-1.645], [1.645]]) * np.ones(90), abs=0.03)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(90)).max() < 0.05
    assert (normals(3, 200, 4) == normals(3, 200, 120)[:, :4]).all()
    assert (normals(4, 200, 4)[1:] != drawn[:, :4]).mean() > 0.9
    assert sorted(normals(3, 2, 2)[1:, 0]) == pytest.approx([-0.674, 0.674], abs=1e-3)


def test_intervals_cover_each_operator_family_on_cases_never_seen():
    """Operators with errors of 3 to 25 %: over fifteen machines' test splits, each family is covered in 83 to 98 of 100 cases."""
    base = known_cpu()
    inside: dict[str, list[float]] = {}
    for seed in range(15):
        profile = calibrate_cases(sources_of(noisy_cases(seed)), base, name="noisy", residual=False).profile
        for name, card in profile.error_card["test"].items():
            inside.setdefault(name, []).extend([card.coverage] * card.n)
    assert {name for name, covered in inside.items() if len(covered) > 20} >= {"gemm", "pointwise"}
    for name, covered in inside.items():
        assert 0.83 <= np.mean(covered) <= 0.98, name


def test_draws_get_the_spread_that_is_known():
    """Ranges that reach 0.5 shrink to a spread of 0.1, ranges of 0.05 are widened by errors of sqrt(0.1^2 - 0.05^2), and draws
    without a known spread stay. Draws lie around the nominal time, whichever way a range leans."""
    z, noise = np.split(normals(0, 200, 6), 2, axis=1)
    times = 2.0 * np.exp(z * (0.5, 0.05, 0.5) + np.vstack([[0, 0, 0], np.full((200, 3), 0.2)]))
    errors = np.exp(0.1 * noise)
    found = np.log(spread_draws(times, errors, np.array([0.1, 0.1, np.nan])) / 2.0)
    assert found[0] == pytest.approx(0.0)
    assert found[1:, :2].std(axis=0) == pytest.approx(0.1, rel=0.1)
    assert found[1:, :2].mean(axis=0) == pytest.approx(0.0, abs=0.01)
    assert np.corrcoef(found[1:, 0], z[1:, 0])[0, 1] == pytest.approx(1.0)
    assert np.exp(found[:, 2]) * 2.0 == pytest.approx(times[:, 2])
