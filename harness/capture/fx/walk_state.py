"""One walk over an FX graph: its nodes, in order, become values and calls; bodies of branches and loops become their calls."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from shmoo.estimators.costs import classify, cost_of
from shmoo.estimators.graph.records import Attribute, Graph, OpCall, TensorSpec, Value, ValueKind
from shmoo.harness.capture.fx.aten_trace import ENTER, EXIT, autocast_dtype, has_autocast
from shmoo.harness.capture.fx.bodies import (
    BODIES,
    BRANCH_NOTE,
    LOOP_NOTE,
    Constants,
    bodies_of,
    body_kind,
    node_lists,
    parts_of,
    trip_count,
)
from shmoo.harness.capture.fx.introspect import (
    CaptureError,
    OperatorIntrospector,
    dtype_name,
    is_tensor_node,
    operator_name,
    tensor_of,
)

_IGNORED = (
    "_assert_async.msg _assert_async.default _assert_scalar.default _assert_tensor_metadata.default sym_constrain_range.default "
    "sym_constrain_range_for_size.default sym_size.int sym_stride.int sym_numel.default sym_storage_offset.default item.default "
    "_local_scalar_dense.default"
)
_NOT_CALLS = frozenset({torch._C._set_grad_enabled, ENTER, EXIT, *operator.attrgetter(*_IGNORED.split())(torch.ops.aten)})
"""Calls without arithmetic on tensors: modes, assertions, constraints on sizes, and queries of a size or of one number."""
_WHOLE_VIEWS = frozenset({torch.ops.aten.slice.Tensor, torch.ops.aten.alias.default})

_JOINS = frozenset({"aten.reshape", "aten.flatten", "aten.contiguous"})
_ORDERS = frozenset({"aten.transpose", "aten.permute"})
CALL_INDEX = "shmoo_call"
"""Key of a walked node's `meta`: the index of its call in the graph's record."""


class Origin(NamedTuple):
    """Kind and name of the tensor behind a placeholder."""

    kind: ValueKind
    name: str = ""


def attribute_origin(target: str, tensor: torch.Tensor) -> Origin:
    """Origin of a tensor attribute of the module: a parameter or a constant."""
    return Origin("parameter" if isinstance(tensor, torch.nn.Parameter) else "constant", target)


class _Holder(NamedTuple):
    """One tensor of a node: its value's index, the tensor, and the serial number of the last write it includes."""

    value: int
    tensor: torch.Tensor
    write_serial: int


class _Write(NamedTuple):
    """The latest write into a storage: its serial number, and the index of the value that holds the result."""

    serial: int
    value: int
    tensor: torch.Tensor


