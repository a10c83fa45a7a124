"""The model's equations, worked out for single kernels and short graphs."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import Kernel, single_call_graph
from shmoo.estimators.machine.coefficients import ALGORITHMS, Coefficients, algorithm_codes, converts_layout, unrolls_image
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, TilingSpec, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.draws import draw
from shmoo.estimators.predict.energy import Joules, loop_operations
from shmoo.estimators.predict.energy import capped as power_capped
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.predict.model import Prediction, issued_flops, predict
from shmoo.estimators.predict.program import graph_latency, segment_energy
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import TileShape, Tiling
from shmoo.runs.tables.operators import TABLE_OPERATORS
from shmoo.runs.tables.reading import TableRow
from tests.build import GraphBuilder, kernel_table, with_values

PEAK, BANDWIDTH, LAUNCH = 1e12, 1e11, 1e-6


def machine(family: str = "cpu", **changed: float) -> ArchitectureProfile:
    """One memory level, everything at full rate, no overlap unless changed."""
    values = {
        "peak.matrix.float32": PEAK,
        "peak.vector.float32": PEAK,
        "peak.special.float32": PEAK,
        "bandwidth.dram": BANDWIDTH,
        "efficiency": 1.0,
        "efficiency.vector": 1.0,
        "efficiency.special": 1.0,
        "efficiency.bandwidth": 1.0,
        "half.m": 0.0,
        "half.n": 0.0,
        "half.k": 0.0,
        "overlap": 1.0,
        "launch": LAUNCH,
        "graph": 0.0,
        "device_launch": 0.0,
        "launch_tail": 0.0,
        "energy.flop": 1e-12,
        "energy.byte.dram": 1e-10,
        "power.static": 10.0,
        **({"count.sms": 100.0} if family == "gpu" else {}),
        **changed,
    }
    coefficients = {name: Coefficient(value, "1", "datasheet", "test") for name, value in values.items()}
    return ArchitectureProfile(
        name="test",
        family=family,
        description="",
        levels=("dram",),
        tiling=TilingSpec("cpu_l2_blocking"),
        coefficients=coefficients,
    )


def whole(table: KernelTable) -> Tiling:
    """One tile a kernel, everything from main memory."""
    ones = np.ones(len(table))
    return Tiling(TileShape(table.m, table.n, table.k), ones, ones, ones, {"dram": table.bytes}, ones)


def linear_table(m: int = 64, n: int = 64, k: int = 64) -> KernelTable:
    b = GraphBuilder()
    graph = b.graph(b.linear(b.tensor((m, k)), n))
    return kernel_table(graph, fuse(graph))


def predicted(table: KernelTable, profile: ArchitectureProfile, **overrides) -> Prediction:
    return predict(table, whole(table), Coefficients(profile, overrides), "eager")


def test_without_overlap_launch_compute_and_memory_add_up():
    """2 m n k / peak + bytes / bandwidth + launch."""
    table = linear_table(64, 32, 16)
    expected = LAUNCH + 2 * 64 * 32 * 16 / PEAK + 4 * (64 * 16 + 16 * 32 + 64 * 32) / BANDWIDTH
    assert predicted(table, machine()).latency_s[0] == pytest.approx(expected, rel=1e-12)


def test_large_overlap_exponents_give_the_roofline():
    """The larger of compute and memory."""
    table = linear_table(512, 512, 512)
    compute, memory = 2 * 512**3 / PEAK, 4 * 3 * 512**2 / BANDWIDTH
    assert predicted(table, machine(overlap=500.0)).device_s[0] == pytest.approx(max(compute, memory), rel=1e-2)


def test_efficiency_falls_with_extents_near_their_half():
    """k = half_k doubles the compute time."""
    table = linear_table(64, 64, 32)
    assert predicted(table, machine(**{"half.k": 32.0})).compute_s[0] == pytest.approx(2 * 2 * 64 * 64 * 32 / PEAK)


def test_the_most_specific_coefficient_holds():
    """efficiency.gemm before efficiency; conv_1x1 falls back to conv."""
    table = linear_table()
    assert predicted(table, machine(**{"efficiency.gemm": 0.5})).compute_s[0] == pytest.approx(2 * 2 * 64**3 / PEAK)
    c = Coefficients(machine(**{"efficiency.conv": 0.25}))
    assert c.by_algorithm(np.asarray([ALGORITHMS.index("conv_1x1")]), "efficiency")[0] == 0.25


def test_efficiency_may_exceed_one():
    """Winograd does fewer multiplications than are counted; nothing clamps it."""
    table = linear_table()
    assert predicted(table, machine(efficiency=1.25)).compute_s[0] == pytest.approx(2 * 64**3 / PEAK / 1.25)


def test_page_faults_cost_where_memory_comes_from_the_system_anew():
    """4096 x 4096 floats are 64 MiB and mapped at every call; 64 x 64 are 16 KiB and held."""
    for side, fresh in ((64, 0.0), (4096, 2.0**26)):
        b = GraphBuilder()
        graph = b.graph(b.relu(b.tensor((side, side))))
        table = kernel_table(graph, fuse(graph))
        quiet, faulting = (predicted(table, machine(page_fault=cost)).latency_s[0] for cost in (0.0, 1e-9))
        assert faulting - quiet == pytest.approx(fresh * 1e-9)


def test_a_library_that_converts_images_needs_memory_for_its_copies():
    """56 MiB of results are mapped at every call, and so is their copy; the copy of 28 MiB of image stays in the heap."""
    b = GraphBuilder()
    graph = b.graph(b.conv(b.tensor((7, 256, 64, 64)), 512))
    assert kernel_table(graph, fuse(graph)).mapped_bytes.tolist() == [56 * 2**20]
    table = kernel_table(graph, fuse(graph), converts="kernels")
    assert (table.mapped_bytes.tolist(), table.grown_bytes.tolist()) == ([2 * 56 * 2**20], [0])


def test_copies_of_large_weights_are_mapped_at_every_call():
    """36 MiB of 3 x 3 weights: the library makes one copy, compiled code another before it; 16 MiB of 1 x 1 weights fit a hole of
    the heap, and frozen weights are copied no more."""
    b = GraphBuilder()
    graph = b.graph(b.conv(b.conv(b.tensor((1, 1024, 32, 32)), 1024), 4096, kernel=1))
    mapped = {
        converts: kernel_table(graph, fuse(graph), converts=converts).mapped_bytes.tolist()
        for converts in ("none", "kernels", "edges", "edges and weights")
    }
    assert mapped == {
        "none": [0, 0],
        "kernels": [36 * 2**20, 0],
        "edges": [0, 0],
        "edges and weights": [72 * 2**20, 0],
    }


def test_compiled_code_converts_what_enters_and_leaves_and_all_weights():
    """A graph's own image of 2 x 64 x 8 x 8 floats enters, 2 x 32 x 8 x 8 leave; 3 x 3 weights are converted by the compiler, in
    a loop of its own, and by the library, 1 x 1 by the library alone; the second convolution reads what the first one left."""
    b = GraphBuilder()
    graph = b.graph(b.conv(b.conv(b.tensor((2, 64, 8, 8)), 64), 32, kernel=1))
    table = kernel_table(graph, fuse(graph))
    image, weights = 2 * 64 * 8 * 8 * 4, (64 * 64 * 9 * 4, 64 * 32 * 4)
    assert (table.entering_bytes.tolist(), table.leaving_bytes.tolist()) == ([image, 0], [0, image / 2])
    edge, blocks = 1e-9, 1e-10
    names = {"layout.inductor.edge": edge, "layout.inductor.weights": blocks}
    with_layout, without = (
        predict(table, whole(table), Coefficients(machine(**values)), "inductor").latency_s
        for values in (names, dict.fromkeys(names, 0.0))
    )
    loop = Coefficients(machine()).value("launch.inductor")
    expected = [edge * image + blocks * 2 * weights[0] + loop, edge * image / 2 + blocks * weights[1]]
    assert (with_layout - without).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("runtime", "rows", "threads"), [("eager", 8, 1), ("eager", 256, 4), ("inductor", 4, 1), ("inductor", 256, 4)]
)
def test_threads_are_joined_where_there_is_enough_to_do(runtime, rows, threads):
    """256 x 256 results are two of ATen's grains, and more than Inductor's 512 for each of four cores, which 4 x 256 are not."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.tensor((rows, 256))))
    table = kernel_table(graph, fuse(graph))
    joined, free = (
        predict(table, whole(table), Coefficients(machine(**{"count.cores": 4, "join": join, "skew": 0.0})), runtime).latency_s[0]
        for join in (1e-6, 0.0)
    )
    assert joined - free == pytest.approx((threads - 1) * 1e-6)


