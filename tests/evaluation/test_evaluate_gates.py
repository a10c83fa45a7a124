"""The evaluation of the gates on a machine that is simulated."""

import math
import random

import pytest

from shmoo.runs.store.records import Measurement, Timing
from tests.evaluation import gates


class Simulated:
    """Visits that differ by 3 %, in processes that differ by 1 %; a chain takes as long as it has links."""

    random = random.Random(1)

    def __init__(self, chains):
        self.chains = chains
        self.close()

    def close(self):
        self.level = self.random.gauss(0, 0.01)

    def measure(self, case, visit=0, details=True):
        links = self.chains.links if self.chains.only in (None, case) else gates.LINKS
        call_s = 1e-4 * links * math.exp(self.level + self.random.gauss(0, 0.03))
        return Measurement(case, "ok", timing=Timing((call_s,) * 8), visit=visit), ()


def test_what_was_seeded_is_told(tmp_path, monkeypatch):
    """Equal sides are never told apart, 5 % and 15 % are found where they are, and the pairs' error is the smaller one."""
    monkeypatch.setattr(gates, "side", Simulated)
    monkeypatch.setattr(gates, "EQUAL_RUNS", 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = []
    gates.evaluate(tmp_path / "runs", 4, 20, told.append)
    assert [line.split(",")[0] for line in told[:2]] == ["2 pairs of equal runs"] * 2
    assert all("{'yes': 0," in line for line in told if "pairs of equal" in line)
    found = {line.split(":")[0]: line for line in told if line.startswith("duel")}
    assert len(found) == 6
    assert all(found[f"duels of 10 pairs, {how}"].endswith("(median of 4)") for how in ("by pairs", "as two runs"))
    assert "): yes, resolves" in found["duel with 5 % in every case, by pairs"]
    assert f"cases: ('{gates.CASES[0].label}',)" in found["duel with 15 % in one case, by pairs"]


@pytest.mark.parametrize("links", [gates.FIVE, gates.FIFTEEN])
def test_chains_have_the_links_that_are_asked_for(links):
    """Those of one case alone, or of all."""
    one, other = gates.CASES[:2]
    alone = gates.Chains(1, links, one)
    assert gates.Chains(1, links).build(other).model.links == alone.build(one).model.links == links
    assert alone.build(other).model.links == gates.LINKS
    model = gates.Chain(gates.STEPS[one.workload](64), links)
    calls = []
    model.step.register_forward_hook(lambda *_: calls.append(1))
    model(gates.torch.randn(2, 64))
    assert len(calls) == links
