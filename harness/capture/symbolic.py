"""One capture for many sizes: dimensions of the inputs become symbols, and a graph at other sizes is a substitution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._pytree import tree_leaves

from shmoo.estimators.records import Graph
from shmoo.harness.capture.compiled import Piece, compile_pieces
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.introspect import OperatorIntrospector
from shmoo.harness.capture.walker import FXGraphWalker

Place = tuple[int, int]
"""A dimension of an argument: which tensor, counting the leaves of (args, kwargs), and which dimension of it."""


class SymbolicCapture:
    """A model's graph with symbols for some dimensions of its inputs.

    torch notes every comparison of a symbol that decided what was traced. `at` gives the graph for other sizes only where all of
    these come out as they did, so that a capture at those sizes would have traced the same.
    """

    def __init__(
        self, piece: Piece, places: Mapping[sympy.Symbol, Place], shapes: Sequence[Sequence[int]], shape_env: Any, name: str
    ) -> None:
        self._piece = piece
        self._places = places
        self._shapes = [tuple(shape) for shape in shapes]
        self._env = shape_env
        self._name = name

    def at(self, shapes: Sequence[Sequence[int]]) -> Graph:
        """The graph for inputs of these shapes.

        Args:
            shapes: of every leaf of (args, kwargs), in order, empty for one that is no tensor.

        Raises:
            CaptureError: at these sizes the model would do something else, or torch does not say that it would do the same.
        """
        free = set(self._places.values())
        for leaf, (given, captured) in enumerate(zip(shapes, self._shapes, strict=True)):
            if len(given) != len(captured):
                raise CaptureError(f"input {leaf} has {len(given)} dimensions, it was captured with {len(captured)}")
            for dim, (size, example) in enumerate(zip(given, captured, strict=True)):
                if size != example and (leaf, dim) not in free:
                    raise CaptureError(f"dimension {dim} of input {leaf} is part of the graph as {example}, not {size}")
        values = {symbol: sympy.Integer(shapes[leaf][dim]) for symbol, (leaf, dim) in self._places.items()}
        for symbol, value in values.items():
            held = self._env.replace(symbol).xreplace(values)
            if held != value:
                raise CaptureError(f"the capture holds for a size of {held} alone, not {value}")
            known = self._env.var_to_range.get(symbol)
            if known is not None and not known.lower <= value <= known.upper:
                raise CaptureError(f"the capture holds for sizes from {known.lower} to {known.upper}, not {value}")
        for guard in self._env.guards:
            expression = guard.expr.xreplace(values)
            if expression is not sympy.true:
                expression = self._env.replace(guard.expr).xreplace(values)
            if expression is not sympy.true:
                raise CaptureError(f"the capture holds where {guard.expr}, which these sizes do not meet")
        numbers = _Numbers(values)
        return FXGraphWalker(OperatorIntrospector(numbers)).walk(self._piece.module, origins=self._piece.origins, name=self._name)


def leaf_shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of the leaves of (args, kwargs), in order; empty for a leaf that is no tensor."""
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else () for leaf in leaves]


class _Numbers:
    """Values of symbolic numbers when symbols have given values; each expression is evaluated once."""

    def __init__(self, values: Mapping[sympy.Symbol, sympy.Integer]) -> None:
        self._values = values
        self._known: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return value
        expression = value.node.expr
        found = self._known.get(expression)
        if found is None:
            found = self._known[expression] = value.node.pytype(sympy.sympify(expression).xreplace(self._values))
        return found


def capture_symbolic(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dynamic: Sequence[Place],
    *,
    name: str = "",
) -> SymbolicCapture:
    """Capture with symbols in the given dimensions. Their sizes in the arguments are examples, and at least 2.

    Raises:
        CaptureError: torch.compile cannot take the model, splits it, or makes the sizes part of the graph.
    """
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    for leaf, dim in dynamic:
        torch._dynamo.maybe_mark_dynamic(leaves[leaf], dim)
    found = compile_pieces(model, args, kwargs, name)
    if len(found.pieces) != 1 or not found.whole or found.break_reasons:
        reasons = "; ".join(found.break_reasons) or f"{len(found.pieces)} pieces"
        raise CaptureError(f"torch.compile splits the model, so that sizes inside it are not known from its inputs: {reasons}")
    (piece,) = found.pieces
    position = {id(leaf): i for i, leaf in enumerate(leaves)}
    symbols: dict[Any, Place] = {}
    environment = None
    for argument, fake in zip(piece.arguments, piece.fakes, strict=True):
        leaf = position.get(id(argument)) if isinstance(argument, torch.Tensor) else None
        if leaf is None:
            continue
        for dim, size in enumerate(fake.shape):
            if isinstance(size, torch.SymInt) and (leaf, dim) in dynamic:
                # The symbol the dimension began with, which torch may since have found to equal another.
                symbols[size.node._expr] = (leaf, dim)
                environment = size.node.shape_env
    if environment is None:
        raise CaptureError("none of the sizes stays a symbol: the model makes them part of its graph")
    return SymbolicCapture(piece, symbols, leaf_shapes(args, kwargs), environment, name)
