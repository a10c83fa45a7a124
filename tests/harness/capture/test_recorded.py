"""Captures that are recorded while a model runs without memory: the same graphs as torch.export's, and what they refuse."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import msgspec
import pytest
import torch
from torch import nn

from shmoo.estimators.costs import costs_of
from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture import CaptureError, capture, capture_workload
from shmoo.harness.capture.fx.fast_path import encoder_fast_path
from shmoo.harness.capture.recorded import capture_recorded
from shmoo.harness.capture.workload import build_for_capture, capture_operator
from shmoo.harness.module import Built
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.loading import resolve_model

NAMES = ("mlp", "resnet_block", "transformer_block", "lstm", "gru", "resnet18", "vit_b_16", "swin_t")


def without_lines(graph: Graph) -> Graph:
    """Lines of torch's own files differ by where they were looked for."""
    calls = tuple(msgspec.structs.replace(call, source="") if call.source.startswith("torch/") else call for call in graph.calls)
    return msgspec.structs.replace(graph, calls=calls)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_that_of_export(name: str) -> None:
    """Calls, values, names of weights and inputs, paths of modules, lines of code."""
    module = resolve_model(name)
    built = build_for_capture(module)
    (recorded,) = capture_recorded(built.model, built.args, built.kwargs, name=name).graphs
    exported = capture(built.model, built.args, built.kwargs, name=name)
    assert exported.method == "export"
    assert without_lines(recorded) == without_lines(exported.graphs[0])


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 2, lambda y: y + 1, lambda y: y - 1, (x,))


class Mapped(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda y: y @ y)(x)


class Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.ones(8, device="meta")]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.kept[0]


class Cast(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x


@pytest.mark.parametrize("kind", [Sum, Branch, Mapped, Constant, Cast])
def test_what_a_recorded_run_cannot_show_is_refused(kind: type[torch.nn.Module]) -> None:
    """Values of data, calls with a body, functional transforms, tensors from elsewhere, autocast."""
    with pytest.raises(CaptureError):
        capture_recorded(kind(), (torch.empty(4, 8, 8, device="meta"),))


def test_weights_in_memory_are_refused() -> None:
    """What runs without memory does not touch a model with weights."""
    with pytest.raises(CaptureError, match="meta"):
        capture_recorded(torch.nn.Linear(4, 4), (torch.ones(1, 4),))


def test_what_is_made_on_the_way_is_without_memory_too() -> None:
    """A mask of 4 TB that the model asks for on the CPU, and a sequence of numbers."""

    class Masked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(2**20, 2**20, device="cpu")
            return x + mask[0, :8] + torch.arange(8)

    (graph,) = capture_recorded(Masked(), (torch.empty(4, 8, device="meta"),)).graphs
    assert [call.op for call in graph.calls][:2] == ["aten.ones", "aten.select"]
    assert graph.calls[0].outputs[0].shape == (2**20, 2**20)


def test_torch_is_as_before() -> None:
    """Neither hooks nor modes are left behind, after success and after failure."""
    hooks = torch.nn.modules.module._global_forward_hooks
    before = (len(hooks), torch.backends.cudnn.enabled)
    x = torch.empty(4, 8, 8, device="meta")
    capture_recorded(torch.nn.ReLU(), (x,))
    with pytest.raises(CaptureError):
        capture_recorded(Sum(), (x,))
    assert (len(hooks), torch.backends.cudnn.enabled) == before
    assert torch.utils._python_dispatch._get_current_dispatch_mode_stack() == []
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]


def test_a_workload_is_recorded_first() -> None:
    """And goes through torch.export where that is refused."""
    assert capture_workload(find_workload("mlp")).method == "record"


def _printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_capturing_imports_neither_export_nor_sympy_at_once() -> None:
    """What a capture that is recorded does without; torch's own shape functions import sympy when they first run."""
    code = "import sys, shmoo.harness.models.model_graphs; print([n for n in ('sympy', 'torch._dynamo') if n in sys.modules])"
    assert _printed(code) == "[]"


def test_dynamo_is_put_off_and_works_afterwards() -> None:
    """Networks of torchvision and our own are captured without it; then it compiles, and shape functions are its own again."""
    code = (
        "import sys, torch\n"
        "from shmoo.harness.models.model_graphs import model_graphs\n"
        "methods = [model_graphs(name).note for name in ('mlp', 'resnet18')]\n"
        "print(methods, [name for name in sys.modules if name.startswith('torch._dynamo')], '_dynamo' in vars(torch))\n"
        "compiled = torch.compile(lambda x: torch.relu(x) + 1, backend='eager')\n"
        "print(compiled(torch.ones(2)).tolist(), torch.relu(torch.empty(3, device='meta')).shape[0])\n"
        "print(torch._dynamo.disable is sys.modules['torch._dynamo'].disable, hasattr(torch._dynamo, 'optimize'))\n"
    )
    pytest.importorskip("torchvision")
    assert _printed(code).splitlines() == ["['', ''] [] False", "[2.0, 2.0] 3", "True True"]


def test_a_stand_in_gives_way_to_whoever_uses_it() -> None:
    """Names, parts and functions of Dynamo are the real ones, also while it is put off."""
    code = (
        "import sys, torch\n"
        "from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off\n"
        "with dynamo_put_off():\n"
        "    import torch._dynamo\n"
        "    stand_in = torch._dynamo\n"
        "    torch.relu(torch.empty(3, device='meta'))\n"
        "    from torch._dynamo import config\n"
        "    from torch._dynamo.utils import is_compile_supported\n"
        "    print(config.__name__, is_compile_supported('cpu'))\n"
        "print(stand_in.disable is torch._dynamo.disable, torch._dynamo is not stand_in)\n"
    )
    assert _printed(code).splitlines() == ["torch._dynamo.config True", "True True"]


