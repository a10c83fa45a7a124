"""Expected costs of attention and recurrent layers."""

from tests.estimators.costs.cost_rows.build import Operand, rows

BHQK = {"batch": 6, "m": 4, "n": 5, "k": 8}
# Attention: 2 x 3 heads, 4 queries, 5 keys, width 8 ------------------------------------------------------------------------

Q, K = (2, 3, 4, 8), (2, 3, 5, 8)
SCORES = 2 * 3 * 4 * 5
QKV = {"query": Q, "key": K, "value": K}
ATTENTION = {"family": "attention", "matrix": 4 * SCORES * 8, "special": 2 * SCORES, "space": BHQK}
NO_MASK = {"dropout_p": 0.0, "is_causal": False, "scale": None}
rows("scaled_dot_product_attention", QKV, [Q], {**NO_MASK, "enable_gqa": False}, vector=4 * SCORES, **ATTENTION)
rows(
    "scaled_dot_product_attention",
    QKV,
    [Q],
    {**NO_MASK, "is_causal": True, "enable_gqa": False},
    vector=5 * SCORES,
    **{**ATTENTION, "space": {**BHQK, "causal": True}},
)
rows(
    "scaled_dot_product_attention",
    {**QKV, "attn_mask": (4, 5)},
    [Q],
    {**NO_MASK, "enable_gqa": False},
    vector=5 * SCORES,
    **ATTENTION,
)
rows(
    "scaled_dot_product_attention",
    {"query": Q, "key": (2, 1, 5, 8), "value": (2, 1, 5, 6)},
    [(2, 3, 4, 6)],
    {**NO_MASK, "enable_gqa": True},
    family="attention",
    matrix=2 * SCORES * (8 + 6),
    vector=4 * SCORES,
    special=2 * SCORES,
    space={**BHQK, "group": 3},
)
rows("_scaled_dot_product_flash_attention_for_cpu", QKV, [Q, (2, 3, 4)], NO_MASK, vector=4 * SCORES, **ATTENTION)
rows(
    "_scaled_dot_product_attention_math", QKV, [Q, (2, 3, 4, 5)], {**NO_MASK, "enable_gqa": False}, vector=4 * SCORES, **ATTENTION
)
rows(
    "_scaled_dot_product_flash_attention",
    QKV,
    [Q, (2, 3, 4)],
    {**NO_MASK, "return_debug_mask": False},
    vector=4 * SCORES,
    **ATTENTION,
)
rows(
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
    {**QKV, "attn_bias": (2, 3, 4, 5)},
    [Q, (2, 3, 4)],
    {**NO_MASK, "compute_log_sumexp": True},
    vector=5 * SCORES,
    **ATTENTION,
)
rows(
    "_scaled_dot_product_fused_attention_overrideable",
    QKV,
    [Q, (2, 3, 4)],
    {**NO_MASK, "return_debug_mask": False},
    vector=4 * SCORES,
    **ATTENTION,
)

# 2 sequences of 4 tokens of width 8, 2 heads of 4: four projections of 8 tokens and scores of 2 x 2 x 4 x 4.
TOKENS = (2, 4, 8)
PROJECTIONS = {"qkv_weight": (24, 8), "qkv_bias": (24,), "proj_weight": (8, 8), "proj_bias": (8,)}
MHA_MATRIX = 2 * 4 * 8 * 8 * 8 + 4 * 64 * 4
MHA_VECTOR = 4 * 8 * 8 + 4 * 64
rows(
    "_native_multi_head_attention",
    {"query": TOKENS, "key": TOKENS, "value": TOKENS, **PROJECTIONS},
    [TOKENS, (0,)],
    {"embed_dim": 8, "num_head": 2, "need_weights": False},
    family="attention",
    matrix=MHA_MATRIX,
    vector=MHA_VECTOR,
    special=2 * 64,
    space={"batch": 4, "m": 4, "n": 4, "k": 4},
)
rows(
    "_transformer_encoder_layer_fwd",
    {
        "src": TOKENS,
        **PROJECTIONS,
        **{"norm_weight_1": (8,), "norm_bias_1": (8,), "norm_weight_2": (8,), "norm_bias_2": (8,)},
        **{"ffn_weight_1": (16, 8), "ffn_bias_1": (16,), "ffn_weight_2": (8, 16), "ffn_bias_2": (8,)},
    },
    [TOKENS],
    {"embed_dim": 8, "num_heads": 2, "use_gelu": False, "norm_first": False, "eps": 1e-5},
    family="gemm",
    matrix=MHA_MATRIX + 4 * 8 * 8 * 16,
    vector=MHA_VECTOR + 8 * (16 + 8 + 16) + 8 * 2 * (8 * 8 + 1) + 8 * 2 * 8,
    special=2 * 64 + 8 * 6,
    space={"m": 8, "n": 16, "k": 8},
)