def test_main_memory_is_no_slower_for_loops_that_caches_slow_down():
    """A loop at a quarter of its caches' bandwidth takes four times as long there; from main memory it takes the same."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.tensor((64, 64))))
    table = kernel_table(graph, fuse(graph))
    profile = msgspec.structs.replace(machine(**{"bandwidth.l2": 4 * BANDWIDTH}), levels=("l2", "dram"))
    for level, factor in (("l2", 4.0), ("dram", 1.0)):
        near = Tiling(
            *(getattr(whole(table), name) for name in ("shape", "tiles", "waves", "utilisation")), {level: table.bytes}, 1.0
        )
        full, quarter = (
            predict(table, near, Coefficients(profile, {"efficiency.bandwidth.pointwise": share}), "eager").memory_s[0]
            for share in (1.0, 0.25)
        )
        assert quarter / full == pytest.approx(factor)


def test_compiled_loops_have_their_own_rate():
    """A compiled loop at half the vector peak takes twice the time; the same operator called by itself keeps its own rate."""
    b = GraphBuilder()
    graph = b.graph(b.add(b.tensor((64, 64)), b.tensor((64, 64))))
    table = kernel_table(graph, fuse(graph))
    own = {"efficiency.vector.add": 0.25, "efficiency.vector.inductor.pointwise": 0.5}
    times = {
        runtime: predict(table, whole(table), Coefficients(machine(), own), runtime).compute_s[0]
        for runtime in ("eager", "inductor")
    }
    assert times == pytest.approx({"eager": 64 * 64 / PEAK / 0.25, "inductor": 64 * 64 / PEAK / 0.5})


def test_compiled_code_is_entered_as_a_graph_even_for_one_kernel():
    """A lone operator costs its launch; compiled, it costs entering the graph as well."""
    table = linear_table()
    profile = machine(graph=1e-3)
    alone, compiled = (
        graph_latency(table, predicted(table, profile), Coefficients(profile), runtime)[0] for runtime in ("eager", "inductor")
    )
    assert compiled - alone == pytest.approx(1e-3)


def test_draws_predict_all_at_once():
    """D values of a coefficient give (D, K) times, each as if it stood alone."""
    table = linear_table()
    bandwidths = np.asarray([5e10, 1e11, 2e11])
    together = predict(table, whole(table), Coefficients(machine(), {"bandwidth.dram": bandwidths}), "eager").latency_s
    alone = [predicted(table, machine(), **{"bandwidth.dram": b}).latency_s for b in bandwidths]
    assert np.allclose(together, alone, rtol=1e-12)


def test_a_synchronous_graph_takes_the_sum_of_its_kernels():
    """Two segments of two kernels: their sums, plus the entry of each."""
    kernels = KernelTable.concat([linear_table(8, 8, 8)] * 4)
    kernels = KernelTable.concat([kernels])
    table = KernelTable(**{f: getattr(kernels, f) for f in kernels.__dataclass_fields__} | {"segment": np.asarray([0, 0, 1, 1])})
    profile = machine(graph=5e-6)
    prediction = predicted(table, profile)
    total = graph_latency(table, prediction, Coefficients(profile), "eager")
    assert total == pytest.approx(prediction.latency_s[0] * 2 + 5e-6)


def test_an_asynchronous_graph_hides_the_host_behind_long_kernels():
    """Launch 1 us each. Kernels of 10 us: first launch + 3 x 10; kernels of 0.1 us: 3 launches + the last kernel."""
    table = KernelTable.concat([linear_table(8, 8, 8)] * 3)
    table = KernelTable(**{f: getattr(table, f) for f in table.__dataclass_fields__} | {"segment": np.zeros(3, dtype=int)})
    profile = machine("gpu")
    launch = np.full(3, 1e-6)
    for device, expected in ((10e-6, 31e-6), (0.1e-6, 3.1e-6)):
        work = np.full(3, device)
        prediction = Prediction(work, work, launch, work, None)
        assert graph_latency(table, prediction, Coefficients(profile), "eager")[0] == pytest.approx(expected)


def test_energy_is_flops_bytes_and_static_power():
    """E = F e_flop + B e_byte + P t."""
    table = linear_table()
    profile = machine()
    prediction = predicted(table, profile)
    latency = graph_latency(table, prediction, Coefficients(profile), "eager")
    energy = segment_energy(table, prediction, latency, Coefficients(profile))
    assert energy[0] == pytest.approx(2 * 64**3 * 1e-12 + 4 * 3 * 64**2 * 1e-10 + 10.0 * latency[0])


def test_no_energy_coefficients_no_energy():
    """None, not zero."""
    profile = machine()
    bare = profile.replacing(coefficients={n: c for n, c in profile.coefficients.items() if not n.startswith("energy")})
    assert predicted(linear_table(), bare).dynamic_j is None


def test_a_dtype_without_a_peak_uses_one_the_unit_has():
    """bfloat16 on a unit that only multiplies float32."""
    b = GraphBuilder("bfloat16")
    graph = b.graph(b.linear(b.tensor((64, 64)), 64))
    table = kernel_table(graph, fuse(graph))
    assert predicted(table, machine()).compute_s[0] == pytest.approx(2 * 64**3 / PEAK)


def test_convolutions_are_told_apart_by_window_and_stride():
    """1x1, 3x3 of stride 1, and the rest have coefficients of their own."""
    names = []
    for kernel in (1, 3, 5):
        b = GraphBuilder()
        graph = b.graph(b.conv(b.tensor((1, 8, 16, 16)), 8, kernel))
        names.append(ALGORITHMS[algorithm_codes(kernel_table(graph, fuse(graph)), machine("gpu"))[0]])
    assert names == ["conv_1x1", "conv_3x3", "conv"]


def test_a_row_of_nine_is_no_window_of_three_by_three():
    """A convolution along one dimension with nine taps cannot use Winograd's transform of 3 x 3."""
    b = GraphBuilder()
    operands = {"input": b.tensor((1, 8, 64)), "weight": b.tensor((8, 8, 9), "parameter")}
    table = kernel_table(b.graph(b.call("conv1d", operands, (1, 8, 56), groups=1, stride=[1], dilation=[1])), [Kernel((0,))])
    assert ALGORITHMS[algorithm_codes(table, machine("gpu"))[0]] == "conv"


