"""Operators of networks timed alone, on the command line."""

import json

import pytest

from shmoo.runs.store.records import CaseSpec, Machine, Measurement, OperatorTime, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from tests.build import GraphBuilder
from tests.cli_runner import shmoo


def write_run(path, reason: str = "") -> str:
    """A network of two relus and a linear layer, 10 ms as a whole; the relu takes 2 ms alone, the layer 3 ms."""
    b = GraphBuilder()
    graph = b.graph(b.linear(b.relu(b.relu(b.tensor((8, 16)))), 4), name="net")
    linear = OperatorTime("aten.linear", (2,), reason=reason) if reason else OperatorTime("aten.linear", (2,), 3e-3)
    row = Measurement(
        CaseSpec("net", "network", {"batch": 1}),
        "ok",
        (),
        (graph.content_hash,),
        Timing((1e-2,)),
        operators=(OperatorTime("aten.relu", (0, 1), 2e-3, 1e-5), linear),
    )
    with RunWriter(path, RunManifest(Machine("Example CPU", 2, 2, 2**33), "models")) as writer:
        writer.append(row, [graph])
    return str(path)


def test_show_sets_the_sum_of_operators_beside_the_whole(tmp_path):
    """2 x 2 ms + 3 ms over 10 ms is 0.70."""
    run = write_run(tmp_path / "run")
    (record,) = json.loads(shmoo("show", run, "--json").stdout)["rows"]
    assert record["operators_s"] == pytest.approx(7e-3)
    assert "operators" not in record
    assert "0.70" in shmoo("show", run).stdout


def test_show_lists_the_operators_that_take_most_first(tmp_path):
    """relu with 4 ms in two calls, then linear with 3 ms in one."""
    run = write_run(tmp_path / "run")
    (record,) = json.loads(shmoo("show", run, "--operators", "--json").stdout)["rows"]
    assert [(o["op"], o["calls"], o["total_s"]) for o in record["operators"]] == [
        ("aten.relu", 2, pytest.approx(4e-3)),
        ("aten.linear", 1, pytest.approx(3e-3)),
    ]
    text = shmoo("show", run, "--operators").stdout
    assert "8x16, 4x16" in text
    assert "0.70 of it" in text


def test_an_operator_without_a_time_leaves_the_sum_unknown(tmp_path):
    """The reason stands beside it."""
    (record,) = json.loads(shmoo("show", write_run(tmp_path / "run", "cannot be called"), "--json").stdout)["rows"]
    assert record["operators_s"] is None
    assert record["operators_s_reason"] == "cannot be called"


def test_operators_are_those_of_networks_in_eager():
    """Nothing to cut out of an operator, nor where networks only run compiled."""
    for arguments in (["--model", "linear"], ["--model", "resnet18", "--runtime", "inductor"]):
        result = shmoo("measure", *arguments, "--operators")
        assert result.exit_code == 2
        assert "--operators" in result.stderr


@pytest.mark.slow
def test_measuring_operators_fills_a_run(tmp_path):
    """The tiny network, visited once: every distinct operator of it has a time, in a row that `show` reads."""
    run = str(tmp_path / "run")
    result = shmoo("measure", "--model", "mlp", "--operators", "--visits", "1", "--out", run)
    assert result.exit_code in (0, 3), result.output  # a throttled host makes the row suspect, never failed
    (record,) = json.loads(shmoo("show", run, "--operators", "--json").stdout)["rows"]
    assert record["status"] != "failed", record["reasons"]
    assert {o["op"] for o in record["operators"]} >= {"aten.linear"}
    assert all(o["time_s"] > 0 for o in record["operators"])
