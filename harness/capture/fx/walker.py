"""An FX graph of ATen operators -> a `Graph`: which value feeds which call, which are weights, which share memory."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, Value, ValueKind
from shmoo.harness.capture.fx.introspect import CaptureError, OperatorIntrospector, dtype_name, is_tensor_node, leaves, tensor_of
from shmoo.harness.capture.fx.trace import ENTER, EXIT, attribute_tensors, autocast_dtype, has_autocast, trace_aten

_IGNORED = (
    "_assert_async.msg _assert_async.default _assert_scalar.default _assert_tensor_metadata.default sym_constrain_range.default "
    "sym_constrain_range_for_size.default sym_size.int sym_stride.int sym_numel.default sym_storage_offset.default item.default "
    "_local_scalar_dense.default"
)
_NOT_CALLS = frozenset({torch._C._set_grad_enabled, ENTER, EXIT, *operator.attrgetter(*_IGNORED.split())(torch.ops.aten)})
"""Calls without arithmetic on tensors: modes, assertions, constraints on sizes, and queries of a size or of one number."""
_WHOLE_VIEWS = frozenset({torch.ops.aten.slice.Tensor, torch.ops.aten.alias.default})

CALL_INDEX = "shmoo_call"
"""Key of a walked node's `meta`: the index of its call in the graph's record."""
_SOURCE_KEY = re.compile(r"\['?([^'\]]*)'?\]|\.([A-Za-z]\w*)")
_CONTAINERS = frozenset({"_modules", "_parameters", "_buffers"})


class Origin(NamedTuple):
    """The kind and the name of the tensor behind a placeholder."""

    kind: ValueKind
    name: str = ""


class Origins:
    """Tells weights from activations while a model runs.

    Args:
        model: a module, or a function, whose weights are then recognized by where Dynamo found them.
    """

    def __init__(self, model: Any) -> None:
        self._weights: dict[int, Origin] = {}
        if isinstance(model, torch.nn.Module):
            self._weights |= {id(buffer): Origin("buffer", name) for name, buffer in model.named_buffers()}
            self._weights |= {id(parameter): Origin("parameter", name) for name, parameter in model.named_parameters()}
        self._activations: set[Any] = set()

    def flows(self, *values: Any) -> None:
        """Record that these tensors are arguments or results computed on the way."""
        self._activations.update(storage_key(leaf) for leaf in leaves(values) if isinstance(leaf, torch.Tensor))

    def of(self, tensor: Any, source: str = "") -> Origin:
        """The origin of a graph's input.

        Args:
            tensor: the tensor itself (a number is an input).
            source: where Dynamo found it, such as "L['self']._modules['fc']._parameters['weight']".
        """
        if id(tensor) in self._weights:
            return self._weights[id(tensor)]
        keys = [subscript or attribute for subscript, attribute in _SOURCE_KEY.findall(source)]
        path = [key for key in keys if key not in _CONTAINERS]
        name = ".".join(path[1:] or path)
        if isinstance(tensor, torch.nn.Parameter):
            return Origin("parameter", name)
        if not isinstance(tensor, torch.Tensor) or storage_key(tensor) in self._activations:
            return Origin("input", ".".join(path))
        return Origin("buffer" if "_buffers[" in source else "constant", name)


def source_of(node: fx.Node) -> str:
    """Where Dynamo found the value of a placeholder: "L['x']"."""
    argument = node.meta.get("grapharg")
    name = getattr(argument.source, "name", "") if argument is not None else ""
    return name() if callable(name) else name


class FXGraphWalker:
    """Walks graphs node by node. Every tensor operator becomes one call; a node that is neither that nor known to compute nothing
    keeps its own name, so that it is listed as unknown rather than lost."""

    def __init__(self, introspector: OperatorIntrospector | None = None) -> None:
        self.introspector = introspector or OperatorIntrospector()

    def walk(
        self,
        module: fx.GraphModule,
        inputs: Sequence[Any] | None = None,
        *,
        origins: Sequence[Origin] | None = None,
        name: str = "",
    ) -> Graph:
        """The graph's record.

        Args:
            module: a graph module. Without `inputs` every node must carry its result in `meta["val"]`.
            inputs: example inputs; given, shapes are propagated from them by tracing to ATen operators first.
            origins: the origin of each placeholder, in order; by default all are inputs.
            name: the record's name.

        Raises:
            CaptureError: a node lacks `meta["val"]`, or a size depends on data.
        """
        if origins is None:
            origins = [Origin("input", node.name) for node in module.graph.find_nodes(op="placeholder")]
        if inputs is not None:
            origins = [*origins, *(_attribute_origin(*item) for item in attribute_tensors(module).items())]
            module = trace_aten(module, inputs)
        return _Walk(module, self.introspector).run(origins, name)


def _attribute_origin(target: str, tensor: torch.Tensor) -> Origin:
    return Origin("parameter" if isinstance(tensor, torch.nn.Parameter) else "constant", target)


class _Holder(NamedTuple):
    """One tensor that a node stands for: its value's index, the tensor itself, and the serial of the last write it includes."""

    value: int
    tensor: torch.Tensor
    seen: int


