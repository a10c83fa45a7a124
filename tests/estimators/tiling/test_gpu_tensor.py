"""Kernels on a GPU's tensor cores: what they share with those of the float32 units, which is nothing that was fitted there."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from shmoo.estimators.costs.quantize import Scheme, quantized
from shmoo.estimators.errors import InputError
from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.catalogue import DEFAULTS
from shmoo.estimators.machine.coefficients import ALGORITHMS, TENSOR, Coefficients, algorithm_codes, on_tensor_cores
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile, FittedFrom, load_profile
from shmoo.estimators.predict.basis import in_measured_type
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.predict.model import Prediction, predict
from shmoo.estimators.predict.program import graph_latency, segment_energy
from shmoo.estimators.sweep.controller import estimate_points
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import GpuThreadBlocks, TileShape, Tiling, strategy_for
from shmoo.estimators.tiling.gpu.blocks import level_speeds
from shmoo.estimators.tiling.gpu.library import STREAMED, TENSOR_KERNELS
from shmoo.estimators.tiling.gpu.tensor import unpacked
from shmoo.estimators.variants import variant
from shmoo.runs.tables.reading import TableRow
from tests.build import GraphBuilder, kernel_table, with_values

GPUS = ("gpu_v100", "gpu_t4", "gpu_a100_40g", "gpu_a100_80g", "gpu_l4", "gpu_h100", "gpu_h200")
ONE = np.ones(1)


def linear_graph(m: int, n: int, k: int, dtype: str = "float16") -> Graph:
    b = GraphBuilder(dtype)
    return b.graph(b.linear(b.tensor((m, k)), n))


def linear(m: int, n: int, k: int, dtype: str = "float16") -> KernelTable:
    graph = linear_graph(m, n, k, "float32" if dtype == "tf32" else dtype)
    return kernel_table(graph, fuse(graph)).computed_in(dtype)


def add(side: int, dtype: str) -> Graph:
    b = GraphBuilder(dtype)
    return b.graph(b.add(b.tensor((side, side)), b.tensor((side, side))))


def conv(dtype: str) -> KernelTable:
    b = GraphBuilder(dtype)
    graph = b.graph(b.conv(b.tensor((8, 64, 28, 28)), 64))
    return kernel_table(graph, fuse(graph))


def tiled(table: KernelTable, profile: ArchitectureProfile) -> Tiling:
    strategy = strategy_for(profile)
    return strategy.apply(table, profile, strategy.choose(table, profile))


def priced(table: KernelTable, name: str, overrides: dict[str, float] | None = None) -> Prediction:
    profile = load_profile(name)
    return predict(table, tiled(table, profile), Coefficients(profile, overrides), "cudagraphs")


def share_of_peak(side: int, name: str, dtype: str) -> float:
    table = linear(side, side, side, dtype)
    return table.matrix_flops[0] / priced(table, name).device_s[0] / load_profile(name).value(f"peak.matrix.{dtype}")


def repeated(table: KernelTable, times: int) -> KernelTable:
    row = KernelTable.concat([table] * times)
    return replace(row, segment=np.zeros(len(row), dtype=np.int64))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpu_h100", "bfloat16"),
        ("gpu_h200", "float8"),
        ("gpu_a100_80g", "bfloat16"),
        ("gpu_a100_80g", "tf32"),
    ],
)
def test_large_squares_reach_most_of_the_peak_and_small_ones_do_not(name, dtype):
    """8192 x 8192 reaches 50 to 85 %; 512 x 512 are too few blocks, started too late, for a quarter of it."""
    assert 0.5 < share_of_peak(8192, name, dtype) < 0.85
    assert share_of_peak(512, name, dtype) < 0.25


@pytest.mark.parametrize("name", GPUS)
def test_a_single_row_takes_what_reading_the_weights_takes(name):
    """One row by 8192 x 28672 weights of 2 bytes: 470 MB over the bandwidth, and at most 45 % more: measured streams reach 75 to
    85 % of it."""
    table = linear(1, 28672, 8192)
    floor = 2 * 8192 * 28672 / load_profile(name).value("bandwidth.dram")
    assert 1.0 < priced(table, name).device_s[0] / floor < 1.45


@pytest.mark.parametrize(
    ("name", "dtype", "on"),
    [
        ("gpu_a100_40g", "float32", False),
        ("gpu_a100_40g", "tf32", True),
        ("gpu_a100_40g", "bfloat16", True),
        ("gpu_a100_40g", "float8", True),  # in bfloat16, which holds it; Hopper and Ada are the first with a rate
        ("gpu_p100", "int8", False),
        ("gpu_v100", "float16", True),
        ("gpu_v100", "bfloat16", False),
        ("gpu_t4", "int8", True),
        ("gpu_p100", "float16", False),
        ("cpu_server_generic", "bfloat16", False),
    ],
)
def test_tensor_cores_multiply_the_types_they_have_a_rate_for(name, dtype, on):
    """And those that a wider such type holds; others run on the units of float32."""
    profile = load_profile(name)
    table = linear(64, 64, 64, dtype)
    assert on_tensor_cores(table, profile).all() == on
    (code,) = algorithm_codes(table, profile)
    assert (ALGORITHMS[code] in TENSOR) == on


def test_products_in_float4_do_not_split_their_reduction():
    """Few rows over 65536: float8 does, which keeps more multiprocessors busy."""
    parts = {
        dtype: float(tiled(linear(14, 2048, 65536, dtype), load_profile("gpu_b200")).shape.k[0]) for dtype in ("float8", "float4")
    }
    assert parts["float4"] == 65536
    assert parts["float8"] < 65536


def quantized_product(m: int, n: int, k: int, scheme: str | Scheme) -> KernelTable:
    """The product of a quantized layer alone."""
    (graph,) = quantized((linear_graph(m, n, k, "bfloat16"),), scheme)
    table = kernel_table(graph, fuse(graph))
    return table.take(np.flatnonzero(table.matrix_flops > 0))


def test_products_with_scales_by_groups_do_not_split_their_reduction():
    """16 x 512 results over 65536 keep few multiprocessors busy; with one scale a row their reduction is cut, and they end
    sooner. They scale 512 sums for each result."""
    profile = load_profile("gpu_h100")
    by_row = Scheme("float8-dynamic", "float8", (1, 0), "float32")
    grouped, rows = (quantized_product(16, 512, 65536, scheme) for scheme in ("float8-dynamic", by_row))
    assert tiled(grouped, profile).shape.k[0] == 65536
    assert tiled(rows, profile).shape.k[0] < 65536
    assert grouped.vector_flops[0] == 16 * 512 * (2 * 512 - 1)
    c = Coefficients(profile)
    seconds = [predict(t, tiled(t, profile), c, "cudagraphs").device_s[0] for t in (grouped, rows)]
    assert seconds[0] > 1.5 * seconds[1]


def test_packed_weights_are_staged_as_they_are_stored():
    """A block of 64 by 128 stages 64 elements of two bytes and 128 of half a byte, with scales: about 196 bytes against 384."""
    profile = load_profile("gpu_a100_sxm_80g")
    shape = TileShape(64.0 * ONE, 128.0 * ONE, 4096.0 * ONE)
    packed, plain = quantized_product(64, 4096, 4096, "int4-weight"), linear(64, 4096, 4096, "bfloat16")
    staged = [GpuThreadBlocks(library="ampere").apply(table, profile, shape).blocks.staged[0] for table in (packed, plain)]
    assert staged[0] / staged[1] == pytest.approx((64 * 2 + 128 * 0.53) / (64 * 2 + 128 * 2), rel=0.02)


def test_each_row_of_blocks_unpacks_the_weights_that_it_multiplies():
    """1024 rows are 16 blocks of 64 or 8 of 128. Registers are not held back by what loops over memory reach."""
    profile = load_profile("gpu_a100_sxm_80g")
    table = quantized_product(1024, 4096, 4096, "int4-weight")
    for rows in (64.0, 128.0):
        tiling = GpuThreadBlocks(library="ampere").apply(table, profile, TileShape(rows * ONE, 128.0 * ONE, 4096.0 * ONE))
        times = unpacked(table, tiling.shape.m, tiling.utilisation)[0]
        assert times * tiling.utilisation[0] == pytest.approx(1024 / rows)
    loops = {"efficiency.vector": 0.01}
    assert priced(table, profile.name, loops).device_s[0] == priced(table, profile.name).device_s[0]


@pytest.mark.parametrize("name", ["gpu_a100_40g", "gpu_h100"])
def test_float32_feels_nothing_of_tensor_cores(name):
    """Every coefficient of tensor cores three times as large: not a bit of a float32 product, nor of its interval, changes."""
    profile = load_profile(name)
    names = [n for n in {*profile.coefficients, *DEFAULTS["gpu"]} if whose(n) in ("tensor", *TENSOR)]
    changed = {n: 3.0 * Coefficients(profile).value(n) for n in names}
    table = linear(1000, 2000, 3000, "float32")
    assert len(changed) > 10
    for field in ("latency_s", "dynamic_j"):
        assert getattr(priced(table, name), field)[0] == getattr(priced(table, name, changed), field)[0]
    known = {n: v for n, v in changed.items() if n in profile.coefficients}
    other = profile.replacing(coefficients=with_values(profile, known).coefficients)
    both = [AnalysisDirector(p).estimate_cases([linear_graph(512, 512, 512, "float32")]) for p in (profile, other)]
    assert both[0] == both[1]


def test_tensor_cores_feel_nothing_that_was_fitted_to_float32_products():
    """Ramps, shares of peak and bandwidth, overlap twice as large: not a bit of a bfloat16 product changes."""
    profile = load_profile("gpu_a100_40g")
    fitted = [n for n in profile.coefficients if n.rpartition(".")[2] in ("gemm", "gemm_batched", "gemv") and "launch" not in n]
    assert {"half.far.gemm", "efficiency.bandwidth.gemm", "overlap.gemm"} <= set(fitted)
    table = linear(2048, 8192, 4096, "bfloat16")
    changed = {n: 2.0 * profile.value(n) for n in fitted}
    assert priced(table, profile.name).latency_s[0] == priced(table, profile.name, changed).latency_s[0]


@pytest.mark.parametrize(
    ("name", "generation"), [("gpu_v100", "volta"), ("gpu_t4", "turing"), ("gpu_l4", "ampere"), ("gpu_h200", "hopper")]
)
def test_products_take_tiles_of_their_generation(name, generation):
    """One of the list, whatever the shape, or one that streams for single rows; sums of 9 are padded to a slice of 32 or 64."""
    profile, kernels = load_profile(name), TENSOR_KERNELS[generation]
    for m, n in ((7, 4096), (4096, 7), (300, 300), (4096, 4096), (1, 4096)):
        shape = strategy_for(profile).choose(linear(m, n, 512), profile)
        assert (shape.m[0], shape.n[0]) in (*kernels.tiles, *(STREAMED if m == 1 else ()))
    padded = strategy_for(profile).apply(linear(8192, 8192, 9), profile, TileShape(128 * ONE, 128 * ONE, 9 * ONE))
    assert padded.blocks.filled[0] == pytest.approx(9 / (kernels.slice_bytes / 2))


def test_a_misspelt_generation_suggests_the_nearest():
    """Generations with tensor cores are listed."""
    with pytest.raises(InputError, match="'hopper'"):
        GpuThreadBlocks(tensor_library="hoper")


def test_patches_of_blocks_read_level_two_once():
    """1024 x 1024 of 128 x 256: each of 4 columns of blocks reads the rows, each of 8 rows of blocks the columns; in patches of 4
    by 4, one column and two rows of patches do. Operands have 1024 x 64 elements of 2 bytes, the result is written once."""
    operand, result = 2 * 1024 * 64, 2 * 1024 * 1024
    shape = TileShape(128 * ONE, 256 * ONE, 64 * ONE)
    table, profile = linear(1024, 1024, 64), load_profile("gpu_h100")
    for library, reads in (("ampere", 4 + 8), ("hopper", 1 + 2)):
        moved = GpuThreadBlocks(tensor_library=library).apply(table, profile, shape).level_bytes
        assert moved["l2"][0] == pytest.approx(operand * reads + result)


def test_shared_memory_is_read_for_every_multiply_add():
    """A warp of 64 x 64 outputs reads 2 / 64 elements for each, Hopper's groups of 64 x 256 take 1 / 64 + 1 / 256; and 8 + 4
    copies of the operands are written."""
    adds, operand, result = 1024 * 1024 * 64, 2 * 1024 * 64, 2 * 1024 * 1024
    shape = TileShape(128 * ONE, 256 * ONE, 64 * ONE)
    table, profile = linear(1024, 1024, 64), load_profile("gpu_h100")
    for library, reads in (("ampere", 2 / 64), ("hopper", 1 / 64 + 1 / 256)):
        moved = GpuThreadBlocks(tensor_library=library).apply(table, profile, shape).level_bytes
        assert moved["shared"][0] == pytest.approx(2 * adds * reads + operand * 12 + result)


def test_patches_of_blocks_leave_less_to_main_memory_than_rows_of_them():
    """132 blocks of 128 x 256 at once cover 16 x 8 of the 128 x 64 blocks of 16384 x 16384: each operand of 512 MiB is read about
    8 times, not once and 64 times as in rows of blocks."""
    table, profile = linear(16384, 16384, 16384), load_profile("gpu_h100")
    operand = 2 * 16384 * 16384
    shape = TileShape(128 * ONE, 256 * ONE, 16384 * ONE)
    moved = strategy_for(profile).apply(table, profile, shape).level_bytes["dram"][0]
    assert 8 * operand < moved < 19 * operand


def test_convolutions_on_tensor_cores_are_done_directly():
    """A 3 x 3 window is offered Winograd's transforms in float32, and not in float16."""
    profile = load_profile("gpu_v100")
    assert tiled(conv("float32"), profile).alternatives
    assert not tiled(conv("float16"), profile).alternatives


