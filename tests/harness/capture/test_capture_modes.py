"""Capture of models as they are run: under autocast, in half precision, in parts, and with operators of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from shmoo.estimators.costs import COSTS, bill, classify, cost_of, graph_cost, register_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Cost, Graph, OpCall
from shmoo.harness.capture import Capture, capture, capture_exported
from shmoo.harness.models.model_graphs import channels_last, model_graphs
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Built


def only(found: Capture) -> Graph:
    (graph,) = found.graphs
    return graph


class Inside(nn.Module):
    """Has a region of its own in bfloat16 between two layers in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.second(x)
        return torch.softmax(x.float(), -1)


@pytest.mark.parametrize("take", [capture, capture_exported])
def test_autocast_makes_its_conversions_calls(take) -> None:
    """A layer under autocast converts its input, its weight and its bias, then multiplies in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        graph = only(take(nn.Linear(4, 8), (torch.randn(3, 4),)))
    assert [call.op for call in graph.calls] == ["aten.to"] * 3 + ["aten.linear"]
    assert {spec.dtype for spec in (*graph.calls[-1].inputs, *graph.calls[-1].outputs)} == {"bfloat16"}
    assert graph.weight_bytes == 4 * (4 * 8 + 8)
    (flops,) = (d.matrix_flops for d in graph_cost(graph).dtypes if d.dtype == "bfloat16")
    assert flops == 2 * 3 * 4 * 8


@pytest.mark.parametrize("take", [capture, capture_exported])
def test_a_region_under_autocast_is_counted_in_its_type(take) -> None:
    """The layers before and after it stay in float32."""
    graph = only(take(Inside(), (torch.randn(3, 4),)))
    flops = {d.dtype: d.matrix_flops for d in graph_cost(graph).dtypes if d.matrix_flops}
    assert flops == {"float32": 2 * 3 * 4 * 8, "bfloat16": 2 * 3 * 8 * 2}
    assert not graph_cost(graph).unknown
    assert [call.module for call in graph.calls if call.op == "aten.linear"] == ["first", "second"]


def test_a_shared_weight_is_converted_once() -> None:
    """Autocast keeps the copy of a weight as long as it goes on."""
    layer = nn.Linear(4, 4, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        graph = only(capture(lambda x: layer(layer(x)), (torch.randn(3, 4),)))
    assert sum(call.op == "aten.to" for call in graph.calls) == 2


def test_normalization_stays_wide_under_autocast() -> None:
    """A loss that autocast keeps in float32 reads converted values; a CPU layer norm takes its operands as they are."""
    layer, norm = nn.Linear(4, 4), nn.LayerNorm(4)
    with torch.autocast("cpu", torch.bfloat16):
        graph = only(capture(lambda x: nn.functional.mse_loss(norm(layer(x)), x), (torch.randn(3, 4),)))
    called = {call.op: [spec.dtype for spec in call.inputs] for call in graph.calls}
    assert called["aten.mse_loss"] == ["float32", "float32"]
    assert called["aten.layer_norm"] == ["bfloat16", "float32", "float32"]


def test_a_model_by_name_runs_under_autocast() -> None:
    """Its products are in bfloat16, its weights in float32."""
    mixed = only(model_graphs("resnet18", mode=Mode(autocast="bf16")))
    plain = only(model_graphs("resnet18"))
    flops = {d.dtype: d.matrix_flops for d in graph_cost(mixed).dtypes if d.matrix_flops}
    assert flops == {"bfloat16": 2 * graph_cost(plain).macs}
    assert mixed.weight_bytes == plain.weight_bytes


def test_gradient_mode_and_checkpoints_leave_no_wrapper() -> None:
    """Regions that torch wraps into one call are laid open, with their modules."""
    layer = nn.Linear(4, 4)

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = layer

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x)
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)

    for take in (capture, capture_exported):
        graph = only(take(Frozen(), (torch.randn(3, 4),)))
        assert [call.op for call in graph.calls] == ["aten.linear", "aten.linear"]
        assert graph.params == 4 * 4 + 4


class Blocks(nn.Module):
    """A block used twice, a view of its weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.again = self.block
        self.register_buffer("table", torch.rand(8, 4))

    def forward(self, x):
        x = self.again(self.block(x))
        return x @ self.block[0].weight[:2].t() + self.table[: x.shape[0], :2]