@pytest.mark.parametrize(
    ("images", "channels", "side", "window", "algorithm"),
    [
        (1, 5, 64, (3, 3), "conv_native"),
        (1, 5, 64, (5, 5), "conv"),
        (1, 5, 64, (1, 25), "conv_native"),
        (2, 5, 64, (1, 5), "conv"),
        (1, 6, 64, (1, 5), "conv"),
    ],
)
def test_a_cpu_gives_its_library_what_is_worth_it(images, channels, side, window, algorithm):
    """Several images, windows of more than 3 by 3, more than 20,480 elements: 5 x 64 x 64 are as many, 6 x 64 x 64 are more,
    however few of them the results are."""
    b = GraphBuilder()
    operands = {"input": b.tensor((images, channels, side, side)), "weight": b.tensor((8, channels, *window), "parameter")}
    shape = (images, 8, side - window[0] + 1, side - window[1] + 1)
    table = kernel_table(b.graph(b.call("conv2d", operands, shape, groups=1, stride=[1, 1], dilation=[1, 1])), [Kernel((0,))])
    assert ALGORITHMS[algorithm_codes(table, machine("cpu"))[0]] == algorithm


@pytest.mark.parametrize(
    ("images", "channels", "groups", "kernel", "dilation", "unrolled"),
    [
        (4, 16, 1, 3, 8, False),
        (4, 16, 1, 3, 16, True),
        (1, 64, 1, 3, 4, False),
        (1, 64, 1, 3, 8, True),
        (1, 512, 1, 3, 8, True),
        (1, 64, 8, 3, 8, False),
        (1, 64, 8, 3, 16, True),
        (1, 128, 4, 3, 8, False),
        (1, 128, 4, 3, 16, True),
        (1, 64, 64, 3, 4, False),
        (1, 64, 64, 3, 8, True),
        (1, 256, 256, 31, 1, True),
        (2, 48, 1, 3, 7, False),
        (2, 48, 1, 3, 8, True),
        (2, 512, 1, 17, 1, False),
        (2, 16, 1, 19, 1, True),
    ],
)
def test_a_sequence_padded_beyond_registers_is_unrolled(images, channels, groups, kernel, dilation, unrolled):
    """Which implementation ONEDNN_VERBOSE names for sequences of 1024, padded to keep their length, with PyTorch 2.13 on a Xeon:
    `x64:gemm:jit`, or `jit:avx512_core` and `jit_dw:avx512_core`."""
    b = GraphBuilder()
    weight = b.tensor((channels, channels // groups, kernel), "parameter")
    shape, padding = (images, channels, 1024), dilation * (kernel // 2)
    operands = {"input": b.tensor(shape), "weight": weight}
    call = b.call("conv1d", operands, shape, groups=groups, stride=[1], dilation=[dilation], padding=[padding])
    table = kernel_table(b.graph(call), [Kernel((0,))])
    codes = algorithm_codes(table, machine("cpu"))
    own, of_library = unrolls_image(table, codes)
    assert (own.tolist(), of_library.tolist()) == ([False], [unrolled])
    assert converts_layout(table, codes).tolist() == [not unrolled]


def test_draws_have_the_range_they_come_from():
    """90 % of the draws lie between low and high."""
    profile = machine().replacing(
        coefficients={"bandwidth.dram": Coefficient(1e11, "B/s", "datasheet", "test", low=0.5e11, high=1.2e11)}
    )
    values = draw(profile, ["bandwidth.dram"], 4000)["bandwidth.dram"]
    assert np.quantile(values, [0.05, 0.95]) == pytest.approx([0.5e11, 1.2e11], rel=0.05)


def test_what_the_host_does_after_the_hand_over_hides_behind_the_device():
    """Launch 10 us, 4 of them after the hand-over: a kernel of 1 us ends with the host at 10, one of 20 us at 6 + 20."""
    table = linear_table(8, 8, 8)
    profile = machine("gpu", launch_tail=0.4)
    launch = np.full(1, 10e-6)
    for device, expected in ((1e-6, 10e-6), (20e-6, 26e-6)):
        work = np.full(1, device)
        prediction = Prediction(work, work, launch, work, None)
        assert graph_latency(table, prediction, Coefficients(profile), "eager")[0] == pytest.approx(expected)


COMPUTING = {"bandwidth.dram": 1e18}
"""A machine whose work follows its clock, because nothing waits for memory."""


def capped(demand: float, table: KernelTable, **changed: float) -> ArchitectureProfile:
    """A GPU whose flops and bytes draw `demand` times the 30 W that static power leaves of a cap of 40 W."""
    names = {name.replace("__", "."): value for name, value in changed.items()}
    free = predicted(table, machine("gpu", **COMPUTING)).device_s[0]
    byte = names.get("energy.byte.dram", 0.0)
    flop = (demand * 30.0 * free - byte * float(table.bytes.sum())) / float(table.matrix_flops.sum())
    return machine(
        "gpu",
        **COMPUTING
        | {"energy.flop": flop, "energy.byte.dram": byte, "power.tdp": 40.0, "throttle.cap": 1.0, "throttle.time": free / 1e6}
        | names,
    )


def watts(table: KernelTable, profile: ArchitectureProfile) -> float:
    """Mean power while the device is busy."""
    found = predicted(table, profile)
    return profile.value("power.static") + found.dynamic_j[0] / found.device_s[0]


def test_sustained_load_slows_a_capped_device():
    """Flops that ask for 2 x what the cap leaves take 1.5 x the time after `throttle.time` of work, 2 x long after it."""
    table = linear_table(64, 64, 64)
    free = predicted(table, machine("gpu", **COMPUTING)).device_s[0]
    assert predicted(table, capped(2.0, table, throttle__time=free)).device_s[0] == pytest.approx(free * 1.5)
    assert predicted(table, capped(2.0, table)).device_s[0] == pytest.approx(free * 2.0, rel=1e-5)
    assert predicted(table, capped(2.0, table, power__tdp=100.0)).device_s[0] == pytest.approx(free)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"energy__clock": 1.0},
        {"energy__clock": 2.0, "energy__floor": 0.8},
        {"throttle__time": 1.0},
        {"energy__byte__dram": 5e-11, "energy__clock": 2.0},
    ],
)
def test_a_device_slowed_by_its_cap_draws_the_cap(changed):
    """The joules that ask for the time are those that are paid: 40 W, however energy follows the clock, and in calls too short
    for the controller when they follow each other."""
    table = linear_table(64, 64, 64)
    assert watts(table, capped(2.0, table, **changed)) == pytest.approx(40.0, rel=1e-5)
    assert watts(table, capped(0.5, table, **changed)) == pytest.approx(25.0, rel=1e-5)


