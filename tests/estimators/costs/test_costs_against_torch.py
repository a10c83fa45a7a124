"""Costs against PyTorch itself: FlopCounterMode's counts, and calls that its schemas accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from shmoo.estimators.costs import COSTS, FREE, cost_of
from shmoo.estimators.graph.records import OpCall, TensorSpec
from tests.estimators.costs.cost_rows import ROWS, Row

SCALARS = bool | int | float | str | list | None


def flatten(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of an argument with their operand names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, list | tuple):
        for position, element in enumerate(value):
            yield from flatten(f"{name}.{position}", element)


def spec(tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def bound(op: torch._ops.OpOverload, args: Sequence[object]) -> dict[str, object]:
    """Schema name -> argument, defaults filled in."""
    arguments = op._schema.arguments
    return {a.name: args[i] if i < len(args) else a.default_value for i, a in enumerate(arguments)}


def call_of(op: torch._ops.OpOverload, *args: object) -> OpCall:
    """Runs one operator on meta tensors and writes down the call."""
    values = bound(op, args)
    operands = [pair for name, value in values.items() for pair in flatten(name, value)]
    attributes = {n: v for n, v in values.items() if isinstance(v, SCALARS) and not any(flatten(n, v))}
    results = [tensor for _, tensor in flatten("out", op(*args))]
    return OpCall(
        op=op._schema.name.replace("::", "."),
        inputs=tuple(spec(t) for _, t in operands),
        outputs=tuple(spec(t) for t in results),
        operands=tuple(name for name, _ in operands),
        attributes=attributes,
    )


def counted(op: Callable[..., object], *args: object) -> int:
    """What FlopCounterMode counts for one call."""
    with FlopCounterMode(display=False) as counter:
        op(*args)
    return counter.get_total_flops()


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


aten = torch.ops.aten
PRODUCTS = [
    (aten.linear.default, (meta(4, 2, 3), meta(5, 3), meta(5))),
    (aten.linear.default, (meta(4, 2, 3), meta(5, 3))),
    (aten.mm.default, (meta(2, 3), meta(3, 5))),
    (aten.addmm.default, (meta(5), meta(2, 3), meta(3, 5))),
    (aten.bmm.default, (meta(4, 2, 3), meta(4, 3, 5))),
    (aten.baddbmm.default, (meta(2, 5), meta(4, 2, 3), meta(4, 3, 5))),
    (aten.matmul.default, (meta(2, 3), meta(3, 5))),
    (aten.matmul.default, (meta(4, 2, 3), meta(3, 5))),
    (aten.matmul.default, (meta(3), meta(3, 5))),
    (aten.matmul.default, (meta(7, 1, 2, 3), meta(4, 3, 5))),
    (aten.matmul.default, (meta(2, 3), meta(4, 3, 5))),
    (aten.matmul.default, (meta(3), meta(4, 3, 5))),
    (aten.einsum.default, ("bhqd,bhkd->bhqk", [meta(2, 3, 4, 8), meta(2, 3, 5, 8)])),
    (aten.einsum.default, ("bqhd,hdf->bqf", [meta(2, 5, 3, 4), meta(3, 4, 7)])),
    (aten.einsum.default, ("...d,dk", [meta(2, 3, 8), meta(8, 5)])),
    (aten.einsum.default, ("ij,jk,kl->il", [meta(2, 3), meta(3, 5), meta(5, 7)])),
    (aten.einsum.default, ("i,j->ij", [meta(2), meta(3)])),
    (aten.tensordot.default, (meta(2, 3, 4), meta(4, 3, 5), [1, 2], [1, 0])),
    (aten.inner.default, (meta(2, 3), meta(5, 3))),
    (aten.linalg_matmul.default, (meta(4, 2, 3), meta(4, 3, 5))),
]
X1, X2, X3 = meta(2, 6, 9), meta(2, 6, 9, 8), meta(1, 6, 5, 5, 5)
CONVOLUTIONS = [
    (aten.conv1d.default, (X1, meta(4, 6, 3), meta(4))),
    (aten.conv2d.default, (X2, meta(4, 6, 3, 3), meta(4))),
    (aten.conv2d.default, (X2, meta(4, 6, 3, 3), None, [2, 2], [1, 1])),
    (aten.conv2d.default, (X2, meta(4, 6, 3, 3), None, [1, 1], [2, 2], [2, 2])),
    (aten.conv2d.default, (X2, meta(4, 3, 3, 3), None, [1, 1], [0, 0], [1, 1], 2)),
    (aten.conv2d.default, (X2, meta(12, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 6)),
    (aten.conv2d.default, (X2, meta(4, 6, 1, 1))),
    (aten.conv2d.padding, (X2, meta(4, 6, 3, 3), None, [1, 1], "same")),
    (aten.conv2d.padding, (X2, meta(4, 6, 3, 3), None, [1, 1], "valid")),
    (aten.conv3d.default, (X3, meta(4, 6, 2, 3, 2))),
    (aten.conv_transpose1d.default, (X1, meta(6, 4, 3), meta(4), [2])),
    (aten.conv_transpose2d.input, (X2, meta(6, 4, 3, 3), None, [2, 2], [1, 1], [1, 1])),
    (aten.conv_transpose2d.input, (X2, meta(6, 2, 3, 3), None, [2, 2], [0, 0], [0, 0], 3)),
    (aten.conv_transpose3d.input, (X3, meta(6, 4, 2, 2, 2), None, [2, 2, 2])),
    (aten.convolution.default, (X2, meta(4, 6, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    (aten.convolution.default, (X2, meta(6, 4, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    (aten.conv2d.default, (meta(6, 9, 8), meta(4, 6, 3, 3))),
]


def name(case: object) -> str:
    if isinstance(case, torch._ops.OpOverload):
        return str(case)
    return ", ".join(str(list(a.shape)) if isinstance(a, torch.Tensor) else str(a) for a in case)


@pytest.mark.parametrize(("op", "args"), PRODUCTS + CONVOLUTIONS, ids=name)
def test_contractions_equal_what_torch_counts(op: torch._ops.OpOverload, args: tuple[object, ...]):
    """Whole operators give the flops that FlopCounterMode finds in their pieces."""
    cost = cost_of(call_of(op, *args))
    assert cost.matrix_flops == counted(op, *args)


@pytest.mark.parametrize(("op", "args"), PRODUCTS + CONVOLUTIONS, ids=name)
def test_iteration_space_of_contractions_holds_their_flops(op: torch._ops.OpOverload, args: tuple[object, ...]):
    """2 x batch x m x n x k is the count, except where one call holds several products."""
    cost = cost_of(call_of(op, *args))
    one_product = 2 * cost.batch * cost.m * cost.n * cost.k
    several = isinstance(args[0], str) and args[0].count(",") > 1
    assert cost.matrix_flops in (one_product, 0) or several


ATTENTIONS = [
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8), {}),
    ((2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 8), {"is_causal": True}),
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), {}),
    ((2, 6, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), {"enable_gqa": True}),
]


@pytest.mark.parametrize(("query", "key", "value", "options"), ATTENTIONS, ids=str)
def test_attention_equals_what_torch_counts(query, key, value, options):
    """Grouped heads and a causal mask included: torch does not halve for the mask, and neither do we."""
    q, k, v = meta(*query), meta(*key), meta(*value)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = counted(lambda: F.scaled_dot_product_attention(q, k, v, **options))
    values = {"query": q, "key": k, "value": v}
    call = OpCall(
        op="aten.scaled_dot_product_attention",
        inputs=tuple(spec(t) for t in values.values()),
        outputs=(TensorSpec((*query[:-1], value[-1])),),
        operands=tuple(values),
        attributes={"dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False, **options},
    )
    assert cost_of(call).matrix_flops == expected


class Recorder(TorchDispatchMode):
    """Writes down every ATen operator that runs below it, as a graph of decomposed operators holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OpCall] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        values = bound(func, args) | (kwargs or {})
        operands = [pair for n, value in values.items() for pair in flatten(n, value)]
        self.calls.append(
            OpCall(
                op=func._schema.name.replace("::", ".").removesuffix("_"),
                inputs=tuple(spec(t) for _, t in operands),
                outputs=tuple(spec(t) for _, t in flatten("out", result)),
                operands=tuple(n for n, _ in operands),
                attributes={
                    n: v for n, v in values.items() if not isinstance(v, torch.dtype | torch.device) and not any(flatten(n, v))
                },
            )
        )
        return result