def test_a_capped_board_sustains_what_its_power_gives():
    """A T4 that multiplies for long draws what its controller holds of 70 W, in time and in energy; int8 takes half of
    float16's."""
    profile = load_profile("gpu_t4")
    c = Coefficients(profile)
    seconds = {}
    for dtype in ("float16", "int8"):
        table = repeated(linear(4096, 4096, 4096, dtype), 200)
        found = predict(table, tiled(table, profile), c, "cudagraphs")
        seconds[dtype] = graph_latency(table, found, c, "cudagraphs")
        watts = segment_energy(table, found, seconds[dtype], c) / seconds[dtype]
        assert watts[0] == pytest.approx(70.0 * c.value("throttle.cap"), rel=0.01)
    assert seconds["float16"] / seconds["int8"] == pytest.approx(2.0, rel=0.1)


def test_design_points_are_those_of_single_machines():
    """Multiprocessors x L2 bandwidth of an H100, L2 as copies read it with it; together and one by one."""
    profile, table = load_profile("gpu_h100").replacing(host=""), linear(3000, 4000, 776, "bfloat16")
    axes = {"count.sms": (66.0, 132.0), "bandwidth.l2": (1e12, 5.6e12)}
    single = []
    for values in itertools.product(*axes.values()):
        machine = variant(profile, dict(zip(axes, values, strict=True)))
        c = Coefficients(machine)
        single.append(graph_latency(table, predict(table, tiled(table, machine), c, "inductor"), c, "inductor")[0])
    assert estimate_points(profile, table, "inductor", axes)["latency_s"] == pytest.approx(single)
    assert single[2] > 1.5 * single[3]


