"""Capture: nodes to calls, graphs to values that share memory, models to graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shmoo.estimators.graph.records import Graph, TensorSpec
from shmoo.harness.capture import (
    Capture,
    CaptureError,
    FXGraphWalker,
    OperatorIntrospector,
    capture,
    capture_compiled,
    capture_exported,
    capture_workload,
)
from shmoo.harness.capture.fx.introspect import operator_name, relative_path
from shmoo.harness.module import Built, DNNModule
from shmoo.harness.workloads import find_workload


def only(found: Capture) -> Graph:
    (graph,) = found.graphs
    return graph


def ops(graph: Graph) -> list[str]:
    return [call.op for call in graph.calls]


def graph_of(function, *args, **kwargs) -> Graph:
    return only(capture(function, args, kwargs))


class Tied(nn.Module):
    """Two layers with one weight, a buffer and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.layers[1].weight = self.layers[0].weight
        self.register_buffer("shift", torch.rand(4))
        self.scale = torch.rand(4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x * self.scale + self.shift


class Printing(nn.Module):
    """Prints between two layers, which torch.compile cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        print("between")
        return self.second(x)


class Branching(nn.Module):
    """Chooses its second layer by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        if x.sum() >= 0:
            return self.second(x)
        return x


class Reading(Branching):
    """Reads a number from its data, and uses it."""

    def forward(self, x):
        x = self.first(x)
        return self.second(x * x.sum().item())


class Looping(Branching):
    """Breaks inside a loop, so that torch.compile gives up on the whole function."""

    def forward(self, x):
        for layer in (self.first, self.second):
            x = layer(x)
            if x.sum() != 0:
                print("loop")
        return x


def test_a_call_has_names_defaults_shapes_and_place() -> None:
    """One convolution becomes operands by schema name, every other argument with defaults, its module and its line."""
    graph = graph_of(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False)), torch.randn(2, 3, 5, 5))
    (call,) = graph.calls
    assert call.op == "aten.conv2d"
    assert call.operands == ("input", "weight")
    assert call.inputs == (TensorSpec((2, 3, 5, 5)), TensorSpec((8, 3, 3, 3)))
    assert call.outputs == (TensorSpec((2, 8, 5, 5)),)
    assert call.attributes == {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    assert call.module == "0"


def test_attributes_are_json_and_name_no_device() -> None:
    """dtypes become strings, infinities survive JSON, devices are left out."""

    def function(x):
        return torch.full((2,), float("-inf"), dtype=torch.float64, device=x.device) + x.masked_fill(x > 0, float("inf")).sum()

    graph = graph_of(function, torch.randn(3))
    fill = next(call for call in graph.calls if call.op == "aten.masked_fill")
    full = next(call for call in graph.calls if call.op == "aten.full")
    assert fill.attributes["value"] == "inf"
    assert full.attributes["dtype"] == "float64"
    assert "device" not in full.attributes
    assert Graph.from_json(graph.to_json()) == graph


def test_lists_of_tensors_are_numbered_operands() -> None:
    """The tensors of a cat are "tensors.0" and "tensors.1"."""
    (call,) = graph_of(lambda x, y: torch.cat([x, y], 1), torch.randn(2, 3), torch.randn(2, 4)).calls
    assert call.operands == ("tensors.0", "tensors.1")
    assert call.outputs[0].shape == (2, 7)


def test_in_place_is_a_flag_and_not_part_of_the_name() -> None:
    """relu_ is relu, in place."""
    assert operator_name(torch.ops.aten.relu_.default) == ("aten.relu", True)
    assert operator_name(torch.ops.aten.relu.default) == ("aten.relu", False)
    assert operator_name(torch.ops.aten.__and__.Tensor) == ("aten.__and__", False)


def test_sources_are_relative() -> None:
    """A line is told by its path below the import root, one outside of all by its file name alone."""
    assert relative_path(nn.__file__) == "torch/nn/__init__.py"
    assert relative_path("/nowhere/model.py") == "model.py"


def test_shapes_come_from_the_arguments() -> None:
    """The same model captured with two batch sizes gives two batch sizes; nothing is kept from before."""
    model = nn.Linear(4, 4)
    seen = [graph_of(model, torch.randn(batch, 4)).calls[0].inputs[0].shape for batch in range(1, 13)]
    assert seen == [(batch, 4) for batch in range(1, 13)]


def test_weights_are_told_from_inputs_by_name() -> None:
    """Parameters, buffers and constants carry their qualified names; a shared weight is one value, counted once."""
    graph = graph_of(Tied(), torch.randn(2, 4))
    kinds = {value.name: value.kind for value in graph.values if value.kind != "activation"}
    assert kinds == {
        "layers.0.weight": "parameter",
        "layers.0.bias": "parameter",
        "layers.1.bias": "parameter",
        "shift": "buffer",
        "scale": "constant",
        "x": "input",
    }
    assert graph.params == 4 * 4 + 4 + 4
    assert graph.weight_bytes == 4 * (16 + 4 + 4 + 4 + 4)


def test_a_function_finds_weights_it_closes_over() -> None:
    """A plain function's weights are parameters too."""
    layer = nn.Linear(4, 2)
    graph = graph_of(lambda x, *, factor: layer(x) * factor, torch.randn(3, 4), factor=3)
    assert graph.params == 4 * 2 + 2
    assert ops(graph) == ["aten.linear", "aten.mul"]
    assert graph.calls[1].attributes["other"] == 3


def test_views_share_memory_and_copies_do_not() -> None:
    """A reshape that can be a view shares its input's memory; one that cannot owns its own."""
    graph = graph_of(lambda x: (x.reshape(6), x.t().reshape(6)), torch.randn(2, 3))
    view, transposed, copied = (graph.values[call.writes[0]] for call in graph.calls)
    assert (view.storage, transposed.storage, copied.storage) == (0, 0, None)


def test_readers_after_an_in_place_call_read_what_it_wrote() -> None:
    """After x.relu_(), x is the result; after a write into a part, the whole is a new alias of what was written."""

    def function(x):
        whole = x + 1
        whole.relu_()
        part = whole[:, 0]
        part.add_(1)
        return whole * 2

    graph = graph_of(function, torch.randn(2, 3))
    add, relu, select, add_in_place, mul = graph.calls
    assert relu.inplace
    assert graph.root(relu.writes[0]) == add.writes[0]
    assert select.reads == relu.writes
    (read,) = mul.reads
    assert graph.values[read].storage == add_in_place.writes[0]
    assert graph.values[read].spec.shape == (2, 3)
    assert graph.root(read) == add.writes[0]


def test_a_result_of_several_is_taken_without_a_call() -> None:
    """split, max_pool with indices and native_layer_norm write all their results; taking one is no call."""

    def function(x):
        left, right = x.split(2, 1)
        return left * right

    split, mul = graph_of(function, torch.randn(3, 4)).calls
    assert split.op == "aten.split"
    assert mul.reads == split.writes
    pool = graph_of(lambda x: nn.functional.max_pool2d(x, 2, return_indices=True), torch.randn(1, 1, 4, 4))
    assert [spec.dtype for spec in pool.calls[0].outputs] == ["float32", "int64"]
    assert pool.outputs == pool.calls[0].writes
    norm = graph_of(lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5)[1], torch.randn(3, 4))
    assert [spec.shape for spec in norm.calls[0].outputs] == [(3, 4), (3, 1), (3, 1)]
    assert norm.outputs == norm.calls[0].writes[1:2]


