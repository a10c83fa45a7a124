"""Published rates of products on tensor cores, of machines that were fitted in float32 or not at all."""

from __future__ import annotations

import numpy as np

from tests.evaluation.rates import PUBLISHED, Rate, predicted, table


def test_published_rates_are_met_by_machines_never_measured_in_these_types():
    """Within 12 % on average, no machine worse than 20 %, and nine of ten inside the 90 % intervals."""
    found = [predicted(rate) for rate in PUBLISHED]
    errors = np.asarray([abs(rate.tflops * 1e12 / estimate.value - 1) for rate, estimate in zip(PUBLISHED, found, strict=True)])
    inside = [e.low <= rate.tflops * 1e12 <= e.high for rate, e in zip(PUBLISHED, found, strict=True)]
    assert errors.mean() < 0.12
    assert np.mean(inside) >= 0.9
    for arch in {rate.arch for rate in PUBLISHED}:
        assert errors[[rate.arch == arch for rate in PUBLISHED]].mean() < 0.2, arch


def test_a_product_of_8192_rows_and_columns_is_two_times_8192_cubed():
    """1.1 Tflop in 1.5 ms are 730 Tflop/s; a board with half the power takes longer."""
    rate = Rate("gpu_h100", "bfloat16", 8192, 8192, 8192, 797.5, "test")
    capped = Rate("gpu_h100", "bfloat16", 8192, 8192, 8192, 400.0, "test", changed={"power.tdp": 350.0})
    assert 500e12 < predicted(rate).value < 900e12
    assert predicted(capped).value < 0.6 * predicted(rate).value


def test_the_table_has_a_line_a_rate_and_the_mean_error():
    """1 of 1 inside: 0 % off what is predicted."""
    rate = Rate("gpu_t4", "int8", 4096, 4096, 4096, 0.0, "test")
    rate = Rate("gpu_t4", "int8", 4096, 4096, 4096, predicted(rate).value / 1e12, "test")
    head, line, mean = table([rate]).splitlines()
    assert line.split()[:2] == ["gpu_t4", "int8"]
    assert mean == "mean absolute error of the time 0.0%; 1 of 1 inside their 90 % intervals"
    assert "published" in head


def test_every_rate_says_who_published_it():
    """A year stands beside each name."""
    for rate in PUBLISHED:
        assert any(year in rate.source for year in ("2023", "2024", "2025", "2026"))
