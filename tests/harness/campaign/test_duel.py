import errno
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError, StorageError
from shmoo.harness.campaign import duel as duelling
from shmoo.harness.campaign.campaign import CampaignSettings
from shmoo.harness.campaign.duel import PARTS, Duet, is_duel, run_duel
from shmoo.harness.campaign.sides import Description, Side, describe, side_of
from shmoo.harness.campaign.worker import Worker
from shmoo.harness.cli.app import cli
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, Timing
from shmoo.runs.store.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
CASES = [CaseSpec("relu", "operator", {"m": m}) for m in range(12)]
HERE = Side("base", sys.executable, "", ())


class SharedMachine:
    """Both sides' measurers on a machine whose speed wanders from visit to visit: slowly, by 2.3 times the `step`."""

    def __init__(self, seed=1, step=0.13):
        self.step = step
        self.random, self.log_speed, self.order = random.Random(seed), 0.0, []

    def side(self, name, factor=1.0, fails=()):
        return SideOfMachine(self, name, factor, fails)


class SideOfMachine:
    def __init__(self, machine, name, factor, fails):
        self.machine, self.name, self.factor, self.fails = machine, name, factor, fails
        self.processes = 0

    def close(self):
        self.processes += 1

    def measure(self, case, visit=0, details=True):
        draw = self.machine.random
        self.machine.log_speed = 0.9 * self.machine.log_speed + draw.gauss(0, self.machine.step)
        self.machine.order.append((self.name, case.axes["m"], visit, details))
        if case.axes["m"] in self.fails:
            return Measurement(case, "failed", (Reason("error", "on purpose"),), visit=visit), ()
        call_s = 1e-3 * self.factor * math.exp(self.machine.log_speed + draw.gauss(0, 0.01))
        return Measurement(case, "ok", timing=Timing((call_s,) * 8), visit=visit), ()


def fight(
    tmp_path,
    machine,
    new,
    pairs=12,
    base=None,
    resume=False,
    sides=(HERE, HERE),
    cases=CASES,
    budget_s=None,
    clock=time.monotonic,
):
    settings = CampaignSettings(visits=pairs, most_visits=pairs, lock=str(tmp_path / "lock"), budget_s=budget_s)
    described = Description(MACHINE, {"torch": "2.9.0"}), Description(MACHINE, {"torch": "2.10.0"})
    return run_duel(
        cases,
        tmp_path / "duel",
        sides,
        described,
        suite="duel",
        settings=settings,
        resume=resume,
        measurers=(base or machine.side("base"), new),
        clock=clock,
    )


def test_each_visit_is_made_on_both_sides_in_either_order(tmp_path):
    """Pairs follow each other, half of them begin with the new side, and details are asked of both."""
    machine = SharedMachine()
    base, new = fight(tmp_path, machine, machine.side("new"))
    pairs = list(zip(machine.order[::2], machine.order[1::2], strict=True))
    assert all(first[1:] == second[1:] and first[0] != second[0] for first, second in pairs)
    begins = [first[0] for first, _ in pairs]
    assert 0.3 < begins.count("new") / len(begins) < 0.7
    assert [len(run.lines) for run in (base, new)] == [144, 144]
    assert is_duel((base, new))
    assert not is_duel((new, base))
    assert new.manifest.versions == {"torch": "2.10.0"}


