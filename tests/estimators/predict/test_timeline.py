"""The predicted schedule: kernels in time that end when the predicted latency is over."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.timeline import schedule
from tests.estimators.sweep.test_controller_points import network

NAMES = ("brief_cpu", "cpu_server_generic", "gpu_h100", "gpu_t4", "tpu_v4", "kpu_t64")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_last_kernel_ends_with_the_call(name: str, pieces: int) -> None:
    """Entry, kernels and hand-overs add up to the latency of the estimate, over one graph or several."""
    director = AnalysisDirector(load_profile(name))
    graphs = (network(),) * pieces
    estimate, slots = schedule(director, graphs)
    assert estimate.latency_s == director.estimate(graphs).latency_s
    assert len(slots) == estimate.kernels
    ends = [max(slot.end_s, slot.launch_s[1] if slot.launch_s else 0.0) for slot in slots]
    assert max(ends) == pytest.approx(estimate.latency_s.value, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_follow_each_other(name: str) -> None:
    """The first waits until the graph is entered; none starts before the one ahead of it has ended, nor before the host began to
    launch it."""
    profile = load_profile(name)
    estimate, slots = schedule(AnalysisDirector(profile), (network(),))
    entered = Coefficients(profile).value(f"graph.{estimate.runtime}", "graph")
    first = slots[0].start_s if slots[0].launch_s is None else slots[0].launch_s[0]
    assert first == pytest.approx(entered)
    assert slots[0].start_s >= entered
    for before, after in pairwise(slots):
        assert after.start_s >= before.end_s - 1e-15
    for slot in slots:
        assert slot.end_s >= slot.start_s
        assert (slot.launch_s is not None) == name.startswith("gpu")
        if slot.launch_s is not None:
            assert slot.launch_s[0] <= slot.start_s
