"""Small models of the kinds that counters get wrong, beside the calls in `kinds`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log2

import torch
from torch import nn
from torch.nn import functional as F

from tests.harness.capture.kinds import Calls, kind

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