@pytest.mark.parametrize(
    ("use", "real"),
    [
        ("from torch._dynamo.eval_frame import OptimizedModule as used", "torch._dynamo.OptimizedModule"),
        ("import torch._dynamo.config as used", "sys.modules['torch._dynamo.utils'].config"),
        ("from torch._dynamo.utils import is_compile_supported; used = is_compile_supported('cpu')", "True"),
    ],
    ids=["a class of a part", "a part", "an answer"],
)
def test_what_is_used_of_dynamo_while_it_is_put_off_is_there_once(use: str, real: str) -> None:
    """A part that is asked for by itself is that of the whole, not a second one beside it."""
    code = (
        "import sys, torch\n"
        "from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off\n"
        "with dynamo_put_off():\n"
        "    torch.relu(torch.empty(3, device='meta'))\n"
        f"    {use}\n"
        f"print(used is ({real}), torch._dynamo.eval_frame is sys.modules['torch._dynamo.eval_frame'])\n"
    )
    assert _printed(code) == "True True"


def test_nothing_of_a_stand_in_is_left_after_an_error() -> None:
    """Nor does looking for Dynamo, without importing it, fail while it is put off."""
    code = (
        "import importlib.util, sys, torch\n"
        "from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off\n"
        "before = list(sys.meta_path)\n"
        "try:\n"
        "    with dynamo_put_off():\n"
        "        torch.relu(torch.empty(3, device='meta'))\n"
        "        print('torch._dynamo' in sys.modules, importlib.util.find_spec('torch._dynamo').name)\n"
        "        raise KeyError\n"
        "except KeyError:\n"
        "    print('torch._dynamo' in sys.modules, '_dynamo' in vars(torch), sys.meta_path == before)\n"
    )
    assert _printed(code).splitlines() == ["True torch._dynamo", "False False True"]


@pytest.mark.parametrize("name", ["linear", "conv", "embedding", "layer_norm", "batch_norm"])
def test_an_operator_in_memory_is_captured_from_a_copy_without(name: str) -> None:
    """The graph is that of the operator itself, whose weights stay where they are."""
    built = resolve_model(name).build({}, "float32", "cpu")
    before = [weight.data_ptr() for weight in built.model.parameters()]
    made = capture_operator(built, name)
    assert made.method == "record"
    assert without_lines(made.graphs[0]) == without_lines(capture(built.model, built.args, built.kwargs, name=name).graphs[0])
    assert [weight.data_ptr() for weight in built.model.parameters()] == before
    assert {weight.device.type for weight in built.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", ["relu", "add", "softmax", "conv"])
def test_a_captured_operator_is_let_go(name: str) -> None:
    """Neither its operands nor its weights are held once it is gone."""
    built = resolve_model(name).build({}, "float32", "cpu")
    capture_operator(built, name)
    gone = [weakref.ref(tensor) for tensor in built.args]
    del built
    gc.collect()
    assert all(reference() is None for reference in gone)


def test_a_function_that_holds_weights_is_captured_as_it_is() -> None:
    """They are on the CPU and its inputs would not be, so that no copy shows what it does."""
    weight = torch.ones(4, 4)
    made = capture_operator(Built(lambda x: torch.relu(x @ weight), (torch.ones(2, 4),)), "held")
    assert made.method == "compile"
    assert [call.op for call in made.graphs[0].calls] == ["aten.matmul", "aten.relu"]


def test_what_reads_its_data_is_captured_as_it_is() -> None:
    """A branch on values takes the way that it takes."""
    made = capture_operator(Built(Sum(), (torch.ones(3),)), "sum")
    assert made.method == "compile"


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_runs_as_torchs_fast_path(norm_first: bool, activation: str) -> None:
    """The operators that stand for the fast path compute what it does, and none of them copies."""
    layer = nn.TransformerEncoderLayer(64, 8, 128, batch_first=True, norm_first=norm_first, activation=activation).eval()
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = layer(x)
        with encoder_fast_path() as notes:
            assert torch.allclose(layer(x), expected, atol=1e-5)
            layer(torch.randn(2, 64, 5).transpose(1, 2))
    assert len(notes) == 1
    (graph,) = capture_recorded(layer.to("meta"), (x.to("meta"),)).graphs
    costed = [call.op for call, cost in zip(graph.calls, costs_of(graph), strict=True) if cost is not None]
    norm, add = "aten.layer_norm", "aten.add"
    attends = ["aten.linear", "aten.scaled_dot_product_attention", "aten.linear"]
    feeds = ["aten._addmm_activation", "aten.linear"]
    assert costed == ([norm, *attends, add, norm, *feeds, add] if norm_first else [*attends, add, norm, *feeds, add, norm])


def test_joining_the_heads_of_attention_copies_nothing() -> None:
    """Kernels write them side by side; heads that stay apart in the order of the result are copied."""

    class Joined(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            attended = nn.functional.scaled_dot_product_attention(x, x, x)
            return attended.transpose(1, 2).reshape(2, 7, 32), attended.transpose(2, 3).reshape(2, 32, 7)

    (graph,) = capture_recorded(Joined(), (torch.empty(2, 4, 7, 8, device="meta"),)).graphs
    assert [cost is not None for call, cost in zip(graph.calls, costs_of(graph), strict=True) if call.op == "aten.reshape"] == [
        False,
        True,
    ]


def test_modules_without_a_call_are_told() -> None:
    """Their parameters take memory and no time."""
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "left": nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))}).to("meta")
    model.forward = model["used"].forward
    (graph,) = capture_recorded(model, (torch.empty(1, 4, device="meta"),)).graphs
    assert graph.notes == ("no operator reads the parameters of left: 16 parameters take memory and no time",)
