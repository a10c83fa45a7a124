"""Relations between estimates that hold on every machine and for every shape, whatever the coefficients are.

Random shapes, from single rows to products that overflow every memory; a fixed seed for each profile.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.sweep.on_chip import on_chip_bytes
from shmoo.estimators.tiling.cpu_calls import COMPILED_GRAIN, team_seconds
from shmoo.estimators.variants import variant
from shmoo.runs.tables.reading import TableRow
from tests.build import GraphBuilder
from tests.estimators.predict.test_recurrent import lstm

CASES = 60
MORE_WORK, MORE_MACHINE = 0.02, 0.01
"""What an estimate may fall by with more work, or rise by on a better machine: cuts of a product fit one size better than the
next."""
EVEN_BLOCKS = 0.15
"""The same on a CPU, whose blocks fall on its cores more or less evenly."""
GROWN = {"m": MORE_WORK, "n": MORE_WORK, "k": 0.35}
"""What a product on a GPU may fall by as one extent grows. A longer reduction may be split where a shorter one is not: libraries
split those with a few slices in each part."""
COUNTING = [name for name in builtin_names() if name.startswith(("tpu", "kpu", "brief_tpu", "brief_kpu"))]
"""Machines whose strategies count cycles."""
UNITS = [
    (name, units) for name in COUNTING for units in ("count.units", "count.tiles") if units in load_profile(name).coefficients
]
DTYPE = {"tpu": "bfloat16", "kpu": "float32", "cpu": "float32", "gpu": "float32"}


def dtype_of(profile: ArchitectureProfile) -> str:
    return "int8" if profile.name == "tpu_v1" else DTYPE[profile.family]


def shapes(profile: ArchitectureProfile, most: int = 14) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(len(profile.name) + sum(map(ord, profile.name)))
    return [tuple(int(x) for x in np.floor(2 ** rng.uniform(0, most, 3))) for _ in range(CASES)]


def product(m: int, n: int, k: int, dtype: str, beside: int = 0) -> Graph:
    """(m, k) by (k, n), and an independent addition of `beside` elements in the same program."""
    b = GraphBuilder(dtype)
    results = [b.linear(b.tensor((m, k)), n)]
    if beside:
        results.append(b.add(b.tensor((beside,)), b.tensor((beside,))))
    return b.graph(*results)


def rows(m: int, n: int, dtype: str) -> Graph:
    b = GraphBuilder(dtype)
    return b.graph(b.call("softmax", {"self": b.tensor((m, n))}, (m, n), dim=-1))


def seconds(profile: ArchitectureProfile, graphs: list[Graph], runtime: str = "") -> np.ndarray:
    """Latencies in a runtime, by default the machine's own."""
    director, runtime = AnalysisDirector(profile, residual=False), runtime or profile.default_runtime
    table, _ = director.tabulate(graphs, runtime)
    return director.price(table, runtime).latency_s


def work(profile: ArchitectureProfile) -> list[Graph]:
    """Products, and rows that are normalized."""
    dtype = dtype_of(profile)
    listed = [product(m, n, k, dtype) for m, n, k in shapes(profile)]
    return listed + [rows(m, n, dtype) for m, n, _ in shapes(profile)[::4]]


@pytest.mark.parametrize("name", COUNTING)
def test_no_end_of_an_interval_passes_the_peak_or_the_bandwidth(name: str) -> None:
    """Fast ends are slower than the published peak, and than moving operands and result once, which a program finds in the main
    memory and leaves there; v1 has its inputs and results from the host, and a KPU keeps what fits."""
    profile = load_profile(name)
    dtype = dtype_of(profile)
    graphs = [product(m, n, k, dtype) for m, n, k in shapes(profile)]
    size = {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]
    ends = AnalysisDirector(profile).estimate_cases(graphs)
    for (m, n, k), (latency, _) in zip(shapes(profile), ends, strict=True):
        peak = profile.value(f"peak.matrix.{dtype}", profile.value("peak.matrix.bfloat16", 0) or math.inf)
        assert latency.low >= 2 * m * n * k / peak * (1 - 1e-9)
        moved = size * (m * k + k * n + m * n)
        if name == "tpu_v1":
            moved = size * k * n
        elif profile.family == "kpu":
            moved -= on_chip_bytes(profile)
        assert latency.low >= moved / profile.value(f"bandwidth.{profile.main_memory}") * (1 - 1e-9)


