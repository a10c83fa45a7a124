"""A hundred inputs that nobody should send, each answered by a message and a documented exit code, all in under a minute."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import TABLE, profile_json, survives, write_run, write_table

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.skipif(os.name != "posix", reason="links, pipes and alarms of POSIX"),
]
Change = Callable[[dict[str, Any]], object]


def coefficient(name: str, **fields: object) -> Change:
    """Replace fields of one coefficient."""

    def change(file: dict[str, Any]) -> None:
        known = file["coefficients"].setdefault(name, {"value": 1.0, "unit": "1", "source": "fitted"})
        for gone in ("low", "high", "stderr"):
            known.pop(gone, None)
        known.update(fields)

    return change


def field(name: str, value: object) -> Change:
    """Replace one field of a file."""
    return lambda file: file.update({name: value})


# profiles

PROFILES: dict[str, Change] = {
    "static power below nothing": coefficient("power.static", value=-100.0),
    "static power above the cap": coefficient("power.static", value=1e5),
    "a byte that gives energy": coefficient("energy.byte.dram", value=-1.0),
    "a flop that gives energy": coefficient("energy.flop.matrix.float32", value=-1e-9),
    "a launch before its time": coefficient("launch.eager", value=-1.0, unit="s"),
    "tiles that give time": coefficient("tile_overhead.gemm", value=-1.0, unit="s"),
    "no bandwidth": coefficient("bandwidth.dram", value=0.0),
    "endless bandwidth": coefficient("bandwidth.l2", value=1e308),
    "bandwidth in gigabytes": coefficient("bandwidth.dram", value=320.0, unit="GB/s"),
    "no multiprocessors": coefficient("count.sms", value=0),
    "an uncertainty without end": coefficient("bandwidth.dram", stderr=1e308),
    "a range upside down": coefficient("bandwidth.dram", low=9e99, high=1.0),
    "an unknown source": coefficient("bandwidth.dram", source="hearsay"),
    "a value that is text": coefficient("bandwidth.dram", value="fast"),
    "no coefficients": field("coefficients", {}),
    "coefficients in a list": field("coefficients", []),
    "a level twice": field("levels", ["shared", "l2", "l2", "dram"]),
    "a level that is a path": field("levels", ["shared", "l2", "../dram"]),
    "no levels": field("levels", []),
    "a family of its own": field("family", "npu"),
    "another family": field("family", "kpu"),
    "an unknown tiling": field("tiling", {"strategy": "none such"}),
    "an unknown parameter": field("tiling", {"strategy": "gpu_thread_blocks", "parameters": {"tile": 8}}),
    "a tile below nothing": field("tiling", {"strategy": "gpu_thread_blocks", "parameters": {"tile_m": -8}}),
    "a tile that is a list": field("tiling", {"strategy": "gpu_thread_blocks", "parameters": {"tile_m": [8]}}),
    "a library that is a number": field("tiling", {"strategy": "gpu_thread_blocks", "parameters": {"library": 5}}),
    "a name that is a path": field("name", "../../etc/passwd"),
    "a name that clears the screen": field("name", "\x1b[2Jgpu"),
    "a model form to come": field("model_form", 99),
    "a format to come": field("format", 99),
    "a residual of nothing": field("residual", [["gemm"]]),
    "a type nobody fits": field("fitted_from", {"dtypes": ["float99"]}),
}


@pytest.mark.parametrize("change", PROFILES.values(), ids=PROFILES)
def test_a_profile(tmp_path: Path, change: Change) -> None:
    """Whatever its numbers are, they give no estimate."""
    file = profile_json("gpu_t4")
    change(file)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(file))
    result = survives("estimate", "--ops", str(write_table(tmp_path)), "--arch", str(path), "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("shmoo: ")


FILES = {
    "empty": b"",
    "cut off": b'{"name": "x", ',
    "nested": b"[" * 200_000,
    "not text": bytes(range(256)),
    "null": b"null",
    "another encoding": "{}".encode("utf-16"),
    "a long number": b'{"format": ' + b"9" * 5000 + b"}",
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("what", ["profile", "config", "run.json", "rows.jsonl"])
def test_a_file_that_is_none(tmp_path: Path, what: str, content: bytes) -> None:
    """As a profile, as a config, as either file of a run."""
    if what in ("run.json", "rows.jsonl"):
        run = write_run(tmp_path / "run")
        (run / what).write_bytes(content)
        survives("check", str(run), "--json")
        assert survives("report", str(run)).exit_code in (2, 3)
        return
    path = tmp_path / "file.json"
    path.write_bytes(content)
    call = ["--ops", str(write_table(tmp_path)), "--arch", str(path)] if what == "profile" else [f"hf:{path}"]
    assert survives("estimate", *call).exit_code == 2


# tables

TABLES = {
    "nothing": "",
    "a header": "op,m,n,k\n",
    "no op": "m,n,k\n1,2,3\n",
    "a NUL": "op,m\nlinear\0,1\n",
    "an open quote": 'op,m\n"linear,1\n',
    "a column twice": "op,m,m\nlinear,1,2\n",
    "fewer cells": "op,m,n,k\nlinear,1\n",
    "less than nothing": "op,m,n,k\nlinear,-5,3,3\n",
    "infinity": "op,m,n,k\nlinear,inf,3,3\n",
    "NaN": "op,m,n,k\nlinear,nan,3,3\n",
    "no end": "op,m,n,k\nlinear,1e400,3,3\n",
    "too much": "op,m,n,k\nlinear,1e30,3,3\n",
    "no operator": "op,m,n,k\nliner,1,3,3\n",
    "no type": "op,dtype,m,n,k\nlinear,float99,1,3,3\n",
    "no shape": "op,shape\nsoftmax,axb\n",
    "every shape": f"op,shape\nsoftmax,{'x'.join(['2'] * 2000)}\n",
    "a window too wide": "op,conv_n,conv_c_in,conv_kernel,conv_size\nmax_pool,1,3,9,3\n",
    "bytes": "op,m\n\udcff\udcfe,1\n",
    "an escape": "op,m,n,k\n\x1b[2J,1,2,3\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_a_table(tmp_path: Path, text: str) -> None:
    """Estimated and calibrated on."""
    path = str(write_table(tmp_path, text))
    assert survives("estimate", "--ops", path, "--arch", "gpu_t4").exit_code in (0, 2)
    assert survives("calibrate", path, "--base", "gpu_t4", "-o", str(tmp_path / "out.json")).exit_code in (2, 3)


@pytest.mark.parametrize(
    "row", ["linear,64,64,64,1e-5,", "linear,64,64,64,1e300,", "linear,64,64,64,1e-300,1e300", "linear,64,64,64,1e-5,1e-300"]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_table_of_next_to_nothing(tmp_path: Path, row: str, count: int) -> None:
    """One row, two equal ones; absurd times and energies."""
    path = write_table(tmp_path, "op,m,n,k,latency_s,energy_j\n" + f"{row}\n" * count)
    made = survives("calibrate", str(path), "--base", "gpu_t4", "-o", str(tmp_path / "out.json"), "--json")
    assert made.exit_code in (0, 2, 3)
    if made.exit_code == 0:
        assert survives("estimate", "--ops", str(write_table(tmp_path)), "--arch", str(tmp_path / "out.json")).exit_code == 0


# runs

ROWS: dict[str, Change] = {
    "a graph elsewhere": field("graph_hashes", ["../../../../etc/passwd"]),
    "a graph with a NUL": field("graph_hashes", ["0\x000"]),
    "a time of nothing": lambda row: row["timing"].update(samples_s=[0.0]),
    "a time without end": lambda row: row["timing"].update(samples_s=[1e308, 1e308]),
    "no time": lambda row: row.pop("timing"),
    "calls that are not there": lambda row: [child.update(call=99) for child in row.get("children", [])],
    "calls below nothing": lambda row: [child.update(call=-1) for child in row.get("children", [])],
    "energy below nothing": lambda row: row["energy"][0].update(energy_j=-1.0),
    "an interval upside down": lambda row: row["energy"][0].update(low_j=1.0, high_j=0.0),
    "axes of any kind": lambda row: row["case"].update(axes={"batch": "x", "m": True, "": -1}),
    "a name that clears the screen": lambda row: row["case"].update(workload="\x1b[2J=1+1\n"),
    "a status of its own": field("status", "excellent"),
    "another type": lambda row: row["case"].update(dtype="float99"),
    "another runtime": lambda row: row["case"].update(runtime="none such"),
    "threads without end": lambda row: row["case"].update(threads=10**9),
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
def test_a_run(tmp_path: Path, change: Change) -> None:
    """Shown, checked, reported, compared, calibrated on."""
    run = str(write_run(tmp_path / "run", change))
    survives("check", run)
    for verb in (["show", run], ["report", run, "--profile", "cpu_server_generic"], ["compare", run, run, "--json"]):
        survives(*verb)


GRAPHS: dict[str, Change] = {
    "memory in a circle": lambda g: (g["values"][0].update(storage=1), g["values"][1].update(storage=0)),
    "values that are not there": lambda g: g["calls"][0].update(reads=[5, 6]),
    "a negative shape": lambda g: g["values"][0]["spec"].update(shape=[-4]),
    "an operator with an escape": lambda g: g["calls"][0].update(op="aten.\x1b[2J"),
    "an operator without operands": lambda g: g["calls"][0].update(inputs=[], operands=[], reads=[]),
}


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS)
def test_a_graph(tmp_path: Path, change: Change) -> None:
    """Stored in a run under its own hash."""
    run = str(write_run(tmp_path / "run", graph=change))
    for verb in ("check", "report", "calibrate"):
        survives(verb, run)


@pytest.mark.parametrize("name", ["run.json", "rows.jsonl", "graphs", "profile.json", "table", "config"])
def test_a_pipe(tmp_path: Path, name: str) -> None:
    """Nobody writes into it, and nobody waits for that."""
    run = write_run(tmp_path / "run")
    if name in ("table", "config"):
        os.mkfifo(tmp_path / "pipe")
        call = ["--ops", str(tmp_path / "pipe"), "--arch", "gpu_t4"] if name == "table" else [f"hf:{tmp_path / 'pipe'}"]
        assert survives("estimate", *call).exit_code == 2
        return
    paths = list((run / name).iterdir()) if name == "graphs" else [run / name]
    for path in paths:
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    survives("check", str(run))
    assert survives("report", str(run), "--arch", "gpu_t4").exit_code in (0, 2)


# command lines

LINES: dict[str, tuple[list[str], int]] = {
    "a text without end": (["generate", "gpt2", "--new", "100000000", "--arch", "gpu_t4"], 2),
    "a budget that is no number": (["measure", "--budget", "nan"], 2),
    "a budget without end": (["characterize", "--budget", "inf"], 2),
    "a change that is no number": (["compare", "a", "b", "--min-change", "nan"], 2),
    "a threshold of two meanings": (["compare", "a", "b", "--threshold", "3"], 2),
    "a baseline that is none": (["gate", "mlp", "--arch", "gpu_t4", "--against", "t.csv"], 2),
    "a history of nothing": (["history", "t.csv", "no-such-run"], 2),
    "a duel of nothing": (["duel", "--", "-x", "y", "measure"], 2),
    "an axis that is no number": (["sweep", "linear", "--axis", "m=nan..2"], 2),
    "an axis without end": (["sweep", "linear", "--axis", "m=1..1e400"], 2),
    "an axis set and swept": (["sweep", "linear", "--axis", "m=1,2", "--set", "m=4", "--arch", "gpu_t4"], 2),
    "a what-if set and swept": (
        ["sweep", "linear", "--arch", "kpu_t64@capacity.l3=2MiB", "--profile-axis", "capacity.l3=1e6..2e6"],
        2,
    ),
    "an architecture that is a path": (["estimate", "--ops", "t.csv", "--arch", "../../etc/passwd"], 2),
    "an architecture that is a folder": (["estimate", "--ops", "t.csv", "--arch", ".json"], 2),
    "a name that is a path": (["calibrate", "t.csv", "--base", "gpu_t4", "--name", "../x"], 2),
    "a batch of nothing": (["estimate", "mlp", "--batch", "0"], 2),
    "a batch without end": (["estimate", "mlp", "--batch", "9" * 40, "--arch", "gpu_t4"], 2),
    "threads without end": (["estimate", "mlp", "--threads", "999999999", "--arch", "cpu_server_generic"], 2),
    "a shape of text": (["estimate", "mlp", "--input-shape", "axb"], 2),
    "a config that is not there": (["estimate", "hf:"], 2),
    "a type without a signature": (["estimate", "builtins:dict", "--arch", "gpu_t4"], 2),
    "a module of nothing": (["estimate", ":x"], 2),
    "a program that is none": (["estimate", "t.csv.pt2", "--trust"], 2),
    "one type under two names": (["estimate", "mlp", "--dtype", "bf16,bfloat16", "--arch", "gpu_t4", "--json"], 0),
    "an unknown verb with an escape": (["\x1b[2J"], 2),
}


@pytest.mark.parametrize(("arguments", "code"), LINES.values(), ids=LINES)
def test_a_command_line(tmp_path: Path, arguments: list[str], code: int) -> None:
    """Values that are none, paths that are no names, models that are no models."""
    (tmp_path / "t.csv").write_text(TABLE)
    assert survives(*arguments).exit_code == code


USER_CODE = """
import os, sys, torch

