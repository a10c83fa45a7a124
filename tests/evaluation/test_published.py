"""Figures that others measured on machines nobody here has, against intervals that rest on datasheets and transferred shares."""

from __future__ import annotations

import pytest

from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.models.model_graphs import model_graphs
from tests.evaluation.tpu import product


def test_resnet50_on_tpu_v3_is_inside_its_interval():
    """MLPerf Inference v0.5, closed division, offline: 32,716 images a second on four chips."""
    found = model_graphs("resnet50", batch=64, dtype="bfloat16")
    estimate = AnalysisDirector(load_profile("tpu_v3")).estimate(found.graphs, batch=64)
    assert estimate.throughput_per_s.low <= 32716 / 4 <= estimate.throughput_per_s.high


@pytest.mark.parametrize(("side", "measured_s"), [(4096, 827e-6), (8192, 6.05e-3)])
def test_matrix_products_on_tpu_v5e_are_inside_their_interval(side, measured_s):
    """Square products timed from the host, of the kernel in JAX's guide to matrix multiplication in Pallas on TPUs, 2025; the
    share of peak and the overlap of products on v5e are taken from them."""
    latency = AnalysisDirector(load_profile("tpu_v5e")).estimate(product(side, side, side)).latency_s
    assert latency.low <= measured_s <= latency.high
    assert latency.value == pytest.approx(measured_s, rel=0.1)
