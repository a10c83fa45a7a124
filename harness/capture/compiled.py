"""The pieces of torch.compile: a capturing back-end that stores each piece as traced ATen operators with the origins of its
inputs, and a recorder of the operators that run outside the pieces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._guards import TracingContext
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture.fx.aten_trace import attribute_tensors, trace_aten
from shmoo.harness.capture.fx.introspect import CaptureError, calling_module, first_line, model_frame, relative_path, result_nodes
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin, Origins, Traced, source_of


class Piece(NamedTuple):
    """One piece of a model under torch.compile.

    Attributes:
        arguments: values of the placeholders when the piece ran; `None` for operators left to eager execution.
        attributes: tensors stored in the piece itself; their placeholders follow Dynamo's.
    """

    traced: Traced
    graph: Graph
    arguments: tuple[Any, ...] | None = None
    attributes: tuple[torch.Tensor, ...] = ()


class EagerRecorder(TorchDispatchMode):
    """While active, writes every dispatched operator into an FX graph, except inside `run_unseen` and while Dynamo traces.
    Operators are recorded below autograd, so composite ones arrive decomposed (`linear` as `t` and `addmm`). Results are stored
    as fake tensors: recording keeps no activation alive. `finished` is called with the graph of each segment and the origins of
    its placeholders."""

    supports_higher_order_operators = True

    def __init__(self, model: Any, origins: Origins, finished: Callable[[fx.GraphModule, list[Origin]], None]) -> None:
        super().__init__()
        modules = model.named_modules() if isinstance(model, torch.nn.Module) else ()
        self._modules = {id(module): path for path, module in modules}
        self._origins = origins
        self._finished = finished
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._paused = False
        self._begin()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let Dynamo trace although this mode is active: it changes nothing."""
        return True

    def _begin(self) -> None:
        self._graph = fx.Graph()
        self._entering: dict[fx.Node, Origin] = {}
        self._nodes = WeakTensorKeyDictionary()

    def run_unseen(self, piece: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call `piece` without recording it; operators recorded before it become a finished segment."""
        self.flush()
        before, self._paused = self._paused, True
        try:
            return piece(*arguments)
        finally:
            self._paused = before

    def flush(self) -> None:
        """Finish the current segment, if it contains any call."""
        if any(node.op == "call_function" for node in self._graph.nodes):
            self._graph.output(())
            placeholders = self._graph.find_nodes(op="placeholder")
            self._finished(fx.GraphModule(torch.nn.Module(), self._graph), [self._entering[node] for node in placeholders])
        self._begin()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        touches_fake = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs, result)))
        if not self._paused and TracingContext.try_get() is None and not touches_fake:
            self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if isinstance(func, torch._ops.HigherOrderOperator):
            # A graph cannot hold functions, such as the score function of an attention.
            args = tree_map(lambda value: None if callable(value) and not isinstance(value, torch.Tensor) else value, args)
        node_args, node_kwargs = tree_map_only(torch.Tensor, self._node_of, (args, kwargs))
        node = self._graph.call_function(func, node_args, node_kwargs)
        node.meta["val"] = tree_map_only(torch.Tensor, self._fake.from_tensor, result)
        node.meta["stack_trace"] = model_frame()
        node.meta["nn_module_stack"] = {"": (calling_module(self._modules), "")}
        self._origins.flows(result)
        self._nodes.update(result_nodes(node, result))

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        node = self._nodes.get(tensor)
        if node is None:
            first = next(iter(self._graph.nodes), None)
            with self._graph.inserting_before(first):
                node = self._graph.placeholder(f"entering_{len(self._entering)}")
            node.meta["val"] = self._fake.from_tensor(tensor)
            self._entering[node] = self._origins.of(tensor)
            self._nodes[tensor] = node
        return node


class _CapturingBackend:
    """A torch.compile back-end that records each piece when it runs, and runs it unchanged."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.pieces: list[Piece] = []
        self.origins = Origins(model)
        self.recorder = EagerRecorder(model, self.origins, self._add_eager_segment)
        self.break_reasons: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.try_get()
        fakes = tuple(inputs if context is None or context.fake_mode is None else (_fake(value, context) for value in inputs))
        traced = trace_aten(module, fakes, context.fake_mode if context else None)
        attributes = attribute_tensors(module)
        origins = placeholder_origins(module, inputs, self.origins)
        origins += [self.origins.of(tensor, target) for target, tensor in attributes.items()]
        graph = FXGraphWalker().walk(traced, origins=origins, name=self.name)
        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            frames = reason.user_stack
            place = f" ({relative_path(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
            self.break_reasons.append(first_line(reason.reason) + place)

        def run(*arguments: Any) -> Any:
            results = self.recorder.run_unseen(module.forward, arguments)
            self.pieces.append(Piece(Traced(traced, origins, fakes), graph, arguments, tuple(attributes.values())))
            self.origins.flows(results)
            return results

        return run

    def _add_eager_segment(self, module: fx.GraphModule, origins: list[Origin]) -> None:
        graph = FXGraphWalker().walk(module, origins=origins, name=self.name)
        if graph.calls:
            self.pieces.append(Piece(Traced(module, origins), graph))
            self.break_reasons.append(f"{len(graph.calls)} operators left to eager execution ({graph.calls[0].source})")


def placeholder_origins(module: fx.GraphModule, inputs: Sequence[Any], origins: Origins) -> list[Origin]:
    """Origins of the placeholders of one of Dynamo's pieces."""
    placeholders = module.graph.find_nodes(op="placeholder")
    return [origins.of(value, source_of(node)) for node, value in zip(placeholders, inputs, strict=True)]


def _fake(value: Any, context: TracingContext) -> Any:
    """An input as a fake tensor, with symbols for the sizes that Dynamo made symbolic."""
    if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
        return value
    symbols = context.tensor_to_context.get(value)
    if symbols is None:
        return context.fake_mode.from_tensor(value, static_shapes=True)
    return context.fake_mode.from_tensor(value, symbolic_context=symbols, source=symbols.tensor_source)


def compile_pieces(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], name: str = ""
) -> tuple[list[Piece], list[str]]:
    """Run `model(*args, **kwargs)` once under torch.compile, without gradients; returns its pieces in the order they ran, and the
    reasons for the splits. Sizes are the arguments' sizes, except in dimensions marked by `torch._dynamo.maybe_mark_dynamic`.
    `CaptureError` where torch.compile cannot take the model, or the model fails."""
    from torch._dynamo.utils import counters

    backend = _CapturingBackend(model, name)
    backend.origins.flows(args, kwargs)
    before = dict(counters["graph_break"])
    try:
        with torch.no_grad(), compiled_apart(model, backend) as compiled:
            with backend.recorder:
                compiled(*args, **kwargs)
            backend.recorder.flush()
    except Exception as error:
        label = name or getattr(model, "__name__", type(model).__name__)
        raise CaptureError(f"torch.compile cannot take {label!r}: {first_line(error)}") from error
    reasons = list(backend.break_reasons)
    for text, count in counters["graph_break"].items():
        skipped = first_line(text)
        if count > before.get(text, 0) and not any(reason.startswith(skipped) for reason in reasons):
            reasons.append(skipped)
    return backend.pieces, reasons


@contextmanager
def compiled_apart(function: Callable[..., Any], backend: Any) -> Iterator[Callable[..., Any]]:
    """`function` under torch.compile, isolated from the process's other compilations where torch.compile can do that (2.13 and
    later), and without Dynamo's limits on recompilation, which captures of one model at many shapes would reach."""
    from torch._dynamo import config

    isolated = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
    with config.patch(recompile_limit=1 << 20, accumulated_recompile_limit=1 << 20):
        yield torch.compile(function, backend=backend, dynamic=False, **isolated)
