"""Recurrent layers: whole ones, as libraries run them, and single steps."""

from __future__ import annotations

import math

from shmoo.estimators.costs.base import bill, cost, first_operand, number, result, tensor, tensor_list
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten, short_op

GATES = {"aten.lstm": (4, 10, 8), "aten.gru": (3, 9, 5), "aten.rnn_tanh": (1, 0, 1), "aten.rnn_relu": (1, 1, 0)}
"""Name -> gates, then vector and special operations for one hidden unit in one step, beside the products, their sum and biases.

LSTM: three sigmoids of (2, 2), two tanh, f c + i g and o tanh(c). GRU: two sigmoids, one tanh, r h and (1 - z) n + z h."""

GATES_BACKWARD = {f"shmoo.{short_op(name)}_backward": name for name in GATES}
"""The whole backward pass of a layer, for which ATen has no name of its own -> the layer."""


@cost(*GATES, *GATES_BACKWARD)
def recurrent(call: OpCall) -> Cost:
    """Every weight matrix (projections included) multiplies every token once; each step depends on the one before it. Backward
    the gradients of inputs and of weights take as many multiply-adds each; gates are kept, and each is differentiated.

    Iteration space: batch = steps of all layers and directions, m = sequences, n = gates x hidden size, k = the rest.
    """
    forward = GATES_BACKWARD.get(call.op, call.op)
    gates, vector_per_unit, special_per_unit = GATES[forward]
    products, special_per_unit = (1, special_per_unit) if call.op == forward else (2, 0)
    source = tensor(call, "input", "data")
    params = tensor_list(call, "params")
    weights = [spec for spec in params if len(spec.shape) == 2]
    if not weights:
        raise InputError(f"{call.op} needs its weights as operands 'params.0', 'params.1', ..., the call has {call.operands}")
    tokens = math.prod(source.shape[:-1])
    sequences = 1
    if len(source.shape) == 3:
        sequences = source.shape[0] if call.attributes.get("batch_first") else source.shape[1]
    passes = int(number(call, "num_layers", 1)) * (2 if call.attributes.get("bidirectional") else 1)
    hidden_size = weights[0].shape[0] // gates
    units = tokens * passes * hidden_size
    per_token = sum(w.numel for w in weights)
    return bill(
        call,
        "gemm",
        matrix=2.0 * products * tokens * per_token,
        vector=units * (vector_per_unit + gates) + tokens * sum(spec.numel for spec in params if len(spec.shape) == 1),
        special=units * special_per_unit,
        batch=passes * tokens // max(sequences, 1),
        m=sequences,
        n=gates * hidden_size,
        k=products * math.ceil(per_token / max(passes * gates * hidden_size, 1)),
    )


_CELLS = {"aten.lstm_cell": "aten.lstm", "aten.gru_cell": "aten.gru"} | {
    f"aten.rnn_{kind}_cell": f"aten.rnn_{kind}" for kind in ("tanh", "relu")
}


@cost(*_CELLS)
def cell(call: OpCall) -> Cost:
    """One step of a recurrent layer: (m, k) by (gates x hidden, k), for the input and for the state."""
    gates, vector_per_unit, special_per_unit = GATES[_CELLS[call.op]]
    from_input, from_state = tensor(call, "w_ih").shape, tensor(call, "w_hh").shape
    m = first_operand(call).numel // max(from_input[-1], 1)
    n, k = from_input[0], from_input[-1] + from_state[-1]
    units = m * n // gates
    biases = sum(spec.numel for name in ("b_ih", "b_hh") if (spec := call.operand(name)) is not None)
    vector = units * (vector_per_unit + gates) + m * biases
    return bill(call, "gemm", matrix=2.0 * m * n * k, vector=vector, special=units * special_per_unit, m=m, n=n, k=k)


@cost(*aten("_thnn_fused_lstm_cell _thnn_fused_gru_cell"))
def fused_cell(call: OpCall) -> Cost:
    """What a cell does after its products: their sum, biases and gates."""
    name = "aten.lstm" if "lstm" in call.op else "aten.gru"
    gates, vector_per_unit, special_per_unit = GATES[name]
    units = result(call).numel
    return bill(call, "pointwise", vector=units * (vector_per_unit + 2 * gates), special=units * special_per_unit, m=units)
