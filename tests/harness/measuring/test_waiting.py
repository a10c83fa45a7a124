"""Built cases that wait for their next visit, on machines of any size."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch")

from shmoo.harness.machine.doctor import available_bytes
from shmoo.harness.measuring.cachestate import PreparedCall
from shmoo.harness.measuring.memory import LEAST_GROWTH, Session, WaitingCases, freeze
from shmoo.harness.module import Built
from shmoo.runs.store.records import CaseSpec

MIB = 1 << 20


def session(name: str, nbytes: float, begin_s: float = 1.0, model: object = print) -> Session:
    return Session(
        case=CaseSpec(name, "operator"),
        built=Built(model, ()),
        prepared=PreparedCall(lambda: None),
        first_call_s=1.0,
        compile_s=None,
        call_blocks=None,
        kept_bytes=nbytes,
        begin_s=begin_s,
        fresh_bytes=0,
    )


def waiting_of(waiting: WaitingCases, names: str) -> str:
    return "".join(name for name in names if waiting.get(CaseSpec(name, "operator")) is not None)


def test_cases_that_are_soonest_built_again_leave_a_machine_without_room() -> None:
    """A tenth of 100 MiB holds three cases of 3 MiB; of four, the one that takes least time to build leaves."""
    free = [100.0 * MIB]
    waiting = WaitingCases(0.1, lambda: free[0], lambda: 0.0)
    for name, begin_s in (("a", 4.0), ("b", 1.0), ("c", 3.0), ("d", 2.0)):
        waiting.keep(session(name, 3 * MIB, begin_s))
        free[0] -= 3 * MIB
    assert waiting_of(waiting, "abcd") == "acd"


def test_where_others_take_the_memory_cases_leave() -> None:
    """The same machine with 20 MiB left has room for 2.9 MiB: nothing that waits is so small."""
    free = [100.0 * MIB]
    waiting = WaitingCases(0.1, lambda: free[0], lambda: 0.0)
    for name in "abc":
        waiting.keep(session(name, 3 * MIB))
    free[0] = 17.0 * MIB
    waiting.keep(session("d", 1 * MIB))
    assert waiting_of(waiting, "abcd") == "d"


def test_a_case_in_a_cycle_is_freed_once_the_process_has_grown() -> None:
    """A model that refers to itself was frozen with its case; it is garbage when that left, and goes when memory is missing."""

    class Model:
        def __init__(self) -> None:
            self.own = self

    free, resident = [10.0 * MIB], [0.0]
    waiting = WaitingCases(0.5, lambda: free[0], lambda: resident[0])
    model = Model()
    gone = weakref.ref(model)
    waiting.keep(session("a", MIB, model=model))
    del model
    freeze()
    free[0] = 0.0
    try:
        waiting.keep(session("b", MIB))
        gc.collect()
        assert gone() is not None
        resident[0] = 3.0 * LEAST_GROWTH
        waiting.keep(session("c", MIB))
        assert gone() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 2000\ninactive_file 400\n"}, 900.0),
        ({"memory.max": "1000", "memory.current": "2500", "memory.stat": "anon 2500\n"}, 0.0),
        (
            {
                "memory/memory.limit_in_bytes": "3000",
                "memory/memory.usage_in_bytes": "1000",
                "memory/memory.stat": "cache 1\n",
            },
            2000.0,
        ),
        ({"memory.max": "max", "memory.current": "2500", "memory.stat": ""}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], left: float | None
) -> None:
    """Of control groups of either version; cached files give way; without a limit the machine's memory counts."""
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert available_bytes(tmp_path) == (machine.available if left is None else left)
