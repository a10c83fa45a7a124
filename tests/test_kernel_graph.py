"""Kernels and what they read from which."""

import msgspec
from build import GraphBuilder

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.kernel_graph import kernel_graph
from shmoo.estimators.profile import load_profile

DIRECTOR = AnalysisDirector(load_profile("cpu_server_generic"))


def nodes(*graphs, runtime="eager"):
    return kernel_graph(graphs, DIRECTOR.estimate(graphs, runtime=runtime).breakdown)


def test_a_kernel_names_the_kernels_whose_results_it_reads():
    """A residual: relu reads the layer, the sum reads both, through a view."""
    b = GraphBuilder()
    y = b.linear(b.tensor((4, 8)), 8)
    graph = b.graph(b.add(b.view(b.relu(y), (4, 8)), y))
    assert [node.sources for node in nodes(graph)] == [(), (0,), (0, 1)]


def test_a_write_in_place_is_seen_by_readers_of_other_views():
    """relu_ on a view, then a sum over the memory as a whole: it reads what relu_ wrote."""
    b = GraphBuilder()
    y = b.linear(b.tensor((4, 8)), 8)
    seen = b.view(y, (32,))
    b.call("relu", {"self": seen}, (32,), storage=seen, inplace=True)
    graph = b.graph(b.relu(y))
    assert nodes(graph)[2].sources == (0, 1)


def test_pieces_follow_each_other():
    """The first kernel of the second piece reads the last of the first."""
    b, c = GraphBuilder(), GraphBuilder()
    found = nodes(b.graph(b.relu(b.relu(b.tensor((8,))))), c.graph(c.relu(c.tensor((8,)))))
    assert [node.sources for node in found] == [(), (0,), (1,)]


def test_a_kernel_stands_in_the_module_that_holds_all_of_its_calls():
    """Two calls of block.0 and block.1 in one kernel: block."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.tensor((8,)))))
    calls = [msgspec.structs.replace(c, module=f"block.{i}") for i, c in enumerate(graph.calls)]
    (fused,) = nodes(msgspec.structs.replace(graph, calls=tuple(calls)), runtime="inductor")
    assert fused.module == "block"