class Block(torch.nn.Module):
    """A convolution, its norm, attention over the positions, and a head: what most networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.up = torch.nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer_norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4), torch.nn.Softmax(-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.max_pool2d(self.up(x), 2)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.layer_norm(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("training", [False, True])
def test_decomposed_operators_of_a_network_add_up_to_what_torch_counts(training: bool):
    """Every piece that runs below autograd is costed or free, and the contractions among them give FlopCounterMode's total."""
    with torch.device("meta"):
        model, x = Block().train(training), torch.empty(2, 3, 16, 16)
    with Recorder() as recorder:
        model(x)
    costs = [cost for call in recorder.calls if (cost := cost_of(call)) is not None]
    unknown = {call.op for call in recorder.calls if (cost := cost_of(call)) and cost.family == "unknown"}
    assert unknown == set()
    assert sum(cost.matrix_flops for cost in costs) == counted(model, x)


RECURRENT = [
    (torch.nn.LSTM, {}),
    (torch.nn.LSTM, {"proj_size": 4, "num_layers": 2}),
    (torch.nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (torch.nn.RNN, {"batch_first": True}),
]


@pytest.mark.parametrize(("kind", "options"), RECURRENT, ids=str)
def test_recurrent_layers_equal_what_torch_counts(kind: type[torch.nn.RNNBase], options: dict[str, int | bool]):
    """One call of the whole layer gives the flops of its steps' products."""
    with torch.device("meta"):
        layer, x = kind(5, 7, **options), torch.empty(6, 2, 5)
        with torch.no_grad():
            expected = counted(layer, x)
    weights = {f"params.{i}": spec(p) for i, p in enumerate(layer.parameters())}
    call = OpCall(
        op=f"aten.{layer.mode.lower()}",
        inputs=(spec(x), *weights.values()),
        outputs=(spec(layer(x)[0]),),
        operands=("input", *weights),
        attributes={
            "num_layers": layer.num_layers,
            "bidirectional": layer.bidirectional,
            "batch_first": layer.batch_first,
        },
    )
    assert cost_of(call).matrix_flops == expected


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_fused_encoder_layer_equals_its_parts(activation: str):
    """The single operator of the fast path holds the products that the layer has without it."""
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation=activation).eval()
    x = torch.zeros(2, 5, 16)
    with Recorder() as recorder, torch.no_grad():
        layer(x)
    fused = [call for call in recorder.calls if call.op == "aten._transformer_encoder_layer_fwd"]
    if not fused:
        pytest.skip("this torch does not take the encoder layer's fast path")
    assert sum(cost_of(call).matrix_flops for call in fused) == counted(layer.to("meta"), x.to("meta"))


