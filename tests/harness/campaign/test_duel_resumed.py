"""Duels that are gone on with."""

import msgspec
import pytest

from shmoo.estimators.errors import InputError
from shmoo.harness.campaign.duel import is_duel
from shmoo.runs.store.store import Run
from tests.harness.campaign.test_duel import HERE, SharedMachine, fight


class StopsAfter:
    """A side that is interrupted in the visit after these."""

    def __init__(self, side, visits):
        self.side, self.left = side, visits

    def close(self):
        self.side.close()

    def measure(self, case, visit=0, details=True):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.side.measure(case, visit, details)


@pytest.mark.parametrize("stops", ["base", "new"])
def test_an_interrupted_duel_goes_on(tmp_path, stops):
    """Finished pairs count, the one in flight is measured again on both sides, and it stays one duel."""
    machine = SharedMachine()
    base, new = machine.side("base"), machine.side("new")
    with pytest.raises(KeyboardInterrupt):
        fight(
            tmp_path,
            machine,
            StopsAfter(new, 50) if stops == "new" else new,
            base=StopsAfter(base, 50) if stops == "base" else base,
        )
    kept = Run.open(tmp_path / "duel" / "base").lines
    assert 45 < len(kept) <= 51
    runs = fight(tmp_path, machine, new, base=base, resume=True)
    assert runs[0].lines[: len(kept)] == kept
    assert len(runs[0].lines) == 144
    assert len(runs[1].lines) in (144, 145)
    assert is_duel(runs)
    begins = [first[0] for first in machine.order[2 * len(kept) :: 2]]
    assert 0.3 < begins.count("new") / len(begins) < 0.7
    for identity, lines in runs[1].visits.items():
        assert {line.visit for line in lines} == {line.visit for line in runs[0].visits[identity]} == set(range(12))
    before, after = ({line.process for line in lines} for lines in (kept, runs[0].lines[len(kept) :]))
    assert max(before) < min(after), "the processes of the first part are gone"
    assert after == set(range(min(after), min(after) + len(after)))
    processes = [{line.case.identity: line.process for line in run.lines if line.visit == 11} for run in runs]
    assert processes[0] == processes[1]


def test_a_case_that_failed_before_is_left_alone_when_a_duel_goes_on(tmp_path):
    """On the side where it failed."""
    machine = SharedMachine()
    new = machine.side("new", fails=(5,))
    fight(tmp_path, machine, new, pairs=3)
    runs = fight(tmp_path, machine, new, pairs=6, resume=True)
    assert sum(name == "new" and m == 5 for name, m, *_ in machine.order) == 1
    assert len(runs[0].lines) == 72


def test_a_duel_of_other_sides_is_not_gone_on_with(tmp_path):
    """Another commit under the same name would mix two versions of the code."""
    machine = SharedMachine()
    sides = tuple(msgspec.structs.replace(HERE, name=name, state=f"{name}1") for name in ("main", "HEAD"))
    before = fight(tmp_path, machine, machine.side("new"), pairs=2, sides=sides)
    assert [run.manifest.settings["commit"] for run in before] == ["main1", "HEAD1"]
    with pytest.raises(InputError, match="holds a run already"):
        fight(tmp_path, machine, machine.side("new"), sides=sides)
    for changed in ({"state": "HEAD2"}, {"name": "other"}):
        others = sides[0], msgspec.structs.replace(sides[1], **changed)
        with pytest.raises(InputError, match=r"new is another side .* was 'HEAD"):
            fight(tmp_path, machine, machine.side("new"), sides=others, resume=True)
