"""Networks held against calibrations on operators: the numbers of one machine's campaigns."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmoo.calibrate.fit.base import base_profile
from shmoo.estimators.errors import InputError
from shmoo.runs.store.records import Measurement, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from tests.calibrate.design.test_curve import MACHINE, network
from tests.calibrate.test_calibration import TRUTH, measured_on
from tests.evaluation import cpu as evaluate_cpu
from tests.evaluation.cpu import ABOVE_SPREAD, MOST, NETWORKS, evaluate


def campaign(path: Path, slower: float) -> None:
    """Operators of a machine with known coefficients, and a network that took `slower` times what they say."""
    cases = list(measured_on(base_profile(MACHINE), TRUTH, noise=0.03))[::3]
    with RunWriter(path, RunManifest(MACHINE, "micro")) as writer:
        for case, factor in [*((case, 1.0) for case in cases), (network(), slower)]:
            graphs = tuple(graph.content_hash for graph in case.graphs)
            row = Measurement(case.case, "ok", graph_hashes=graphs, timing=Timing((case.latency_s * factor,)))
            writer.append(row, case.graphs)


@pytest.fixture
def campaigns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evaluate_cpu, "FOLDS", 2)
    campaign(tmp_path / "a", 1.0)
    campaign(tmp_path / "b", 1.08)
    return tmp_path


def test_each_campaign_is_held_against_each(campaigns: Path):
    """Four errors, the spread of 8 % between the campaigns, which moves the bound, and the coverage."""
    results = {result.what: result for result in evaluate(campaigns)}
    for tested, calibrated in (("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")):
        found = results[f"networks in eager, {tested}, calibrated on {calibrated}"]
        assert found.cases == 1
        # The coefficients give the network's time in a; in b it took 8 % longer.
        assert found.value == pytest.approx(0.0 if tested == "a" else 1 - 1 / 1.08, abs=0.02)
        assert found.at_most == pytest.approx(min(0.08 + ABOVE_SPREAD, MOST))
    assert results["spread of the networks between campaigns, eager"].value == pytest.approx(0.08)
    together = next(result for what, result in results.items() if "operators together" in what)
    assert together.cases > 60
    assert 0.8 <= together.entry.coverage <= 0.95


def test_one_run_has_the_bound_of_a_quiet_machine(campaigns: Path):
    """Without a second campaign nothing is known of the spread."""
    results = evaluate(campaigns / "a")
    assert results[0].what == "networks in eager, a, calibrated on a"
    assert results[0].at_most == NETWORKS
    assert not any("spread" in result.what for result in results)


def test_a_folder_without_runs_or_networks_is_refused(tmp_path: Path):
    """The message says what DATA_DIR is, or how to measure networks."""
    with pytest.raises(InputError, match="DATA_DIR is a run directory"):
        evaluate(tmp_path)
    cases = list(measured_on(base_profile(MACHINE), TRUTH))[:20]
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "micro")) as writer:
        for case in cases:
            graphs = tuple(graph.content_hash for graph in case.graphs)
            writer.append(Measurement(case.case, "ok", graph_hashes=graphs, timing=Timing((case.latency_s,))), case.graphs)
    with pytest.raises(InputError, match="holds no networks; measure some into it"):
        evaluate(tmp_path / "run")
