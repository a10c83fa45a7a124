"""The fit itself: leave-one-out errors, several starts, and data that cannot tell."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from shmoo.calibrate.fit import fit
from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.fit import _check_identifiable, fit_latency, predicted_latency
from shmoo.calibrate.fit.parameters import (
    OF_ALGORITHMS,
    OF_ALTERNATIVES,
    OF_MACHINE,
    OF_RUNTIMES,
    OF_SYSTEM,
    parameters_for,
)
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.catalogue import DEFAULTS, entry
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.entries import Space
from shmoo.estimators.machine.profile import load_profile
from shmoo.runs.tables.reading import TableRow
from tests.calibrate.test_calibration import TRUTH, known_cpu, measured_on


def fitted(cases, folds: int = 0, spaces: Mapping[str, Space] = MappingProxyType({})):
    base = known_cpu()
    tabulated = blocks(cases, base)
    parameters = [dataclasses.replace(p, space=spaces.get(p.name, p.space)) for p in parameters_for(tabulated, base)]
    return fit_latency(tabulated, parameters, base, folds=folds)


def test_to_first_order_left_out_errors_are_those_of_fits_without_the_case():
    """For the products that pull hardest, a fit without them gives what the first order says, to a fifth of the change."""
    cases = list(measured_on(known_cpu(), TRUTH, noise=0.08))[::3]
    whole = fitted(cases)
    pulled = np.abs(whole.left_out - whole.residuals)
    assert (np.sign(whole.left_out) == np.sign(whole.residuals)).mean() > 0.95
    base = known_cpu()
    products = [i for i in np.argsort(-pulled) if cases[i].case.workload == "linear"]
    for i in products[:3]:
        without = fitted(cases[:i] + cases[i + 1 :])
        alone = blocks([cases[i]], base)
        error = float(np.log(predicted_latency(alone, Coefficients(base, without.values))[0] / cases[i].latency_s))
        assert error == pytest.approx(whole.left_out[i], abs=max(0.2 * pulled[i], 0.01))


def test_cases_of_one_size_are_refused_with_the_reason():
    """Twenty measurements of nearly one matrix product tell a single number; two are needed, and the extents are named."""
    rows = [TableRow(0, "linear", {"b": 1, "m": 512 + i % 2, "n": 512, "k": 512 + i // 2}) for i in range(20)]
    cases = [MeasuredCase(row.case, (row.graph(),), 1e-3) for row in rows]
    with pytest.raises(InputError, match=r"20 cases determine only 1 combinations? .*m, n, k hardly vary.*vary independently"):
        fitted(cases)


def test_one_combination_each_is_enough_where_a_call_shows_the_longer_of_two():
    """Two cases tell two of four coefficients: launches of two algorithms on a GPU, whose rates stay with their priors."""
    names = [f"{stem}.{algorithm}" for stem in ("launch.eager", "efficiency") for algorithm in ("gemm", "attention")]
    _check_identifiable(np.eye(2, 4), 0.1, names, (), per_algorithm=1)
    with pytest.raises(InputError, match="2 cases determine only 2 combinations of the 4 coefficients"):
        _check_identifiable(np.eye(2, 4), 0.1, names, ())


def test_coefficients_of_no_algorithm_are_refused_without_an_empty_list():
    """Those of the machine alone."""
    with pytest.raises(InputError, match="2 cases determine only 0 combinations of the 2 coefficients; 2 are the least; batch"):
        _check_identifiable(np.zeros((2, 2)), 0.1, ["bandwidth.dram", "parallel.share"], ())


def test_a_single_case_is_refused():
    """One case fits nothing."""
    cases = list(measured_on(known_cpu(), TRUTH))[:1]
    with pytest.raises(InputError, match="1 cases are too few to fit any coefficient: an algorithm needs 2"):
        fitted(cases)


def test_a_bound_that_stops_a_coefficient_is_named():
    """The truth, an efficiency of 0.83, is above the highest allowed here, 0.5."""
    cases = measured_on(known_cpu(), TRUTH)
    found = fitted(cases, spaces={"efficiency.gemm": Space(0.05, 0.5, 0.08, start=0.4)})
    assert "efficiency.gemm" in found.at_bound
    assert found.values["efficiency.gemm"] == pytest.approx(0.5, rel=2e-3)


def test_what_the_data_cannot_tell_is_named_and_left_at_its_prior():
    """Products of at least 1,000 in every extent say nothing about small ones: half.m stays where it started, and so does the
    launch, a thousandth of their time. Only the rate is told, to the 1 % that 64 cases with 5 % of noise leave beside overlap."""
    sides = (1000, 1300, 1700, 2100)
    rows = [TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}) for m in sides for n in sides for k in sides]
    base = known_cpu()
    cases = [MeasuredCase(row.case, (row.graph(),), 1.0) for row in rows]
    seconds = predicted_latency(blocks(cases, base), Coefficients(base, {"efficiency.gemm": 0.6}))
    noisy = seconds * np.exp(np.random.default_rng(0).normal(0, 0.05, len(seconds)))
    found = fitted([MeasuredCase(c.case, c.graphs, float(s)) for c, s in zip(cases, noisy, strict=True)])
    untold = {"half.m.gemm", "half.n.gemm", "launch.eager", "launch.eager.gemm", "launch.eager.linear", "bandwidth.l1"}
    assert untold <= set(found.unidentified)
    assert "efficiency.gemm" not in found.unidentified
    assert found.values["efficiency.gemm"] == pytest.approx(0.6, rel=0.02)
    assert found.log_sd["efficiency.gemm"] < 0.03
    starts = {p.name: p for p in parameters_for(blocks(cases, base), base)}
    for name in ("half.m.gemm", "half.n.gemm"):
        assert found.values[name] == pytest.approx(starts[name].space.start, rel=0.2)
        assert found.log_sd[name] > starts[name].space.prior_sd


@pytest.mark.parametrize("stopped", [(0, 1), (2,)], ids=["first path", "second start"])
def test_a_second_start_leaves_a_bad_first_one(monkeypatch, stopped):
    """Where one of two starts is stopped after a step, far from the truth, the other's end counts, whichever of them it is."""
    costs = []
    original = fit.least_squares

    def some_stopped(*args, **kwargs):
        limit = {"max_nfev": 1} if len(costs) in stopped else {}
        end = original(*args, **kwargs | limit)
        costs.append(end.cost)
        return end

    monkeypatch.setattr(fit, "least_squares", some_stopped)
    best = fitted(measured_on(known_cpu(), TRUTH, noise=0.02))
    assert len(costs) == 1 + fit.STARTS
    assert max(costs[1:]) > 10 * min(costs[1:])
    assert best.values["efficiency.gemm"] == pytest.approx(TRUTH["efficiency.gemm"], rel=0.05)
    assert np.median(np.abs(best.residuals)) < 0.03


