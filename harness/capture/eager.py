"""Recording of operators outside Dynamo's pieces: between graph breaks, and in whole frames that Dynamo skips."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from shmoo.harness.capture.introspect import model_frame
from shmoo.harness.capture.walker import Origin, Origins


class EagerRecorder(TorchDispatchMode):
    """While active, writes every dispatched operator into an FX graph, except inside `run_unseen` and while Dynamo traces.

    Operators are recorded below autograd, so composite ones arrive decomposed (`linear` as `t` and `addmm`). Results are
    stored as fake tensors: recording keeps no activation alive.

    Args:
        origins: is told every result, and gives the origin of each tensor that enters a segment from outside.
        finished: called with each segment: its graph and the origins of its placeholders.
    """

    def __init__(self, origins: Origins, finished: Callable[[fx.GraphModule, list[Origin]], None]) -> None:
        super().__init__()
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
        self._paused = True
        try:
            return piece(*arguments)
        finally:
            self._paused = False

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
        node_args, node_kwargs = tree_map_only(torch.Tensor, self._node_of, (args, kwargs))
        node = self._graph.call_function(func, node_args, node_kwargs)
        node.meta["val"] = tree_map_only(torch.Tensor, self._fake.from_tensor, result)
        node.meta["stack_trace"] = model_frame()
        self._origins.flows(result)
        if isinstance(result, torch.Tensor):
            self._nodes[result] = node
        elif isinstance(result, (list, tuple)):
            for i, element in enumerate(result):
                if isinstance(element, torch.Tensor):
                    item = self._graph.call_function(operator.getitem, (node, i))
                    item.meta["val"] = node.meta["val"][i]
                    self._nodes[element] = item

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
