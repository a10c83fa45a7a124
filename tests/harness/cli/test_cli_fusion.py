"""`shmoo fusion`: groups, savings and agreement."""

import json

from tests.cli_runner import shmoo


def test_groups_and_savings_are_shown():
    """Rows of fused kernels, and what they save in kernels, bytes, time and energy."""
    result = shmoo("fusion", "resnet_block")
    assert result.exit_code == 0, result.output
    assert "batch_norm + relu" in result.stdout
    for total in ("kernels", "bytes", "time", "energy"):
        assert any(line.startswith(total) for line in result.stdout.splitlines())


def test_json_holds_groups_and_totals():
    """Each call of the block is in one of the groups; unfused totals are the larger ones."""
    result = shmoo("fusion", "resnet_block", "--json")
    document = json.loads(result.stdout)
    (piece,) = document["graphs"]
    calls = sorted({op["call"] for group in piece["predicted"] for op in group["ops"]})
    assert calls == list(range(len(calls)))
    assert document["pieces"] is None
    assert document["pieces_reason"]
    alone, fused = document["savings"]["alone"], document["savings"]["fused"]
    assert alone["kernels"] > fused["kernels"]
    assert alone["bytes"] > fused["bytes"]


def test_agreement_with_the_real_schedule_is_given():
    """With --real both groupings are there, with their score."""
    result = shmoo("fusion", "resnet_block", "--real", "--runtime", "inductor-freezing", "--json")
    (piece,) = json.loads(result.stdout)["pieces"]
    assert piece["agreement"]["f1"] == 1
    assert len(piece["real"]) == piece["agreement"]["real_kernels"]


def test_real_groups_are_of_this_cpu_only():
    """An A100 is not what Inductor compiles for here."""
    result = shmoo("fusion", "resnet_block", "--real", "--arch", "gpu_a100_40g")
    assert result.exit_code == 2
    assert "gpu_a100_40g" in result.stderr


def test_a_comparison_changes_no_prediction_and_loses_no_part():
    """An LSTM splits the model: what torch.compile leaves to eager execution is told, and totals are those of the whole model."""
    model = "tests.harness.cli.broken_models:split"
    alone, compared = (json.loads(shmoo("fusion", model, "--json", *real).stdout) for real in ((), ("--real",)))
    assert alone["savings"] == compared["savings"]
    assert alone["graphs"] == compared["graphs"]
    assert [piece["eager"] for piece in compared["pieces"]].count(True) == 1
    told = shmoo("fusion", model, "--real")
    assert "left to eager execution" in told.stdout
    assert "torch.compile makes" in told.stderr
