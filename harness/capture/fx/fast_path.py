"""torch's fast path for transformer encoder layers, used by eager and compiled inference on CPUs and GPUs: one call,
`_transformer_encoder_layer_fwd`, which runs other kernels than the layer's Python code. On tensors without memory torch runs the
Python code; this module makes it run the fast path's operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NOT_COMPILED = (
    "torch.compile (torch 2.13) raises on a layer of nn.TransformerEncoder whose input is not contiguous, as here, because the "
    "shape function keeps the order of the input and the kernel does not; compiled code is estimated as if it ran"
)


@contextmanager
def encoder_fast_path() -> Iterator[dict[str, None]]:
    """While active, encoder layers that meet the conditions of the fast path and are called without a mask run the operators
    of that path on GPUs (`transformer_encoder_layer_forward` in ATen/native/transformers/transformer.cpp,
    `native_multi_head_attention_cuda` in ATen/native/transformers/cuda/attention.cu). Yields notes for the reader."""
    notes: dict[str, None] = {}
    original = nn.TransformerEncoderLayer.forward

    def forward(
        layer: nn.TransformerEncoderLayer, src: Tensor, src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None, is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        masked = src_mask is not None or src_key_padding_mask is not None
        if masked or src.dim() != 3 or not _takes_fast_path(layer):
            return original(layer, src, src_mask, src_key_padding_mask, is_causal)
        if not src.is_contiguous():
            notes[_NOT_COMPILED] = None
        if layer.norm_first:
            src = src + _attended(layer, layer.norm1(src))
            return src + _fed_forward(layer, layer.norm2(src))
        src = layer.norm1(src + _attended(layer, src))
        return layer.norm2(src + _fed_forward(layer, src))

    nn.TransformerEncoderLayer.forward = forward
    try:
        yield notes
    finally:
        nn.TransformerEncoderLayer.forward = original


def _takes_fast_path(layer: nn.TransformerEncoderLayer) -> bool:
    """The conditions that torch's layer tests, except those on masks, devices and gradients."""
    attention = layer.self_attn
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    return bool(
        torch.backends.mha.get_fastpath_enabled()
        and not layer.training
        and attention.batch_first
        and attention.in_proj_bias is not None
        and attention._qkv_same_embed_dim
        and layer.activation_relu_or_gelu
        and layer.norm1.eps == layer.norm2.eps
        and attention.num_heads % 2 == 0
        and not hooked
        and not any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
    )


def _attended(layer: nn.TransformerEncoderLayer, source: Tensor) -> Tensor:
    attention = layer.self_attn

    def attend(source: Tensor) -> Tensor:
        projected = nn.functional.linear(source, attention.in_proj_weight, attention.in_proj_bias)
        heads = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        joined = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return attention.out_proj(joined)

    return _in_place_of(attention, attend, source)


def _fed_forward(layer: nn.TransformerEncoderLayer, source: Tensor) -> Tensor:
    first = layer.linear1

    def activated(source: Tensor) -> Tensor:
        rows, gelu = source.flatten(0, 1), layer.activation_relu_or_gelu == 2
        return torch._addmm_activation(first.bias, rows, first.weight.t(), use_gelu=gelu).unflatten(0, source.shape[:2])

    return layer.linear2(_in_place_of(first, activated, source))


def _in_place_of(module: nn.Module, function: Callable[[Tensor], Tensor], source: Tensor) -> Any:
    """Call a module with its forward replaced by a function, so that operators are recorded under the module."""
    module.forward = function
    try:
        return module(source)
    finally:
        del module.forward
