import pytest
import torch

from shmoo.estimators.errors import InputError
from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.energy.simulated import SimulatedProbe
from shmoo.harness.measuring.cachestate import flusher, other_work, prepare
from shmoo.harness.measuring.measure import Measurer, MeasureSettings
from shmoo.harness.measuring.timing import TimingSettings
from shmoo.harness.module import Built
from shmoo.runs.store.records import CaseSpec

SHORT = TimingSettings(block_s=1e-5, warmup_s=0.0, max_warmup_s=0.01, min_s=0.0, max_s=0.02, min_samples=3)
QUICK = MeasureSettings(operator=SHORT, network=SHORT, energy=EnergySettings(window_s=0.0))
CACHE = 64 << 10


class Notes(torch.nn.Module):
    """Remembers where the operands of its calls lie."""

    seen: list[int] = []

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(1024), requires_grad=False)

    def forward(self, x):
        Notes.seen.append(x.data_ptr())
        return x * self.weight


@pytest.fixture
def built():
    Notes.seen = []
    return Built(Notes(), (torch.rand(1024),))


def prepared(state, built, **changes):
    options = {"cache_bytes": CACHE, "copies_allowed": True} | changes
    return prepare(state, built, built.model, "cpu", **options)


def test_warm_calls_are_back_to_back(built):
    """Nothing runs in between, and blocks are as long as the clock needs."""
    warm = prepared("warm", built)
    assert (warm.before, warm.block_calls, warm.facts) == (None, None, {})


def test_cold_rotates_copies_past_the_cache(built):
    """8 KB are read a call, so 2 x 64 KB takes 17 copies, one more than fit; the 18th call meets the first copy again."""
    cold = prepared("cold", built)
    assert cold.facts == {"between": "rotation", "copies": 17}
    assert cold.block_calls is None
    for _ in range(18):
        cold.call()
    assert len(set(Notes.seen[:17])) == 17
    assert Notes.seen[17] == Notes.seen[0]


def test_copies_hold_the_same_values(built):
    """A copy is another place in memory and not another question."""
    cold = prepared("cold", built)
    first = built.model(*built.args)
    results = []
    original = Notes.forward
    Notes.forward = lambda self, x: results.append(original(self, x))
    try:
        cold.call()
        cold.call()
    finally:
        Notes.forward = original
    for result in results:
        torch.testing.assert_close(result, first)


@pytest.mark.parametrize("changes", [{"copies_allowed": False}, {"cache_bytes": 1 << 20}])
def test_cold_flushes_where_copies_do_not_do(built, changes):
    """A compiled program holds its weights, and 257 copies are too many: twice the cache is flushed before each single call."""
    cold = prepared("cold", built, **changes)
    past = 2 * changes.get("cache_bytes", CACHE)
    assert cold.facts == {"between": "flush", "flushed_bytes": past}
    assert cold.block_calls == 1
    assert cold.before().numel() * 4 == past


def test_a_flush_writes_every_byte_and_changes_none():
    """Read and written, the buffer is what it was."""
    assert flusher(4096, "cpu")().eq(1).all()


def test_interleaved_runs_other_work_in_a_random_repeatable_order():
    """All kinds of work come up, and equal seeds give equal orders."""

    def shapes(seed):
        work = other_work("cpu", seed)
        return [tuple(work().shape) for _ in range(20)]

    assert set(shapes(1)) == {(256, 256), (4 << 20,), ()}
    assert shapes(1) == shapes(1) != shapes(2)


def test_an_unknown_state_names_the_nearest(built):
    """Allowed are three."""
    with pytest.raises(InputError, match="'cold'"):
        prepared("colt", built)


# rows


def relu(case):
    return Built(torch.nn.ReLU(), (torch.randn(int(case.axes["m"])),))


def row(state, settings=QUICK, probes=((), {"package": "no RAPL"})):
    return Measurer(settings, relu, probes).measure(CaseSpec("relu", "operator", {"m": 4096}, cache_state=state))[0]


@pytest.mark.parametrize(("state", "between"), [("cold", "flush"), ("interleaved", "other work")])
def test_the_state_is_part_of_the_row(state, between, monkeypatch):
    """The row's identity differs from the warm one's, calls are timed singly and the row says what ran in between."""
    monkeypatch.setattr("shmoo.harness.measuring.measure.last_level_bytes", lambda: 4 << 20)
    found = row(state)
    assert found.status != "failed", found.reasons
    assert found.timing.block_calls == 1
    assert found.host["between"] == between
    assert found.case.identity != CaseSpec("relu", "operator", {"m": 4096}).identity
    assert found.case.label.endswith(state)


def test_energy_is_unknown_where_other_work_draws_power_too():
    """A counter cannot tell whose joules they are."""
    import time

    settings = MeasureSettings(operator=SHORT, energy=EnergySettings(window_s=0.05, idle_s=0.0))
    found = row("interleaved", settings, ((SimulatedProbe(time.monotonic, power_w=100.0),), {}))
    (reading,) = found.energy
    assert reading.energy_j is None
    assert "not measured interleaved" in reading.reason
