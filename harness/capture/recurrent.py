"""Recurrent layers of a training step as whole calls, as cuDNN and oneDNN run them: one call forward, one backward. Below
autograd torch shows only their steps, a graph of thousands of small products that no library runs.

Dynamo's graphs call torch's own functions (`torch.lstm`). They are replaced by operators with a derivative, recorded as
"aten.lstm" and "shmoo.lstm_backward"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from shmoo.harness.capture.fx.introspect import OWN_NAMESPACE

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_FORWARD = (
    "(Tensor input, Tensor[] hx, Tensor[] params, Tensor? batch_sizes, bool has_biases, int num_layers, float dropout, "
    "bool train, bool bidirectional, bool batch_first) -> Tensor[]"
)
_BACKWARD = (
    "(Tensor[] grads, Tensor input, Tensor[] hx, Tensor[] params, Tensor[] results, int num_layers, bool bidirectional, "
    "bool batch_first) -> Tensor[]"
)


def _define(name: str, gates: int) -> Any:
    """The operator of one kind of layer, with its derivative. It returns the results of torch's function, and the tensors that
    the backward pass needs."""
    function: Callable[..., Any] = getattr(torch, name)

    def saved(source: Tensor, params: Sequence[Tensor], num_layers: int, bidirectional: bool) -> Tensor:
        """Every gate and the state of each step."""
        passes = num_layers * (2 if bidirectional else 1)
        return source.new_empty((*source.shape[:-1], passes * (gates + 1) * (params[0].shape[0] // gates)))

    def run(
        source: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], batch_sizes: Tensor | None, has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> list[Tensor]:  # fmt: skip
        state = list(hx) if name == "lstm" else hx[0]
        options = (state, list(params), has_biases, num_layers, dropout, train, bidirectional)
        packed = batch_sizes is not None
        results = function(source, batch_sizes, *options) if packed else function(source, *options, batch_first)
        return [*(result.clone() for result in results), saved(source, params, num_layers, bidirectional)]

    def shapes(
        source: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], batch_sizes: Tensor | None, has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> list[Tensor]:  # fmt: skip
        width = hx[0].shape[-1] * (2 if bidirectional else 1)
        result = source.new_empty((*source.shape[:-1], width))
        return [result, *map(torch.empty_like, hx), saved(source, params, num_layers, bidirectional)]

    def gradients(
        grads: Sequence[Tensor], source: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], results: Sequence[Tensor],
        num_layers: int, bidirectional: bool, batch_first: bool,
    ) -> list[Tensor]:  # fmt: skip
        # A capture only needs their shapes.
        return [torch.zeros_like(tensor) for tensor in (source, *hx, *params)]

    forward = torch.library.custom_op(f"{OWN_NAMESPACE}::{name}", run, mutates_args=(), schema=_FORWARD)
    forward.register_fake(shapes)
    backward = torch.library.custom_op(f"{OWN_NAMESPACE}::{name}_backward", gradients, mutates_args=(), schema=_BACKWARD)
    backward.register_fake(gradients)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        source, hx, params, _, _, num_layers, _, _, bidirectional, batch_first = inputs
        ctx.counts = len(hx), len(params)
        ctx.options = num_layers, bidirectional, batch_first
        ctx.save_for_backward(source, *hx, *params, *output)

    def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        states, weights = ctx.counts
        source, *saved_tensors = ctx.saved_tensors
        hx, params, results = saved_tensors[:states], saved_tensors[states : states + weights], saved_tensors[states + weights :]
        output_grads = [grad for grad in grads[:-1] if grad is not None]
        of_source, *other_grads = backward(output_grads, source, hx, params, results, *ctx.options)
        return of_source, other_grads[:states], other_grads[states:], *(None,) * 7

    forward.register_autograd(differentiate, setup_context=keep)
    return forward


_OPERATORS = {getattr(torch, name): _define(name, gates) for name, gates in _GATES.items()}


def keep_recurrent_layers(module: fx.GraphModule) -> None:
    """Replace torch's functions in one of Dynamo's graphs by the operators that stay whole below autograd."""
    for node in module.graph.nodes:
        operator = _OPERATORS.get(node.target) if node.op == "call_function" else None
        if operator is None:
            continue
        packed = isinstance(node.args[3], (list, tuple))
        source, batch_sizes, hx, *options = node.args if packed else (node.args[0], None, *node.args[1:])
        states = [hx] if isinstance(hx, fx.Node) else list(hx)
        weights, *other_options = options
        node.args = (source, states, weights, batch_sizes, *other_options, *[False] * packed)
        node.target = operator._opoverload
    module.recompile()