def test_at_a_lower_clock_a_flop_takes_less():
    """Energy and static power in proportion to the clock x: products that would draw 60 W beside 10 W meet a cap of 40 W where
    60 x^2 + 10 x = 40. With a floor of 0.8, where 0.8 (60 x + 10) = 40."""
    table = linear_table(64, 64, 64)
    free = predicted(table, machine("gpu", **COMPUTING)).device_s[0]
    clock = (9700**0.5 - 10) / 120
    assert predicted(table, capped(2.0, table, energy__clock=1.0)).device_s[0] == pytest.approx(free / clock, rel=1e-5)
    floored = capped(2.0, table, energy__clock=1.0, energy__floor=0.8)
    assert predicted(table, floored).device_s[0] == pytest.approx(free * 1.5, rel=1e-5)


@pytest.mark.parametrize(("clock", "share"), [(1.0, 1.0), (0.8, 0.64), (0.5, 0.4)])
def test_a_lower_clock_takes_less_energy_down_to_the_floor(clock, share):
    """What the chip takes is given at the rated clock and falls with its square to 0.4; main memory takes the same."""
    table = linear_table(64, 64, 64)
    names = {"clock": clock, "clock.rated": 1.0, "energy.clock": 2.0, "energy.floor": 0.4}
    moved = 1e-10 * float(table.bytes.sum())
    chip = predicted(table, machine("gpu", **COMPUTING)).dynamic_j[0] - moved
    assert predicted(table, machine("gpu", **COMPUTING, **names)).dynamic_j[0] == pytest.approx(share * chip + moved)