# Recurrent: 6 steps of 2 sequences of width 3, hidden size 5.


def recurrent_row(op: str, gates: int, vector: int, special: int, states: dict[str, Operand], outputs: list[Operand]) -> None:
    g = gates * 5
    rows(
        op,
        {"input": (6, 2, 3), **states, "params.0": (g, 3), "params.1": (g, 5), "params.2": (g,), "params.3": (g,)},
        outputs,
        {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False, "batch_first": False},
        family="gemm",
        matrix=2 * 12 * g * (3 + 5),
        # the sum of the two products, both biases, and the gates
        vector=12 * (g + 2 * g + 5 * vector),
        special=12 * 5 * special,
        space={"batch": 6, "m": 2, "n": g, "k": 8},
    )


def recurrent_backward_row(op: str, gates: int, vector: int, states: int) -> None:
    """Two products for each of the forward pass's; nothing special, because gates are kept."""
    g = gates * 5
    named = {f"hx.{i}": (1, 2, 5) for i in range(states)}
    params = {"params.0": (g, 3), "params.1": (g, 5), "params.2": (g,), "params.3": (g,)}
    results = {"results.0": (6, 2, 5), "results.1": (6, 2, (gates + 1) * 5)}
    rows(
        f"shmoo.{op}_backward",
        {"grads.0": (6, 2, 5), "input": (6, 2, 3), **named, **params, **results},
        [(6, 2, 3), *named.values(), *params.values()],
        {"num_layers": 1, "bidirectional": False, "batch_first": False},
        family="gemm",
        matrix=2 * 2 * 12 * g * (3 + 5),
        vector=12 * (g + 2 * g + 5 * vector),
        space={"batch": 6, "m": 2, "n": g, "k": 2 * 8},
    )


recurrent_backward_row("lstm", 4, 10, states=2)
recurrent_backward_row("gru", 3, 9, states=1)
recurrent_backward_row("rnn_tanh", 1, 0, states=1)
recurrent_backward_row("rnn_relu", 1, 1, states=1)
recurrent_row("lstm", 4, 10, 8, {"hx.0": (1, 2, 5), "hx.1": (1, 2, 5)}, [(6, 2, 5), (1, 2, 5), (1, 2, 5)])
recurrent_row("gru", 3, 9, 5, {"hx": (1, 2, 5)}, [(6, 2, 5), (1, 2, 5)])
recurrent_row("rnn_tanh", 1, 0, 1, {"hx": (1, 2, 5)}, [(6, 2, 5), (1, 2, 5)])
recurrent_row("rnn_relu", 1, 1, 0, {"hx": (1, 2, 5)}, [(6, 2, 5), (1, 2, 5)])

# Queries of one batch against the keys of 3: all 3 x 2 heads are computed.
for op, names in (
    ("scaled_dot_product_attention", ("query", "key", "value")),
    ("higher_order.flex_attention", ("arg0", "arg1", "arg2")),
):
    rows(
        op,
        dict(zip(names, ((1, 2, 4, 8), (3, 2, 5, 8), (3, 2, 5, 8)), strict=True)),
        [(3, 2, 4, 8)],
        family="attention",
        matrix=2 * 6 * 20 * 16,
        vector=6 * 20 * 4,
        special=6 * 20 * 2,
        space={"batch": 6, "m": 4, "n": 5, "k": 8},
    )
