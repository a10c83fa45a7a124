"""Adding up a generation: lengths at which steps are estimated, straight lines between them, and what is unknown."""

from __future__ import annotations

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.director import Estimate
from shmoo.estimators.predict.estimate_records import flatten
from shmoo.estimators.present.generation import INTERVALS, DecodeStep, decode_contexts, generation, generation_record

MEMORY = MemoryRoom(weight_bytes=100.0, cache_bytes=0.0, activation_bytes=0.0, capacity_bytes=2000.0)


def estimate(latency: float, energy: float | None = None, batch: int = 1) -> Estimate:
    """An estimate of that time, 10 % either way."""
    spread = Interval(latency, 0.9 * latency, 1.1 * latency)
    joules = None if energy is None else Interval(energy, energy, energy)
    return Estimate(
        arch="machine", host="own", device_s=latency, dtype="float32", runtime="eager", threads=None, batch=batch, flops=1e9,
        macs=5e8, bytes=1.0, params=1,
        weight_bytes=100.0, peak_memory_bytes=latency * 1000, memory=MEMORY, kernels=1, tiles=1.0, latency_s=spread,
        throughput_per_s=Interval(1 / latency, 1 / spread.high, 1 / spread.low), energy_j=joules,
        average_power_w=None, edp_js=None, energy_j_reason="" if energy else "no coefficients",
        basis={"fitted": 1.0, "transferred": 0.0, "datasheet": 0.0, "fallback": 0.0}, breakdown=(),
    )  # fmt: skip


def steps(contexts, latency, energy=None, batch: int = 1) -> list[DecodeStep]:
    return [DecodeStep(c, 10.0 * (c + 1), estimate(latency(c), energy and energy(c), batch)) for c in contexts]


def test_steps_are_estimated_from_the_first_to_the_last() -> None:
    """10 tokens after a prompt of 100 take 9 steps, with 100 to 108 tokens in the cache."""
    assert decode_contexts(100, 10) == (100, 102, 104, 106, 108)
    assert decode_contexts(100, 3) == (100, 101)
    assert decode_contexts(100, 1) == ()
    with pytest.raises(InputError, match="at least one token"):
        decode_contexts(0, 5)


def test_times_that_grow_with_the_cache_are_summed_exactly() -> None:
    """A step of 1 + c / 100 seconds after c tokens: the mean of 9 of them is that of the middle one."""
    found = generation(estimate(2.0, 4.0), steps(decode_contexts(100, 10), lambda c: 1 + c / 100, lambda c: 3.0), 100, 10)
    assert found.prefill.latency_s.value == 2
    assert found.time_per_output_token_s.value == pytest.approx(2.04)
    assert found.latency_s.value == pytest.approx(2 + 9 * 2.04)
    assert found.latency_s.low == pytest.approx(0.9 * found.latency_s.value)
    assert found.tokens_per_s.value == pytest.approx(10 / (2 + 9 * 2.04))
    assert (found.first_step_s.value, found.last_step_s.value) == (2.0, 2.08)
    assert found.energy_j.value == pytest.approx(4 + 9 * 3)
    assert found.energy_per_token_j.value == pytest.approx((4 + 9 * 3) / 10)
    assert found.cache_bytes == 10 * 109
    assert found.peak_memory_bytes == pytest.approx(2080)
    assert (found.memory.cache_bytes, found.memory.needed_bytes) == (1090, pytest.approx(2080))
    assert found.memory.fits is False


def test_energy_of_a_token_is_shared_by_the_sequences_of_a_step() -> None:
    """4 sequences at once give 4 tokens a step; the prompt's energy is theirs, too."""
    found = generation(estimate(1.0, 1.0, 4), steps((8, 9), lambda c: 1.0, lambda c: 8.0, 4), 8, 3)
    assert found.energy_per_token_j.value == pytest.approx((1 + 2 * 8) / (4 * 3))
    assert found.tokens_per_s.value == pytest.approx(4 * 3 / 3)


def test_a_single_token_needs_no_step() -> None:
    """Prefill gives it; time per output token is unknown, with the reason."""
    record = generation_record(generation(estimate(2.0, 4.0), (), 100, 1, 70.0), "model")
    assert record["time_per_output_token_s"] is None
    assert "prefill" in record["time_per_output_token_s_reason"]
    assert record["cache_bytes"] == 70
    assert record["latency_s"]["value"] == 2
    assert record["energy_per_token_j"]["value"] == 4


def test_energy_without_coefficients_is_unknown() -> None:
    """Neither 0 nor left out."""
    record = generation_record(generation(estimate(1.0), steps((8, 9), lambda c: 1.0), 8, 3), "model")
    assert record["energy_j"] is record["energy_per_token_j"] is None
    assert record["energy_j_reason"] == "no coefficients"
    assert flatten(record, INTERVALS)["energy_j_low"] is None


def test_steps_that_were_not_estimated_are_asked_for() -> None:
    """New tokens beyond the first need them."""
    with pytest.raises(InputError, match="4 decode steps"):
        generation(estimate(1.0), (), 8, 5)
