"""The comparison of capture with bare tracing, and of counts with torch's counter."""

import pytest
from torch import nn

from shmoo.harness.module import Built, DNNModule
from tests.evaluation import counting
from tests.evaluation.counting import Comparison, Count, compare, markdown


def tiny() -> DNNModule:
    """8x16 by 16x32, softmax, 32x4: 2 * 8 * (16 * 32 + 32 * 4) flops of contractions."""

    def factory(make):
        model = nn.Sequential(nn.Linear(16, 32), nn.Softmax(-1), nn.Linear(32, 4)).eval().to(make.device)
        return Built(model, (make.tensor(8, 16),))

    return DNNModule("tiny", "network", (), factory)


def test_torchs_counter_agrees_on_contractions_and_misses_the_softmax():
    """Its flops are those of the two layers; softmax computes and is counted as nothing."""
    found = compare(tiny(), repeats=1)
    count = found.count
    assert count.difference == 0
    assert count.missed == ("softmax",)
    assert found.operators == 2
    assert found.capture_s > 0
    assert found.analysis_s > 0
    assert found.export_s > 0


def test_a_counter_that_fails_has_a_reason(monkeypatch):
    """Its other figures are unknown."""

    def fail(built):
        raise NotImplementedError("no meta tensors")

    monkeypatch.setattr(counting, "_torch_flops", fail)
    count = compare(tiny(), repeats=1).count
    assert (count.time_s, count.difference, count.missed) == (None, None, ())
    assert "no meta tensors" in count.reason


def test_the_table_ends_with_the_sums_of_all_models():
    """2 s and 1 s of capture beside 1 s and 1 s of export: 1.50 times; analysis 0.03 s in 3 s."""
    count = Count(0.5, 0.1, ("softmax",))
    rows = [Comparison("a", 1.0, 1.0, 2.0, 0.02, 4, count), Comparison("b", 1.0, None, 1.0, 0.01, 3, Count(reason="no"))]
    *_, first, second, total = markdown(rows)
    assert first.split(" | ")[2:5] == ["2.00 x", "2.00 x", "1.0%"]
    assert "1 of 4, +10.0%" in first
    assert "fails" in second
    assert total == "| **all** | 3.00 s | 1.50 x | 2.00 x | 1.0% | 0.50 s |"


@pytest.mark.slow
def test_analysis_is_a_small_part_of_capture():
    """Cost, fusion and prediction of a network together take less than capturing it."""
    from shmoo.harness.workloads.loading import find_workload

    compare(tiny(), repeats=1)
    found = compare(find_workload("resnet18"), repeats=3)
    assert found.analysis_s < found.capture_s
