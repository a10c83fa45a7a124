"""`shmoo sweep` and `shmoo trace` as a person or a program uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_runner import shmoo

pytestmark = pytest.mark.usefixtures("own_home")


def rows_of(*arguments: str) -> list[dict]:
    result = shmoo(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_models_axes_fusion_and_machines_multiply() -> None:
    """Two models x two batches x two architectures x fusion on and off, with curves over the first axis."""
    axes = ("--axis", "batch=1,8", "--arch", "gpu_h100,kpu_t64", "--fusion", "on,off")
    rows = rows_of("sweep", "mlp", "conv_stack", *axes, "--plot", "s.html")
    assert len(rows) == 2 * 2 * 2 * 2
    assert {row["model"] for row in rows} == {"mlp", "conv_stack"}
    assert "throughput" in Path("s.html").read_text(encoding="utf-8")


def test_an_architecture_changed_in_its_name_is_swept_beside_the_original() -> None:
    """A KPU with 64 MB and with 2 MB; less memory is never faster."""
    rows = rows_of("sweep", "mlp", "--axis", "hidden=4096", "--set", "batch=64", "--arch", "brief_kpu,brief_kpu@capacity.l3=2MiB")
    assert [row["arch"] for row in rows] == ["brief_kpu", "brief_kpu@capacity.l3=2MiB"]
    assert rows[0]["latency_s"] <= rows[1]["latency_s"]


def test_a_profile_axis_reads_sizes_and_tile_parameters() -> None:
    """Memory by size, and the tile apart from it."""
    rows = rows_of(
        "sweep", "linear", "--profile-axis", "capacity.l3=1MiB,2MiB", "--profile-axis", "tile_m=8,16", "--arch", "kpu_t64"
    )
    assert [(row["capacity.l3"], row["tile_m"]) for row in rows] == [
        (2.0**20, 8.0), (2.0**21, 8.0), (2.0**20, 16.0), (2.0**21, 16.0),
    ]  # fmt: skip


def test_the_planner_prints_the_largest_size_of_each_architecture() -> None:
    """More L3 holds a wider MLP; its footprint is within the chip."""
    rows = rows_of(
        "sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64..8192:15", "--arch", "kpu_t64,kpu_t64@capacity.l3=2MiB,tpu_v4"
    )
    by = {row["arch"]: row for row in rows}
    assert by["kpu_t64@capacity.l3=2MiB"]["hidden"] < by["kpu_t64"]["hidden"] <= by["tpu_v4"]["hidden"]
    assert all(row["footprint_bytes"] <= row["on_chip_bytes"] for row in rows)
    shown = shmoo("sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64,128", "--arch", "kpu_t64")
    assert "largest hidden" in shown.stdout
    assert "end of the axis" in shown.stdout
    both = rows_of(
        "sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64,128", "--arch", "gpu_h100", "--runtime", "eager,inductor"
    )
    assert [row["runtime"] for row in both] == ["eager", "inductor"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mlp"], "nothing varies"),
        (["mlp", "--axis", "batch=1,2", "--fusion", "maybe"], "maybe"),
        (["mlp", "--largest-on-chip", "--axis", "batch=1,2", "--plot", "x.html"], "--plot"),
        (["mlp", "--largest-on-chip", "--axis", "batch=1,2", "--fusion", "off"], "--fusion"),
        (["mlp", "--largest-on-chip", "--profile-axis", "clock=1e9,2e9", "--arch", "kpu_t64"], "needs a first --axis"),
        (["mlp", "--axis", "batch=1,2", "--arch", "tpu_v4", "--runtime", "eager"], "eager"),
        (["mlp", "--profile-axis", "tile_q=1,2"], "tile_q"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments: list[str], says: str) -> None:
    """With what was seen."""
    result = shmoo("sweep", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_trace_of_a_machine_that_is_not_here_is_predicted_only() -> None:
    """The file is there, and says why nothing was measured."""
    result = shmoo("trace", "mlp", "--arch", "kpu_t64", "--set", "batch=4", "-o", "t.json")
    assert result.exit_code == 0, result.output
    assert "not measured" in result.stderr
    document = json.loads(Path("t.json").read_text())
    assert document["otherData"]["measured_latency_s"] is None
    assert "kpu" in document["otherData"]["measured_latency_s_reason"]
    assert "tile m x n x k" in result.stdout


def test_a_trace_of_this_machine_holds_the_measured_call() -> None:
    """Eager on the CPU: the operators of the model are in it."""
    rows = rows_of("trace", "mlp", "--arch", "cpu_server_generic", "--runtime", "eager", "-o", "t.json")
    document = json.loads(Path("t.json").read_text())
    assert {event["pid"] for event in document["traceEvents"]} == {1, 2}
    assert "aten::linear" in {event["name"] for event in document["traceEvents"]}
    assert len(rows) == sum(
        event.get("cat") not in ("predicted", None) and event["pid"] == 1 for event in document["traceEvents"]
    )