def test_a_cool_board_computes_faster():
    """Half of the energy counts on a cool board, three quarters on one that is half warm; a short graph with an unknown past
    finds it cool, a row of a table warm, but a product on tensor cores cool, whatever prepares its operands."""
    table = linear_table(64, 64, 64)
    free = predicted(table, machine("gpu", **COMPUTING)).device_s[0]
    told = [(replace(table, warm=np.full(len(table), warm)), share) for warm, share in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0))]
    units, tensor = np.zeros(len(table), dtype=bool), np.ones(len(table), dtype=bool)
    for here, share in (*told, (table, 0.5), (table.in_campaign(units), 1.0), (table.in_campaign(tensor), 0.5)):
        found = predicted(here, capped(4.0, table, throttle__cool=0.5))
        assert found.device_s[0] == pytest.approx(share * 4.0 * free, rel=1e-5)


def test_a_product_on_tensor_cores_is_cool_and_a_network_of_them_warm():
    """An H200 that saves half of the joules while it is cool takes longer for a product among others than by itself."""
    h200 = load_profile("gpu_h200")
    director = AnalysisDirector(with_values(h200.replacing(host="", residual=()), {"throttle.cool.tensor": 0.5}))
    call, weights = TABLE_OPERATORS["linear"].build({"b": 1, "m": 8192, "n": 8192, "k": 8192}, "bfloat16")
    table, _ = director.tabulate([single_call_graph(call, weights, name="linear")], "cudagraphs")
    two = replace(KernelTable.concat([table, table]), segment=np.zeros(2, dtype=np.int64))
    single, listed, both = (
        float(director.price(of, "cudagraphs").device_s[0]) for of in (table, table.in_campaign(np.ones(1, dtype=bool)), two)
    )
    assert single == listed
    assert both > 2.1 * single