class _Write(NamedTuple):
    """The latest write into a storage: its serial number, and the index of the value that holds the result."""

    serial: int
    value: int
    tensor: torch.Tensor


class _Walk:
    """The state of one walk.

    `memory` maps a storage to the value that owns it, `writes` to the last write into it. A node that is read after another
    node's write stands for the written value when both cover the same elements, otherwise for a new alias of it.
    """

    def __init__(self, module: fx.GraphModule, introspector: OperatorIntrospector) -> None:
        self.module = module
        self.introspector = introspector
        self.values: list[Value] = []
        self.calls: list[OpCall] = []
        self.holders: dict[fx.Node, list[_Holder]] = {}
        self.memory: dict[StorageWeakRef, int] = {}
        self.writes: dict[StorageWeakRef, _Write] = {}
        self.serial = 0
        self.autocast = has_autocast(module)
        self.converted: dict[tuple[int, str], int] = {}

    def run(self, origins: Sequence[Origin], name: str) -> Graph:
        origin_of = dict(zip(self.module.graph.find_nodes(op="placeholder"), origins, strict=True))
        outputs: tuple[int, ...] = ()
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                # Weights that the graph does not read are left out.
                if node.users or origin_of[node].kind == "input":
                    self._add_source(node, origin_of[node])
            elif node.op == "get_attr":
                attribute = operator.attrgetter(node.target)(self.module)
                if isinstance(attribute, torch.Tensor):
                    node.meta.setdefault("val", attribute)
                    self._add_source(node, _attribute_origin(node.target, attribute))
            elif node.op == "output":
                outputs = tuple(index for leaf in node.all_input_nodes for index in self._current(leaf))
            elif node.target is operator.getitem and node.args[0] in self.holders:
                self._add_item(node)
            elif self._is_whole(node):
                self.holders[node] = list(self.holders[node.args[0]])
            elif self._computes(node):
                self._add_call(node)
        return Graph(values=tuple(self.values), calls=tuple(self.calls), outputs=outputs, name=name)

    def _add_source(self, node: fx.Node, origin: Origin) -> None:
        if is_tensor_node(node):
            self.holders[node] = [self._new(tensor_of(node), origin.kind, origin.name)]

    def _add_item(self, node: fx.Node) -> None:
        """Taking one of several results is not a call: the node stands for that value."""
        parent, key = node.args
        values = parent.meta["val"]
        first, count = (sum(isinstance(x, torch.Tensor) for x in leaves(part)) for part in (list(values)[:key], values[key]))
        self.holders[node] = self.holders[parent][first : first + count]

    def _is_whole(self, node: fx.Node) -> bool:
        """Whether the node is an unchanged view of its whole operand, which torch may insert or omit (`x[:]`)."""
        if node.target not in _WHOLE_VIEWS or node.args[0] not in self.holders:
            return False
        spec = self.introspector.spec
        return spec(tensor_of(node)) == spec(tensor_of(node.args[0])) and (len(node.args) < 5 or node.args[4] == 1)

    def _computes(self, node: fx.Node) -> bool:
        """Whether the node is a call: not listed in `_NOT_CALLS`, and it reads or returns a tensor."""
        if node.target in _NOT_CALLS:
            return False
        if ("val" not in node.meta and "example_value" in node.meta) or node.op in ("call_module", "call_method"):
            raise CaptureError(
                f"node {node.name!r} ({node.target}) is not an ATen operator with its result in meta['val']; "
                "give `inputs`, so that the graph is traced to ATen operators first"
            )
        return bool(self.introspector.results(node)) or any(source in self.holders for source in node.all_input_nodes)

    def _add_call(self, node: fx.Node) -> None:
        call = self.introspector.introspect(node)
        reads = tuple(index for _, source in self.introspector.operands(node) for index in self._current(source))
        if self.autocast:
            call, reads = self._convert(node, call, reads)
        results = [self._new(tensor) for tensor in self.introspector.results(node)]
        self.holders[node] = results
        written = self._write(self.introspector.written(node), results)
        node.meta[CALL_INDEX] = len(self.calls)
        self.calls.append(
            msgspec.structs.replace(
                call,
                reads=reads,
                outputs=call.outputs + tuple(self.values[holder.value].spec for holder in written),
                writes=tuple(holder.value for holder in (*results, *written)),
            )
        )

    def _convert(self, node: fx.Node, call: OpCall, reads: tuple[int, ...]) -> tuple[OpCall, tuple[int, ...]]:
        """The call as autocast makes it: floating operands are converted before it, by separate calls; a weight only once."""
        dtype = autocast_dtype(node)
        if dtype is None:
            return call, reads
        indices = []
        for index, (_, source) in zip(reads, self.introspector.operands(node), strict=True):
            operand = tensor_of(source)
            differs = operand.is_floating_point() and operand.dtype != dtype
            indices.append(self._converted(index, dtype_name(dtype), call) if differs else index)
        inputs = tuple(self.values[index].spec for index in indices)
        return msgspec.structs.replace(call, inputs=inputs), tuple(indices)

    def _converted(self, index: int, dtype: str, reader: OpCall) -> int:
        """Value `index` in another type, by a call that stands before its reader."""
        if (index, dtype) in self.converted:
            return self.converted[index, dtype]
        old = self.values[index].spec
        new = TensorSpec(old.shape, dtype)
        converted = self._append(Value(new))
        if self.values[index].is_weight:
            self.converted[index, dtype] = converted
        self.calls.append(
            OpCall(
                op="aten.to",
                inputs=(old,),
                outputs=(new,),
                operands=("self",),
                attributes={"dtype": dtype, "non_blocking": False, "copy": False, "memory_format": None},
                reads=(index,),
                writes=(converted,),
                overload="dtype",
                module=reader.module,
                source=reader.source,
            )
        )
        return converted

    def _write(self, targets: Sequence[fx.Node], results: list[_Holder]) -> list[_Holder]:
        """Record the call's writes into its operands; returns new values for the written operands that it does not return."""
        unreturned = []
        for target in targets:
            place = tensor_of(target)
            key = storage_key(place)
            holder = next((r for r in results if storage_key(r.tensor) == key and same_place(r.tensor, place)), None)
            if holder is None:
                holder = self._new(place)
                unreturned.append(holder)
            self.serial += 1
            self.writes[key] = _Write(self.serial, holder.value, place)
        results[:] = [holder._replace(seen=self.serial) for holder in results]
        return unreturned

    def _current(self, node: fx.Node) -> list[int]:
        """Indices of the values that a node stands for at this point of the walk."""
        holders = self.holders.get(node, [])
        for i, holder in enumerate(holders):
            write = self.writes.get(storage_key(holder.tensor))
            if write is not None and write.serial > holder.seen:
                index = write.value
                if not same_place(holder.tensor, write.tensor):
                    index = self._append(Value(self.introspector.spec(holder.tensor), storage=write.value))
                holders[i] = _Holder(index, holder.tensor, write.serial)
        return [holder.value for holder in holders]

    def _new(self, tensor: torch.Tensor, kind: ValueKind = "activation", name: str = "") -> _Holder:
        key = storage_key(tensor)
        owner = self.memory.get(key)
        index = self._append(Value(self.introspector.spec(tensor), kind, name, owner))
        if owner is None:
            self.memory[key] = index
        return _Holder(index, tensor, self.serial)

    def _append(self, value: Value) -> int:
        self.values.append(value)
        return len(self.values) - 1


def storage_key(tensor: torch.Tensor) -> StorageWeakRef | int:
    """A key that two tensors share exactly when they share memory; sparse and other tensors without storage have a key each."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except NotImplementedError:
        return id(tensor)


def same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage cover the same elements in the same order."""
    return (a.dtype, a.shape, a.storage_offset(), a.stride()) == (b.dtype, b.shape, b.storage_offset(), b.stride())