def estimated(graph: Graph, name: str) -> Estimate:
    return AnalysisDirector(load_profile(name)).estimate(graph, runtime="cudagraphs")


def test_types_that_were_not_measured_are_not_called_fitted():
    """An A100 was fitted in float32: its sum of float32 tensors rests on that, of bfloat16 tensors on what is carried over, and a
    product in bfloat16 on what is carried from cards whose tensor cores were measured."""
    assert estimated(add(4096, "float32"), "gpu_a100_40g").basis["fitted"] > 0.8
    other = estimated(add(4096, "bfloat16"), "gpu_a100_40g").basis
    assert (other["fitted"], other["transferred"] > 0.8) == (0.0, True)
    product = estimated(linear_graph(4096, 4096, 4096, "bfloat16"), "gpu_a100_40g").basis
    assert (product["fitted"], product["transferred"] > 0.8) == (0.0, True)


@pytest.mark.parametrize("graph_of", [lambda dtype: add(4096, dtype), lambda dtype: linear_graph(4096, 4096, 4096, dtype)])
def test_intervals_of_types_that_were_not_measured_are_wider(graph_of):
    """On a machine fitted in float32, loops and products alike; and never narrower than 15 % either way."""

    def width(dtype: str) -> float:
        latency = estimated(graph_of(dtype), "gpu_a100_40g").latency_s
        return float(np.log(latency.high / latency.low))

    assert width("bfloat16") > 1.3 * width("float32")
    assert width("bfloat16") > 2 * 1.645 * 0.14