def test_both_processes_are_replaced_after_each_tenth_of_the_pairs(tmp_path):
    """Rows say which pair of processes made them; fewer pairs than parts have two processes each."""
    machine = SharedMachine()
    base, new = machine.side("base"), machine.side("new")
    runs = fight(tmp_path, machine, new, pairs=20, base=base)
    assert base.processes == new.processes == PARTS
    for run in runs:
        assert [line.process for line in run.lines] == [line.visit // 2 for line in run.lines]
    few = fight(tmp_path / "few", machine, machine.side("new"), pairs=3)
    assert {(line.visit, line.process) for line in few[0].lines} == {(0, 0), (1, 1), (2, 2)}


def test_both_processes_are_replaced_after_each_tenth_of_the_budget(tmp_path):
    """A budget that ends long before the pairs do has as many parts, and none is gone back to."""
    ticks = itertools.count()
    machine = SharedMachine()
    runs = fight(tmp_path, machine, machine.side("new"), pairs=1000, budget_s=150.0, clock=lambda: float(next(ticks)))
    processes = [line.process for line in runs[0].lines]
    assert processes == sorted(processes)
    assert set(processes) == set(range(PARTS))


def test_networks_have_as_many_pairs_as_other_cases(tmp_path):
    """Of all processes: a noisy network is visited no more often in a round."""
    machine = SharedMachine()
    cases = [*CASES[:3], CaseSpec("resnet18", "network", {"m": 99})]
    base, new = fight(tmp_path, machine, machine.side("new"), pairs=10, cases=cases)
    for run in (base, new):
        for lines in run.visits.values():
            assert [line.process for line in lines] == list(range(PARTS))


def test_a_duel_that_is_refused_leaves_no_run_behind(tmp_path):
    """The base's folder holds a run already, which the new side's does not: once that is moved away, the same command works."""
    machine = SharedMachine()
    fight(tmp_path, machine, machine.side("new"), pairs=1)
    shutil.rmtree(tmp_path / "duel" / "new")
    with pytest.raises(InputError, match="holds a run already"):
        fight(tmp_path, machine, machine.side("new"), pairs=1)
    assert not (tmp_path / "duel" / "new").exists()
    shutil.rmtree(tmp_path / "duel" / "base")
    fight(tmp_path, machine, machine.side("new"), pairs=1)


def test_a_disk_that_is_full_says_what_is_kept_of_a_duel(tmp_path, monkeypatch):
    """The new side's run is written first; the error names it and the remedy, and the pairs before stay."""
    machine = SharedMachine()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Filling(SideOfMachine):
        def measure(self, case, visit=0, details=True):
            if len(self.machine.order) >= 10:
                monkeypatch.setattr(os, "fsync", full)
            return super().measure(case, visit, details)

    with pytest.raises(StorageError, match=r"duel/new: No space left.*--resume"):
        fight(tmp_path, machine, Filling(machine, "new", 1.0, ()))
    monkeypatch.undo()
    assert len(Run.open(tmp_path / "duel" / "new").lines) == len(Run.open(tmp_path / "duel" / "base").lines) == 5


def test_three_per_cent_are_resolved_where_two_runs_resolve_ten(tmp_path):
    """The machine wanders by 30 %: pairs find 3 % in the geometric mean, the two runs on their own cannot tell."""
    machine = SharedMachine(3)
    runs = fight(tmp_path, machine, machine.side("new", 1.03), pairs=40)
    paired = compare_runs(*runs, paired=True).answer("slower", 0.01)
    assert paired.suite == "yes"
    assert paired.growth.ratio.low < 1.03 < paired.growth.ratio.high
    assert paired.growth.standard_error < 0.01
    assert compare_runs(*runs).answer("slower", 0.01).answer == "too noisy"


def test_equal_sides_are_never_told_apart(tmp_path):
    """Twenty duels of equal sides: no answer is yes."""
    for seed in range(20):
        machine = SharedMachine(seed)
        runs = fight(tmp_path / str(seed), machine, machine.side("new"), pairs=10)
        found = compare_runs(*runs, paired=True)
        assert "yes" not in {found.answer(question).answer for question in ("slower", "faster")}


def test_a_case_that_fails_on_one_side_is_left_alone_there(tmp_path):
    """It would only fail again; the other cases go on, and the row says why there is no partner."""
    machine = SharedMachine()
    base, new = fight(tmp_path, machine, machine.side("new", fails=(5,)), pairs=3)
    assert sum(name == "new" and m == 5 for name, m, *_ in machine.order) == 1
    found = compare_runs(base, new, paired=True)
    (missing,) = found.unpaired
    assert (missing.missing_in, missing.status) == ("b", "failed")
    assert len(found.cases) == 11


def test_the_new_row_is_on_disk_before_the_pair_counts(tmp_path):
    """An interruption between the sides leaves no pair with one half in the base's run."""

    class Stops:
        def close(self):
            pass

        def measure(self, case, visit=0, details=True):
            raise KeyboardInterrupt

    machine = SharedMachine()
    with pytest.raises(KeyboardInterrupt):
        fight(tmp_path, machine, Stops())
    assert not (tmp_path / "duel" / "base" / "rows.jsonl").read_bytes()


# sides


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two commits, in the folder `package` of which the file `net.py` says which it is."""
    root = tmp_path / "repository"
    (root / "package").mkdir(parents=True)

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments], cwd=root, check=True, capture_output=True
        )

    git("init", "-q", "-b", "main")
    for name in ("first", "second"):
        (root / "package" / "net.py").write_text(f"NAME = {name!r}\n")
        git("add", ".")
        git("commit", "-qm", name)
        git("tag", name)
    monkeypatch.chdir(root)
    return root


def commit(name):
    return subprocess.run(["git", "rev-parse", name], capture_output=True, text=True, check=True).stdout[:12]


def test_a_ref_is_checked_out_for_the_duel_and_removed(repository):
    """Its folder is searched first, and the repository is left as it was."""
    with side_of("first") as side:
        folder = Path(side.folder)
        assert (folder / "package" / "net.py").read_text() == "NAME = 'first'\n"
        assert side.search[0] == str(folder)
        assert side.python == sys.executable
        assert side.state == commit("first")
    assert not folder.exists()
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1


def test_a_ref_is_entered_where_the_user_stands(repository, monkeypatch):
    """In a folder of the repository, the same folder of the checkout is current, and searched in place of it."""
    monkeypatch.chdir(repository / "package")
    monkeypatch.syspath_prepend(str(repository / "package"))
    with side_of("first") as side:
        assert Path(side.folder).name == "package"
        assert (Path(side.folder) / "net.py").read_text() == "NAME = 'first'\n"
        assert str(repository / "package") not in side.search


def test_a_directory_of_code_is_used_as_it_stands(repository):
    """What is not committed can be measured against what is."""
    with side_of(".") as side:
        assert side.folder == str(repository)
        assert side.state == commit("second")
    (repository / "package" / "net.py").write_text("NAME = 'third'\n")
    with side_of(".") as side:
        assert side.state.startswith(f"{commit('second')}+")
    with side_of(str(repository.parent)) as side:
        assert not side.state


def test_an_environment_keeps_to_its_own_packages(tmp_path):
    """Its python runs with nothing of this process's search path; one without shmoo is refused with the remedy."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    with side_of(str(folder)) as side:
        assert side.python == str(folder / "bin" / "python")
        assert side.search == ()
        with pytest.raises(InputError, match="install shmoo in that environment"):
            describe(side, None)


def test_this_environment_describes_itself():
    """As the machine that it is, with its versions."""
    with side_of(str(Path(__file__).parent)) as side:
        found = describe(side, 1)
    assert found.machine.threads == 1
    assert found.versions["numpy"]


def test_a_setup_makes_the_environment_of_a_checkout(repository):
    """A .venv that it leaves is used; one that fails is said with its last words."""
    with side_of("first", f"{sys.executable} -m venv --without-pip .venv") as side:
        assert side.python == str(Path(side.folder) / ".venv" / "bin" / "python")
        assert side.search == (side.folder,)
    with pytest.raises(InputError, match="out of luck"), side_of("first", "echo out of luck >&2; exit 3"):
        pass
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1


@pytest.mark.parametrize("name", ["no-such-ref", "--force"])
def test_what_is_neither_is_refused(repository, name):
    """With the kinds of names that are taken."""
    with pytest.raises(InputError, match="a commit, branch or tag"), side_of(name):
        pass


def test_a_worker_runs_on_its_side(repository):
    """In the folder of the checkout, with its modules."""
    entry = "tests.harness.campaign.worker_stand_in:Whereabouts"
    with side_of("first") as side, Worker(entry=entry, side=side) as worker:
        row, _ = worker.measure(CASES[0])
    assert row.host["cwd"] == side.folder
    assert row.host["package"] == "first"


# the command


class Stand:
    """In place of a worker: the new side takes a factor longer; remembers no process."""

    machine, factors = SharedMachine(), {}

    def __init__(self, settings, timeout_s, side):
        self._measurer = self.machine.side(side.name, self.factors.get(side.name, 1.0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass

    def measure(self, case, visit=0, details=True):
        spec = CaseSpec("relu", "operator", {"m": 1})
        row, graphs = self._measurer.measure(spec, visit, details)
        return msgspec.structs.replace(row, case=case), graphs


@pytest.fixture
def stand(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(duelling, "Worker", Stand)
    monkeypatch.setattr(Stand, "machine", SharedMachine(2, step=0.05))
    monkeypatch.setattr(Stand, "factors", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Stand


def invoke(*arguments):
    return CliRunner().invoke(cli, ["duel", *arguments, "--", "measure", "--suite", "quick", "--visits", "20"])


def test_the_command_fails_on_a_slower_commit(stand, tmp_path):
    """Exit code 1, the runs are kept, and comparing them again goes by pairs."""
    stand.factors["second"] = 1.2
    out = tmp_path / "out"
    result = invoke("first", "second", "--out", str(out), "--json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    assert document["noise_from"] == "pairs"
    assert document["verdicts"][0]["suite"] == "yes"
    again = CliRunner().invoke(cli, ["compare", str(out / "base"), str(out / "new"), "--json"])
    assert json.loads(again.stdout)["noise_from"] == "pairs"
    faster = invoke("second", "first", "--out", str(tmp_path / "other"))
    assert faster.exit_code == 0, faster.output


def test_the_command_goes_on_with_a_duel(stand, tmp_path, repository):
    """With more pairs; a branch that moved is another side, and a budget says which cases it left out."""
    out = str(tmp_path / "out")
    subprocess.run(["git", "branch", "topic", "second"], check=True)
    asked = ["duel", "first", "topic", "--out", out]
    short = CliRunner().invoke(cli, [*asked, "--", "measure", "--suite", "quick", "--budget", "1e-9"])
    assert "cases were not reached within --budget" in short.output, short.output
    first = CliRunner().invoke(cli, [*asked, "--resume", "--", "measure", "--suite", "quick", "--visits", "2"])
    lines = len(Run.open(f"{out}/base").lines)
    assert lines, first.output
    CliRunner().invoke(cli, [*asked, "--resume", "--", "measure", "--suite", "quick", "--visits", "4"])
    assert len(Run.open(f"{out}/base").lines) == len(Run.open(f"{out}/new").lines) == 2 * lines
    subprocess.run(["git", "branch", "--force", "topic", "first"], check=True)
    moved = CliRunner().invoke(cli, [*asked, "--resume", "--", "measure", "--suite", "quick", "--visits", "4"])
    assert moved.exit_code == 2
    assert "new is another side" in moved.output
    nameless = CliRunner().invoke(cli, ["duel", "first", "topic", "--resume", "--", "measure"])
    assert nameless.exit_code == 2
    assert "the duel to continue" in nameless.output


def test_equal_commits_pass(stand, tmp_path):
    """Exit code 0, in words."""
    result = invoke("first", "second", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "slower? no" in result.stdout
    assert "the differences of pairs" in result.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["calibrate", "x"], "a duel measures"),
        (["measure", "--resume", "--out", "x"], "does not apply to a duel"),
        (["measure", "--visits", "0"], "--visits"),
        (["measure", "--model", "no_such_model"], "no_such_model"),
    ],
)
def test_what_a_duel_cannot_measure_is_refused(stand, command, said):
    """Before anything is checked out."""
    result = CliRunner().invoke(cli, ["duel", "first", "second", "--", *command])
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_duet_draws_its_order_anew(tmp_path):
    """Two seeds give two orders."""

    class Rows:
        def append(self, row, graphs):
            pass

    orders = []
    for seed in (1, 2):
        machine = SharedMachine()
        duet = Duet(machine.side("base"), machine.side("new"), Rows(), lambda visit: 0, seed)
        for visit in range(20):
            duet.measure(CASES[0], visit)
        orders.append([name for name, *_ in machine.order])
    assert orders[0] != orders[1]
