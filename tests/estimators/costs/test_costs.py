"""Costs by closed form: every operator that has one, the rules on bytes, and totals of a graph."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import ClassVar

import pytest

from shmoo.estimators import costs
from shmoo.estimators.costs import COSTS, FREE, bill, classify, cost_of, costs_of, graph_cost, register_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import FAMILIES, Cost, Graph, OpCall, TensorSpec, Value
from shmoo.estimators.registry import DuplicateNameError
from tests.estimators.costs.cost_rows import ROWS, Row, op_call

ROOT = Path(__file__).parents[3]


def label(row: Row) -> str:
    return f"{row.call.op}({', '.join(str(list(s.shape)) for s in row.call.inputs)})"


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_cost_is_what_counting_by_hand_gives(row: Row):
    """Family, operations by unit, bytes of each operand and iteration space equal the row's."""
    found = cost_of(row.call)
    assert found is not None
    assert found.family == row.expected.family
    assert found.read_bytes == row.expected.read_bytes
    assert found.write_bytes == row.expected.write_bytes
    for field in ("matrix_flops", "vector_flops", "special_flops"):
        assert getattr(found, field) == pytest.approx(getattr(row.expected, field)), field
    for field in ("batch", "m", "n", "k", "window", "stride", "dilation"):
        assert getattr(found, field) == getattr(row.expected, field), field


def test_every_registered_operator_has_a_row():
    """No cost function goes without expected numbers."""
    assert {row.call.op for row in ROWS} >= set(COSTS)


def test_every_cost_belongs_to_a_known_family():
    assert {row.expected.family for row in ROWS} <= set(FAMILIES)


def test_no_operator_is_both_costed_and_free():
    assert not FREE & set(COSTS)