def test_types_of_one_width_and_rate_are_measured_together():
    """Rows in bfloat16 tell about float16 too on an A100, whose units are as fast in both; not about tf32 or float32."""
    fitted = load_profile("gpu_a100_40g").replacing(fitted_from=FittedFrom(dtypes=("bfloat16",)))
    told = {name: in_measured_type(linear(8, 8, 8, name), fitted)[0] for name in ("bfloat16", "float16", "tf32", "int8")}
    assert told == {"bfloat16": True, "float16": True, "tf32": False, "int8": False}
    assert in_measured_type(linear(8, 8, 8), load_profile("gpu_h100")).all()
    assert in_measured_type(linear(8, 8, 8, "bfloat16"), load_profile("tpu_v4")).all()  # whose table says float16


def test_slower_units_lose_less_to_what_takes_its_own_time():
    """A GeForce's multiprocessor does a quarter of an A100's multiply-adds a clock, so filling a block loses a quarter."""
    for name, pace in (("gpu_a100_40g", 1.0), ("gpu_l4", 0.5), ("gpu_rtx3090", 0.25), ("gpu_h100", 1.0), ("gpu_t4", 1.0)):
        profile = load_profile(name)
        kernels = TENSOR_KERNELS[str(profile.tiling.parameters.get("tensor_library") or profile.tiling.parameters["library"])]
        assert kernels.pace(profile) == pytest.approx(pace)
        blocks = tiled(linear(4096, 4096, 1024), profile).blocks
        halves = {"half.tile": 2.0, "half.far": 0.0, "half.k": 128.0, "half.fill": 1000.0}
        parts = (2.0 / blocks.reuse, 128.0 / blocks.depth, 1000.0 / blocks.at_work)
        assert blocks.ramp(halves.__getitem__) == pytest.approx(np.prod([1.0 + pace * part for part in parts], axis=0))
    # Float32 units have 64 or 128 lanes everywhere.
    assert np.all(tiled(linear(4096, 4096, 1024, "float32"), load_profile("gpu_rtx3090")).blocks.pace == 1.0)


