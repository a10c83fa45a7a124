"""Which calls share a kernel, per runtime."""

import sys

import pytest

from shmoo.estimators.fusion.rules import FUSION_RULES, fuse
from shmoo.estimators.registry import DuplicateNameError
from tests.build import GraphBuilder


def groups(graph, runtime: str, family: str = "cpu") -> list[tuple[int, ...]]:
    return [kernel.calls for kernel in fuse(graph, runtime, family)]


def conv_bn_relu():
    b = GraphBuilder()
    x = b.tensor((1, 8, 16, 16))
    return b.graph(b.relu(b.batch_norm(b.conv(x, 8))))


def residual():
    b = GraphBuilder()
    x = b.relu(b.tensor((1, 8, 16, 16)))
    return b.graph(b.relu(b.add(b.batch_norm(b.conv(x, 8)), x)))


def test_eager_fuses_nothing():
    """One kernel a call, views left out."""
    b = GraphBuilder()
    y = b.relu(b.tensor((4, 4)))
    graph = b.graph(b.relu(b.view(y, (16,))))
    assert groups(graph, "eager") == [(0,), (2,)]


def test_inductor_keeps_the_convolution_apart_and_fuses_norm_with_activation():
    """Without constant weights the batch norm is a loop of its own, joined by the relu."""
    assert groups(conv_bn_relu(), "inductor") == [(0,), (1, 2)]


def test_frozen_weights_fold_the_norm_into_the_convolution():
    """conv+bn+relu is one library call."""
    assert groups(conv_bn_relu(), "inductor-freezing") == [(0, 1, 2)]


@pytest.mark.parametrize(("family", "runtime"), [("tpu", "xla"), ("kpu", "domainflow")])
def test_whole_program_compilers_fuse_the_epilogue(family, runtime):
    """conv+bn+relu as well."""
    assert groups(conv_bn_relu(), runtime, family) == [(0, 1, 2)]


def test_a_residual_sum_joins_the_loop_after_the_convolution():
    """relu | conv | bn+add+relu: the first relu has another reader before the loop, so it stays apart."""
    assert groups(residual(), "inductor") == [(0,), (1,), (2, 3, 4)]


def test_no_merge_closes_a_cycle():
    """x -> relu -> linear -> add(relu, linear): relu and add must not share a kernel around the linear layer."""
    b = GraphBuilder()
    y = b.relu(b.tensor((4, 8)))
    graph = b.graph(b.add(y, b.linear(y, 8)))
    assert groups(graph, "inductor") == [(0,), (1,), (2,)]


def test_a_norm_takes_in_the_sum_before_it():
    """add+layer_norm is one pass over the rows."""
    b = GraphBuilder()
    x, y = b.tensor((4, 8)), b.tensor((4, 8))
    assert groups(b.graph(b.layer_norm(b.add(x, y))), "inductor") == [(0, 1)]


def test_kernels_are_in_an_order_that_can_run():
    """Every kernel comes after those that produce what it reads."""
    graph = residual()
    for runtime in ("eager", "inductor", "inductor-freezing"):
        done: set[int] = set()
        assert sorted(i for calls in groups(graph, runtime) for i in calls) == list(range(len(graph.calls)))
        for calls in groups(graph, runtime):
            made = {value for i in calls for value in graph.calls[i].writes}
            needed = {value for i in calls for value in graph.calls[i].reads} - made
            assert all(value in done for value in needed if graph.values[value].kind == "activation")
            done |= made


def test_a_rule_cannot_be_registered_twice():
    """Names are unique."""
    with pytest.raises(DuplicateNameError, match="pointwise chain"):
        FUSION_RULES.add("pointwise chain", FUSION_RULES["pointwise chain"])


@pytest.mark.parametrize(("family", "runtime"), [("cpu", "inductor"), ("gpu", "inductor-freezing"), ("tpu", "xla")])
def test_long_graphs_take_linear_work(family, runtime):
    """Twice the blocks ask about twice the cycles and look at twice the calls, not four times."""

    def looked_at(blocks: int) -> int:
        b = GraphBuilder()
        x = b.tensor((1, 8, 4, 4))
        for _ in range(blocks):
            x = b.relu(b.add(b.batch_norm(b.conv(x, 8)), x))
        graph = b.graph(x)
        frames = 0

        def count(frame, event, argument):
            nonlocal frames
            frames += 1

        sys.setprofile(count)
        try:
            fuse(graph, runtime, family)
        finally:
            sys.setprofile(None)
        return frames

    assert looked_at(100) < 2.2 * looked_at(50)
