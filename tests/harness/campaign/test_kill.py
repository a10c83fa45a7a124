"""kill -9 at fifty random moments of a campaign: every finished visit is there, whole, and only the one in flight is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from shmoo.estimators.graph.records import OpCall, TensorSpec, single_call_graph
from shmoo.harness.campaign.campaign import CampaignSettings, run_campaign
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Timing
from shmoo.runs.store.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
CASES = [CaseSpec("relu", "operator", {"m": m}) for m in range(1, 900)]
KILLS = 50


def samples_of(case: CaseSpec) -> tuple[float, ...]:
    """What the case's row must hold: enough of it that a row takes more than one page of the disk."""
    draw = random.Random(case.axes["m"])
    return tuple(draw.random() for _ in range(300))


class Fast:
    """Measures in 2 ms, so that the cases outlast the kills, and notes in a file of its own each case it is asked for."""

    def __init__(self, journal: Path) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def measure(self, case, visit=0, details=True):
        # Called for the next case only when the row before is on disk.
        os.write(self._journal, b".")
        time.sleep(2e-3)
        spec = TensorSpec((case.axes["m"],))
        graph = single_call_graph(OpCall("aten.relu", (spec,), (spec,), ("self",)))
        return Measurement(case, "ok", (), (graph.content_hash,), Timing(samples_of(case)), visit=visit), (graph,)


def campaign(folder: str, resume: bool) -> None:
    root = Path(folder)
    settings = CampaignSettings(visits=1, most_visits=1, lock=str(root / "lock"))
    run_campaign(
        CASES, root / "run", suite="kill", machine=MACHINE, settings=settings, resume=resume, measurer=Fast(root / "journal")
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_kill_9_at_any_moment_loses_at_most_the_case_in_flight(tmp_path):
    """Fifty campaigns are killed after 0 to 60 ms of work; each leaves a readable run with every finished row, and the next goes
    on. At the end every case has been measured exactly once, and its samples are those it was given."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shmoo.harness.campaign.campaign", "shmoo.runs.store.store"])
    draw = random.Random(7)
    journal = tmp_path / "journal"
    stored = 0
    for attempt in range(KILLS):
        begun = journal.stat().st_size if journal.exists() else 0
        process = context.Process(target=campaign, args=(str(tmp_path), attempt > 0))
        process.start()
        # Wait for the first case, or kill while the run is opened and repaired in every tenth attempt.
        while attempt % 10 and process.is_alive() and not (journal.exists() and journal.stat().st_size > begun):
            process.join(0.001)
        process.join(draw.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not (tmp_path / "run" / "run.json").exists():
            continue  # killed before there was a run
        run = Run.open(tmp_path / "run")
        asked = (journal.stat().st_size if journal.exists() else 0) - begun
        # Every case asked for but the last was stored before the next was asked for.
        assert stored + max(asked - 1, 0) <= len(run.lines) <= stored + asked
        stored = len(run.lines)
        for row in run.lines[-5:]:
            assert run.graphs(row)
    campaign(str(tmp_path), resume=True)
    run = Run.open(tmp_path / "run")
    assert run.problems == ()
    assert sorted(row.case.axes["m"] for row in run.lines) == [case.axes["m"] for case in CASES]
    assert all(row.timing.samples_s == samples_of(row.case) for row in run.lines)
