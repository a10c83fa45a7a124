"""What fusion saves."""

import pytest
from build import GraphBuilder

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.fusion_savings import FusionSavings, FusionTotals, fusion_savings
from shmoo.estimators.profile import load_profile


def test_a_chain_saves_what_passes_between_its_calls():
    """Three relus on 1000 floats: 6 accesses of 4000 bytes alone, 2 fused."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.tensor((1000,))))))
    savings = fusion_savings(AnalysisDirector(load_profile("cpu_server_generic")), [graph], "inductor")
    assert (savings.alone.kernels, savings.fused.kernels) == (3, 1)
    assert (savings.alone.bytes, savings.fused.bytes) == (6 * 4000, 2 * 4000)
    assert savings.saved("bytes") == pytest.approx(2 / 3)
    assert savings.saved("latency_s") > 0


def test_what_is_not_known_saves_nothing_known():
    """No energy coefficients, no energy saved."""
    totals = FusionTotals(1, 1.0, 1.0, None)
    assert FusionSavings(totals, totals).saved("energy_j") is None