def test_every_name_is_an_operator_of_torch():
    """A name that torch does not have would never be met."""
    names = [n.removeprefix("aten.") for n in (*COSTS, *FREE) if n.startswith("aten.")]
    assert [n for n in names if not hasattr(aten, n) and not hasattr(aten, f"{n}_")] == []


def overloads(op: str) -> list[torch._ops.OpOverload]:
    """All forms of an operator, in place ones included."""
    packets = [getattr(aten, n) for n in (op, f"{op}_") if hasattr(aten, n)]
    return [getattr(packet, overload) for packet in packets for overload in packet.overloads()]


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.call.op.startswith("aten.")], ids=lambda r: f"{r.call.op}{len(r.call.inputs)}"
)
def test_rows_name_operands_and_attributes_as_the_schema_does(row: Row):
    """The names that cost functions look for are those that capture will give: some overload has all of them, in this order."""
    operands = list(dict.fromkeys(o.split(".")[0] for o in row.call.operands))
    found = []
    for op in overloads(row.call.op.removeprefix("aten.")):
        tensors = [a.name for a in op._schema.arguments if "Tensor" in str(a.type)]
        others = {a.name for a in op._schema.arguments if "Tensor" not in str(a.type)}
        found.append(([t for t in tensors if t in operands], others))
    assert any(tensors == operands and others >= set(row.call.attributes) for tensors, others in found), found
