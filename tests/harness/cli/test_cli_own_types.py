"""Every verb keeps the element types that a user's model comes with, unless --dtype asks for another."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.cli_runner import shmoo

SOURCE = """
import torch
from torch import nn

def half(batch: int = 4):
    return nn.Linear(64, 64).bfloat16(), (torch.randn(batch, 64, dtype=torch.bfloat16),)

def double(batch: int = 4):
    return nn.Linear(64, 64).double(), (torch.randn(batch, 64, dtype=torch.float64),)

def step(batch: int = 1, tokens: int = 1, past: int = 8):
    return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50)).bfloat16(), (torch.randint(50, (batch, tokens)),)
"""


@pytest.fixture(autouse=True)
def _theirs(own_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "typed_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("typed_models", None)


def records(*arguments: str) -> list[dict]:
    result = shmoo(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(("model", "own", "size"), [("half", "bfloat16", 2), ("double", "float64", 8)])
@pytest.mark.parametrize("verb", ["estimate", "sweep"])
def test_estimates_and_sweeps(verb: str, model: str, own: str, size: int) -> None:
    arguments = (verb, f"typed_models:{model}", "--arch", "cpu_server_generic")
    arguments += ("--axis", "batch=2,4") if verb == "sweep" else ()
    for asked, dtype, wide in ((), own, size), (("--dtype", "float32"), "float32", 4):
        for row in records(*arguments, *asked):
            assert (row["dtype"], row["weight_bytes"]) == (dtype, wide * (64 * 64 + 64))


def test_the_largest_size_on_chip_and_whether_it_fits() -> None:
    axis = ("--axis", "batch=65536..16777216:9", "--largest-on-chip", "--arch", "tpu_v4,tpu_v4@capacity.dram=100KiB")
    wide, narrow = records("sweep", "typed_models:half", *axis)
    (single, _) = records("sweep", "typed_models:half", *axis, "--dtype", "float32")
    assert (wide["dtype"], single["dtype"]) == ("bfloat16", "float32")
    assert wide["batch"] > single["batch"]
    assert wide["fits"] is True
    assert narrow["fits"] is False
    assert narrow["memory_missing_bytes"] > 0
    assert "fits" in shmoo("sweep", "typed_models:half", *axis).stdout


def test_generations() -> None:
    arguments = ("generate", "typed_models:step", "--prompt", "4", "--new", "2", "--arch", "tpu_v4")
    (own,), (single,) = records(*arguments), records(*arguments, "--dtype", "float32")
    assert (own["dtype"], single["dtype"]) == ("bfloat16", "float32")
    assert 2 * own["weight_bytes"] == single["weight_bytes"]


def test_schedules_and_fusion() -> None:
    arguments = ("trace", "typed_models:half", "--no-measure", "--arch", "tpu_v4")
    own, single = (sum(slot["kernel_bytes"] for slot in records(*arguments, *asked)) for asked in ((), ("--dtype", "float32")))
    assert 2 * own == single
    result = shmoo("fusion", "typed_models:half", "--arch", "tpu_v4", "--json")
    assert result.exit_code == 0, result.output


def test_a_sweep_in_python(tmp_path: Path) -> None:
    import shmoo as package

    frame = package.sweep("typed_models:half", {"batch": (2, 4)}, "tpu_v4")
    assert set(frame["dtype"]) == {"bfloat16"}


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("given", ["nvfp4", "float4"])
def test_nvfp4_is_answered_by_its_name(given):
    """Coefficients are called float4, and so may be what is asked for."""
    result = shmoo("estimate", "mlp", "--dtype", given, "--arch", "gpu_b200", "--json")
    (record,) = json.loads(result.stdout)
    assert record["dtype"] == "nvfp4"
    assert record["inputs"] == "1x784 nvfp4"
    assert "float4" not in shmoo("estimate", "mlp", "--dtype", "foo").stderr