class Walk:
    """The state of one walk.

    `memory` maps a storage to the value that owns it, `writes` to the last write into it. A node that is read after another
    node's write represents the written value if both cover the same elements, otherwise a new alias of it.
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
        self.notes: list[str] = []
        self.sources: dict[StorageWeakRef | int, Origin] = {}

    def run(self, origins: Sequence[Origin], name: str) -> Graph:
        """The graph of the whole module; `origins` belong to its placeholders in order."""
        for node, origin in zip(self.module.graph.find_nodes(op="placeholder"), origins, strict=True):
            if is_tensor_node(node):
                self.sources[storage_key(tensor_of(node))] = origin
            # Weights that the graph does not read are left out.
            if node.users or origin.kind == "input":
                if self.autocast and is_tensor_node(node) and tensor_of(node).is_meta:
                    raise CaptureError("torch.autocast inside the model has no effect on the meta device")
                self._add_source(node, origin)
        outputs = tuple(index for leaf in self._visit_nodes() for index in self._current(leaf))
        return Graph(tuple(self.values), tuple(self.calls), outputs, name, notes=tuple(dict.fromkeys(self.notes)))

    def _visit_nodes(self) -> list[fx.Node]:
        """Add every call of the module's graph; returns the nodes that it returns."""
        returned: list[fx.Node] = []
        for node in self.module.graph.nodes:
            if node.op == "get_attr":
                attribute = operator.attrgetter(node.target)(self.module)
                if isinstance(attribute, torch.Tensor):
                    node.meta.setdefault("val", attribute)
                    origin = self.sources.get(storage_key(attribute), attribute_origin(node.target, attribute))
                    self._add_source(node, origin)
            elif node.op == "output":
                returned = node.all_input_nodes
            elif node.op == "placeholder":
                continue
            elif node.target is operator.getitem and node.args[0] in self.holders:
                self._add_item(node)
            elif self._is_whole(node) or (_is_level(node) and node.args and node.args[0] in self.holders):
                self.holders[node] = list(self.holders[node.args[0]])
            elif body_kind(node) in BODIES:
                self._add_bodies(node)
            elif self._computes(node):
                self._add_call(node)
        return returned

    def _add_source(self, node: fx.Node, origin: Origin) -> None:
        if is_tensor_node(node):
            self.holders[node] = [self._new(tensor_of(node), origin.kind, origin.name)]

    def _add_item(self, node: fx.Node) -> None:
        """Selecting one of several results is not a call; the node represents that value."""
        parent, key = node.args
        values = parent.meta["val"]
        first, count = (sum(isinstance(x, torch.Tensor) for x in tree_leaves(part)) for part in (list(values)[:key], values[key]))
        self.holders[node] = self.holders[parent][first : first + count]

    def _is_whole(self, node: fx.Node) -> bool:
        """Whether the node is a view of its whole operand (`x[:]`), which torch may insert or omit."""
        if node.target not in _WHOLE_VIEWS or node.args[0] not in self.holders:
            return False
        spec = self.introspector.spec
        return spec(tensor_of(node)) == spec(tensor_of(node.args[0])) and (len(node.args) < 5 or node.args[4] == 1)

    def _computes(self, node: fx.Node) -> bool:
        """Whether the node counts as a call: it is not in `_NOT_CALLS`, and reads or returns a tensor."""
        if node.target in _NOT_CALLS or _is_level(node):
            return False
        if ("val" not in node.meta and "example_value" in node.meta) or node.op in ("call_module", "call_method"):
            raise CaptureError(
                f"node {node.name!r} ({node.target}) is not an ATen operator with its result in meta['val']; "
                "give `inputs`, so that the graph is traced to ATen operators first"
            )
        return bool(self.introspector.results(node)) or any(source in self.holders for source in node.all_input_nodes)

    def _add_call(self, node: fx.Node) -> None:
        call = self.introspector.introspect(node)
        if classify(call) == "unknown" and (parts := parts_of(node, self.introspector.number)) is not None:
            module, operands = parts
            stands = self._stand_for(node, self._body(module, [self._current(operand) for operand in operands]))
            self._write(self.introspector.written_operands(node), stands)
            return
        reads = tuple(index for _, source in self.introspector.operands(node) for index in self._current(source))
        if self.autocast:
            call, reads = self._convert(node, call, reads)
        if (attended := _heads_joined(node)) is not None and storage_key(tensor_of(attended)) in self.memory:
            self.memory.setdefault(storage_key(tensor_of(node)), self.memory[storage_key(tensor_of(attended))])
        results = [self._new(tensor) for tensor in self.introspector.results(node)]
        self.holders[node] = results
        written_holders = self._write(self.introspector.written_operands(node), results)
        node.meta[CALL_INDEX] = len(self.calls)
        outputs = call.outputs + tuple(self.values[holder.value].spec for holder in written_holders)
        writes = tuple(holder.value for holder in (*results, *written_holders))
        self.calls.append(msgspec.structs.replace(call, reads=reads, outputs=outputs, writes=writes))

    def _convert(self, node: fx.Node, call: OpCall, reads: tuple[int, ...]) -> tuple[OpCall, tuple[int, ...]]:
        """The call under autocast: separate calls convert its floating-point operands first; a weight is converted once."""
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
        """Value `index` converted to another type, by a call before its reader."""
        if (index, dtype) in self.converted:
            return self.converted[index, dtype]
        spec = TensorSpec(self.values[index].spec.shape, dtype)
        converted = self._emit("aten.to", [index], spec, dtype=dtype, non_blocking=False, copy=False, memory_format=None)
        self.calls[-1] = msgspec.structs.replace(self.calls[-1], overload="dtype", module=reader.module, source=reader.source)
        if self.values[index].is_weight:
            self.converted[index, dtype] = converted
        return converted

    # Bodies of branches and loops ------------------------------------------------------------------------------------

    def _add_bodies(self, node: fx.Node) -> None:
        """Add the calls of a branch's costlier body, or of each step of a loop; the node then represents their results."""
        kind, bodies, lists = body_kind(node), bodies_of(node, self.module), node_lists(node)
        indices = [
            [self._current(argument) if isinstance(argument, fx.Node) else [] for argument in operand_list]
            for operand_list in lists
        ]
        if kind == "cond":
            self.notes.append(BRANCH_NOTE)
            results = self._body(max(bodies, key=lambda body: self._work(body, indices[0])), indices[0])
        elif kind == "while_loop":
            steps = trip_count(node, self.module, Constants(self.module))
            if steps is None:
                self.notes.append(LOOP_NOTE)
            results, *fixed = indices
            for _ in range(1 if steps is None else steps):
                for body in bodies:
                    returned = self._body(body, [*results, *(index for fixed_values in fixed for index in fixed_values)])
                results = returned
        else:
            results = self._scan(node, bodies[0], lists, indices)
        self._stand_for(node, results)

    def _stand_for(self, node: fx.Node, results: list[list[int]]) -> list[_Holder]:
        inner = [index for result in results for index in result]
        outer = self.introspector.results(node)
        holders = [_Holder(index, tensor, self.serial) for index, tensor in zip(inner, outer, strict=False)]
        self.memory.update((storage_key(holder.tensor), holder.value) for holder in holders)
        self.holders[node] = holders
        return holders

    def _scan(self, node: fx.Node, body: fx.GraphModule, lists: list[Any], indices: list[Any]) -> list[list[int]]:
        """Add a body that runs over the first dimension of some operands; returns values carried between steps, then stacked
        results."""
        carried, over, *fixed = indices if body_kind(node) == "scan" else ([], *indices)
        operands = next(operand_list for operand_list, list_indices in zip(lists, indices, strict=True) if list_indices is over)
        steps = self.introspector.spec(tensor_of(operands[0])).shape[0] if operands else 0
        pieces: list[list[int]] = []
        fixed_indices = [index for fixed_values in fixed for index in fixed_values]
        for step in range(steps):
            slices = [
                [self._emit("aten.select", operand, self._row(operand[0]), operand[0], dim=0, index=step)] for operand in over
            ]
            returned = self._body(body, [*carried, *slices, *fixed_indices])
            carried, step_results = returned[: len(carried)], returned[len(carried) :]
            pieces.append([index for result in step_results for index in result])
        stacked = []
        for column in zip(*pieces, strict=True):
            row = self.values[column[0]].spec
            stacked.append([self._emit("aten.stack", list(column), TensorSpec((steps, *row.shape), row.dtype), dim=0)])
        return [*carried, *stacked]

    def _row(self, index: int) -> TensorSpec:
        spec = self.values[index].spec
        return TensorSpec(spec.shape[1:], spec.dtype)

    def _emit(self, op: str, reads: list[int], spec: TensorSpec, storage: int | None = None, **attributes: Attribute) -> int:
        """Add a call that is not in the FX graph; returns the index of its result."""
        result = self._append(Value(spec, storage=storage))
        names = ("self",) if len(reads) == 1 and op != "aten.stack" else tuple(f"tensors.{i}" for i in range(len(reads)))
        inputs = tuple(self.values[index].spec for index in reads)
        self.calls.append(OpCall(op, inputs, (spec,), names, dict(attributes), tuple(reads), (result,)))
        return result

    def _body(self, body: fx.GraphModule, operands: list[list[int]]) -> list[list[int]]:
        """Add a body's calls, with its placeholders standing for values; returns the values of each result."""
        for inner in body.graph.nodes:
            # Forget values from an earlier run of the body.
            for tensor in () if inner.op == "get_attr" else self.introspector.results(inner):
                self.memory.pop(storage_key(tensor), None)
                self.writes.pop(storage_key(tensor), None)
        for placeholder, indices in zip(body.graph.find_nodes(op="placeholder"), operands, strict=True):
            if indices and is_tensor_node(placeholder):
                self.holders[placeholder] = [_Holder(indices[0], tensor_of(placeholder), self.serial)]
                self.memory[storage_key(tensor_of(placeholder))] = indices[0]
        outer, self.module = self.module, body
        try:
            self._visit_nodes()
            returned = body.graph.output_node().args[0]
            results = returned if isinstance(returned, (list, tuple)) else [returned]
            return [self._current(result) if isinstance(result, fx.Node) else [] for result in results]
        finally:
            self.module = outer

    def _work(self, body: fx.GraphModule, operands: list[list[int]]) -> tuple[float, float]:
        """Flops and bytes of a body, without adding its calls."""
        values, calls, notes = len(self.values), len(self.calls), len(self.notes)
        memory, writes, converted = dict(self.memory), dict(self.writes), dict(self.converted)
        self._body(body, operands)
        costs = [cost for call in self.calls[calls:] if (cost := cost_of(call)) is not None]
        del self.values[values:], self.calls[calls:], self.notes[notes:]
        self.memory, self.writes, self.converted = memory, writes, converted
        return sum(cost.flops for cost in costs), sum(cost.bytes for cost in costs)

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
        results[:] = [holder._replace(write_serial=self.serial) for holder in results]
        return unreturned

    def _current(self, node: fx.Node) -> list[int]:
        """Indices of a node's values at this point of the walk."""
        holders = self.holders.get(node, [])
        for i, holder in enumerate(holders):
            write = self.writes.get(storage_key(holder.tensor))
            if write is not None and write.serial > holder.write_serial:
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


