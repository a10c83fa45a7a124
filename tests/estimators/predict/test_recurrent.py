"""Recurrent layers: their steps wait for each other, and read the weights of the state anew."""

from __future__ import annotations

import pytest

from shmoo.estimators.costs.quantize import with_dtype
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.variants import variant
from tests.build import GraphBuilder

GPUS = [name for name in builtin_names() if load_profile(name).family == "gpu"]


def lstm(steps: int, hidden: int, dtype: str = "float32") -> Graph:
    """One layer, one sequence."""
    gates = 4 * hidden
    shapes = {
        "input": (1, steps, hidden), "hx.0": (1, 1, hidden), "hx.1": (1, 1, hidden),
        "params.0": (gates, hidden), "params.1": (gates, hidden), "params.2": (gates,), "params.3": (gates,),
    }  # fmt: skip
    results = ((1, steps, hidden), (1, 1, hidden), (1, 1, hidden))
    call = OpCall(
        "aten.lstm",
        tuple(TensorSpec(shape, "float32") for shape in shapes.values()),
        tuple(TensorSpec(shape, "float32") for shape in results),
        tuple(shapes),
        {"num_layers": 1, "bidirectional": False, "batch_first": True},
    )
    graph = single_call_graph(call, weights=range(3, 7))
    return with_dtype(graph, dtype) if dtype != "float32" else graph


def on(name: str, graph: Graph, runtime: str = "cudagraphs", compute_dtype: str | None = None) -> Estimate:
    return AnalysisDirector(load_profile(name)).estimate([graph], runtime=runtime, compute_dtype=compute_dtype)


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize(("dtype", "compute_dtype"), [("float32", None), ("float32", "tf32"), ("bfloat16", None)])
def test_a_step_takes_a_few_microseconds_of_the_device(name: str, dtype: str, compute_dtype: str | None) -> None:
    """A step of 256 units has a few kernels, each of which waits for the one before; its arithmetic is next to nothing."""
    estimate = on(name, lstm(196, 256, dtype), compute_dtype=compute_dtype)
    assert 1.5e-6 < estimate.device_s / 196 < 1e-5
    assert estimate.latency_s.high > 1.5 * estimate.latency_s.low


@pytest.mark.parametrize("name", GPUS)
def test_a_persistent_kernel_takes_about_a_microsecond_a_step(name: str) -> None:
    """A layer of 96 units stays in registers: cuDNN takes 0.4 to 0.9 us a step."""
    assert 4e-7 < on(name, lstm(2000, 96)).device_s / 2000 < 2e-6


@pytest.mark.parametrize(
    ("name", "weights_s"), [("gpu_v100", 4 * 1024 * 1024 * 4 / 900e9), ("gpu_t4", 4 * 1024 * 1024 * 4 / 320e9)]
)
def test_each_step_reads_weights_that_no_cache_holds(name: str, weights_s: float) -> None:
    """16.8 MB of the state's weights of 1024 units are more than the L2 of a V100 or a T4."""
    assert weights_s < on(name, lstm(800, 1024)).device_s / 800 < 2 * weights_s


def test_newer_gpus_are_not_slower_at_the_steps_of_a_large_layer() -> None:
    """An A100 reads the weights of 1024 units in each step no slower than a V100 or a T4."""
    v100, t4, a100 = (on(name, lstm(800, 1024)).device_s for name in ("gpu_v100", "gpu_t4", "gpu_a100_80g"))
    assert a100 <= v100 < t4


def test_the_host_launches_the_steps_in_compiled_code_too() -> None:
    """torch.compile leaves a recurrent layer to the framework; only a replayed graph has its kernels."""
    compiled, replayed = (on("gpu_a100_80g", lstm(196, 256), runtime) for runtime in ("inductor", "cudagraphs"))
    assert compiled.latency_s.value > 1.2 * replayed.latency_s.value


@pytest.mark.parametrize("name", [name for name in GPUS if load_profile(name).get("power.tdp")])
def test_no_kernel_draws_more_than_the_board_may(name: str) -> None:
    """What holds of a call holds of each of its kernels."""
    estimate = on(name, lstm(196, 256))
    for kernel in estimate.breakdown:
        assert kernel.energy_j is not None
        assert kernel.energy_j <= 1.001 * load_profile(name).value("power.tdp") * max(kernel.elapsed_s, kernel.latency_s)


@pytest.mark.parametrize("name", [name for name in builtin_names() if load_profile(name).family == "cpu"])
def test_steps_on_a_core_read_the_weights_of_the_state_as_often_as_products_would(name: str) -> None:
    """200 steps of 512 units take as long as 200 products of a row with 4 MB of weights, which no core's own caches hold, and at
    most twice that: the weights of the input multiply all steps at once."""
    core = AnalysisDirector(variant(load_profile(name), {"count.cores": 1}), residual=False)
    b = GraphBuilder()
    graphs = [lstm(200, 512), b.graph(b.linear(b.tensor((1, 512)), 2048))]
    table, _ = core.tabulate(graphs, "eager")
    layer, step = core.price(table, "eager").prediction.device_s
    assert 0.9 * 200 * step < layer < 2 * 200 * step