def test_an_operator_of_ones_own_keeps_its_name() -> None:
    """A custom operator is a call under its namespace, so that it is listed as unknown and not lost."""

    @torch.library.custom_op("shmootest::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    assert ops(graph_of(lambda x: twice(x) + 1, torch.randn(3))) == ["shmootest.twice", "aten.add"]


def test_an_operator_that_only_writes_has_what_it_wrote_as_output() -> None:
    """A custom operator without results that changes its operand writes it, and later readers read that."""

    @torch.library.custom_op("shmootest::fill", mutates_args=("x",))
    def fill(x: torch.Tensor) -> None:
        x.fill_(1)

    fill.register_fake(lambda x: None)

    def function(x):
        y = x + 1
        torch.ops.shmootest.fill(y)
        return y * 2

    _, written, mul = graph_of(function, torch.randn(3)).calls
    assert written.op == "shmootest.fill"
    assert mul.reads == written.writes


def test_questions_for_sizes_are_no_calls() -> None:
    """Sizes and arithmetic on them leave no call behind."""
    assert ops(graph_of(lambda x: x.view(x.shape[0] * 2, -1), torch.randn(4, 6))) == ["aten.view"]


def test_a_print_gives_two_graphs() -> None:
    """A graph break keeps both pieces, with its reason and line; torch.export, which is asked first, takes the model whole."""
    assert ops(only(capture(Printing(), (torch.randn(3, 4),)))) == ["aten.linear", "aten.linear"]
    found = capture_compiled(Printing(), (torch.randn(3, 4),))
    assert [ops(graph) for graph in found.graphs] == [["aten.linear"], ["aten.linear"]]
    assert sum(graph.params for graph in found.graphs) == 4 * 8 + 8 + 8 * 2 + 2
    assert found.graphs[1].values[found.graphs[1].calls[0].reads[0]].kind == "input"
    assert found.method == "compile"
    assert "test_capture.py" in found.break_reasons[0]


def test_a_branch_on_data_counts_the_side_taken() -> None:
    """Both pieces around a data-dependent branch are counted."""
    found = capture(Branching(), (torch.randn(3, 4),))
    assert [ops(graph) for graph in found.graphs] == [["aten.linear", "aten.relu", "aten.sum", "aten.ge"], ["aten.linear"]]


def test_what_runs_outside_the_pieces_is_recorded() -> None:
    """A function that torch.compile skips as a whole is recorded operator by operator, weights and all."""
    found = capture(Looping(), (torch.randn(3, 4),))
    assert [op for op in ops(only(found)) if op != "aten.t"] == ["aten.addmm", "aten.sum", "aten.ne"] * 2
    assert only(found).params == 4 * 8 + 8 + 8 * 2 + 2
    assert "eager" in found.break_reasons[0]


def test_a_function_kept_from_the_compiler_is_captured_whole_by_export() -> None:
    """Operators left to eager execution would arrive in parts; torch.export keeps them whole and is preferred."""
    layer = nn.Linear(4, 4)
    hidden = torch._dynamo.disable(lambda x: layer(x))
    found = capture(lambda x: torch.relu(hidden(x)), (torch.randn(2, 4),))
    assert found.method == "export"
    assert ops(only(found)) == ["aten.linear", "aten.relu"]
    assert found.break_reasons


def test_export_agrees_with_compile() -> None:
    """Both ways find the same calls, shapes and weights."""
    model, x = Tied(), torch.randn(2, 4)
    compiled, exported = only(capture_compiled(model, (x,))), only(capture_exported(model, (x,)))
    assert [(c.op, c.inputs, c.outputs, c.attributes) for c in compiled.calls] == [
        (c.op, c.inputs, c.outputs, c.attributes) for c in exported.calls
    ]
    assert compiled.weight_bytes == exported.weight_bytes


def test_capture_leaves_other_compiled_functions_alone() -> None:
    """What the process compiled before a capture of the same code is not compiled again after it."""
    compilations = []

    def backend(module, inputs):
        compilations.append(module)
        return module.forward

    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    compiled = torch.compile(model, backend=backend, dynamic=False)
    compiled(x)
    for batch in range(1, 12):
        capture(model, (torch.randn(batch, 4),))
    compiled(x)
    assert len(compilations) == 1


def test_meta_models_are_captured_without_values() -> None:
    """On the meta device the same graph comes out as on the CPU."""
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    on_cpu = graph_of(layer, torch.randn(2, 4))
    on_meta = graph_of(layer.to("meta"), torch.randn(2, 4, device="meta"))
    assert on_meta == on_cpu


def test_a_workload_that_looks_at_values_falls_back_to_the_cpu() -> None:
    """A number that only data would give is read on the CPU, where the model is built with values."""
    workload = DNNModule("reading", "network", (), lambda make: Built(make.module(Reading), (make.tensor(3, 4),)))
    found = capture_workload(workload)
    assert found.method == "compile"
    assert sum(ops(graph).count("aten.linear") for graph in found.graphs) == 2
    assert {graph.name for graph in found.graphs} == {"reading"}


def test_a_model_that_fails_says_why_on_both_ways() -> None:
    """The error holds what torch.export and torch.compile said."""
    with pytest.raises(CaptureError, match=r"torch\.export cannot take 'Linear'.*torch\.compile cannot take 'Linear'"):
        capture(nn.Linear(4, 4), (torch.randn(2, 5),))


def test_the_walker_propagates_shapes_through_any_fx_graph() -> None:
    """A symbolically traced module is walked with example inputs, from which every shape follows."""
    module = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 8), nn.GELU()))
    graph = FXGraphWalker().walk(module, (torch.randn(5, 4),), name="traced")
    assert [(call.op, call.outputs[0].shape) for call in graph.calls] == [("aten.linear", (5, 8)), ("aten.gelu", (5, 8))]
    assert graph.params == 4 * 8 + 8
    with pytest.raises(CaptureError, match="give `inputs`"):
        FXGraphWalker().walk(module)


def test_the_introspector_reads_one_node() -> None:
    """A node of an exported program is one call, without wiring."""
    program = torch.export.export(nn.Linear(4, 8), (torch.randn(2, 4),))
    node = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)[0]
    call = OperatorIntrospector().introspect(node)
    assert (call.op, call.operands, call.reads) == ("aten.linear", ("input", "weight", "bias"), ())
    assert call.operand("weight") == TensorSpec((8, 4))


def test_half_precision_is_seen() -> None:
    """The dtype of a workload is that of its calls."""
    graph = only(capture_workload(find_workload("linear"), {"m": 2, "n": 3, "k": 4}, "bf16"))
    assert {spec.dtype for spec in graph.calls[0].inputs} == {"bfloat16"}
