"""Training steps: forward and backward captured together, counted as torch counts them, and put back as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shmoo.estimators.costs import cost_of, graph_cost
from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture import Capture, CaptureError, capture_training
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Built
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.zoo import import_torchvision


def only(found: Capture) -> Graph:
    (graph,) = found.graphs
    return graph


def matrix_flops(graph: Graph) -> float:
    return 2 * graph_cost(graph).macs


def test_a_layers_step_takes_three_products() -> None:
    """Forward, gradient of the input and gradient of the weight: 2 x 4 x 8 x 3 multiply-adds each; the first layer takes two."""
    model = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 5))
    graph = only(capture_training(model, (torch.randn(4, 8),)))
    assert graph_cost(graph).macs == 2 * 4 * 8 * 3 + 3 * 4 * 3 * 5
    assert not graph_cost(graph).unknown


def test_gradients_of_all_weights_are_returned() -> None:
    """Every parameter's gradient is among the outputs, and weights keep their names and kinds."""
    graph = only(capture_training(nn.Linear(8, 3), (torch.randn(4, 8),)))
    shapes = {graph.values[index].spec.shape for index in graph.outputs}
    assert shapes >= {(3, 8), (3,)}
    assert {v.name for v in graph.values if v.kind == "parameter"} == {"weight", "bias"}
    assert graph.params == 3 * 8 + 3


def test_backward_calls_know_the_module_of_their_forward_call() -> None:
    """The weight's gradient belongs to the layer whose weight it is."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    graph = only(capture_training(model, (torch.randn(1, 3, 8, 8),)))
    modules = [call.module for call in graph.calls if call.op == "aten.convolution_backward"]
    assert modules == ["2", "0"]


def test_a_step_leaves_the_model_as_it_was() -> None:
    """Mode, gradient flags and gradients are put back; nothing is trained."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture_training(model.to("meta"), (torch.randn(3, 4, device="meta"),))
    assert not model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert set(before) == set(model.state_dict())


def test_a_model_without_gradients_is_refused() -> None:
    """Integers have none."""
    with pytest.raises(CaptureError, match="gradient"):
        capture_training(lambda x: x + 1, (torch.arange(3),))


def test_activations_live_until_their_backward_call() -> None:
    """A step's graph reads forward activations again, so that its peak memory holds them."""
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    graph = only(capture_training(model, (torch.randn(4, 8),)))
    (backward,) = [call for call in graph.calls if call.op == "aten.gelu_backward"]
    forward = next(call for call in graph.calls if call.op == "aten.gelu")
    assert forward.reads[0] in backward.reads


def torch_counts(built: Built) -> int:
    """FlopCounterMode over forward and backward of the same loss, run eagerly on meta tensors."""
    model = built.model.train().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        result = model(*built.args, **built.kwargs)
        tensors = [t for t in (result.values() if isinstance(result, dict) else torch.utils._pytree.tree_leaves(result))]
        sum(t.mean() for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad).backward()
    return counter.get_total_flops()


def overcount(graph: Graph) -> float:
    """What FlopCounterMode adds for grouped convolutions: it counts the product for the weight's gradient once for each group,
    although every group's channels meet those of their own group only."""
    extra = 0.0
    for call in graph.calls:
        if call.op == "aten.convolution_backward" and call.attributes["output_mask"][1]:
            groups, weight, grad = call.attributes["groups"], call.operand("weight"), call.operand("grad_output")
            extra += (groups - 1) * 2.0 * weight.numel * grad.numel / weight.shape[0]
    return extra


def bert(device: str) -> Built:
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="needs the extra 'models'")
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.device(device):
        return Built(transformers.BertForMaskedLM(config), (), {"input_ids": torch.zeros(2, 7, dtype=torch.int64)})


def gpt2(device: str) -> Built:
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="needs the extra 'models'")
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    with torch.device(device):
        model = transformers.GPT2LMHeadModel(config)
        model.config.use_cache = False
        return Built(model, (), {"input_ids": torch.zeros(2, 7, dtype=torch.int64)})


def zoo(name: str, **axes: int) -> Callable[[str], Built]:
    return lambda device: find_workload(name).build(axes, "float32", device)


