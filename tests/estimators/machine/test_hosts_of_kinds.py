"""What the host takes for a call depends on its path through the framework and on the kernels within it."""

from __future__ import annotations

import pytest

from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.hosts import HOSTS
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.variants import with_host
from tests.build import GraphBuilder

HOST = HOSTS["server_h200"]


def latency_s(graph: Graph, runtime: str = "eager") -> float:
    director = AnalysisDirector(with_host(load_profile("gpu_h200"), "server_h200"))
    return director.estimate(graph, runtime=runtime).latency_s.value


def conv(dtype: str, channels: int = 64, groups: int = 1, kernel: int = 3) -> Graph:
    image, weight = TensorSpec((1, channels, 7, 7), dtype), TensorSpec((channels, channels // groups, kernel, kernel), dtype)
    attributes = {"stride": [1, 1], "padding": [kernel // 2] * 2, "dilation": [1, 1], "groups": groups}
    return single_call_graph(OpCall("aten.conv2d", (image, weight), (image,), ("input", "weight"), attributes), (1,))


def loops(count: int) -> Graph:
    b = GraphBuilder()
    x = b.tensor((8, 8))
    for _ in range(count):
        x = b.relu(x)
    return b.graph(x)


def norm(op: str) -> Graph:
    image, weight = TensorSpec((1, 64, 7, 7), "float32"), TensorSpec((64,), "float32")
    attributes = {"training": False} if op == "batch_norm" else {"normalized_shape": [64, 7, 7]}
    return single_call_graph(OpCall(f"aten.{op}", (image, weight), (image,), ("input", "weight"), attributes), (1,))


def test_a_call_by_itself_takes_its_launch_and_one_in_a_model_more():
    """A loop of one call takes what the host takes; two hundred of a model take the switch between them too."""
    launch, switch = HOST.seconds["launch.eager"][0], HOST.seconds["switch.eager"][0]
    assert latency_s(loops(1)) == pytest.approx(launch, rel=0.05)
    assert latency_s(loops(200)) == pytest.approx(200 * (launch + switch), rel=0.05)


def test_paths_through_the_framework_differ():
    """Batch norm's is longer than layer norm's, a convolution's than a loop's."""
    batch, layer, loop = latency_s(norm("batch_norm")), latency_s(norm("layer_norm")), latency_s(loops(1))
    assert batch > 1.5 * layer > 2.0 * loop


def test_kernels_within_a_call_are_launched_too():
    """In 16 bits a window's image, weights and result are converted; groups of images in rows run one after the other."""
    driver = 5e-6
    assert latency_s(conv("float16")) - latency_s(conv("float16", kernel=1)) == pytest.approx(3 * driver)
    assert latency_s(conv("float32", groups=8)) - latency_s(conv("float32")) == pytest.approx(7 * driver)


def test_compiled_code_calls_the_frameworks_convolution():
    """Its loops are launched directly, its convolutions are not."""
    assert latency_s(conv("float32"), "inductor") - latency_s(loops(1), "inductor") > 2.0 * HOST.seconds["launch.inductor"][0]
