"""Costs of attention, alone and in whole layers.

A causal mask does not halve the work: kernels without a special path compute all scores, and published numbers count them. The
cost says that the mask is causal, so that a machine whose kernels skip masked blocks can leave them out.
"""

from __future__ import annotations

import math
from itertools import zip_longest

from shmoo.estimators.costs.base import bill, cost, number, tensor
from shmoo.estimators.graph.records import Cost, OpCall, TensorSpec
from shmoo.estimators.registry import aten


def attention_flops(rows: int, sq: int, sk: int, d: int, dv: int, has_mask: bool) -> tuple[float, float, float]:
    """(matrix, vector, special) operations of softmax(q k^T * scale + mask) v for `rows` = batch x heads.

    For each score: scale, maximum, subtract, exp, sum, divide, and one addition for a mask.
    """
    scores = rows * sq * sk
    return 2.0 * scores * (d + dv), scores * (4.0 + has_mask), scores * 2.0


def attention_extents(call: OpCall) -> tuple[int, int, int, int, int, bool]:
    """(batch x heads, Sq, Sk, D, Dv, whether scores are masked) of a call with query, key and value; one that serves every batch
    counts for each, and fewer key heads serve several query heads."""
    query, key, value = (
        tensor(call, name, position_name).shape for name, position_name in (("query", "arg0"), ("key", "arg1"), ("value", "arg2"))
    )
    mask = call.operand("attn_mask") or call.operand("attn_bias") or call.attributes.get("is_causal")
    columns = zip_longest(query[-3::-1], key[-3::-1], value[-3::-1], fillvalue=1)
    rows = math.prod(max(column) for column in columns)
    return rows, query[-2], key[-2], query[-1], value[-1], bool(mask)


@cost(
    *aten("scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"),
    *aten("_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math"),
    "aten._scaled_dot_product_fused_attention_overrideable",
    "higher_order.flex_attention",
)
def scaled_dot_product_attention(call: OpCall) -> Cost:
    """Query (..., H, Sq, D), key (..., Hk, Sk, D), value (..., Hk, Sk, Dv); with Hk < H each key head serves several query heads.

    A score function or a block mask of flex_attention is not counted: all scores are.

    Scores are not stored: bytes are those of query, key, value, mask and results. Iteration space: batch = heads of all
    examples, m = Sq, n = Sk, k = D (the second product exchanges D and Sk), images = examples.
    """
    rows, sq, sk, d, dv, has_mask = attention_extents(call)
    matrix, vector, special = attention_flops(rows, sq, sk, d, dv, has_mask)
    keys = math.prod(tensor(call, "key", "arg1").shape[:-2])
    query = tensor(call, "query", "arg0").shape
    causal = bool(call.attributes.get("is_causal"))
    return bill(
        call,
        "attention",
        matrix=matrix,
        vector=vector,
        special=special,
        batch=rows,
        m=sq,
        n=sk,
        k=d,
        images=max(rows // query[-3], 1) if len(query) > 2 else 1,
        group=max(rows // max(keys, 1), 1),
        causal=causal,
    )


def _multi_head(call: OpCall, tokens: TensorSpec, keys: TensorSpec, heads: int) -> tuple[float, float, float]:
    """(matrix, vector, special) of projections with bias and the attention between them; tensors are (batch, length, width)."""
    batch, sq, width = tokens.shape
    sk = keys.shape[1]
    per_head = width // heads
    matrix, vector, special = attention_flops(batch * heads, sq, sk, per_head, per_head, call.operand("mask") is not None)
    projections = batch * (2 * sq + 2 * sk) * width
    return matrix + 2.0 * projections * width, vector + projections, special


@cost("aten._native_multi_head_attention")
def native_multi_head_attention(call: OpCall) -> Cost:
    """Projections of query, key and value, attention, output projection: (batch, length, width) throughout."""
    query, key = tensor(call, "query"), tensor(call, "key")
    heads = int(number(call, "num_head", 1))
    matrix, vector, special = _multi_head(call, query, key, heads)
    batch, sq, width = query.shape
    rows, sk, per_head = batch * heads, key.shape[1], width // heads
    return bill(call, "attention", matrix=matrix, vector=vector, special=special, batch=rows, m=sq, n=sk, k=per_head)


@cost("aten._transformer_encoder_layer_fwd")
def transformer_encoder_layer(call: OpCall) -> Cost:
    """Self-attention, two layer norms, two residual additions and the two linear layers with their activation."""
    source = tensor(call, "src")
    hidden_size = tensor(call, "ffn_weight_1").shape[0]
    heads = int(number(call, "num_heads", 1))
    matrix, vector, special = _multi_head(call, source, source, heads)
    batch, length, width = source.shape
    tokens = batch * length
    matrix += 4.0 * tokens * width * hidden_size
    # Biases; GELU is 4 and 1 an element, ReLU 1; each layer norm is 8 an element and 3 special, 1 vector a row; 2 residuals.
    gelu = bool(call.attributes.get("use_gelu"))
    vector += tokens * (hidden_size + width + hidden_size * (4 if gelu else 1) + 2 * (8 * width + 1) + 2 * width)
    special += tokens * (hidden_size * gelu + 2 * 3)
    return bill(call, "gemm", matrix=matrix, vector=vector, special=special, m=tokens, n=hidden_size, k=width)
