"""Small models of the kinds that counters get wrong, each with what it holds and does, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention


class Known(NamedTuple):
    """What must come out: multiply-adds, flops of all kinds, bytes of weights; `None` for what is not fixed."""

    macs: float | None = None
    flops: float | None = None
    weight_bytes: float | None = None
    training_macs: float | None = None


KINDS: dict[str, Known] = {}
Factory = Callable[[], Any]


def kind(**known: float) -> Callable[[Factory], Factory]:
    def keep(factory: Factory) -> Factory:
        KINDS[factory.__name__] = Known(**known)
        return factory

    return keep


class Calls(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any], **weights: torch.Tensor) -> None:
        super().__init__()
        self.function, self.names = function, tuple(weights)
        for name, weight in weights.items():
            setattr(self, name, nn.Parameter(weight, requires_grad=weight.is_floating_point() or weight.is_complex()))

    def forward(self, *args: Any) -> Any:
        return self.function(*args, *(getattr(self, name) for name in self.names))


def c(*shape: int, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


# Complex arithmetic ------------------------------------------------------------------------------------------------------


@kind(macs=4 * 3 * 4 * 5 * 6, flops=8 * 3 * 4 * 5 * 6)
def complex_batches():
    return Calls(torch.bmm), (c(3, 4, 5), c(3, 5, 6))


@kind(macs=4 * 16 * 8 * 32, flops=8 * 16 * 8 * 32 + 2 * 16 * 8, weight_bytes=16 * (8 * 32 + 8))
def complex_layer():
    return nn.Linear(32, 8, dtype=torch.complex128), (c(16, 32, dtype=torch.complex128),)


@kind(macs=4 * 8 * 3 * 2 * 3, weight_bytes=8 * 3 * 2 * 3)
def complex_convolution():
    return Calls(F.conv1d, weight=c(3, 2, 3)), (c(1, 2, 10),)


@kind(macs=0, flops=6 * 7 * 9)
def complex_product():
    return Calls(torch.mul), (c(7, 9), c(7, 9))


@kind(macs=0, flops=6 * 7 * 9)
def complex_product_stretched():
    return Calls(torch.mul), (c(7, 1), c(1, 9))


@kind(macs=0, flops=2 * 7 * 9)
def complex_by_real():
    return Calls(torch.mul), (c(7, 9), torch.randn(7, 9))


@kind(macs=4 * 5 * 6 * 7, flops=8 * 5 * 6 * 7 + 2 * 5 * 7)
def complex_sum_of_products():
    return Calls(torch.addmm), (c(5, 7), c(5, 6), c(6, 7))


@kind(macs=4 * 2 * 5 * 6 * 7)
def complex_einsum():
    return Calls(lambda x, y: torch.einsum("bij,bjk->bik", x, y)), (c(2, 5, 6), c(2, 6, 7))


@kind(macs=4 * 64)
def complex_dot():
    return Calls(torch.vdot), (c(64), c(64))


@kind(macs=4 * (3 * 4 * 5 + 3 * 5 * 6))
def complex_chain():
    return Calls(lambda x, y, z: torch.linalg.multi_dot([x, y, z])), (c(3, 4), c(4, 5), c(5, 6))


# Fourier transforms ------------------------------------------------------------------------------------------------------


@kind(flops=3 * 5 * 64 * log2(64))
def fourier_cut():
    return Calls(lambda x: torch.fft.fft(x, n=64)), (c(3, 200),)


@kind(flops=3 * 2.5 * 100 * log2(100))
def fourier_back_to_odd_length():
    return Calls(lambda x: torch.fft.irfft(x, n=100)), (c(3, 33),)


@kind(flops=4 * 2.5 * 16 * 8 * log2(16 * 8))
def fourier_plane_cut():
    return Calls(lambda x: torch.fft.rfft2(x, s=(16, 8))), (torch.randn(4, 32, 32),)


@kind(flops=4 * 2.5 * 32 * 8 * log2(32 * 8))
def fourier_plane_cut_along_one():
    return Calls(lambda x: torch.fft.rfft2(x, s=(-1, 8))), (torch.randn(4, 32, 32),)


@kind(flops=5 * 5 * 8 * 6 * log2(8 * 6))
def fourier_along_two_of_three():
    return Calls(lambda x: torch.fft.fftn(x, dim=(0, 2))), (c(8, 5, 6),)


@kind(flops=5 * 2.5 * 16 * log2(16))
def fourier_along_the_first():
    return Calls(lambda x: torch.fft.rfft(x, dim=0)), (torch.randn(16, 5, dtype=torch.float64),)


@kind(flops=6 * 2.5 * 4 * 8 * log2(4 * 8))
def fourier_space_cut():
    return Calls(lambda x: torch.fft.rfftn(x, s=(4, 8))), (torch.randn(6, 16, 16),)


@kind(flops=3 * 2.5 * 64 * log2(64))
def fourier_hermitian():
    return Calls(torch.fft.hfft), (c(3, 33),)


# Functional transforms ---------------------------------------------------------------------------------------------------


@kind(macs=5 * 8 * 32 * 16)
def mapped_over_the_second():
    return Calls(lambda x, w: torch.vmap(lambda w: x @ w, in_dims=1)(w), w=torch.randn(32, 5, 16)), (torch.randn(8, 32),)


@kind(macs=3 * 5 * 8 * 32 * 16)
def mapped_twice():
    def both(x, w):
        return torch.vmap(lambda x: torch.vmap(lambda w: x @ w)(w))(x)

    return Calls(both, w=torch.randn(5, 32, 16)), (torch.randn(3, 8, 32),)


@kind(macs=4 * 2 * 6 * 6 * 3 * 8 * 9)
def mapped_convolution():
    return Calls(lambda x, w: torch.vmap(lambda w: F.conv2d(x, w))(w), w=torch.randn(4, 8, 3, 3, 3)), (torch.randn(2, 3, 8, 8),)


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(6, 10, 20)), nn.Parameter(torch.randn(6, 10))
        self.templates = [nn.Linear(20, 10, device="meta")]  # in a list, so that its weights are not the model's

    def forward(self, x):
        (template,) = self.templates
        return torch.vmap(lambda w, b: torch.func.functional_call(template, {"weight": w, "bias": b}, (x,)))(self.w, self.b)


@kind(macs=6 * 4 * 20 * 10, weight_bytes=4 * 6 * (10 * 20 + 10))
def ensemble():
    return Ensemble(), (torch.randn(4, 20),)


# Control flow ------------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        def heavy(x):
            return self.c(torch.cond(x.mean() > 1, lambda x: self.a(self.b(x)), lambda x: self.a(x), (x,)))

        return torch.cond(x.sum() > 0, heavy, lambda x: self.b(x), (x,))


@kind(macs=3 * 4 * 8 * 8, weight_bytes=3 * 4 * 72)
def branch_in_a_branch():
    return Nested(), (torch.randn(4, 8),)


@kind(macs=7 * 3 * 4 * 5)
def mapped_along_the_first():
    from torch._higher_order_ops.map import map as map_over

    return Calls(lambda xs, w: map_over(lambda x, w: x @ w, xs, w), w=torch.randn(4, 5)), (torch.randn(7, 3, 4),)


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, xs):
        from torch._higher_order_ops.scan import scan

        def step(state, x):
            h, count = state
            h = torch.tanh(self.layer(h) + x)
            return (h, count + 1), {"h": h * 2}

        (h, _), out = scan(step, (torch.zeros(3, 6), torch.zeros(3)), xs, dim=1, reverse=True)
        return h, out["h"]


@kind(macs=9 * 3 * 6 * 6)
def scan_backwards_along_the_second():
    return Backwards(), (torch.randn(3, 9, 6),)


class CountsDown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        def body(i, x):
            return i - 3, self.layer(x)

        return torch._higher_order_ops.while_loop(lambda i, x: i > 0, body, (torch.tensor(20), x))[1]


@kind(macs=7 * 2 * 8 * 8)
def loop_that_counts_down():
    return CountsDown(), (torch.randn(2, 8),)


@kind(macs=4 * 8 * 16 + 4 * 16 * 8)
def checkpointed():
    from torch.utils.checkpoint import checkpoint

    return Calls(lambda x, a, b: checkpoint(lambda x: torch.relu(x @ a) @ b, x, use_reentrant=False), a=torch.randn(8, 16),
                 b=torch.randn(16, 8)), (torch.randn(4, 8),)  # fmt: skip


@kind(macs=2 * 2 * 8 * 16 * 64 * 32)
def flex_with_shared_keys():
    q, kv = torch.randn(2, 8, 16, 32), torch.randn(2, 2, 64, 32)
    return Calls(lambda q, k, v: flex_attention(q, k, v, enable_gqa=True)), (q, kv, kv.clone())


# Broadcast operands ------------------------------------------------------------------------------------------------------


@kind(macs=2 * 3 * 4 * 8 * 16 * 8)
def attention_of_one_key_batch():
    return Calls(F.scaled_dot_product_attention), (torch.randn(3, 4, 8, 8), torch.randn(1, 4, 16, 8), torch.randn(1, 4, 16, 8))


@kind(macs=2 * 2 * 8 * 16 * 64 * 32)
def attention_of_shared_heads():
    q, kv = torch.randn(2, 8, 16, 32), torch.randn(2, 2, 64, 32)
    return Calls(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)), (q, kv, kv.clone())


@kind(macs=2 * 6 * 8 * 16 * 4)
def attention_without_heads():
    return Calls(F.scaled_dot_product_attention), (torch.randn(6, 8, 4), torch.randn(6, 16, 4), torch.randn(1, 16, 4))


@kind(macs=5 * 7 * 3 * 4 * 2)
def products_stretched():
    return Calls(torch.matmul), (torch.randn(5, 1, 3, 4), torch.randn(7, 4, 2))


@kind(macs=5 * 10 * 7 * 3)
def distances_stretched():
    return Calls(torch.cdist), (torch.randn(1, 10, 3), torch.randn(5, 7, 3))


@kind(flops=8 * 9 * (6 * 16 + 3))
def similarities_of_all_pairs():
    return Calls(lambda x, y: F.cosine_similarity(x, y, dim=-1)), (torch.randn(8, 1, 16), torch.randn(1, 9, 16))


@kind(flops=8 * 9 * 4)
def divergence_stretched():
    return Calls(lambda x, y: F.kl_div(x, y, reduction="sum")), (torch.randn(8, 1), torch.rand(1, 9))


@kind(flops=3 * 8 * 9 + 1)
def distance_stretched():
    return Calls(torch.dist), (torch.randn(8, 1), torch.randn(1, 9))


@kind(flops=4 * 8 * 9 * 16 + 8 * 9)
def pair_distances_stretched():
    return Calls(F.pairwise_distance), (torch.randn(8, 1, 16), torch.randn(1, 9, 16))


@kind(macs=8 * 9 * 16)
def row_products_stretched():
    return Calls(torch.linalg.vecdot), (torch.randn(8, 1, 16), torch.randn(1, 9, 16))


# Order of contraction ----------------------------------------------------------------------------------------------------


@kind(macs=2 * (3 * 4 * 5 + 3 * 5 * 6))
def einsum_of_three():
    return Calls(lambda x, y, z: torch.einsum("bij,bjk,bkl->bil", x, y, z)), (
        torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 5, 6),
    )  # fmt: skip


@kind(macs=50 * 40 + 40 * 50)
def chain_with_a_vector_first():
    return Calls(lambda v, a, b: torch.linalg.multi_dot([v, a, b])), (torch.randn(50), torch.randn(50, 40), torch.randn(40, 50))


@kind(macs=4 * 6 * (2 * 5))
def dimensions_contracted():
    return Calls(lambda x, y: torch.tensordot(x, y, dims=([0, 2], [1, 0]))), (torch.randn(2, 4, 5), torch.randn(5, 2, 6))


@kind(macs=3 * 7 * 4 * 5)
def einsum_with_dots():
    return Calls(lambda x, y: torch.einsum("...ij,jk->...ik", x, y)), (torch.randn(3, 7, 4), torch.randn(4, 5))


# Inputs in objects -------------------------------------------------------------------------------------------------------


@dataclass
class Inner:
    mask: torch.Tensor
    scale: float = 2.0


@dataclass
class Outer:
    xs: list[torch.Tensor]
    inner: Inner
    names: dict[str, torch.Tensor] = field(default_factory=dict)


class TakesObjects(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, batch, *, extra=None):
        x = sum(batch.xs) * batch.inner.scale + batch.names["bias"]
        return {"y": self.layer(x * batch.inner.mask)}


@kind(macs=8 * 16 * 4, weight_bytes=4 * (16 * 4 + 4))
def objects_in_objects():
    x = torch.randn(8, 16)
    return TakesObjects(), (Outer([x, x + 1], Inner(torch.ones(8, 16)), {"bias": torch.randn(16)}),)


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


@kind(macs=8 * 16 * 4, weight_bytes=4 * (16 * 4 + 4))
def an_object_with_slots():
    layer = nn.Linear(16, 4)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, pair):
            return self.layer(pair.x * pair.y)

    return Model(), (Slotted(torch.randn(8, 16), torch.randn(8, 16)),)


# Factories that read or run the model ------------------------------------------------------------------------------------


@kind(macs=8 * 16 * 4 + 8 * 4 * 2)
def reads_an_item():
    first = nn.Linear(16, 4)
    width = 2 if first.weight.abs().sum().item() >= 0 else 3
    return nn.Sequential(first, nn.Linear(4, width)), (torch.randn(8, 16),)


@kind(macs=8 * 16 * 4)
def loads_a_state():
    model = nn.Linear(16, 4)
    model.load_state_dict({name: torch.zeros_like(t, device="cpu") for name, t in model.state_dict().items()})
    return model, (torch.randn(8, 16),)


@kind(macs=8 * 16 * 4)
def copies_itself():
    import copy

    model = nn.Linear(16, 4)
    copied = copy.deepcopy(model)
    for a, b in zip(copied.parameters(), model.parameters(), strict=True):
        a.data.mul_(0.9).add_(b.data, alpha=0.1)
    return copied, (torch.randn(8, 16),)


@kind(macs=8 * 16 * 4)
def compiled_by_its_owner():
    return torch.compile(nn.Linear(16, 4)), (torch.randn(8, 16),)


@kind(macs=8 * 16 * 4)
def wrapped_in_data_parallel():
    return nn.DataParallel(nn.Linear(16, 4)), (torch.randn(8, 16),)


# Frozen parts and types --------------------------------------------------------------------------------------------------


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(32, 32, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(32, 4, bias=False), nn.Linear(4, 32, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


# Forward 8 * (1024 + 128 + 128); backward: the gradient of up's weight and of its input, and of down's weight.
@kind(macs=8 * 1280, training_macs=8 * 1280 + 8 * 3 * 128)
def low_rank_adaption():
    return Lora(), (torch.randn(8, 32),)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, 4, bias=False)

    def forward(self, x):
        with torch.no_grad():
            h = self.body(x)
        return self.head(h)


@kind(macs=8 * (512 + 64), training_macs=8 * (512 + 64) + 8 * 64)
def body_without_gradients():
    return Detached(), (torch.randn(8, 32),)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.a(x)
            with torch.autocast("cpu", enabled=False):
                return self.b(h.float())


@kind(macs=2 * 4 * 256, weight_bytes=2 * 4 * (256 + 16))
def autocast_in_part():
    return Mixed(), (torch.randn(4, 16),)


# Cells and norms ---------------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8, bias=False)

    def forward(self, xs):
        h = c = torch.zeros(2, 8)
        for x in xs.unbind(1):
            h, c = self.cell(x, (h, c))
        return h


@kind(macs=5 * 2 * 4 * 8 * (6 + 8))
def cells_without_bias():
    return Steps(), (torch.randn(2, 5, 6),)


@kind(macs=6 * 5 * 3 * 8 * (4 + 8) * 2)
def recurrence_both_ways():
    return nn.GRU(4, 8, bidirectional=True, batch_first=True), (torch.randn(6, 5, 4),)


@kind(macs=4 * 10 * 20, weight_bytes=4 * (20 * 10 + 20 + 20))
def normed_weight():
    return torch.nn.utils.parametrizations.weight_norm(nn.Linear(10, 20)), (torch.randn(4, 10),)


@kind(flops=2 * 9 * (2.5 * 32 * log2(32) + 32))
def spectrogram():
    window = torch.hann_window(32)
    return Calls(lambda x, w: torch.stft(x, 32, 16, window=w, return_complex=True, center=True), w=window), (torch.randn(2, 128),)


# Layers with more work than their name says -------------------------------------------------------------------------------


@kind(macs=2 * 5 * (4 * 16 * 8 + 4 * 16 * 4 + 16 * 4))
def recurrence_with_projection():
    return nn.LSTM(8, 16, proj_size=4, batch_first=True), (torch.randn(2, 5, 8),)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


@kind(macs=10 * 4 * 16 * 16 + 2 * (2 * 4 * 5 * 5 * 4), weight_bytes=4 * (4 * 16 * 16 + 4 * 16))
def attention_with_its_weights():
    return Attends(), (torch.randn(2, 5, 16),)


@kind(macs=10 * 4 * 16 * 16 + 2 * (2 * 4 * 5 * 5 * 4) + 2 * 10 * 16 * 32)
def encoder_layer():
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (torch.randn(2, 5, 16),)


@kind(macs=5 * 4 * 6 * 9)
def bilinear_layer():
    return nn.Bilinear(8, 6, 4), (torch.randn(5, 8), torch.randn(5, 6))


@kind(macs=8 * 8 * 8 * 27)
def padding_to_the_same_size():
    return nn.Conv2d(3, 8, 3, padding="same"), (torch.randn(1, 3, 8, 8),)


@kind(macs=8 * 8 * 8 * 27)
def padding_around():
    return nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), (torch.randn(1, 3, 8, 8),)


@kind(macs=25 * 4 * 6 * 9)
def transposed_with_output_padding():
    return nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (torch.randn(1, 4, 5, 5),)


@kind(macs=8 * 4 * 9)
def convolution_without_a_batch():
    return nn.Conv1d(3, 4, 3), (torch.randn(3, 10),)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens))


@kind(macs=14 * 16 * 50, weight_bytes=4 * 50 * 16)
def tied_head():
    return Tied(), (torch.randint(50, (2, 7)),)


@kind(macs=3 * 4 * 16 * 16, weight_bytes=4 * (16 * 16 + 16))
def one_layer_three_times():
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer), (torch.randn(4, 16),)


@kind(macs=32 * 16 * 24)
def product_of_bytes():
    return Calls(torch._int_mm), (torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 24, dtype=torch.int8))


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        return (x @ w) ** 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@kind(macs=4 * 8 * 8)
def function_with_its_own_gradient():
    return Calls(Squared.apply, w=torch.randn(8, 8)), (torch.randn(4, 8),)


@kind(macs=2 * 4 * 8 * 8)
def gradient_of_an_energy():
    def force(x, w):
        return torch.func.grad(lambda x: (x @ w).pow(2).sum())(x)

    return Calls(force, w=torch.randn(8, 8)), (torch.randn(4, 8),)


class Force(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = (x @ self.w).pow(2).sum()
            return -torch.autograd.grad(energy, x)[0]


@kind(macs=2 * 4 * 8 * 8)
def gradient_taken_in_the_call():
    return Force(), (torch.randn(4, 8),)


@kind(macs=5 * 4 * 8)
def batches_by_a_vector():
    return Calls(torch.matmul), (torch.randn(5, 4, 8), torch.randn(8))


@kind(macs=3 * 5 * 8)
def rows_by_rows():
    return Calls(torch.inner), (torch.randn(3, 8), torch.randn(5, 8))


@kind(macs=0, flops=8 * 9)
def outer_product():
    return Calls(torch.outer), (torch.randn(8), torch.randn(9))


@kind(macs=3 * 4 * 6 * 5)
def sum_of_products_with_a_row():
    return Calls(torch.baddbmm), (torch.randn(5), torch.randn(3, 4, 6), torch.randn(3, 6, 5))


@kind(macs=2 * 2 * 4 * 8 * 8 * 16)
def masked_attention():
    q = torch.randn(2, 4, 8, 16)
    return Calls(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m)), (q, q, q, torch.ones(8, 8).bool())
