"""Savings of fusion, and agreement of predicted and real groups."""

import pytest

from shmoo.estimators.machine.profile import RUNTIMES, Coefficient, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.savings import (
    FusionSavings,
    FusionTotals,
    fusion_savings,
    fusion_score,
    shared_pairs,
    summarize_fusion,
)
from tests.build import GraphBuilder


def test_a_chain_saves_what_passes_between_its_calls():
    """Three relus on 1000 floats: 6 accesses of 4000 bytes alone, 2 fused; three launches and one, after entering the graph. The
    fused time and energy are those of an estimate."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.tensor((1000,))))))
    director = AnalysisDirector(load_profile("cpu_server_generic"))
    savings = fusion_savings(director, [graph], "inductor")
    estimate = director.estimate(graph, runtime="inductor")
    assert (savings.alone.kernels, savings.fused.kernels) == (3, 1)
    assert (savings.alone.bytes, savings.fused.bytes) == (6 * 4000, 2 * 4000)
    assert savings.saved("bytes") == pytest.approx(2 / 3)
    assert (savings.fused.latency_s, savings.fused.energy_j) == (estimate.latency_s.value, estimate.energy_j.value)
    entry = estimate.latency_s.value - estimate.breakdown[0].latency_s
    assert savings.alone.latency_s - entry == pytest.approx(3 * estimate.breakdown[0].latency_s, rel=0.02)
    assert savings.saved("latency_s") == pytest.approx(1 - savings.fused.latency_s / savings.alone.latency_s)


@pytest.mark.parametrize("arch", ["cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t256"])
def test_a_fused_model_takes_what_its_estimate_says(arch):
    """Kernels, bytes, time and energy of `shmoo fusion` are those of `shmoo estimate`, where convolutions change layouts and
    large results are mapped anew."""
    b = GraphBuilder()
    x = b.tensor((8, 32, 224, 224))
    graph = b.graph(b.relu(b.conv(b.relu(b.conv(x, 64)), 64)))
    profile = load_profile(arch)
    faults = {"page_fault": Coefficient(2e-10, "s/B", "fitted", "a machine that maps memory anew")}
    director = AnalysisDirector(profile.replacing(coefficients={**profile.coefficients, **faults}))
    for runtime in RUNTIMES[director.profile.family]:
        fused = fusion_savings(director, [graph], runtime).fused
        estimate = director.estimate(graph, runtime=runtime)
        assert (fused.kernels, fused.bytes) == (estimate.kernels, estimate.bytes)
        assert fused.latency_s == pytest.approx(estimate.latency_s.value, rel=1e-9)
        assert fused.energy_j == pytest.approx(estimate.energy_j.value, rel=1e-9)


def test_eager_fuses_nothing():
    """Call by call, then, is the estimate itself."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.conv(b.tensor((8, 32, 224, 224)), 64)))
    savings = fusion_savings(AnalysisDirector(load_profile("cpu_server_generic")), [graph], "eager")
    assert savings.alone == savings.fused


def test_what_is_not_known_saves_nothing_known():
    """No energy coefficients, no energy saved."""
    totals = FusionTotals(1, 1.0, 1.0, None)
    assert FusionSavings(totals, totals).saved("energy_j") is None


def test_parts_of_a_concatenation_are_written_where_the_result_is():
    """relu and sigmoid of 1000 floats each, concatenated: 2 reads and 2 writes of 4000 bytes; call by call twice that."""
    b = GraphBuilder()
    parts = [b.relu(b.tensor((1000,))), b.call("sigmoid", {"self": b.tensor((1000,))}, (1000,))]
    graph = b.graph(b.call("cat", {"tensors.0": parts[0], "tensors.1": parts[1]}, (2000,), dim=0))
    savings = fusion_savings(AnalysisDirector(load_profile("cpu_server_generic")), [graph], "inductor")
    assert savings.fused.kernels == 2
    assert (savings.alone.bytes, savings.fused.bytes) == (8 * 4000, 4 * 4000)


def test_a_part_that_a_library_made_is_copied():
    """A convolution's result is read and written once more: 2 x 8 channels of 4x4 floats each."""
    b = GraphBuilder()
    x = b.tensor((1, 8, 4, 4))
    y, z = b.conv(x, 8, kernel=1), b.conv(x, 8, kernel=1)
    graph = b.graph(b.call("cat", {"tensors.0": y, "tensors.1": z}, (1, 16, 4, 4), dim=1))
    savings = fusion_savings(AnalysisDirector(load_profile("cpu_server_generic")), [graph], "inductor")
    assert savings.fused.bytes == savings.alone.bytes


def test_a_summary_counts_kernels_of_the_same_operators():
    """Two chains of relu and sigmoid over different sizes."""
    b = GraphBuilder()
    ends = [b.call("sigmoid", {"self": b.relu(b.tensor((n,)))}, (n,)) for n in (100, 200)]
    summary = summarize_fusion(AnalysisDirector(load_profile("cpu_server_generic")), [b.graph(*ends)])
    assert summary.groups == (("relu + sigmoid", 2),)
    assert (summary.model, summary.arch, summary.runtime) == ("test", "cpu_server_generic", "inductor")
    assert "relu + sigmoid" in summary._repr_html_()


def test_pairs_are_of_calls_that_share_a_kernel():
    """A group of three has three pairs, a call alone has none."""
    assert shared_pairs([(0, 1, 2), (3,)]) == {(0, 1), (0, 2), (1, 2)}


def test_a_call_in_two_kernels_pairs_with_both():
    """Call 1 is inlined into the kernels of 2 and of 3."""
    assert shared_pairs([(1, 2), (1, 3)]) == {(1, 2), (1, 3)}


def test_scores_count_pairs_and_kernels():
    """Predicted {12, 13, 23}, real {12}: one of three is right, and all that is real is found."""
    score = fusion_score([(0,), (1, 2, 3)], [(0,), (1, 2), (3,)])
    assert (score.precision, score.recall, score.f1) == pytest.approx((1 / 3, 1, 2 * (1 / 3) / (4 / 3)))
    assert (score.predicted_kernels, score.real_kernels) == (2, 3)


@pytest.mark.parametrize(
    ("predicted", "real", "f1"), [([(0,), (1,)], [(0,), (1,)], 1.0), ([(0, 1)], [(0,), (1,)], 0.0), ([(0,), (1,)], [(0, 1)], 0.0)]
)
def test_groupings_without_pairs_agree_with_each_other_only(predicted, real, f1):
    """Nothing fused on both sides is right, on one side wrong."""
    assert fusion_score(predicted, real).f1 == f1
