"""What libraries say of themselves stays in the log; what a user's code says, and errors, reach the person."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

from shmoo.harness.cli import output
from shmoo.harness.cli.output import only_results_on_stdout
from tests.cli_runner import shmoo

pytestmark = pytest.mark.usefixtures("own_home")

FACTORY = """
import logging
import torch
import torchao_like


def build():
    print("said by the model")
    return torch.nn.Linear(8, 4), (torch.rand(2, 8),)
"""
LIKE_TORCHAO = """
import logging
import warnings

logging.getLogger("torchao.ops").warning("Failed to load _C.so")
logging.getLogger("torch.utils._pytree").warning("deprecated")
warnings.warn_explicit("old", UserWarning, {filename!r}, 1)
"""


@pytest.mark.parametrize("command", ["estimate", "inspect", "sweep"])
def test_a_library_is_quiet_while_a_model_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Neither stdout nor stderr has its words; the model's own print is there, and -vv shows the library's."""
    filename = str(Path(sys.modules["click"].__file__).parents[1] / "torchao" / "__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    axis = ["--profile-axis", "clock=1e9,2e9"] if command == "sweep" else []
    Path("noisy.py").write_text(FACTORY)
    Path("torchao_like.py").write_text(LIKE_TORCHAO.format(filename=filename))
    for more, heard in ((), False), (("-vv",), True):
        for name in ("noisy", "torchao_like"):
            sys.modules.pop(name, None)
        result = shmoo(*more, command, "noisy:build", "--arch", "gpu_h100", *axis)
        assert result.exit_code == 0, result.output
        assert "said by the model" in result.stderr
        for words in ("Failed to load", "deprecated", "old"):
            assert (words in result.stderr) == heard
            assert words not in result.stdout


def test_errors_and_a_users_warnings_are_heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A library's error is shown (not torch's tracebacks of what it tried, which it raises, too); so are a warning from the
    user's code, and torch's where TORCH_LOGS asks for it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with only_results_on_stdout():
            logging.getLogger("transformers.models").error("broken")
            logging.getLogger("transformers.models").warning("about itself")
            logging.getLogger("torch._subclasses.fake_tensor").error("Traceback (most recent call last)")
            warnings.warn("the user's", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["the user's"]
    assert [r.getMessage() for r in caplog.records if r.name.startswith(("transformers", "torch"))] == ["broken"]
    caplog.clear()
    monkeypatch.setenv(output.TORCH_LOGS, "+dynamo")
    with only_results_on_stdout():
        logging.getLogger("torch._dynamo").warning("asked for")
    assert [r.getMessage() for r in caplog.records if r.name.startswith("torch")] == ["asked for"]


def test_everything_is_as_it_was_afterwards() -> None:
    """Also after an error."""
    before = logging.Logger.handle, warnings.showwarning
    with pytest.raises(ZeroDivisionError), only_results_on_stdout():
        raise ZeroDivisionError
    assert (logging.Logger.handle, warnings.showwarning) == before


@pytest.mark.parametrize(
    ("package", "arguments", "remedy"),
    [
        ("torchvision", ("estimate", "resnet18"), "pip install 'torchvision'"),
        ("transformers", ("estimate", "gpt2"), "pip install 'transformers>=4.56'"),
    ],
)
def test_a_missing_package_is_one_line_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, package: str, arguments: tuple[str, ...], remedy: str
) -> None:
    """Whatever Shmoo was installed from."""
    from shmoo.harness.workloads import zoo

    for cached in (zoo._families, zoo.quantized_names):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    result = shmoo(*arguments, "--arch", "gpu_h100")
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("shmoo: ")
    assert line.endswith(f"install it with: {remedy}")


def test_generate_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for captures and one for estimates where they take longer than a moment."""
    from shmoo.harness.cli import progress

    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 1,
        "n_embd": 64,
        "n_head": 4,
        "vocab_size": 99,
    }
    Path("config.json").write_text(json.dumps(config))
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    result = shmoo("generate", "hf:config.json", "--prompt", "8", "--new", "4", "--arch", "gpu_h100")
    assert result.exit_code == 0, result.output
    for stage in ("capturing prefill of hf:config.json: 1 of 1", "capturing decode", "estimating hf:config.json: 1 of 1"):
        assert stage in result.stderr
