"""An FX graph of ATen operators -> a `Graph`: which value feeds which call, which are weights, which share memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from shmoo.estimators.records import Graph, OpCall, TensorSpec, Value, ValueKind
from shmoo.harness.capture.autocast import autocast_in, computes_in
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.introspect import OperatorIntrospector, dtype_name, is_tensor_node, leaves, tensor_of
from shmoo.harness.capture.trace import attribute_tensors, trace_aten

_NOT_CALLS = frozenset(
    {
        torch._C._set_grad_enabled,
        torch.amp.autocast_mode._enter_autocast,
        torch.amp.autocast_mode._exit_autocast,
        torch.ops.aten._assert_async.msg,
        torch.ops.aten._assert_async.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten.sym_constrain_range.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
        torch.ops.aten.sym_size.int,
        torch.ops.aten.sym_stride.int,
        torch.ops.aten.sym_numel.default,
        torch.ops.aten.sym_storage_offset.default,
        torch.ops.aten.item.default,
        torch.ops.aten._local_scalar_dense.default,
    }
)
"""Calls that compute nothing on tensors: modes, assertions, promises about sizes, and questions for a size or for one number."""

_WHOLE_VIEWS = frozenset({torch.ops.aten.slice.Tensor, torch.ops.aten.alias.default})


CALL_INDEX = "shmoo_call"
"""Key of a walked node's `meta`: the index of its call in the graph's record."""


class Origin(NamedTuple):
    """What a placeholder stands for."""

    kind: ValueKind
    name: str = ""


class FXGraphWalker:
    """Walks graphs node by node; every tensor operator becomes one call, and what is neither that nor known to compute nothing is
    kept under its own name, so that it is listed as unknown rather than lost."""

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
            module: a graph module. Without `inputs` every node must carry what it returns in `meta["val"]`.
            inputs: example inputs; given, shapes are propagated from them by tracing to ATen operators first.
            origins: what each placeholder stands for, in order; by default all are inputs.
            name: the record's name.

        Raises:
            CaptureError: a node lacks `meta["val"]`, or a size depends on data.
        """
        if inputs is not None:
            held = [_held_origin(target, tensor) for target, tensor in attribute_tensors(module).items()]
            given = list(origins) if origins is not None else [Origin("input", n.name) for n in _placeholders(module)]
            module = trace_aten(module, inputs)
            origins = [*given, *held]
        return _Walk(module, self.introspector).run(origins, name)


def _placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="placeholder"))


def _held_origin(target: str, tensor: torch.Tensor) -> Origin:
    return Origin("parameter" if isinstance(tensor, torch.nn.Parameter) else "constant", target)


class _Holder(NamedTuple):
    """One tensor a node stands for: its value, the tensor that says where it lies, and the last write it has seen."""

    index: int
    tensor: torch.Tensor
    seen: int


class _Write(NamedTuple):
    """The latest write into a storage: when, and the value that holds what was written."""

    serial: int
    index: int
    tensor: torch.Tensor


