"""Worker processes: what ends one costs a case at most."""

import os
import shutil
import time
from pathlib import Path

import pytest

from shmoo.harness.campaign.sides import Side
from shmoo.harness.campaign.worker import Worker
from shmoo.runs.store.records import CaseSpec, Reason


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with Worker(entry="tests.harness.campaign.worker_stand_in:StandIn", timeout_s=30.0) as worker:
        yield worker


def ask(worker, workload):
    row, _ = worker.measure(CaseSpec(workload, "operator"), 1, details=False)
    assert row.visit == 1
    return row


def test_a_worker_is_used_for_case_after_case(worker):
    """Two cases, one process; what they print is kept out of the answers."""
    first, second = ask(worker, "noisy"), ask(worker, "plain")
    assert (first.status, second.status) == ("ok", "ok")
    assert first.host["pid"] == second.host["pid"]
    assert second.host["details"] is False


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        ("crash", "its process ended with exit code 3; last words: out of luck"),
        ("crash after chatter", "its process ended with exit code 3; last words: out of luck"),
        ("segfault", "its process was ended by SIGSEGV (segmentation fault)"),
        ("killed", "its process was ended by SIGKILL, most likely by the system for lack of memory"),
        ("other", "its process answered for another case"),
    ],
)
def test_a_worker_that_dies_or_misbehaves_costs_its_case_only(worker, workload, reason):
    """The case fails with the reason and the next one gets a new process."""
    row = ask(worker, workload)
    assert row.status == "failed"
    assert row.reasons[0].code == "worker"
    assert row.reasons[0].text.startswith(reason)
    assert ask(worker, "plain").status == "ok"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_worker_says_which_signal_ended_it(worker):
    """The campaign goes by it."""
    assert ask(worker, "killed").host == {"signal": "SIGKILL"}
    assert ask(worker, "segfault").host == {"signal": "SIGSEGV"}
    assert ask(worker, "crash").host == {}


def test_a_worker_that_hangs_is_ended(worker, monkeypatch):
    """After its time limit the process is killed, the case fails, and the next one runs."""
    pid = ask(worker, "plain").host["pid"]
    worker._timeout_s = 0.3
    assert "no answer within 0 s" in ask(worker, "hang").why
    worker._timeout_s = 30.0
    assert ask(worker, "plain").host["pid"] != pid


def test_a_process_that_ends_before_it_has_its_settings_fails_its_case():
    """They are longer than a pipe holds, and the interpreter reads none of them."""
    with Worker(b" " * (1 << 20), side=Side("", shutil.which("false"), "", ())) as worker:
        assert "its process ended with exit code 1" in ask(worker, "plain").why


def test_a_failed_case_is_followed_by_a_fresh_process(worker):
    """What a failure leaves behind, such as a poisoned device, does not reach the next case."""
    failed, after = ask(worker, "failing"), ask(worker, "plain")
    assert failed.reasons == (Reason("error", "on purpose"),)
    assert failed.host["pid"] != after.host["pid"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork of POSIX")
def test_a_case_that_forks_does_not_fail_its_neighbour():
    """The copy answers nothing: one answer a case, in the order of the cases, from one process."""
    with Worker(entry="tests.harness.campaign.fork_stand_in:Forking", timeout_s=30.0) as worker:
        rows = [ask(worker, workload) for workload in ("returns twice", "plain", "child raises", "plain", "plain")]
    assert [row.status for row in rows] == ["ok"] * 5
    assert len({row.host["pid"] for row in rows}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork of POSIX")
def test_a_dead_worker_is_noticed_though_its_child_holds_the_pipe():
    """Without waiting for the time limit of the case."""
    with Worker(entry="tests.harness.campaign.fork_stand_in:Forking", timeout_s=600.0) as worker:
        begin = time.monotonic()
        assert "exit code 7" in ask(worker, "dies, its child holds the pipe").why
        assert time.monotonic() - begin < 60
        assert ask(worker, "plain").status == "ok"


def test_a_worker_imports_nothing_from_the_current_directory(tmp_path, monkeypatch):
    """A file there that is called like one of ours or Python's is not run."""
    for name in ("queue", "msgspec", "shmoo", "tempfile"):
        (tmp_path / f"{name}.py").write_text("import os; os.write(2, b'taken over'); os._exit(9)")
    monkeypatch.chdir(tmp_path)
    with Worker(entry="tests.harness.campaign.worker_stand_in:StandIn", timeout_s=60.0) as worker:
        assert ask(worker, "plain").status == "ok"