def test_a_lower_clock_that_costs_no_time_comes_first():
    """A product that waits for main memory asks for twice what the cap leaves: without voltage scaling it takes twice as long,
    with it a lower clock meets the cap in the same time."""
    table = linear_table(64, 64, 64)
    slow = {"bandwidth.dram": 1.0}
    waits = predicted(table, machine("gpu", **slow))
    changed = {"throttle.time": waits.device_s[0] / 1e6, "power.tdp": 40.0, "throttle.cap": 1.0, "energy.byte.dram": 0.0}
    chip = 2.0 * 30.0 * waits.device_s[0] / float(table.matrix_flops.sum())
    for exponent, longer in ((0.0, 2.0), (2.0, 1.0)):
        names = {**slow, **changed, "energy.flop": chip, "energy.clock": exponent}
        assert predicted(table, machine("gpu", **names)).device_s[0] == pytest.approx(longer * waits.device_s[0], rel=1e-4)


def test_loops_stay_at_a_lower_clock_beside_a_short_product():
    """A second of loops that need a fifth of the clock and ask for twice what the cap leaves: at the clock that meets it they
    take no longer, and a product of a millisecond beside them takes as much longer as the clock is lower."""
    row = KernelTable.concat([linear_table(64, 64, 64)] * 2)
    table = replace(row, segment=np.zeros(2, dtype=np.int64))
    names = {"power.tdp": 40.0, "throttle.cap": 1.0, "throttle.time": 1e-9, "energy.clock": 2.0}
    profile = machine("gpu", **COMPUTING, **names)
    joules = Joules(np.array([60.0, 0.0]), np.zeros(2))
    codes = algorithm_codes(table, profile)
    taken, _ = power_capped(table, np.array([1.0, 1e-3]), np.array([0.2, 1e-3]), joules, Coefficients(profile), codes)
    assert taken == pytest.approx([1.0, 1e-3 / (4 / 7) ** 0.5], rel=1e-3)