@pytest.mark.parametrize("take", [capture, capture_exported])
def test_shared_weights_views_and_buffers_keep_their_identity(take) -> None:
    """One weight for two calls and a view of it; a view of a buffer; place and line for every call."""
    graph = only(take(Blocks(), (torch.randn(3, 4),)))
    kinds = {value.name: value.kind for value in graph.values if value.is_weight and value.storage is None}
    assert {kind for kind in kinds.values()} == {"parameter", "buffer"}
    assert graph.params == 4 * 4 + 4
    first, second = (call for call in graph.calls if call.op == "aten.linear")
    assert first.reads[1] == second.reads[1]
    views = [call for call in graph.calls if call.op in ("aten.slice", "aten.t", "aten.transpose")]
    assert {graph.values[graph.root(call.writes[0])].kind for call in views} <= {"parameter", "buffer"}
    assert all(
        call.source.startswith(("test_capture_modes.py:", "tests/harness/capture/test_capture_modes.py:", "torch/"))
        for call in graph.calls
    )
    assert first.module in ("block.0", "again.0")


@pytest.fixture
def gate() -> Iterator[str]:
    """An operator that nobody knows, without a cost when the test ends."""
    name = "shmoomodes::gate"

    @torch.library.custom_op(name, mutates_args=())
    def gate(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x @ weight.t()) * x

    gate.register_fake(lambda x, weight: torch.empty_like(x))
    yield "shmoomodes.gate"
    COSTS.pop("shmoomodes.gate", None)
    gate._lib._destroy() if hasattr(gate, "_lib") else None


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        return torch.ops.shmoomodes.gate(x, self.weight)


def test_an_operator_of_ones_own_is_listed_then_costed(gate: str) -> None:
    """Unknown: its place and the bytes of its operands and result. After one decorated function its cost counts."""
    model = nn.Sequential(nn.Linear(4, 4), Gated())
    graph = only(capture(model, (torch.randn(3, 4),)))
    (unknown,) = graph_cost(graph).unknown
    assert (unknown.op, unknown.count, unknown.where) == (gate, 1, ("1",))
    assert unknown.bytes == 4 * (3 * 4 + 4 * 4 + 3 * 4)

    @register_cost(gate)
    def gate_cost(call: OpCall) -> Cost:
        m, k = call.operand("x").shape
        return bill(call, "gemm", matrix=2 * m * k * k, vector=3 * m * k, special=2 * m * k, m=m, n=k, k=k)

    total = graph_cost(graph)
    assert not total.unknown
    assert total.macs == 2 * 3 * 4 * 4
    assert classify(next(call for call in graph.calls if call.op == gate)) == "costed"


def test_a_triton_kernel_is_listed_by_its_wrapper() -> None:
    """A kernel launched from Python is a call of torch's wrapper for it; unknown until given a cost."""
    pytest.importorskip("triton", reason="needs triton, which is there on GPU builds of torch")
    call = OpCall("higher_order.triton_kernel_wrapper_mutation", (), ())
    assert cost_of(call).family == "unknown"


def test_channels_last_is_said_by_each_convolution() -> None:
    """Every convolution of a network stored channels-last says so, under autocast too; without the mode none does."""
    for autocast in (None, "float16"):
        for last in (False, True):
            (graph,) = model_graphs("squeezenet1_1", batch=2, mode=Mode(autocast=autocast, channels_last=last)).graphs
            said = [call.attributes.get("memory_format") for call in graph.calls if call.op == "aten.conv2d"]
            assert said == ["channels_last" if last else None] * 26
    with pytest.raises(InputError, match="takes none"):
        model_graphs("mlp", mode=Mode(channels_last=True))


def test_a_function_takes_its_images_channels_last() -> None:
    """It has no weights to store in that order."""
    built = channels_last(Built(torch.relu, (torch.rand(2, 3, 4, 4),)))
    assert built.args[0].is_contiguous(memory_format=torch.channels_last)
    assert built.model is torch.relu