def test_wider_types_hide_more_of_a_latency():
    """A block of tf32 fills and drains in half of the elements that one of bfloat16 takes: a product of the same shape takes less
    than twice as long, the more so the shorter its reduction."""
    profile = load_profile("gpu_a100_sxm_80g")

    def ramp(k: int, dtype: str) -> float:
        blocks = tiled(linear(4096, 4096, k, dtype), profile).blocks
        assert blocks is not None
        c = Coefficients(profile)
        return float(blocks.ramp(lambda stem: c.value(f"{stem}.gemm_tensor", stem))[0])

    lost = {k: ramp(k, "bfloat16") / ramp(k, "tf32") for k in (256, 16384)}
    assert lost[256] > lost[16384] > 1


def test_convolutions_start_and_copy_as_products_do():
    """Where a card has nothing of their own, but for the addresses of what they copy."""
    profile = load_profile("gpu_h100")
    c, codes = Coefficients(profile), algorithm_codes(conv("float16"), profile)
    for stem in ("efficiency", "half.k", "fetch.latency", "device_launch", "tile_overhead", "overlap"):
        assert c.by_algorithm(codes, stem) == pytest.approx(profile.value(f"{stem}.gemm_tensor"))
    assert c.by_algorithm(codes, "half.tile") == pytest.approx(DEFAULTS["gpu"]["half.tile.conv_tensor"].value)
    assert c.by_algorithm(codes, "sigma") == pytest.approx(DEFAULTS["gpu"]["sigma.conv_tensor"].value)