def _heads_joined(node: fx.Node) -> fx.Node | None:
    """The attention whose heads a node joins. Attention kernels on CPUs and GPUs write the heads of a token side by side, so
    joining them copies nothing, although torch's shape function places head after head."""
    source = node.args[0] if node.args and operator_name(node.target)[0] in _JOINS else None
    if not isinstance(source, fx.Node) or operator_name(source.target)[0] not in _ORDERS:
        return None
    attended = source.args[0]
    if not isinstance(attended, fx.Node) or attended.target is not torch.ops.aten.scaled_dot_product_attention.default:
        return None
    return attended if tensor_of(attended).dim() == 4 and _moves_heads(source) else None


def _moves_heads(node: fx.Node) -> bool:
    """Whether a permutation of (batch, heads, tokens, width) puts heads after tokens, and a batch of several first."""
    if operator_name(node.target)[0] == "aten.transpose":
        return sorted(dim % 4 for dim in node.args[1:3]) == [1, 2]
    order = [dim % 4 for dim in node.args[1]]
    return order == [0, 2, 1, 3] or (order == [2, 0, 1, 3] and tensor_of(node.args[0]).shape[0] == 1)


def _is_level(node: fx.Node) -> bool:
    """Whether the node moves a tensor into or out of a functional transform such as `torch.vmap`."""
    return "_functorch" in (getattr(node.target, "__module__", None) or "")


def storage_key(tensor: torch.Tensor) -> StorageWeakRef | int:
    """A key that is equal exactly for tensors that share memory; tensors without storage, such as sparse ones, have unique
    keys."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except NotImplementedError:
        return id(tensor)


def same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage cover the same elements in the same order."""
    return (a.dtype, a.shape, a.storage_offset(), a.stride()) == (b.dtype, b.shape, b.storage_offset(), b.stride())