@pytest.mark.parametrize("name", builtin_names())
def test_more_bandwidth_or_clock_is_not_slower(name: str) -> None:
    """Twice the bandwidth of each memory, twice the clock, with and without a power cap."""
    capped = load_profile(name)
    free = variant(capped, {"power.tdp": 10 * capped.value("power.tdp")}) if capped.get("power.tdp") else capped
    graphs = work(capped)
    for profile in (free, capped):
        before = seconds(profile, graphs)
        better = [f"bandwidth.{level}" for level in profile.levels]
        for changed in (*better, *({"clock"} & set(profile.coefficients))):
            after = seconds(variant(profile, {changed: 2 * profile.value(changed)}), graphs)
            assert np.all(after <= before * (1 + MORE_MACHINE)), changed


CPUS = [name for name in builtin_names() if load_profile(name).family == "cpu"]
ON_CPU = {
    "products": lambda m, n, k: product(m, n, k, "float32"),
    "rows": lambda m, n, k: rows(m, n, "float32"),
    "additions": lambda m, n, k: elementwise(m, n),
    "convolutions": lambda m, n, k: convolution(m, n, k),
}
"""Kinds of work on a CPU, of three random extents."""


def elementwise(m: int, n: int) -> Graph:
    b = GraphBuilder()
    return b.graph(b.add(b.tensor((m, n)), b.tensor((m, n))))


def convolution(m: int, n: int, k: int) -> Graph:
    """3 by 3, from up to 512 channels to as many, of images of up to 112 by 112, at most 16 of them."""
    b = GraphBuilder()
    side, images = 1 + m % 112, 1 + m % 16
    return b.graph(b.conv(b.tensor((images, 1 + k % 512, side, side)), 1 + n % 512))


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("runtime", ["eager", "inductor"])
def test_twice_the_cores_take_no_longer_than_waking_them(name: str, runtime: str) -> None:
    """Frameworks hand loops of some size to all threads, and libraries cut convolutions for all, so that more cores may take
    longer, by what more threads take to wake and to wait for: once a kernel, and for each of up to three conversions around a
    convolution in compiled code. A product takes as many cores as are worth waking. Compiled loops that are too short for twice
    the cores stay on one and are left out."""
    profile = load_profile(name)
    cores = profile.value("count.cores")
    twice, c = variant(profile, {"count.cores": 2 * cores}), Coefficients(profile)
    waking = team_seconds(c, 2 * cores, 2 * cores) - team_seconds(c, cores, cores)
    regions = {"products": 0, "rows": 1, "additions": 1, "convolutions": 4 if runtime == "inductor" else 1}
    for kind, make in ON_CPU.items():
        listed = [s for s in shapes(profile) if not 1 <= s[0] * s[1] / (COMPILED_GRAIN * cores) < 2]
        graphs = [make(*shape) for shape in listed]
        before, after = (seconds(p, graphs, runtime) for p in (profile, twice))
        tolerance = EVEN_BLOCKS if kind in ("products", "convolutions") else MORE_MACHINE
        assert np.all(after <= before * (1 + tolerance) + regions[kind] * waking), kind


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("runtime", ["eager", "inductor"])
def test_more_work_is_not_faster_on_a_cpu(name: str, runtime: str) -> None:
    """A random growth of each extent of a product in turn, up to how evenly blocks fall on cores."""
    profile, rng = load_profile(name), np.random.default_rng(7)
    before = seconds(profile, [product(*shape, "float32") for shape in shapes(profile)], runtime)
    for axis in range(3):
        grown = [[math.ceil(x * rng.uniform(1, 2)) if i == axis else x for i, x in enumerate(s)] for s in shapes(profile)]
        after = seconds(profile, [product(*shape, "float32") for shape in grown], runtime)
        assert np.all(after >= before * (1 - EVEN_BLOCKS)), "mnk"[axis]


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_narrow_types_are_not_slower_than_float32_on_a_cpu(name: str, dtype: str) -> None:
    """Products of any shape, where the instruction set multiplies the type at least as fast: AMX, AVX512-BF16, VNNI, MMLA."""
    profile = load_profile(name)
    if profile.value(f"peak.matrix.{dtype}", 0.0) < profile.value("peak.matrix.float32"):
        pytest.skip("this CPU has no faster instructions for the type")
    wide, narrow = (seconds(profile, [product(*s, t) for s in shapes(profile)], "eager") for t in ("float32", dtype))
    assert np.all(narrow <= wide * (1 + EVEN_BLOCKS))


