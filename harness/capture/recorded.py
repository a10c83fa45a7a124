"""Capture by running a model on meta tensors and recording every operator. It needs neither torch.export nor fake tensors, whose
imports take longer than the capture of a small model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map_only

from shmoo.harness.capture.fx.fast_path import encoder_fast_path
from shmoo.harness.capture.fx.guard import absent_devices_on_cpu, guarded
from shmoo.harness.capture.fx.introspect import CaptureError, first_line, model_frame, module_paths, result_nodes
from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin, weight_origins, with_all_weights, with_notes
from shmoo.harness.module import Capture

_AUTOCAST = ("cpu", "cuda")
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@guarded
def capture_recorded(
    model: torch.nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture `model(*args, **kwargs)` at inference, in one graph of undecomposed operators.

    The model's Python runs once, as in eager execution, with weights, arguments and intermediate tensors on the meta device.
    Anything that such a run cannot show is refused: values of data, constants, autocast, functional transforms, and branches and
    loops that torch keeps as one call.

    Raises:
        CaptureError: the model fails on the meta device, or uses one of these.
    """
    recorder = _Recorder(model, args, dict(kwargs or {}))
    # The same settings as in torch.export.
    compiling, libraries = torch.compiler._compile_session_context(), torch.backends.cudnn.flags(enabled=False)
    try:
        with (
            torch.no_grad(),
            compiling,
            absent_devices_on_cpu(),
            dynamo_put_off(),
            encoder_fast_path() as notes,
            recorder.recording(),
            libraries,
        ):
            result = model(*args, **(kwargs or {}))
        module = recorder.finish(result)
    except Exception as error:
        raise CaptureError(f"{name or type(model).__name__!r} does not run on the meta device: {first_line(error)}") from error
    graph = with_notes(FXGraphWalker().walk(module, origins=recorder.origins, name=name), notes)
    return Capture(with_all_weights((graph,), model), method="record")


class _Recorder(ProxyTorchDispatchMode):
    """While active, records every operator in an FX graph, above autograd, where composite operators are whole. `CaptureError`
    where a weight or an argument is not a plain tensor on the meta device."""

    def __init__(self, model: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        # Above autograd torch accepts only its own modes; this one uses their slot and nothing else.
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack: list[object] = []
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        # An id identifies a tensor only while the tensor lives.
        self._alive: list[torch.Tensor] = []
        # For a tensor made from numbers, torch returns a copy that shares its memory.
        self._fresh: dict[int, fx.Node] = {}
        self._path = ""
        self.origins: list[Origin] = []
        self._model = model
        if any(isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod") for part in model.modules()):
            raise CaptureError("a part of it is compiled already, so its operators cannot be recorded")
        for weight, origin in weight_origins(model):
            self._enter(weight, origin)
        for input_name, leaf in _inputs(model, args, kwargs):
            if isinstance(leaf, torch.Tensor):
                self._enter(leaf, Origin("input", input_name))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Avoid the import of Dynamo, which traces nothing here."""
        return False

    def _enter(self, tensor: torch.Tensor, origin: Origin) -> None:
        if type(tensor) not in _PLAIN or not tensor.is_meta:
            raise CaptureError(f"{origin.name!r} is not a plain tensor on the meta device")
        if id(tensor) not in self._nodes:
            node = self._graph.placeholder(f"entering_{len(self.origins)}")
            self._keep(tensor, node)
            node.meta["val"] = tensor.detach()
            self.origins.append(origin)

    def _keep(self, tensor: torch.Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While active, operators are recorded with the path of their module."""

        def enter(path: str) -> None:
            self._path = path

        with module_paths(self._model, enter), enable_python_dispatcher(), self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or torch._C._functorch.peek_interpreter_stack() is not None:
            raise CaptureError(f"{func} is called with a body, or inside a functional transform")
        if any(map(torch.is_autocast_enabled, _AUTOCAST)):
            raise CaptureError("torch.autocast has no effect on the meta device")
        node_args, node_kwargs = tree_map_only(torch.Tensor, self._node_of, (args, kwargs))
        device = kwargs.get("device")
        if device is not None and torch.device(device).type != "meta":
            kwargs = {**kwargs, "device": torch.device("meta")}
        # torch's compiled shape functions are many times faster than its Python ones. The Python one is used for a dropout that
        # drops nothing, which is a copy, as in torch.export.
        with nullcontext() if func is torch.ops.aten.dropout.default else no_python_dispatcher():
            result = func(*args, **kwargs)
        node = self._graph.call_function(func, node_args, node_kwargs)
        node.meta["stack_trace"] = model_frame()
        node.meta["nn_module_stack"] = {"": (self._path, "")}
        node.meta["val"] = tree_map_only(torch.Tensor, torch.Tensor.detach, result)
        for tensor, result_node in result_nodes(node, result):
            self._keep(tensor, result_node)
        reads_tensors = any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs)))
        if isinstance(result, torch.Tensor) and (not reads_tensors or func._schema.name.endswith("_like")):
            self._fresh[result.untyped_storage()._cdata] = node
        return result

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor))
        if node is None and (node := self._fresh.get(tensor.untyped_storage()._cdata)) is not None:
            self._keep(tensor, node)
        if node is None:
            raise CaptureError("the model reads a tensor that is neither a weight nor an argument")
        return node

    def finish(self, result: Any) -> fx.GraphModule:
        """The recorded graph, returning the tensors of a result."""
        self._graph.output([self._node_of(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)])
        self._graph.eliminate_dead_code()
        return fx.GraphModule(torch.nn.Module(), self._graph)


def _inputs(model: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of the arguments, each with a name from its parameter and the keys inside it ("x", "images_0")."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise CaptureError(f"{type(model).__name__}.forward does not take these inputs: {error}") from None
    for path, leaf in tree_flatten_with_path(bound)[0]:
        yield "_".join(str(getattr(key, "idx", getattr(key, "key", key))) for key in path), leaf
