"""A capture leaves torch as it was, needs no network, and does not end the process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch

from shmoo.estimators.errors import InputError
from shmoo.harness.capture import CaptureError, capture, capture_training
from shmoo.harness.capture.fx.guard import hubs_offline
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.workloads.configs import load_config

BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 100,
}  # fmt: skip


class Leaves(torch.nn.Module):
    """Ends its forward in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.how = how

    def forward(self, x):
        x = self.layer(x)
        if self.how == "exit":
            sys.exit(0)
        if self.how == "raise":
            raise KeyError("on purpose")
        if self.how == "recurse":
            return self.forward(x)
        return x


def state() -> dict[str, object]:
    """What of torch holds for the whole process or thread."""
    from torch._dynamo import config
    from torch.nn.modules import module

    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "modes": torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack(),
        "hooks": (len(module._global_forward_hooks), len(module._global_forward_pre_hooks)),
        "dynamo": (config.recompile_limit, config.accumulated_recompile_limit),
        "random": torch.get_rng_state().tolist(),
        "environment": {name: value for name, value in os.environ.items() if "HF_" in name or "TRANSFORMERS" in name},
        "streams": (sys.stdout, sys.stderr),
    }


@pytest.mark.parametrize("how", ["exit", "raise", "recurse"])
@pytest.mark.parametrize("method", [capture, capture_traced, capture_training])
def test_a_failed_capture_leaves_torch_untouched(method, how: str) -> None:
    """sys.exit, an error, a recursion without end; afterwards the next capture works."""
    leaving, staying = Leaves(how), Leaves("well")
    before = state()
    with pytest.raises(CaptureError):
        method(leaving, (torch.ones(2, 4),))
    assert state() == before
    assert len(capture(staying, (torch.ones(2, 4),)).graphs[0].calls) == 1
    assert state() == before


def test_captures_of_several_threads_do_not_meet() -> None:
    """Each gets the graph that it gets alone, and torch is as it was."""
    widths = [3, 5, 7, 9, 11, 13]
    modules = {width: torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU()) for width in widths}
    before = state()
    captured: dict[int, object] = {}

    def take(width: int) -> None:
        try:
            graph = (capture if width % 4 == 1 else capture_traced)(modules[width], (torch.ones(2, width),)).graphs[0]
            captured[width] = [call.op for call in graph.calls], graph.params
        except Exception as error:
            captured[width] = error

    threads = [threading.Thread(target=take, args=(width,)) for width in widths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert captured == {width: (["aten.linear", "aten.relu"], width * width + width) for width in widths}
    assert state() == before


# the network


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A stand-in for the network that notes who wants to talk to whom, and refuses."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def write_config(folder: Path, **changes: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(BERT | changes))
    return f"hf:{path}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attn_implementation": "kernels-community/flash-attn"}, "attn_implementation"),
        ({"_attn_implementation": "somebody/kernel"}, "_attn_implementation"),
        ({"_attn_implementation_internal": "somebody/kernel@main:x"}, "_attn_implementation_internal"),
        ({"experts_implementation": "somebody/kernel"}, "experts_implementation"),
        ({"backbone": "somebody/model", "use_pretrained_backbone": True}, "backbone"),
        ({"auto_map": {"AutoConfig": "somebody/code--configuration.X"}, "trust_remote_code": True}, "auto_map"),
    ],
)
def test_a_config_loads_nothing(tmp_path: Path, no_network: list[object], changes: dict[str, object], said: str) -> None:
    """Entries that name code or models elsewhere are left out, the graph's notes say so, and nobody was asked."""
    pytest.importorskip("transformers")
    graphs = model_graphs(write_config(tmp_path, **changes), seq_len=8).graphs
    assert no_network == []
    assert any(said in note and "left out" in note for graph in graphs for note in graph.notes)
    plain = model_graphs(write_config(tmp_path), seq_len=8).graphs
    assert [call.op for call in graphs[0].calls] == [call.op for call in plain[0].calls]


def test_entries_of_a_config_s_parts_are_left_out_too() -> None:
    """A text model inside a model of texts and images."""
    from shmoo.harness.workloads.configs import _harmless

    parts = {"text_config": {"attn_implementation": "x/y", "hidden_size": 3}, "list": [{"backbone": "z"}, 4]}
    kept, notes = _harmless({"attn_implementation": "sdpa", **parts})
    assert kept == {"attn_implementation": "sdpa", "text_config": {"hidden_size": 3}, "list": [{}, 4]}
    assert len(notes) == 2


def test_hubs_are_offline_while_a_capture_runs(no_network: list[object]) -> None:
    """Environment and library switch, and both as before afterwards."""
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    seen: list[tuple[object, object]] = []

    class Asks(torch.nn.Module):
        def forward(self, x):
            seen.append((os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE))
            with pytest.raises(Exception, match=r"(?i)offline|cache"):
                hub.hf_hub_download("somebody/model", "config.json")
            return x + 1

    capture_traced(Asks(), (torch.ones(2),))
    assert seen == [("1", True)]
    assert no_network == []
    assert (os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE) == before


def test_the_user_s_own_switch_outlives_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works offline stays so."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    with hubs_offline():
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["HF_HUB_OFFLINE"] == "yes"


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value}
          for name in ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings", "architectures")
          for value in ("x", None, [1], {"a": 1}, -3, 1.5, 10**30)),
        {"model_type": 5}, {"model_type": None}, {"model_type": "no such type"}, {"model_type": {}},
        {"num_hidden_layers": 10**9}, {"num_hidden_layers": "x"}, {"hidden_act": 5}, {"hidden_act": "no such"},
        {"architectures": ["pipeline"]}, {"architectures": ["AutoModel"]}, {"architectures": "BertModel"}, {"architectures": [5]},
        {"dtype": "float33"}, {"torch_dtype": {}}, {"id2label": 5}, {"num_labels": -1}, {"": 1}, {"1": 2}, {"attribute_map": 5},
        {"_attn_implementation": {"": "x"}}, {"is_decoder": "x", "add_cross_attention": 7}, {"pad_token_id": 10**9},
    ],
)  # fmt: skip
def test_a_config_of_wrong_types_is_refused_with_a_message(tmp_path: Path, changes: dict[str, object]) -> None:
    """Or estimated, where the value does not matter; never another error, and never without end."""
    pytest.importorskip("transformers")
    name = write_config(tmp_path, **changes)
    with contextlib.suppress(InputError):
        assert model_graphs(name, seq_len=8).graphs


def test_a_config_nested_too_deeply_is_no_json(tmp_path: Path) -> None:
    """The message says so."""
    path = tmp_path / "config.json"
    path.write_text('{"model_type":' + "[" * 100_000)
    with pytest.raises(InputError, match="not JSON"):
        load_config(str(path))


@pytest.mark.parametrize(
    "name", ["builtins:dict", "builtins:int", "builtins:exit", "sys:exit", "os:getcwd", "math:pi", ":", "x:", ":x"]
)
def test_what_is_no_factory_is_refused(name: str) -> None:
    """Built-in types without a signature, functions that return no model, names of nothing."""
    with pytest.raises(InputError):
        model_graphs(name)