def test_bytes_that_lie_across_the_reduction_are_multiplied_by_lanes():
    """Tensor cores take both operands along the reduction, as a linear layer has them. Others take a T4 at least 8 operations an
    instruction of 64 lanes on 40 multiprocessors at 1.59 GHz, less what a fit says of its clock."""
    profile, side = load_profile("gpu_t4"), 4096
    size = {"b": 1, "m": side, "n": side, "k": side}
    layer, product = (TableRow(0, op, size, "int8").graph() for op in ("linear", "matmul"))
    there = [on_tensor_cores(kernel_table(graph, fuse(graph)), profile)[0] for graph in (layer, product)]
    assert there == [True, False]
    director = AnalysisDirector(profile)
    compute = [director.estimate(graph, runtime="cudagraphs").breakdown[0].compute_s for graph in (layer, product)]
    least = 2 * side**3 / (8 * 64 * 40 * 1.59e9)
    assert compute[0] < least
    assert 0.9 * least < compute[1] < 1.6 * least


def test_bytes_across_the_reduction_come_in_large_blocks_that_walk_all_of_it():
    """Six blocks of 128 x 128 do 700 rows of 35 columns, however many multiprocessors they leave idle; a few rows have smaller
    ones. Neither is split, and both have coefficients of their own."""
    profile = load_profile("gpu_t4")
    for m, n, k, tile in ((700, 35, 2048, (128, 128)), (4, 512, 500_000, (32, 32))):
        graph = TableRow(0, "matmul", {"b": 1, "m": m, "n": n, "k": k}, "int8").graph()
        table = kernel_table(graph, fuse(graph))
        shape = strategy_for(profile).choose(table, profile)
        assert (shape.m[0], shape.n[0], shape.k[0]) == (*tile, k)
        assert [ALGORITHMS[code] for code in algorithm_codes(table, profile)] == ["gemm_dot"]


def test_ampere_counts_whole_rounds_in_bfloat16_alone():
    """256 blocks of 128 x 128 leave less of three rounds on 108 multiprocessors idle than 128 of 256 x 128 of two."""
    profile = load_profile("gpu_a100_40g")
    shapes = [strategy_for(profile).choose(linear(2048, 2048, 2048, dtype), profile) for dtype in ("bfloat16", "float16")]
    assert [shape.m[0] * shape.n[0] for shape in shapes] == [256 * 128, 128 * 128]


def test_shared_memory_answers_at_its_own_rate():
    """What main memory and L2 leave of their bandwidths is none of a multiprocessor's own."""
    profile = load_profile("gpu_a100_40g")
    shares = {"efficiency.bandwidth": 0.5, "efficiency.l2": 0.8}
    speeds = level_speeds(profile, lambda name: shares.get(name) or profile.value(name))
    rated = {level: profile.value(f"bandwidth.{level}") for level in ("shared", "l2", "dram")}
    assert speeds == {"shared": rated["shared"], "l2": 0.4 * rated["l2"], "dram": 0.5 * rated["dram"]}


def test_addresses_of_convolutions_hold_up_slow_tensor_cores_less():
    """An A100 takes 1 + 16 / 64 times as long as its copies alone would ask for in tiles of 128 x 128; a quarter of that is lost
    on the quarter as fast units of a GeForce card."""
    strategy = GpuThreadBlocks(tile_m=128, tile_n=128, library="ampere")
    for name, pace in (("gpu_a100_40g", 1.0), ("gpu_rtx3090", 0.25)):
        profile, table = load_profile(name), conv("float16")
        blocks = strategy.apply(table, profile, strategy.choose(table, profile)).blocks
        addresses = Coefficients(profile).by_algorithm(algorithm_codes(table, profile), "half.tile")
        halves = {"half.tile": addresses, "half.far": 0.0, "half.k": 0.0, "half.fill": 0.0}
        assert blocks.ramp(halves.__getitem__) == pytest.approx(1.0 + pace * 16.0 / 64.0)


def test_a_network_whose_contractions_tensor_cores_do_is_warm():
    """However long the loops between its products take; one in float32 starts on a cool board."""
    profile = load_profile("gpu_t4")
    for dtype, warm in (("float16", True), ("float32", False)):
        b = GraphBuilder(dtype)
        hidden = b.linear(b.tensor((8192, 2048)), 8192)
        graph = b.graph(b.linear(b.relu(b.relu(hidden)), 2048))
        table = kernel_table(graph, fuse(graph))
        own, hot = (
            predict(each, tiled(each, profile), Coefficients(profile), "cudagraphs").device_s.sum()
            for each in (table, replace(table, warm=np.ones(len(table))))
        )
        assert bool(own == pytest.approx(hot)) == warm
