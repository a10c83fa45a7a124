"""Small calls of the kinds that counters get wrong, each with what it holds and does, worked out by hand; `kinds_of_models` has
whole models."""

from __future__ import annotations

from collections.abc import Callable
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
        KINDS[f"{factory.__module__}:{factory.__name__}"] = Known(**known)
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


@kind(flops=3 * 8 * 32)
def derivative_along_a_direction():
    """The sine, the cosine and its product with the direction."""
    return Calls(lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1]), (torch.randn(8, 32),)


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