SMALL = {"resnet18": zoo("resnet18", resolution=64, batch=2), "bert": bert}
LARGE = {
    "gpt2": gpt2,
    "mobilenet_v2": zoo("mobilenet_v2", resolution=64, batch=2),
    "vit_b_16": zoo("vit_b_16", batch=2),
    **{name: zoo(name, resolution=96, batch=2) for name in ("efficientnet_b0", "swin_t", "convnext_tiny", "fcn_resnet50")},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_step_counts_what_torch_counts(name: str) -> None:
    """Matrix flops of forward and backward are FlopCounterMode's; no operator is unknown."""
    _agrees(SMALL[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_steps_of_large_networks_count_what_torch_counts(name: str) -> None:
    """As above, for networks with attention, squeeze and excitation, shifted windows, layer scale and interpolation."""
    _agrees(LARGE[name], name)


def test_grouped_convolutions_are_counted_once() -> None:
    """A depthwise layer of 6 channels: forward, input and weight gradient take 6 x 9 multiply-adds a point each. FlopCounterMode
    counts the weight gradient 6 times."""

    def build(device: str) -> Built:
        x = torch.empty(2, 6, 9, 9, device=device, requires_grad=True)
        return Built(nn.Conv2d(6, 6, 3, groups=6, device=device), (x,))

    graph = only(capture_training(*_parts(build("meta"))))
    assert matrix_flops(graph) == 3 * 2 * (2 * 49) * 6 * 9
    assert torch_counts(build("meta")) == matrix_flops(graph) + 5 * 2 * (2 * 49) * 6 * 9


def _agrees(build: Callable[[str], Built], name: str) -> None:
    """FlopCounterMode's count, less what it counts too often in grouped convolutions."""
    with sdpa_kernel(SDPBackend.MATH):
        found = capture_training(*_parts(build("meta")))
        # transformers asks for values, which meta tensors lack; the others take no memory there.
        expected = torch_counts(build("cpu" if name in ("bert", "gpt2") else "meta"))
    graph = only(found)
    assert not graph_cost(graph).unknown
    assert matrix_flops(graph) + overcount(graph) == expected


def _parts(built: Built) -> tuple:
    return built.model, built.args, built.kwargs


def test_a_model_by_name_is_trained() -> None:
    """A step takes three times the products of inference, but for the gradient of the image, which nobody asks for."""
    inference, training = (only(model_graphs("alexnet", batch=1, mode=Mode(training=t))) for t in (False, True))
    first = next(call for call in inference.calls if call.op == "aten.conv2d")
    assert graph_cost(training).macs == 3 * graph_cost(inference).macs - cost_of(first).macs


@pytest.mark.parametrize(("layer", "op"), [(nn.LSTM, "aten.lstm"), (nn.GRU, "aten.gru"), (nn.RNN, "aten.rnn_tanh")])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_recurrent_layer_is_one_call_forward_and_one_backward(layer: type[nn.Module], op: str, device: str) -> None:
    """As its library runs it; backward takes two products for each of the forward pass's."""
    model = layer(8, 16, num_layers=2, bidirectional=True).to(device)
    graph = only(capture_training(model, (torch.randn(5, 3, 8, device=device),)))
    forward, backward = (call for call in graph.calls if (cost := cost_of(call)) is not None and cost.macs)
    assert (forward.op, backward.op) == (op, f"{op}_backward".replace("aten.", "shmoo."))
    assert matrix_flops(graph) == 3 * 2 * 15 * sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert [spec.shape for spec in backward.outputs[-2:]] == [tuple(p.shape) for p in list(model.parameters())[-2:]]


class Eager(nn.Module):
    """Its middle layer is hidden from torch.compile."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    @torch._dynamo.disable
    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.middle(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(self.first(x)))


def test_what_torch_compile_leaves_out_is_counted() -> None:
    """Forward and backward of the middle layer are recorded as they run, and the reader is told."""
    model = Eager()
    found = capture_training(model, (torch.randn(3, 8),))
    assert sum(graph_cost(graph).macs for graph in found.graphs) == (3 * 3 - 1) * 3 * 8 * 8
    assert {value.name for graph in found.graphs for value in graph.values if value.kind == "parameter"} == set(
        model.state_dict()
    )
    assert any("left to eager execution" in reason for reason in found.break_reasons)
    assert {call.module for graph in found.graphs for call in graph.calls} >= {"first", "middle", "last"}
