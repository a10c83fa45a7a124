"""Calls of the command line that must end soon, without a traceback, with one of the documented exit codes."""

from __future__ import annotations

import json
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from click.testing import Result

from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.runs.store.records import CaseSpec, ChildTime, EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from tests.cli_runner import shmoo

EXIT_CODES = {0, 1, 2, 3, 4, 130}
LIMIT_S = 10.0
MACHINE = Machine(cpu_model="Example CPU", cores_physical=2, cores_logical=2, memory_bytes=8 << 30, torch="2.9.0", threads=2)
TABLE = "op,dtype,b,m,n,k,shape\nlinear,float32,1,64,64,64,\nsoftmax,float32,,,,,128x256\nlinear,float16,1,2048,1024,512,\n"
_TERMINAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class TooSlowError(AssertionError):
    """A call took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """`TooSlowError` in the main thread after this time."""

    def ring(number: int, frame: object) -> None:
        raise TooSlowError(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def survives(*arguments: str, limit_s: float = LIMIT_S) -> Result:
    """`shmoo ARGUMENTS`, which must end well or with a message."""
    with time_limit(limit_s):
        result = shmoo(*arguments)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise AssertionError(f"shmoo {' '.join(map(repr, arguments))}:\n{''.join(traceback.format_exception(error))}")
    assert result.exit_code in EXIT_CODES, arguments
    assert "Traceback" not in result.stderr, arguments
    assert not _TERMINAL.search(result.output), arguments
    if "--json" in arguments and result.stdout:
        json.loads(result.stdout, parse_constant=_no_constant)
    return result


def _no_constant(text: str) -> float:
    raise AssertionError(f"{text} in a JSON document")


def profile_json(name: str) -> dict[str, Any]:
    """A built-in profile as the content of its file."""
    return json.loads(load_profile(name).to_json())


def write_table(folder: Path, text: str = TABLE) -> Path:
    """An operator table."""
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def linear(m: int, n: int = 64, k: int = 64, name: str = "linear") -> Graph:
    """The graph of one linear layer."""
    specs = TensorSpec((m, k)), TensorSpec((n, k)), TensorSpec((m, n))
    return single_call_graph(OpCall("aten.linear", specs[:2], specs[2:], ("input", "weight")), (1,), name=name)


def write_run(
    path: Path,
    change: Callable[[dict[str, Any]], object] = lambda row: None,
    graph: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """A run of four linear layers and a network of one; `change` damages the first row, `graph` the first row's graph."""
    with RunWriter(path, RunManifest(MACHINE, "quick")) as writer:
        for i in range(1, 6):
            made = linear(8 * i, name="linear" if i < 5 else "net")
            case = CaseSpec("linear", "operator", {"m": 8 * i, "n": 64, "k": 64})
            children: tuple[ChildTime, ...] = ()
            if i == 5:
                case, children = CaseSpec("net", "network", {"batch": 8 * i}), (ChildTime(0, "aten.linear", 1e-5, "profiler"),)
            energy = (EnergyReading("package", 1e-3 * i, low_j=0.9e-3 * i, high_j=1.1e-3 * i, window_s=1.0, calls=100),)
            times = Timing((1e-5 * i, 1.1e-5 * i, 1.05e-5 * i))
            writer.append(Measurement(case, "ok", (), (made.content_hash,), times, children, energy), [made])
    lines = (path / "rows.jsonl").read_bytes().splitlines()
    for index in (0, 4):
        row = json.loads(lines[index])
        change(row)
        lines[index] = json.dumps(row).encode()
    (path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    if graph is not None:
        rename_graph(path, linear(8), graph)
    return path


def rename_graph(run: Path, old: Graph, change: Callable[[dict[str, Any]], object]) -> None:
    """Damage a graph of a run, with its name and the rows that name it kept consistent."""
    content = json.loads(old.to_json())
    change(content)
    try:
        damaged = msgspec.json.decode(json.dumps(content), type=Graph)
        name, data = damaged.content_hash, damaged.to_json()
    except (msgspec.MsgspecError, OverflowError):
        name, data = old.content_hash, json.dumps(content).encode()
    (run / "graphs" / f"{name}.json").write_bytes(data)
    rows = run / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(old.content_hash.encode(), name.encode()))