def test_energy_and_time_are_continuous_in_the_share_of_tensor_cores():
    """Float32 products on a T4 beside one in 16 bits that grows from nothing: a little of it adds a little, more of it more."""
    director = AnalysisDirector(load_profile("gpu_t4"), residual=False)

    def estimated(rows: int) -> tuple[float, float]:
        b = GraphBuilder("float32")
        results = [b.linear(b.tensor((2048, 2048)), 2048) for _ in range(4)]
        b.dtype = "float16"
        results += [b.linear(b.tensor((rows, 2048)), 2048)] if rows else []
        found = director.estimate(b.graph(*results), runtime="cudagraphs")
        return found.latency_s.value, found.energy_j.value

    times, joules = np.array([estimated(rows) for rows in (0, 8, 64, 512, 4096)]).T
    assert times[1] < 1.05 * times[0]
    assert joules[1] < 1.05 * joules[0]
    assert (np.diff(times) > 0).all()
    assert (np.diff(joules) > 0).all()


@pytest.mark.parametrize(("arch", "dtype", "more"), [("gpu_h100", "bfloat16", False), ("gpu_p100", "float32", True)])
def test_the_overhang_of_tensor_cores_tiles_takes_no_energy(arch, dtype, more):
    """One row fills a part of a tile. Its zeros cost a tensor core nothing, the float32 units the same as the rest."""
    profile = load_profile(arch)
    graph = TableRow(0, "linear", {"b": 1, "m": 3, "n": 4096, "k": 4096}, dtype).graph()
    director = AnalysisDirector(profile)
    table, _ = director.tabulate((graph,), "cudagraphs", dtype)
    issued = issued_flops(table, director.tile(table), Coefficients(profile), "cudagraphs")
    assert (issued > 1.5 * table.matrix_flops).all() if more else issued == pytest.approx(table.matrix_flops)