@pytest.mark.parametrize(
    ("dtype", "width"), [("float64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2), ("int8", 1), ("int4", 0.5)]
)
def test_bytes_follow_the_element_type_and_flops_do_not(dtype: str, width: float):
    """A 2 x 3 by 3 x 5 product of any type is 60 flops, 6 + 15 elements read and 10 written."""
    call = op_call("mm", {"self": TensorSpec((2, 3), dtype), "mat2": TensorSpec((3, 5), dtype)}, [TensorSpec((2, 5), dtype)])
    cost = cost_of(call)
    assert cost.matrix_flops == 60
    assert cost.read_bytes == (6 * width, 15 * width)
    assert cost.write_bytes == (10 * width,)


def test_a_broadcast_operand_counts_its_own_size():
    call = op_call("add", {"self": (100, 4), "other": (4,)}, [(100, 4)], {"alpha": 1})
    assert cost_of(call).read_bytes == (1600, 16)


def test_a_value_passed_twice_is_read_once():
    """x * x reads x, not x twice."""
    call = OpCall("aten.mul", (TensorSpec((8,)),) * 2, (TensorSpec((8,)),), ("self", "other"), reads=(3, 3), writes=(4,))
    assert cost_of(call).read_bytes == (32, 0)


def test_in_place_costs_what_out_of_place_does():
    attributes = {"negative_slope": 0.01}
    apart = op_call("leaky_relu", {"self": (8,)}, [(8,)], attributes)
    within = op_call("leaky_relu", {"self": (8,)}, [(8,)], attributes, inplace=True)
    assert cost_of(apart) == cost_of(within)


def test_flops_are_at_least_twice_the_macs():
    """A multiply-add is 2 flops, and only contractions have macs."""
    for row in ROWS:
        cost = cost_of(row.call)
        assert cost.flops == 2 * cost.macs + cost.vector_flops + cost.special_flops
        assert (cost.macs > 0) == (cost.matrix_flops > 0)


def test_empty_tensors_cost_nothing_and_do_not_fail():
    assert cost_of(op_call("mm", {"self": (0, 3), "mat2": (3, 5)}, [(0, 5)])).flops == 0
    assert cost_of(op_call("linear", {"input": (2, 0), "weight": (5, 0)}, [(2, 5)])).flops == 0
    assert cost_of(op_call("softmax", {"self": (0, 4)}, [(0, 4)], {"dim": -1})).flops == 0
    assert cost_of(op_call("sum", {"self": (0, 4)}, [(0,)], {"dim": [1]})).flops == 0
    assert cost_of(op_call("cat", {"tensors.0": (0,), "tensors.1": (2,)}, [(2,)], {"dim": 0})).bytes == 16


class TestFreeCalls:
    """Views, questions and what does nothing for the attributes given."""

    VIEWS: ClassVar = [
        "view",
        "permute",
        "expand",
        "flatten",
        "reshape",
        "detach",
        "select",
        "slice",
        "chunk",
        "split",
        "alias",
        "unbind",
    ]

    @pytest.mark.parametrize("name", VIEWS)
    def test_views_are_free(self, name: str):
        call = op_call(name, {"self": (2, 3)}, [(3, 2)])
        assert classify(call) == "free"
        assert cost_of(call) is None

    @pytest.mark.parametrize("name", ["dropout", "native_dropout", "feature_dropout"])
    def test_dropout_is_free_in_eval_only(self, name: str):
        kinds = [classify(op_call(name, {"input": (4,)}, [(4,)], {"p": 0.5, "train": train})) for train in (False, True)]
        assert kinds == ["free", "costed"]

    def test_conversion_to_the_same_type_is_free_unless_a_copy_is_asked_for(self):
        attributes = {"dtype": "float32", "copy": False}
        assert classify(op_call("to", {"self": (4,)}, [(4,)], attributes)) == "free"
        assert classify(op_call("to", {"self": (4,)}, [(4,)], {**attributes, "copy": True})) == "costed"
        assert classify(op_call("to", {"self": (4,)}, [TensorSpec((4,), "float16")], attributes)) == "costed"

    @pytest.mark.parametrize("name", ["reshape", "contiguous", "flatten"])
    def test_in_a_graph_shared_memory_tells_views_from_copies(self, name: str):
        """The first call's result lies in its operand's memory; the second's has memory of its own: 16 bytes in, 16 out."""
        view = OpCall(f"aten.{name}", (TensorSpec((4,)),), (TensorSpec((4,)),), ("self",), reads=(0,), writes=(1,))
        copy = OpCall(f"aten.{name}", (TensorSpec((4,)),), (TensorSpec((4,)),), ("self",), reads=(0,), writes=(2,))
        spec = TensorSpec((4,))
        graph = Graph(values=(Value(spec, "input"), Value(spec, storage=0), Value(spec)), calls=(view, copy))
        free, copied = costs_of(graph)
        assert free is None
        assert (copied.family, copied.bytes, copied.flops) == ("copy", 32, 0)
        assert graph_cost(graph).bytes == 32


class TestUnknownAndWrongCalls:
    def test_an_unknown_operator_has_its_bytes_and_no_flops(self):
        call = op_call("mylib.mystery", {"x": (2, 3)}, [(6,)])
        assert classify(call) == "unknown"
        cost = cost_of(call)
        assert (cost.family, cost.flops, cost.bytes) == ("unknown", 0, 48)

    def test_a_missing_operand_is_named(self):
        with pytest.raises(InputError, match=r"aten.linear needs a tensor operand 'weight', the call has: input"):
            cost_of(op_call("linear", {"input": (2, 3)}, [(2, 5)]))

    def test_a_missing_attribute_is_named(self):
        with pytest.raises(InputError, match=r"'kernel_size' as one int or 2, got None"):
            cost_of(op_call("max_pool2d", {"self": (1, 1, 4, 4)}, [(1, 1, 2, 2)]))

    def test_an_einsum_that_does_not_fit_its_operands_says_so(self):
        with pytest.raises(InputError, match="names 2 operands, the call has 1"):
            cost_of(op_call("einsum", {"tensors.0": (2, 3)}, [(2,)], {"equation": "ij,jk->ik"}))
        with pytest.raises(InputError, match="'ijk' has 3 letters"):
            cost_of(op_call("einsum", {"tensors.0": (2, 3)}, [(2,)], {"equation": "ijk->i"}))

    def test_a_product_with_a_scalar_tensor_is_refused(self):
        with pytest.raises(InputError, match="needs operands of rank 1"):
            cost_of(op_call("matmul", {"self": (), "other": (3,)}, [(3,)]))

    def test_a_name_without_namespace_is_refused(self):
        with pytest.raises(InputError, match="'gated_linear' has no namespace"):
            register_cost("gated_linear")

    def test_a_second_cost_for_a_name_is_refused(self):
        with pytest.raises(DuplicateNameError, match=r"aten\.linear"):
            register_cost("aten.linear")(cost_of)


EXAMPLES = {
    "docstring": textwrap.dedent(re.search(r"    @register_cost.*?\n\n", costs.__doc__, re.DOTALL)[0]),
    "page": re.search(
        r"```python\n(from shmoo.estimators.costs import bill.*?)```",
        (ROOT / "docs" / "capture.md").read_text("utf-8"),
        re.DOTALL,
    )[1],
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_cost_for_an_operator_of_ones_own(example, monkeypatch):
    """The documented function, registered as it stands there: m x k by k x n, and a special function an element; after it the
    operator is costed, alone and in a graph, and before it nobody knows it."""
    call = op_call("mylib.gated_linear", {"x": (2, 3), "weight": (5, 3), "gate": (2, 5)}, [(2, 5)])
    assert classify(call) == "unknown"
    monkeypatch.setitem(COSTS, call.op, bill)  # taken out when the test ends
    del COSTS[call.op]
    exec(EXAMPLES[example], {"register_cost": register_cost, "bill": bill, "OpCall": OpCall, "Cost": Cost})
    assert classify(call) == "costed"
    cost = cost_of(call)
    assert (cost.family, cost.macs, cost.special_flops, cost.vector_flops) == ("gemm", 30, 10, 0)
    assert (cost.m, cost.n, cost.k) == (2, 5, 3)
    assert (cost.read_bytes, cost.write_bytes) == ((24, 60, 40), (40,))
    total = graph_cost(Graph(values=(), calls=(call,)))
    assert (total.macs, total.unknown) == (30, ())


def small_graph() -> Graph:
    """input (2, 3) -> linear to 5 -> relu -> view -> two operators nobody knows."""
    linear = op_call("linear", {"input": (2, 3), "weight": (5, 3), "bias": (5,)}, [(2, 5)])
    relu = op_call("relu", {"self": (2, 5)}, [(2, 5)])
    view = op_call("view", {"self": (2, 5)}, [(10,)], {"size": [10]})
    mystery = OpCall("mylib.mystery", (TensorSpec((10,)),), (TensorSpec((10,)),), ("x",), module="head", source="net.py:7")
    nameless = OpCall("mylib.mystery", (TensorSpec((10,)),), (TensorSpec((10,)),), ("x",), source="net.py:9")
    values = (
        Value(TensorSpec((2, 3)), "input"),
        Value(TensorSpec((5, 3)), "parameter"),
        Value(TensorSpec((5,)), "parameter"),
        Value(TensorSpec((4,)), "buffer"),
    )
    return Graph(values=values, calls=(linear, relu, view, mystery, mystery, nameless))


def test_totals_of_a_graph_are_sums_over_its_calls():
    """2 x 5 x 3 multiply-adds, 10 bias additions, 10 comparisons; a view adds nothing."""
    total = graph_cost(small_graph())
    assert total.macs == 30
    assert total.flops == 60 + 10 + 10
    assert total.bytes == 4 * (6 + 15 + 5 + 10) + 4 * 20 + 3 * 80
    assert total.params == 20
    assert total.weight_bytes == 4 * 24
    assert {f.family: f.count for f in total.families} == {"gemm": 1, "pointwise": 1, "unknown": 3}
    by_family = {family.family: family.flops for family in total.families}
    assert by_family["gemm"] == 70
    assert "conv" not in by_family


def test_unknown_operators_of_a_graph_are_listed_with_place_and_bytes():
    (unknown,) = graph_cost(small_graph()).unknown
    assert unknown.op == "mylib.mystery"
    assert unknown.count == 3
    assert unknown.where == ("head", "net.py:9")
    assert unknown.bytes == 3 * 80


def test_an_empty_graph_costs_nothing():
    total = graph_cost(Graph(values=(), calls=()))
    assert (total.flops, total.bytes, total.families, total.unknown) == (0, 0, (), ())