def test_cases_are_off_by_more_where_the_fit_does_not_see_them():
    """The coefficients are those of the fit to all; without its fold a case errs by more on average, whatever its sign."""
    cases = [c for c in measured_on(known_cpu(), TRUTH, noise=0.08) if int(c.case.identity, 16) % 3 == 0]
    whole, first_order = fitted(cases, folds=2), fitted(cases)
    assert whole.values == first_order.values
    assert np.abs(whole.left_out).mean() > 1.02 * np.abs(whole.residuals).mean()
    assert (whole.left_out != first_order.left_out).all()


def test_times_on_tensor_cores_do_not_settle_what_their_flops_take():
    """A meter says that. The float32 units of a board at its cap have shares of their own; when the cap sets in is a time."""
    h100 = load_profile("gpu_h100")
    rows = [
        TableRow(0, "linear", {"b": 1, "m": 512 * i, "n": 4096, "k": 2048}, dtype, runtime="cudagraphs", time="device")
        for i in range(1, 5)
        for dtype in ("float32", "bfloat16")
    ]
    cases = [MeasuredCase(row.case, (row.graph(),), 1e-3, time="device") for row in rows]
    names = {parameter.name for parameter in parameters_for(blocks(cases, h100), h100)}
    assert {name for name in names if name.startswith("energy.")} == {"energy.share.gemm"}
    assert {"efficiency.gemm_tensor", "throttle.time"} <= names