@pytest.mark.parametrize(("family", "share"), [("gpu", 0.1), ("cpu", 1.0)])
def test_operations_beside_a_contraction_work_on_registers(family, share):
    """Where a GPU's loop over memory takes ten instructions an operation, those within a contraction's kernel take one."""
    b = GraphBuilder()
    alone = tabulate_model((b.graph(b.relu(b.tensor((64, 64)))),), "eager", family).table
    fused = replace(alone, matrix_flops=np.ones(1))
    assert loop_operations(alone, family) == pytest.approx(64 * 64)
    assert loop_operations(fused, family) == pytest.approx(share * 64 * 64)


def test_a_row_of_a_table_finds_the_board_warm_and_a_graph_by_itself_does_not():
    """Of a table on a T4, an operator follows others; the same product as a graph is run from a cool board on, and as fast as
    within a graph of two."""
    director = AnalysisDirector(load_profile("gpu_t4"), residual=False)
    b = GraphBuilder("float32")
    product = b.linear(b.tensor((4096, 4096)), 4096)
    graph = b.graph(product)
    ((of_table, _),) = director.estimate_cases([graph], runtime="cudagraphs")
    assert director.estimate(graph, runtime="cudagraphs").latency_s.value < 0.8 * of_table.value
    together = b.graph(product, b.add(b.tensor((1,)), b.tensor((1,))))
    ((both, _),) = director.estimate_cases([together], runtime="cudagraphs")
    assert director.estimate(together, runtime="cudagraphs").latency_s.value == pytest.approx(both.value)


def test_a_power_cap_counts_a_flop_by_the_peak_of_its_type():
    """A card whose bfloat16 peak is 16 times its float32 peak runs a large product near both peaks: its cap binds neither."""
    profile = load_profile("gpu_a100_80g")
    times = {}
    for dtype in ("float32", "bfloat16"):
        call, weights = TABLE_OPERATORS["linear"].build({"b": 1, "m": 8192, "n": 8192, "k": 8192}, dtype)
        ((latency, _),) = AnalysisDirector(profile).estimate_cases(
            [single_call_graph(call, weights, name="linear")], runtime="eager"
        )
        times[dtype] = latency.value
    assert 6 < times["float32"] / times["bfloat16"] < 16.1