class Stop(BaseException):
    pass

class Model(torch.nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.layer = what, torch.nn.Linear(4, 4)

    def forward(self, x):
        if self.what == "exit":
            sys.exit(0)
        if self.what == "stop":
            raise Stop("at once")
        if self.what == "write":
            os.write(1, b"text on descriptor 1\\n")
            os.system("echo from a child")
            print("text on stdout")
        return self.layer(x)

def exits(): return Model("exit"), (torch.ones(2, 4),)
def writes(): return Model("write"), (torch.ones(2, 4),)
def stops(): return Model("stop"), (torch.ones(2, 4),)
def none_at_all(batch: int = 0): return Model(""), (torch.ones(2, 4),)
def gives_up(): raise GeneratorExit
def stops_early(): raise Stop("at once")
def builds_and_writes():
    os.write(1, b"text on descriptor 1\\n")
    return Model(""), (torch.ones(2, 4),)
"""


@pytest.mark.parametrize(
    ("factory", "code"),
    [
        ("exits", 2),
        ("writes", 0),
        ("stops", 2),
        ("none_at_all", 2),
        ("gives_up", 2),
        ("stops_early", 2),
        ("builds_and_writes", 0),
    ],
)
def test_code_of_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, code: int, capfd) -> None:
    """It neither ends the command nor writes into its result."""
    (tmp_path / "hostile_model.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hostile_model", raising=False)
    assert survives("estimate", f"hostile_model:{factory}", "--arch", "gpu_t4", "--json").exit_code == code
    assert capfd.readouterr().out == ""
