"""What a compiled program moves and waits for on a TPU, as arithmetic on small graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict
from shmoo.estimators.predict.program import graph_latency
from shmoo.estimators.tiling import TpuWeightStationary
from tests.build import GraphBuilder
from tests.estimators.predict.test_recurrent import lstm

TPU = AnalysisDirector(load_profile("tpu_v4"))


def dram(graph: Graph) -> list[float]:
    table, _ = TPU.tabulate([graph], "xla")
    return TPU.tile(table).level_bytes["dram"].tolist()


def test_a_program_of_one_kernel_finds_nothing_on_chip():
    """Both operands of an addition and its result cross the main memory, though all would fit the chip."""
    b = GraphBuilder()
    x, y = b.tensor((64, 128)), b.tensor((64, 128))
    assert dram(b.graph(b.add(x, y))) == [3 * 4 * 64 * 128]


def test_a_bias_is_stored_as_it_is_and_its_matrix_in_whole_tiles():
    """A column of 512 weights fills the first rows of four tiles of 128 x 128; 512 biases are 2 KB."""
    b = GraphBuilder()
    operands = {"input": b.tensor((8, 1)), "weight": b.tensor((512, 1), "parameter"), "bias": b.tensor((512,), "parameter")}
    assert dram(b.graph(b.call("linear", operands, (8, 512)))) == [4 * (8 + 128 * 512 + 512 + 8 * 512)]


def test_steps_of_a_recurrent_layer_read_the_same_tiles():
    """One step or many: four gates of 64 units by 128 inputs are two tiles, once."""
    weights = [dram(lstm(steps, 64))[0] - 4 * (2 * steps * 64 + 4 * 64) for steps in (1, 50)]
    assert weights[0] == pytest.approx(weights[1], rel=0.02)


def test_parameters_come_from_the_main_memory_and_activations_stay():
    """The second product of a network reads its weights from afar and leaves its result there; its input was left on chip."""
    b = GraphBuilder()
    x = b.linear(b.tensor((128, 256)), 256)
    second = dram(b.graph(b.linear(x, 256)))[1]
    result = 4 * 128 * 256
    assert second == pytest.approx(4 * 256 * 256 + result, rel=1e-3)


def test_inputs_and_results_cross_the_main_memory_however_many_kernels_a_program_has():
    """A product moves the same bytes beside an independent addition as alone."""
    alone, beside = GraphBuilder(), GraphBuilder()
    moved = dram(alone.graph(alone.linear(alone.tensor((128, 256)), 256)))
    results = [beside.linear(beside.tensor((128, 256)), 256), beside.add(beside.tensor((8,)), beside.tensor((8,)))]
    assert dram(beside.graph(*results)) == [*moved, 3 * 4 * 8]


def test_kernels_of_a_program_hide_behind_each_other():
    """With all of it hidden, a product bound by arithmetic and one bound by its weights take the longer of all arithmetic and all
    traffic, and the longest start and end; with none, their sum."""
    b = GraphBuilder()
    graph = b.graph(b.linear(b.tensor((8192, 4096)), 4096), b.linear(b.tensor((8, 8192)), 8192))
    table, _ = TPU.tabulate([graph], "xla")
    tiling, times = TPU.tile(table), {}
    for share in (0.0, 1.0):
        c = Coefficients(TPU.profile, {"program": share})
        prediction = predict(table, tiling, c, "xla")
        times[share] = graph_latency(table, prediction, c, "xla")[0] - prediction.launch_s.sum() - c.value("graph.xla", "graph")
    body, compute, memory = prediction.device_s, prediction.compute_s, prediction.memory_s
    assert times[0.0] == pytest.approx(body.sum())
    exposed = (body - np.maximum(compute, memory)).max()
    assert times[1.0] == pytest.approx(max(compute.sum(), memory.sum()) + exposed)
    assert times[1.0] < 0.95 * times[0.0]


def test_one_operand_of_a_program_moves_while_it_is_entered():
    """Weights that fit beside the blocks are prefetched, those that do not and all of the second kernel's are not. They cross the
    memory all the same and take energy, and the call waits for what its entry and the rest before it do not cover."""
    director = AnalysisDirector(load_profile("tpu_v5e"), TpuWeightStationary(prefetch="largest"))
    b = GraphBuilder("bfloat16")
    table, _ = director.tabulate([b.graph(b.linear(b.linear(b.tensor((8, 4096)), 4096), 4096))], "xla")
    tiling = director.tile(table)
    assert tiling.early_bytes.tolist() == [2 * 4096 * 4096, 0]
    assert tiling.level_bytes["dram"] == pytest.approx([2 * 4096 * (4096 + 8)] * 2, rel=1e-3)
    waiting = predict(table, replace(tiling, early_bytes=None), Coefficients(director.profile), "xla")
    assert waiting.early_s is None
    moved_s = 2 * 4096 * 4096 / director.profile.value("bandwidth.dram")
    entry = director.profile.value("graph.xla")
    for gap in (0.0, 2e-6, 1.0):
        c = Coefficients(director.profile, {"gap": gap})
        early = predict(table, tiling, c, "xla")
        for of in ("device_s", "memory_s", "dynamic_j"):
            assert getattr(early, of) == pytest.approx(getattr(waiting, of))
        hidden = graph_latency(table, waiting, c, "xla") - graph_latency(table, early, c, "xla")
        assert early.early_s[1] == 0.0
        if gap < 1.0:
            assert hidden == pytest.approx([entry + gap])
        else:
            # The rest of its copy hides behind the second kernel.
            assert 0.5 * moved_s < hidden[0] < moved_s / director.profile.value("efficiency.bandwidth.gemm")
    b = GraphBuilder("bfloat16")
    large, _ = director.tabulate([b.graph(b.linear(b.tensor((8, 16384)), 16384))], "xla")
    assert director.tile(large).early_bytes.tolist() == [0]


def test_inputs_from_the_host_do_not_pass_the_main_memory():
    """TPU v1: the host fills the unified buffer, and only weights come from the memory."""
    b = GraphBuilder("int8")
    director = AnalysisDirector(load_profile("tpu_v1"))
    table, _ = director.tabulate([b.graph(b.linear(b.tensor((128, 512)), 256))], "xla")
    assert director.tile(table).level_bytes["dram"][0] == pytest.approx(512 * 256, rel=1e-3)


def test_partial_tiles_of_weights_cost_full_ones():
    """130 x 130 weights occupy four tiles of 128 x 128."""
    b = GraphBuilder()
    moved = dram(b.graph(b.linear(b.tensor((128, 130)), 130)))[0]
    assert moved == 4 * (256 * 256 + 2 * 128 * 130)


def test_statistics_read_their_rows_two_more_times():
    """A layer norm reads three times and writes once; a batch norm with running statistics reads once."""
    b = GraphBuilder()
    moved = dram(b.graph(b.layer_norm(b.tensor((512, 1024)))))[0]
    assert moved == pytest.approx(4 * (4 * 512 * 1024 + 2 * 1024))
    b = GraphBuilder()
    moved = dram(b.graph(b.batch_norm(b.tensor((8, 64, 32, 32)))))[0]
    assert moved == pytest.approx(4 * (2 * 8 * 64 * 32 * 32 + 4 * 64))


def test_the_array_and_the_vector_unit_work_at_once():
    """With full overlap a product with an activation behind it takes the longer of the two, not their sum."""
    b = GraphBuilder()
    table, _ = TPU.tabulate([b.graph(b.relu(b.linear(b.tensor((4096, 256)), 256)))], "xla")
    assert len(table) == 1
    tiling = TPU.tile(table)
    units = {"overlap": 1e3, "overlap.gemm": 1e3}
    compute = predict(table, tiling, Coefficients(TPU.profile, units), "xla").compute_s[0]
    array = tiling.cycles[0] / TPU.profile.value("clock") / TPU.profile.value("efficiency.gemm")
    vector = table.vector_flops[0] / TPU.profile.value("peak.vector.float32") / 0.5
    assert compute == pytest.approx(max(array, vector), rel=0.01)


def test_what_is_fused_to_a_batch_norm_gives_it_no_statistics():
    """Batch norm, hardswish (5 operations an element beside the norm's 2): still one reading of the input."""
    b = GraphBuilder()
    x = b.batch_norm(b.tensor((8, 64, 32, 32)))
    (moved,) = dram(b.graph(b.call("hardswish", {"self": x}, (8, 64, 32, 32))))
    assert moved == pytest.approx(4 * (2 * 8 * 64 * 32 * 32 + 4 * 64))


def test_a_batch_norm_of_a_few_elements_takes_no_statistics():
    """The operations a channel, which count for little in images, do not make statistics of one row a channel."""
    b = GraphBuilder()
    assert dram(b.graph(b.batch_norm(b.tensor((1, 512, 1, 1)))))[0] == pytest.approx(4 * (2 * 512 + 4 * 512))


@pytest.mark.parametrize(("name", "least", "mean", "most"), [("tpu_v4", 121, 170, 192), ("tpu_v3", 175, 220, 262)])
def test_programs_draw_the_power_that_was_measured(name, least, mean, most):
    """Static power below the least of production programs; 60 % of peak and a quarter of the memory's bandwidth draw their mean,
    three quarters and a third no more than their most (Jouppi et al., ISCA 2023, table 4)."""
    value = load_profile(name).value

    def watts(of_peak, of_bandwidth):
        flops = of_peak * value("peak.matrix.bfloat16") * value("energy.flop.matrix.bfloat16")
        return value("power.static") + flops + of_bandwidth * value("bandwidth.dram") * value("energy.byte.dram")

    assert value("power.idle") < watts(0, 0) <= least
    assert watts(0.6, 0.25) == pytest.approx(mean, rel=0.02)
    assert watts(0.75, 1 / 3) <= most