class _Walk:
    """The state of one walk.

    `memory` says which value owns a storage and `writes` what was written into it last. A node read after a write that it did not
    make itself stands for the written value when both cover the same elements, otherwise for a new alias of it.
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
        self.autocast = autocast_in(module)
        self.converted: dict[tuple[int, str], int] = {}

    def run(self, origins: Sequence[Origin] | None, name: str) -> Graph:
        placeholders = _placeholders(self.module)
        if origins is None:
            origins = [Origin("input", node.name) for node in placeholders]
        known = dict(zip(placeholders, origins, strict=True))
        outputs: tuple[int, ...] = ()
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                # Of weights only those are kept that the graph reads.
                if node.users or known[node].kind == "input":
                    self._source(node, known[node])
            elif node.op == "get_attr":
                self._held(node)
            elif node.op == "output":
                outputs = tuple(index for leaf in node.all_input_nodes for index in self._current(leaf))
            elif node.target is operator.getitem and node.args[0] in self.holders:
                self._pick(node)
            elif self._is_whole(node):
                self.holders[node] = list(self.holders[node.args[0]])
            elif self._computes(node):
                self._call(node)
        return Graph(values=tuple(self.values), calls=tuple(self.calls), outputs=outputs, name=name)

    def _source(self, node: fx.Node, origin: Origin) -> None:
        if is_tensor_node(node):
            self.holders[node] = [self._new(tensor_of(node), origin.kind, origin.name)]

    def _held(self, node: fx.Node) -> None:
        held = operator.attrgetter(node.target)(self.module)
        if isinstance(held, torch.Tensor):
            node.meta.setdefault("val", held)
            self._source(node, _held_origin(node.target, held))

    def _pick(self, node: fx.Node) -> None:
        """A result taken from several is no call: the node stands for that value."""
        parent, key = node.args
        values = parent.meta["val"]
        first = sum(isinstance(leaf, torch.Tensor) for leaf in leaves(list(values)[:key]))
        count = sum(isinstance(leaf, torch.Tensor) for leaf in leaves(values[key]))
        self.holders[node] = self.holders[parent][first : first + count]

    def _is_whole(self, node: fx.Node) -> bool:
        """Whether the node is a view of all of its operand as it is, which torch makes or leaves out as it likes (`x[:]`)."""
        if node.target not in _WHOLE_VIEWS or node.args[0] not in self.holders:
            return False
        spec = self.introspector.spec
        return spec(tensor_of(node)) == spec(tensor_of(node.args[0])) and (len(node.args) < 5 or node.args[4] == 1)

    def _computes(self, node: fx.Node) -> bool:
        """Whether the node is a call: it is not known to compute nothing, and reads or returns a tensor."""
        if node.target in _NOT_CALLS:
            return False
        if ("val" not in node.meta and "example_value" in node.meta) or node.op in ("call_module", "call_method"):
            raise CaptureError(
                f"node {node.name!r} ({node.target}) is not an ATen operator with its result in meta['val']; "
                "give `inputs`, so that the graph is traced to ATen operators first"
            )
        return bool(self.introspector.results(node)) or any(source in self.holders for source in node.all_input_nodes)

    def _call(self, node: fx.Node) -> None:
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
                outputs=call.outputs + tuple(self.values[holder.index].spec for holder in written),
                writes=tuple(holder.index for holder in (*results, *written)),
            )
        )

    def _convert(self, node: fx.Node, call: OpCall, reads: tuple[int, ...]) -> tuple[OpCall, tuple[int, ...]]:
        """The call as autocast makes it: floating operands converted before, by calls of their own; a weight once."""
        wanted = computes_in(node)
        if wanted is None:
            return call, reads
        name = dtype_name(wanted)
        indices = []
        for index, (_, source) in zip(reads, self.introspector.operands(node), strict=True):
            held = tensor_of(source)
            if held.is_floating_point() and held.dtype != wanted:
                index = self._converted(index, name, call)
            indices.append(index)
        inputs = tuple(self.values[index].spec for index in indices)
        return msgspec.structs.replace(call, inputs=inputs), tuple(indices)

    def _converted(self, index: int, dtype: str, reader: OpCall) -> int:
        """Value `index` in another type, by a call that stands before its reader."""
        found = self.converted.get((index, dtype))
        if found is None:
            old = self.values[index].spec
            new = TensorSpec(old.shape, dtype)
            found = self._append(Value(new))
            if self.values[index].is_weight:
                self.converted[index, dtype] = found
            self.calls.append(
                OpCall(
                    op="aten.to",
                    inputs=(old,),
                    outputs=(new,),
                    operands=("self",),
                    attributes={"dtype": dtype, "non_blocking": False, "copy": False, "memory_format": None},
                    reads=(index,),
                    writes=(found,),
                    overload="dtype",
                    module=reader.module,
                    source=reader.source,
                )
            )
        return found

    def _write(self, targets: Sequence[fx.Node], results: list[_Holder]) -> list[_Holder]:
        """Note what the call wrote into its operands; returns new values for those it does not return."""
        silent = []
        for target in targets:
            place = tensor_of(target)
            key = storage_key(place)
            holder = next((held for held in results if storage_key(held.tensor) == key and same_place(held.tensor, place)), None)
            if holder is None:
                holder = self._new(place)
                silent.append(holder)
            self.serial += 1
            self.writes[key] = _Write(self.serial, holder.index, place)
        for i, holder in enumerate(results):
            results[i] = holder._replace(seen=self.serial)
        return silent

    def _current(self, node: fx.Node) -> list[int]:
        """Indices of the values a node stands for now."""
        holders = self.holders.get(node, [])
        for i, holder in enumerate(holders):
            write = self.writes.get(storage_key(holder.tensor))
            if write is None or write.serial <= holder.seen:
                continue
            index = write.index
            if not same_place(holder.tensor, write.tensor):
                index = self._append(Value(self.introspector.spec(holder.tensor), storage=write.index))
            holders[i] = _Holder(index, holder.tensor, write.serial)
        return [holder.index for holder in holders]

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
    """What two tensors share exactly when they share memory; sparse tensors and others without a storage share with nobody."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except NotImplementedError:
        return id(tensor)


def same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage cover the same elements in the same order."""
    return (a.dtype, a.shape, a.storage_offset(), a.stride()) == (b.dtype, b.shape, b.storage_offset(), b.stride())