@pytest.mark.parametrize(("name", "units"), UNITS)
def test_more_units_are_not_slower(name: str, units: str) -> None:
    """Twice the matrix units of a TPU, twice the tiles of a KPU."""
    profile = load_profile(name)
    graphs = work(profile)
    after = seconds(variant(profile, {units: 2 * profile.value(units)}), graphs)
    assert np.all(after <= seconds(profile, graphs) * (1 + MORE_MACHINE))


@pytest.mark.parametrize("name", COUNTING)
def test_more_work_is_not_faster(name: str) -> None:
    """A random growth of each extent in turn takes at least as long, up to the stated tolerance."""
    profile, rng = load_profile(name), np.random.default_rng(7)
    dtype = dtype_of(profile)
    before = seconds(profile, [product(*shape, dtype) for shape in shapes(profile)])
    for axis in range(3):
        grown = []
        for shape in shapes(profile):
            larger = list(shape)
            larger[axis] = math.ceil(shape[axis] * rng.uniform(1, 2))
            grown.append(product(*larger, dtype))
        after = seconds(profile, grown)
        assert np.all(after >= before * (1 - MORE_WORK)), "mnk"[axis]


GPUS = [name for name in builtin_names() if load_profile(name).family == "gpu"]
OTHERS, SERIES = (64, 256, 1024, 4096), (3, 4, 5, 7, *(math.ceil(8 * 1.25**step) for step in range(34)))
"""Extents of a product beside the one that grows, and that one's, each a quarter more. Fewer than three rows or columns are
products with a vector, which libraries leave to other kernels."""


@pytest.mark.parametrize("name", GPUS)
def test_a_product_that_grows_by_a_quarter_is_not_faster_on_a_gpu(name: str) -> None:
    """Time on the device in float32, over all combinations: the tile is the one that the model finds fastest."""
    profile = load_profile(name)
    director = AnalysisDirector(profile, residual=False)
    for axis in "mnk":
        beside = [(a, b) for a in OTHERS for b in OTHERS]
        shapes = [{"m": (s, a, b), "n": (a, s, b), "k": (a, b, s)}[axis] for a, b in beside for s in SERIES]
        graphs = [product(*shape, "float32") for shape in shapes]
        table, _ = director.tabulate(graphs, profile.default_runtime)
        times = director.price(table, profile.default_runtime).device_s.reshape(len(beside), len(SERIES))
        worst = int(np.argmin((times[:, 1:] / times[:, :-1]).ravel()))
        place = worst // (len(SERIES) - 1) * len(SERIES) + worst % (len(SERIES) - 1)
        before, after = times.ravel()[place : place + 2]
        assert after >= before * (1 - GROWN[axis]), (shapes[place], shapes[place + 1], before, after)


@pytest.mark.parametrize("name", builtin_names())
def test_a_further_kernel_never_makes_a_graph_faster(name: str) -> None:
    """An independent addition beside a product, small or large."""
    profile = load_profile(name)
    dtype = dtype_of(profile)
    listed = shapes(profile)
    alone = seconds(profile, [product(*shape, dtype) for shape in listed])
    for beside in (1, 1000, 10**6):
        together = seconds(profile, [product(*shape, dtype, beside) for shape in listed])
        assert np.all(together >= alone * (1 - 1e-9))


