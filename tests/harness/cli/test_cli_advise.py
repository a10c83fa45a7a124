"""`shmoo advise` over the command line, and `shmoo.advise`."""

from __future__ import annotations

import json

import pytest

import shmoo as package
from tests.build import GraphBuilder
from tests.cli_runner import shmoo

pytestmark = pytest.mark.usefixtures("own_home")
MLP = ("advise", "mlp", "--arch", "gpu_t4", "--runtime", "eager")


def test_tables_and_sentences() -> None:
    """The call, where it goes, kernels against roofs, changes with verdicts, and numbered sentences with commands."""
    result = shmoo(*MLP)
    assert result.exit_code == 0, result.output
    for text in (
        "a call takes",
        "bound by",
        "roof time",
        "times as fast",
        "verdict",
        "1. The time goes to",
        "shmoo estimate mlp",
    ):
        assert text in result.stdout


def test_json_ranks_by_what_was_asked() -> None:
    """--by energy orders by energy; the base is an estimate as `shmoo estimate` gives it."""
    document = json.loads(shmoo(*MLP, "--by", "energy", "--json").stdout)
    estimate = json.loads(shmoo("estimate", *MLP[1:], "--json").stdout)[0]
    assert document["estimate"]["latency_s"] == estimate["latency_s"]
    assert document["by"] == "energy"
    better = [w["energy_ratio"]["value"] for w in document["what_ifs"] if w["verdict"] == "better"]
    assert better == sorted(better)


def test_a_command_of_the_advice_gives_its_numbers() -> None:
    """What `advise` says of a type, a batch, a scheme or a runtime is what `estimate` says of it."""
    document = json.loads(shmoo(*MLP, "--json").stdout)
    changes = {w["kind"]: w for w in document["what_ifs"]}
    assert {"type", "batch", "quantization", "runtime", "8 bits"} <= set(changes)
    for what_if in changes.values():
        estimate = json.loads(shmoo(*what_if["command"].split()[1:], "--json").stdout)[0]
        assert what_if["latency_s"]["value"] == pytest.approx(estimate["latency_s"]["value"])
        assert what_if["energy_j"]["value"] == pytest.approx(estimate["energy_j"]["value"])
        assert what_if["memory"]["activation_bytes"] == estimate["memory"]["activation_bytes"]


def test_the_command_that_shows_fusion_gives_the_numbers_of_the_advice() -> None:
    """Call by call as the advice says of no fusion, fused as it says of the model as it is; in the batch and the type that were
    asked for, not in the command's own."""
    asked = ("advise", "resnet_block", "--arch", "gpu_h100", "--host", "own", "--dtype", "bf16", "--batch", "4", "--json")
    document = json.loads(shmoo(*asked).stdout)
    (no_fusion,) = (w for w in document["what_ifs"] if w["kind"] == "fusion")
    assert no_fusion["command"].startswith("shmoo fusion resnet_block")
    savings = json.loads(shmoo(*no_fusion["command"].split()[1:], "--json").stdout)["savings"]
    alone, fused = savings["alone"], savings["fused"]
    assert alone["kernels"] == no_fusion["kernels"] > fused["kernels"] == document["estimate"]["kernels"]
    for quantity in ("latency_s", "energy_j"):
        assert alone[quantity] == pytest.approx(no_fusion[quantity]["value"])
        assert fused[quantity] == pytest.approx(document["estimate"][quantity]["value"])


def test_the_commands_that_say_more_are_of_the_model_as_it_was_asked_for() -> None:
    """`estimate` and `inspect` answer with the time of the advice."""
    document = json.loads(
        shmoo("advise", "mlp", "--arch", "cpu_server_generic", "--threads", "4", "--batch", "2", "--json").stdout
    )
    whole = document["estimate"]["latency_s"]["value"]
    estimate, inspect = document["sentences"][-1].removeprefix("More: ").split("; ")
    assert json.loads(shmoo(*estimate.split()[1:]).stdout)[0]["latency_s"]["value"] == pytest.approx(whole)
    rows = json.loads(shmoo(*inspect.split()[1:], "--json").stdout)["modules"]
    assert rows[0]["on"]["cpu_server_generic"]["latency_s"] == pytest.approx(whole)


def test_the_machine_has_levers() -> None:
    """--machine lists parts of the architecture, the bottleneck first."""
    result = shmoo("advise", "mlp", "--arch", "kpu_t64", "--machine")
    assert result.exit_code == 0, result.output
    assert "count.tiles" in result.stdout
    document = json.loads(shmoo("advise", "mlp", "--arch", "kpu_t64", "--machine", "--json").stdout)
    gains = [lever["speedup"]["value"] for lever in document["levers"]]
    assert gains == sorted(gains, reverse=True)
    tiles, l3 = (next(lever for lever in document["levers"] if lever["name"] == name) for name in ("count.tiles", "capacity.l3"))
    assert "area.unit" in tiles["area_mm2_reason"]
    assert 0 < l3["area_mm2"]["low"] < l3["area_mm2"]["value"] < l3["area_mm2"]["high"]
    assert document["die_mm2_reason"]
    of_gpu = json.loads(shmoo("advise", "mlp", "--arch", "gpu_a100_40g", "--machine", "--json").stdout)
    assert of_gpu["die_mm2"] == pytest.approx(826)
    assert any("826 mm2 (GA100" in sentence for sentence in of_gpu["sentences"])


def test_one_architecture_at_a_time() -> None:
    """Two are refused in one line."""
    result = shmoo("advise", "mlp", "--arch", "gpu_t4,kpu_t64")
    assert result.exit_code == 2
    assert "--arch takes one" in result.stderr


def test_python_takes_names_and_graphs() -> None:
    """By name every kind of change is tried; of captured graphs those that need no capture."""
    by_name = package.advise("mlp", "kpu_t64")
    assert any(w.change.kind == "batch" for w in by_name.what_ifs)
    b = GraphBuilder()
    of_graph = package.advise(b.graph(b.linear(b.tensor((8, 64)), 64)), "kpu_t64")
    assert {w.change.kind for w in of_graph.what_ifs} >= {"type", "quantization"}
    assert "captured already" in of_graph.left_out["batch 4"]


def test_a_training_step_gets_no_advice_that_it_cannot_take() -> None:
    """Quantized weights and orders of images are left out, each once with its reason."""
    result = shmoo("advise", "mlp", "--arch", "gpu_t4", "--training", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"int8-weight", "int4-weight", "int8-dynamic"} <= set(document["left_out"])
    assert not {"quantization", "layout"} & {w["kind"] for w in document["what_ifs"]}
    (told,) = [sentence for sentence in document["sentences"] if sentence.startswith("Not estimated")]
    assert told.count("training step is captured alone") == 1