@pytest.mark.parametrize(
    ("name", "dtype", "algorithm", "most"),
    [
        ("gpu_a100_sxm_80g", "bfloat16", "gemm_tensor", 1.0),
        ("gpu_h100", "bfloat16", "gemm_tensor", 1.98 / 1.83),
        ("gpu_t4", "float32", "gemm", 1.0),
    ],
)
def test_no_kernel_beats_its_units_at_their_highest_clock(name, dtype, algorithm, most):
    """The nominal peak of an A100 and a T4 is that of its highest clock, the one of an H100 is given at 1.83 GHz of 1.98."""
    profile = load_profile(name)
    rows = [
        TableRow(0, "linear", {"b": 1, "m": 512 * i, "n": 4096, "k": 2048}, dtype, runtime="cudagraphs", time="device")
        for i in range(1, 5)
    ]
    cases = [MeasuredCase(row.case, (row.graph(),), 1e-3, time="device") for row in rows]
    (share,) = (p for p in parameters_for(blocks(cases, profile), profile) if p.name == f"efficiency.{algorithm}")
    assert share.space.high == pytest.approx(most, rel=0.01)
    assert share.space.low < share.space.start < share.space.high


def test_what_kernels_compute_beside_their_products_is_fitted_where_it_shows():
    """Unpacking weights, and nothing of it in products whose weights are not packed."""
    a100 = load_profile("gpu_a100_sxm_80g")
    extents = [{"b": 1, "m": 64 * i, "n": 4096, "k": 2048} for i in range(1, 5)]
    for weights, fitted_beside in (("int4", {"efficiency.vector.packed_tensor"}), ("", set())):
        rows = [TableRow(0, "linear", x, "bfloat16", runtime="cudagraphs", time="device", weights=weights) for x in extents]
        cases = [MeasuredCase(row.case, (row.graph(),), 1e-4, time="device") for row in rows]
        names = {parameter.name for parameter in parameters_for(blocks(cases, a100), a100)}
        assert {name for name in names if name.startswith("efficiency.vector")} == fitted_beside


@pytest.mark.parametrize("steps", [0, 4])
def test_a_fit_in_a_hurry_ends_with_the_best_point_so_far(monkeypatch, steps):
    """After its first steps, or some more, there are no further starts, no left-out refits, and the error is near the full
    fit's."""
    asked, solved = [], []
    solve = fit.least_squares
    monkeypatch.setattr(fit, "least_squares", lambda *given, **named: solved.append(given) or solve(*given, **named))

    def hurry() -> bool:
        asked.append(None)
        return len(asked) > steps

    base = known_cpu()
    tabulated = blocks(list(measured_on(base, TRUTH, noise=0.08))[::3], base)
    parameters = parameters_for(tabulated, base)
    full = fit_latency(tabulated, parameters, base)
    in_full = len(solved)
    hurried = fit_latency(tabulated, parameters, base, hurry=hurry)
    assert len(solved) - in_full == 2 < in_full
    before = np.abs(
        np.log(predicted_latency(tabulated, Coefficients(base))) - np.log([c.latency_s for b in tabulated for c in b.cases])
    )
    assert np.abs(full.residuals).mean() <= 1.05 * np.abs(hurried.residuals).mean() < 0.5 * before.mean()


@pytest.mark.parametrize("rule", [*OF_MACHINE, *OF_RUNTIMES, *OF_SYSTEM, *OF_ALTERNATIVES, *OF_ALGORITHMS], ids=lambda r: r.stem)
def test_every_rule_is_of_a_coefficient_that_has_a_range_and_that_a_machine_has(rule):
    """A misspelt name would never be fitted, and nobody would be told."""
    name = rule.stem.replace("{runtime}", "inductor")
    assert entry(name).fit is not None
    known = {*itertools.chain(*DEFAULTS.values())}
    assert any(other in known for other in (name, rule.stem.replace(".{runtime}", ""), f"{name}.tensor"))