@pytest.mark.parametrize("name", builtin_names())
def test_the_device_is_never_busy_for_longer_than_the_whole_takes(name: str) -> None:
    """Products beside additions, which overlap in a program."""
    profile = load_profile(name)
    director = AnalysisDirector(profile)
    for shape in shapes(profile)[:10]:
        estimate = director.estimate(product(*shape, dtype_of(profile), 10**6), runtime=profile.default_runtime)
        assert estimate.device_s <= estimate.latency_s.value * (1 + 1e-9)


@pytest.mark.parametrize("name", [name for name in builtin_names() if name.startswith(("gpu", "tpu", "cpu_sapphire"))])
def test_narrow_types_are_not_slower_than_the_type_that_holds_them(name: str) -> None:
    """Products of 4096 in float8 and int4, for which a machine may have no rate, and in 16 bits."""
    profile = load_profile(name)
    wide = next((t for t in ("bfloat16", "float16") if f"peak.matrix.{t}" in profile.coefficients), None)
    if wide is None:
        pytest.skip("this machine has no rate for a type of 16 bits")
    narrow, held = (
        seconds(profile, [product(4096, 4096, 4096, dtype) for dtype in types]) for types in (("float8", "int4"), (wide,))
    )
    assert np.all(narrow <= 1.1 * held)


RATED = [name for name in builtin_names() if not load_profile(name).illustrative and load_profile(name).get("power.tdp")]
"""Machines that say what they may draw."""


@pytest.mark.parametrize("name", RATED)
def test_power_lies_between_idle_and_what_the_board_may_draw(name: str) -> None:
    """Products of any shape, and rows, with the corrections of the machine's own measurements."""
    profile = load_profile(name)
    watts = power(profile, work(profile))
    assert np.all(watts >= profile.value("power.idle"))
    assert np.all(watts <= profile.value("power.tdp") * (1 + 1e-9))


@pytest.mark.parametrize("name", RATED)
def test_no_end_of_an_interval_of_power_is_impossible(name: str) -> None:
    """Small products, whose times and joules are known worst."""
    profile = load_profile(name)
    for m, n, k in shapes(profile)[:8]:
        watts = (
            AnalysisDirector(profile)
            .estimate(product(m, n, k, dtype_of(profile)), runtime=profile.default_runtime)
            .average_power_w
        )
        assert profile.value("power.idle") <= watts.low <= watts.value <= watts.high <= profile.value("power.tdp") * (1 + 1e-9)


def power(profile: ArchitectureProfile, graphs: list[Graph]) -> np.ndarray:
    director = AnalysisDirector(profile)
    table, _ = director.tabulate(graphs, profile.default_runtime)
    priced = director.price(table, profile.default_runtime)
    return priced.energy_j / priced.latency_s


