"""Kernels and what they read from which."""

import msgspec
import pytest

from shmoo.estimators.machine.profile import RUNTIMES, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.inspection import kernel_graph
from shmoo.harness.capture import capture_workload
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.configs import config_models
from shmoo.harness.workloads.zoo import zoo_names
from tests.build import GraphBuilder

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


def test_a_sum_that_two_kernels_compute_sends_both_to_its_terms():
    """A residual stream: Inductor computes the sum within the norm that follows and again within the sum after it, which lists
    it. The norm reads the layer that made a term, not the later kernel."""
    b = GraphBuilder()
    x = b.tensor((16, 64))
    stream = b.add(x, b.linear(x, 64))
    graph = b.graph(b.add(stream, b.linear(b.layer_norm(stream), 64)))
    found = nodes(graph, runtime="inductor")
    assert [node.kernel.label for node in found] == ["linear", "layer_norm", "linear", "add+add"]
    assert [node.sources for node in found] == [(), (0,), (1,), (0, 2)]


def backward_edges(name):
    """Kernels of a network that read a later kernel or themselves, on every family and with every runtime that fuses apart."""
    graphs = capture_workload(find_workload(name)).graphs
    found = []
    for arch in ("cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t256"):
        director = AnalysisDirector(load_profile(arch))
        for runtime in RUNTIMES[director.profile.family]:
            for position, node in enumerate(kernel_graph(graphs, director.estimate(graphs, runtime=runtime).breakdown)):
                if any(source >= position for source in node.sources):
                    found.append((arch, runtime, position, node.sources))
    return found


@pytest.mark.parametrize("name", ["vit_b_16", "mobilenet_v3_small"])
def test_sources_precede_every_kernel(name):
    """Whatever the runtime computes twice or puts in place."""
    assert not backward_edges(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*zoo_names(), *config_models()])
def test_sources_precede_every_kernel_of_the_zoo(name):
    """Every network by name, whatever the runtime computes twice or puts in place."""
    assert not backward_edges(name)
