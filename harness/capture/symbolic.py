"""One capture for many sizes: dimensions of the inputs become symbols, and a graph at other sizes is a substitution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import sympy
import torch
from torch.utils._pytree import tree_leaves

from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture.compiled import compile_pieces
from shmoo.harness.capture.exported import Place, export_graph, exportable
from shmoo.harness.capture.fx.guard import guarded
from shmoo.harness.capture.fx.introspect import CaptureError, OperatorIntrospector
from shmoo.harness.capture.fx.walker import FXGraphWalker, Traced, with_all_weights, with_notes
from shmoo.harness.capture.traced import FakeCall


class SymbolicCapture:
    """A model's graph with symbols for some dimensions of its inputs.

    torch records a guard for every comparison of a symbol during tracing. `at` gives the graph for other sizes only where all
    guards hold, that is, where a capture at those sizes would trace the same operators.

    Args:
        traced: the model's operators, with the fake value of each leaf of (args, kwargs).
        dynamic: the dimensions that became symbols.
        model: the module whose weights the graphs list.

    Raises:
        CaptureError: torch fixed all sizes.
    """

    def __init__(self, traced: Traced, dynamic: Sequence[Place], name: str, model: Any) -> None:
        self._traced, self._name, self._model = traced, name, model
        self._shapes = [fake.shape if isinstance(fake, torch.Tensor) else () for fake in traced.fakes]
        open_sizes = [size for leaf, dim in dynamic if isinstance(size := traced.fakes[leaf].shape[dim], torch.SymInt)]
        if not open_sizes:
            raise CaptureError("no size can vary: the model makes all of them part of its graph")
        self._env = open_sizes[0].node.shape_env

    def at(self, shapes: Sequence[Sequence[int]]) -> Graph:
        """The graph for inputs of these shapes: one per leaf of (args, kwargs), in order, empty for a leaf that is not a tensor.
        `CaptureError` where the model would trace differently at these sizes, or a guard cannot be evaluated."""
        values = self._values(shapes)
        for symbol, value in values.items():
            valid = self._env.var_to_range.get(symbol)
            if valid is not None and not valid.lower <= value <= valid.upper:
                # torch's integer infinity claims to be finite.
                upper = f" to {valid.upper}" if valid.upper.is_Integer else " up"
                raise CaptureError(f"the capture holds for sizes from {valid.lower}{upper}, not {value}")
        for guard in self._env.guards:
            expression = guard.expr.xreplace(values)
            if expression is not sympy.true:
                expression = self._env.replace(guard.expr).xreplace(values)
            if expression is not sympy.true:
                raise CaptureError(f"the capture holds where {guard.expr}, which these sizes do not meet")

        @cache
        def evaluate(expression: Any, pytype: type) -> Any:
            try:
                return pytype(sympy.sympify(expression).xreplace(values))
            except TypeError:
                raise CaptureError(f"the size {expression} depends on data") from None

        def number(value: Any) -> Any:
            symbolic = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
            return evaluate(value.node.expr, value.node.pytype) if symbolic else value

        walker, traced = FXGraphWalker(OperatorIntrospector(number)), self._traced
        graph = with_notes(walker.walk(traced.module, origins=traced.origins, name=self._name), traced.notes)
        return with_all_weights((graph,), self._model)[0]

    def _values(self, shapes: Sequence[Sequence[int]]) -> dict[sympy.Symbol, sympy.Integer]:
        """The value of every symbol, checked against all sizes."""
        values: dict[sympy.Symbol, sympy.Integer] = {}
        sizes: list[tuple[Place, sympy.Expr, int]] = []
        for leaf, (shape, captured) in enumerate(zip(shapes, self._shapes, strict=True)):
            if len(shape) != len(captured):
                raise CaptureError(f"input {leaf} has {len(shape)} dimensions, it was captured with {len(captured)}")
            for dim, (size, example) in enumerate(zip(shape, captured, strict=True)):
                expression = example.node.expr if isinstance(example, torch.SymInt) else sympy.Integer(example)
                sizes.append(((leaf, dim), expression, size))
                if expression.is_Symbol:
                    values.setdefault(expression, sympy.Integer(size))
        for (leaf, dim), expression, size in sizes:
            captured_size = expression.xreplace(values)
            if captured_size != size:
                raise CaptureError(f"dimension {dim} of input {leaf} is {captured_size} in the graph, not {size}")
        return values


def leaf_shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of the leaves of (args, kwargs), in order; empty for a leaf that is not a tensor."""
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else () for leaf in leaves]


@guarded
def capture_symbolic(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dynamic: Sequence[Place],
    *,
    name: str = "",
    traced: bool = False,
) -> SymbolicCapture:
    """Capture as `capture` does, or with `traced` as `capture_traced` does without stand-ins for data, with symbols in the given
    dimensions. Their sizes in the arguments are examples, at least 2. `CaptureError` where torch cannot take the model, splits
    it, or makes the sizes part of the graph."""
    if traced:
        of_call = FakeCall(model, args, kwargs, dynamic).trace(name or type(model).__name__)
        return SymbolicCapture(of_call, dynamic, name, model)
    if exportable(model):
        return SymbolicCapture(export_graph(model, args, kwargs, name=name, dynamic=dynamic), dynamic, name, model)
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    for leaf, dim in dynamic:
        torch._dynamo.maybe_mark_dynamic(leaves[leaf], dim)
    pieces, reasons = compile_pieces(model, args, kwargs, name)
    if len(pieces) != 1 or reasons:
        why = "; ".join(reasons) or f"{len(pieces)} pieces"
        raise CaptureError(f"torch.compile splits the model, so sizes inside it do not follow from its inputs: {why}")
    ((traced_piece, _, arguments, _),) = pieces
    fake_of = {id(argument): fake for argument, fake in zip(arguments or (), traced_piece.fakes, strict=True)}
    of_leaves = traced_piece._replace(fakes=[fake_of.get(id(leaf), leaf) for leaf in leaves])
    return SymbolicCapture(of_leaves, dynamic, name, model)