@pytest.mark.parametrize("name", [name for name in RATED if load_profile(name).family != "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_board_that_its_cap_slows_draws_the_cap(name: str, dtype: str) -> None:
    """Products of many milliseconds, beside which launches are short: with a cap ten times as high they are faster, so the cap
    slows them, and they draw what its controller holds; the others draw less. TPUs and KPUs are built for what they draw, so
    theirs is set to an eighth of what the products ask for beside static power; a lower clock may leave those that wait for
    memory as fast."""
    profile = load_profile(name).replacing(residual=())
    graphs = [product(2**size, 16384, 16384, dtype) for size in range(13, 17)]
    if profile.family != "gpu":
        static = profile.value("power.static")
        profile = variant(profile, {"power.tdp": static + (power(profile, graphs).min() - static) / 8})
    free = variant(profile, {"power.tdp": 10 * profile.value("power.tdp")})
    slower = seconds(profile, graphs) / seconds(free, graphs)
    held = Coefficients(profile).value("throttle.cap") * profile.value("power.tdp")
    watts = power(profile, graphs)
    asking = slower > 1.05 if profile.family == "gpu" else slower >= 1
    assert watts[asking] == pytest.approx(held, rel=0.02)
    assert np.all(watts <= held * (1 + 1e-9))
    assert profile.family == "gpu" or asking.all()


@pytest.mark.parametrize("changed", ["count.tiles", "array.rows", "bandwidth.dram"])
@pytest.mark.parametrize("name", ["kpu_t64", "kpu_t256", "kpu_t768"])
def test_no_explored_fabric_draws_more_than_its_tdp(name: str, changed: str) -> None:
    """A quarter to sixteen times of a part, as design points and one by one; tiles bring power, rows and bandwidth bring none."""
    profile = load_profile(name)
    factors = 2.0 ** np.arange(-2, 5)
    points = variant(profile, {changed: profile.value(changed) * factors[:, np.newaxis]})
    director = AnalysisDirector(points, residual=False)
    table, _ = director.tabulate(work(profile), profile.default_runtime)
    priced = director.price(table, profile.default_runtime)
    watts = priced.energy_j / priced.latency_s
    assert np.all(watts <= points.value("power.tdp") * (1 + 1e-9))
    for factor, row in zip(factors, watts, strict=True):
        assert row == pytest.approx(power(variant(profile, {changed: factor * profile.value(changed)}), work(profile)))


KERNELS = {
    "in bfloat16": ("linear", "bfloat16", "", {"m": 14, "n": 14, "k": 14}),
    "in float8": ("linear", "float8", "", {"m": 14, "n": 14, "k": 14}),
    "in int8": ("linear", "int8", "", {"m": 14, "n": 14, "k": 14}),
    "of int4 weights": ("linear", "bfloat16", "int4", {"m": 12, "n": 14, "k": 14}),
    "batched": ("bmm", "float32", "", {"b": 8, "m": 11, "n": 11, "k": 9}),
    "attention": ("attention", "bfloat16", "", {"b": 4, "heads": 5, "m": 12, "n": 12}),
    "decode": ("attention", "bfloat16", "", {"b": 7, "heads": 5, "n": 14}),
    "recurrent": ("lstm", "float32", "", {"steps": 9, "hidden": 11}),
    "norm": ("layer_norm", "bfloat16", "", {"m": 14, "n": 14}),
    "softmax": ("softmax", "float32", "", {"m": 14, "n": 14}),
    "pointwise": ("gelu", "bfloat16", "", {"m": 13, "n": 13}),
    "conv": ("conv", "float32", "", {"conv_n": 4, "conv_c_in": 9, "conv_c_out": 9, "conv_size": 7}),
    "depthwise": ("conv", "float32", "", {"conv_n": 6, "channels": 10, "conv_size": 7}),
    "pooling": ("max_pool", "float32", "", {"conv_n": 6, "conv_c_in": 10, "conv_size": 7}),
}
"""Kernels beside the products in float32: operator, type, type of the weights, and base-2 logarithms of the largest extents."""
IN_LINES = ("m", "n", "k", "hidden", "channels", "conv_c_in", "conv_c_out")
"""Extents in whole lines of 64: libraries have other kernels for rows that do not begin at one."""
REPLAYED = {"gpu": "cudagraphs", "tpu": "xla", "kpu": "domainflow"}
CHOSEN = {"gpu": 0.04, "tpu": MORE_MACHINE, "kpu": MORE_MACHINE}
"""What a kernel may take longer by on a better machine: the library on a GPU chooses an algorithm by a shorter price."""
LESS = {"gpu": 0.1, "tpu": 0.1, "kpu": MORE_WORK}
"""What a kernel may take less by with more work: which operand stays on the arrays is chosen by cycles, without the waves."""
SPLIT = {"in float8": GROWN["k"], "of int4 weights": GROWN["k"], "in int8": GROWN["k"]}
"""The same on GPUs that multiply in float32 in place of a narrow type, where a longer reduction is split."""
CHIPS = [name for name in builtin_names() if load_profile(name).family in REPLAYED]
Case = tuple[str, dict[str, int]]


def in_lines(extent: str, most: float) -> int:
    return 64 * math.ceil(most / 64) if extent in IN_LINES else math.ceil(most)


def cases(name: str, each: int = 10) -> list[Case]:
    """Kernels of every kind with random extents."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return [
        (kind, {extent: in_lines(extent, 2 ** rng.uniform(1, most)) for extent, most in largest.items()})
        for kind, (*_, largest) in KERNELS.items()
        for _ in range(each)
    ]


def kernel(case: Case) -> Graph:
    kind, extents = case
    op, dtype, weights, _ = KERNELS[kind]
    if op == "lstm":
        return lstm(extents["steps"], extents["hidden"], dtype)
    axes: dict[str, int | str] = {"b": 1, "m": 1, **extents}
    if op == "attention":
        axes |= {"kv_heads": extents["heads"], "k": 64}
    if (channels := axes.pop("channels", 0)) or "conv_n" in axes:
        axes = {"conv_c_in": channels, "conv_c_out": channels, "conv_groups": channels or 1, **axes}
        axes |= {"conv_kernel": 3, "conv_stride": 1, "conv_padding": 1}
    if op in ("layer_norm", "softmax", "gelu"):
        axes = {"shape": f"{extents['m']}x{extents['n']}"}
    return TableRow(0, op, axes, dtype, weights=weights).graph()


def together(first: Graph, second: Graph) -> Graph:
    """Both graphs as one, neither of which needs the other."""

    def later(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value + len(first.values) for value in values)

    calls = (msgspec.structs.replace(call, reads=later(call.reads), writes=later(call.writes)) for call in second.calls)
    return Graph((*first.values, *second.values), (*first.calls, *calls), (*first.outputs, *later(second.outputs)))


def replayed(profile: ArchitectureProfile, graphs: list[Graph]) -> np.ndarray:
    """Seconds on the device."""
    director = AnalysisDirector(profile, residual=False)
    table, _ = director.tabulate(graphs, REPLAYED[profile.family])
    return director.price(table, REPLAYED[profile.family]).device_s


def at_least(after: np.ndarray, before: np.ndarray, less: np.ndarray | float, what: list[object]) -> None:
    """`after` falls by no more than a share; the message has the case that falls most."""
    worst = int(np.argmin(after / (before * (1 - less))))
    assert np.all(after >= before * (1 - less)), (what[worst], before[worst], after[worst])


@pytest.mark.parametrize("name", CHIPS)
def test_no_kernel_is_slower_on_a_better_machine(name: str) -> None:
    """Twice the bandwidth of each memory, the clock, or the units, without a power cap. Rows of a norm on more multiprocessors
    are left out: more of them are under way at once than the same L2 keeps for their second pass."""
    profile = load_profile(name)
    free = variant(profile, {"power.tdp": 100 * profile.value("power.tdp")}) if profile.get("power.tdp") else profile
    listed = cases(name)
    before = replayed(free, [kernel(case) for case in listed])
    names = [f"bandwidth.{level}" for level in profile.levels] + ["clock", "count.units", "count.tiles", "count.sms"]
    for changed in (part for part in names if part in profile.coefficients):
        counted = np.asarray([changed != "count.sms" or kind != "norm" for kind, _ in listed])
        after = replayed(variant(free, {changed: 2 * profile.value(changed)}), [kernel(case) for case in listed])
        what = [(changed, *case) for case, of in zip(listed, counted, strict=True) if of]
        at_least(before[counted], after[counted], 1 - 1 / (1 + CHOSEN[profile.family]), what)


@pytest.mark.parametrize("name", CHIPS)
def test_no_kernel_is_faster_with_more_work(name: str) -> None:
    """A random growth of each extent in turn."""
    profile, rng, listed = load_profile(name), np.random.default_rng(7), cases(name)
    before = replayed(profile, [kernel(case) for case in listed])
    less = np.full(len(listed), LESS[profile.family])
    if profile.family == "gpu":
        less = np.asarray([SPLIT.get(kind, LESS["gpu"]) for kind, _ in listed])
    for axis in range(4):
        grown = []
        for kind, extents in listed:
            extent = list(extents)[axis % len(extents)]
            grown.append((kind, {**extents, extent: in_lines(extent, extents[extent] * rng.uniform(1, 2))}))
        at_least(replayed(profile, [kernel(case) for case in grown]), before, less, list(zip(listed, grown, strict=True)))


@pytest.mark.parametrize("name", CHIPS)
def test_no_kernel_is_faster_beside_another(name: str) -> None:
    """A product, and a loop, that do not depend on it."""
    profile, listed = load_profile(name), cases(name, 4)
    alone = replayed(profile, [kernel(case) for case in listed])
    for other in (("in bfloat16", {"m": 512, "n": 512, "k": 512}), ("pointwise", {"m": 64, "n": 64})):
        beside = replayed(profile, [together(kernel(case), kernel(other)) for case in listed])
        at_least(beside, alone, 1e-9, listed)


@pytest.mark.parametrize("name", [name for name in CHIPS if name in RATED])
def test_power_of_every_kernel_lies_between_idle_and_the_cap(name: str) -> None:
    """With the corrections of the machine's own measurements."""
    profile = load_profile(name)
    watts = power(profile, [kernel(case) for case in cases(name)])
    assert np.all(watts >= profile.value("power.idle"))
    assert np.all(watts <= profile.value("power.tdp") * (1 + 1e-9))


def test_peaks_are_those_of_the_structure_at_the_clock() -> None:
    """2 x units x rows x columns x clock is the published peak in bfloat16, within a hundredth."""
    for name in ("tpu_v3", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e"):
        value = load_profile(name).value
        structural = 2 * value("count.units") * value("array.rows") * value("array.cols") * value("clock")
        assert structural == pytest.approx(value("peak.matrix.bfloat16"), rel=0.01), name
        assert under("peak.matrix", load_profile(name).coefficients)


@pytest.mark.parametrize("name", ["kpu_t64", "kpu_t256", "kpu_t768"])
def test_a_larger_last_memory_on_chip_never_moves_more_of_the_main_memory(name: str) -> None:
    """Half an octave at a time, for products up to 32768 a side, of which blocks of results or panels stay on chip; the time
    rises by little, where a larger block passes the fabric more often."""
    profile, rng = load_profile(name), np.random.default_rng(0)
    sides = [tuple(int(x) for x in 2 ** rng.uniform(6, 15, 3)) for _ in range(CASES)] + [(2**i,) * 3 for i in range(10, 15)]
    director = AnalysisDirector(profile, residual=False)
    table, _ = director.tabulate([product(*side, "float32") for side in sides], profile.default_runtime)
    before = None
    for capacity in 2.0 ** np.arange(20, 31, 0.5):
        larger = AnalysisDirector(variant(profile, {"capacity.l3": capacity}), residual=False)
        priced = larger.price(table, profile.default_runtime)
        after = priced.tiling.level_bytes["dram"], priced.latency_s
        if before is not None:
            assert np.all(after[0] <= before[0] * (1 + 1e-9))
            assert np.all(after[1] <= before[1] * 1.12)
        before = after


@pytest.mark.parametrize("name", [name for name in COUNTING if name.startswith("tpu") and name != "tpu_v1"])
def test_utilisation_does_not_fall_from_one_whole_multiple_of_the_array_to_the_next(name: str) -> None:
    """Squares of whole arrays: what no longer fits on chip is read again in part, so the rate stays within 3 % of the best
    before. v1, whose weights pass at 34 GB/s, is bound by how often they do."""
    profile = load_profile(name)
    side = int(profile.value("array.rows"))
    director = AnalysisDirector(profile, residual=False)
    sides = range(side, 12289, side)
    table, _ = director.tabulate([product(n, n, n, "bfloat16") for n in sides], "xla")
    rates = np.asarray([float(n) ** 3 for n in sides]) / director.price(table, "xla").device_s
    assert np.all(rates >= 0.97 * np.maximum.accumulate(rates))
