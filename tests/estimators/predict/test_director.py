"""The pipeline from graph to estimate."""

import msgspec
import pytest

from shmoo.estimators.costs.quantize import with_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import OpCall, TensorSpec
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import estimate_record, flatten
from shmoo.estimators.predict.timeline import schedule
from shmoo.estimators.present.inspection import inspect_graphs
from shmoo.estimators.present.savings import fusion_savings
from shmoo.estimators.table import DTYPE_CODE
from shmoo.estimators.tiling import CpuL2Blocking
from shmoo.estimators.variants import variant, with_threads
from tests.build import GraphBuilder


def mlp(rows: int = 32):
    b = GraphBuilder()
    x = b.tensor((rows, 256))
    return b.graph(b.linear(b.relu(b.linear(x, 1024)), 10), name="mlp")


@pytest.mark.parametrize("name", builtin_names())
def test_every_profile_estimates_a_graph(name):
    """Positive time inside its interval, shares that sum to one, and what is derived from time and energy follows from them."""
    estimate = AnalysisDirector(load_profile(name)).estimate(mlp(), batch=32)
    assert 0 < estimate.latency_s.low < estimate.latency_s.value < estimate.latency_s.high
    assert 0 < estimate.energy_j.low < estimate.energy_j.value < estimate.energy_j.high
    assert estimate.macs == 32 * (256 * 1024 + 1024 * 10)
    assert sum(estimate.basis.values()) == pytest.approx(1.0)
    assert estimate.throughput_per_s.value == pytest.approx(32 / estimate.latency_s.value)
    assert estimate.energy_j.value == pytest.approx(estimate.average_power_w.value * estimate.latency_s.value)
    assert estimate.edp_js.value == pytest.approx(estimate.energy_j.value * estimate.latency_s.value)


def test_a_simulated_machine_rests_on_simulation():
    """Every number of a KPU is a simulator's or a configuration's, and its rows say so; other machines have none of it."""
    shares = {name: AnalysisDirector(load_profile(name)).estimate(mlp()).basis for name in ("kpu_t256", "gpu_h100", "tpu_v5e")}
    assert shares["kpu_t256"]["simulated"] == pytest.approx(1.0)
    assert shares["gpu_h100"]["simulated"] == shares["tpu_v5e"]["simulated"] == 0.0


@pytest.mark.parametrize("rows", [32, 16384])
@pytest.mark.parametrize("name", [name for name in builtin_names() if load_profile(name).get("power.tdp") is not None])
def test_average_power_lies_between_static_power_and_tdp(name, rows):
    """A graph of launches and one of 9 Gflop draw more than the chip at rest and at most what its cooler takes away."""
    profile = load_profile(name)
    power = AnalysisDirector(profile).estimate(mlp(rows)).average_power_w
    assert profile.value("power.static") < power.value <= profile.value("power.tdp")


def test_the_breakdown_adds_up_to_the_whole_on_a_cpu():
    """Kernel times plus the graph's entry; static power runs through both; eager has three kernels, of 2 m n k flops each and
    one operation an element of relu."""
    profile = load_profile("cpu_server_generic")
    estimate = AnalysisDirector(profile).estimate(mlp(), runtime="eager")
    entry = Coefficients(profile).value("graph.eager", "graph")
    assert entry > 0
    assert estimate.kernels == 3
    assert sum(k.latency_s for k in estimate.breakdown) + entry == pytest.approx(estimate.latency_s.value, rel=1e-9)
    kernels_j = sum(k.energy_j for k in estimate.breakdown)
    assert kernels_j + profile.value("power.static") * entry == pytest.approx(estimate.energy_j.value, rel=1e-9)
    assert [k.flops for k in estimate.breakdown] == [2 * 32 * 256 * 1024, 32 * 1024, 2 * 32 * 1024 * 10]
    assert sum(k.flops for k in estimate.breakdown) == estimate.flops


def test_several_graphs_add_up():
    """A model with a graph break is the sum of its pieces."""
    director = AnalysisDirector(load_profile("cpu_server_generic"))
    one = director.estimate(mlp(), runtime="eager").latency_s.value
    assert director.estimate([mlp(), mlp()], runtime="eager").latency_s.value == pytest.approx(2 * one, rel=1e-6)


def test_many_cases_at_once_equal_them_one_by_one():
    """The cheap way for tables gives the same numbers."""
    director = AnalysisDirector(load_profile("gpu_v100"))
    graphs = [mlp(8), mlp(64), mlp(512)]
    together = [latency.value for latency, _ in director.estimate_cases(graphs, runtime="eager")]
    assert together == pytest.approx([director.estimate(g, runtime="eager").latency_s.value for g in graphs], rel=1e-9)


def test_more_work_takes_longer_and_more_energy():
    """Monotone in rows."""
    director = AnalysisDirector(load_profile("tpu_v4"))
    small, large = director.estimate(mlp(64)), director.estimate(mlp(65536))
    assert large.latency_s.value > small.latency_s.value
    assert large.energy_j.value > small.energy_j.value


def test_fusion_saves_kernels_and_bytes():
    """Against eager."""
    b = GraphBuilder()
    x = b.tensor((64, 4096))
    graph = b.graph(b.relu(b.relu(b.relu(x))))
    director = AnalysisDirector(load_profile("cpu_server_generic"))
    eager, fused = director.estimate(graph, runtime="eager"), director.estimate(graph, runtime="inductor")
    assert (eager.kernels, fused.kernels) == (3, 1)
    assert fused.bytes == eager.bytes / 3


def test_a_strategy_passed_in_replaces_the_profiles():
    """Tiles of 16 x 16 x 16 set by hand."""
    profile = load_profile("cpu_server_generic")
    estimate = AnalysisDirector(profile, CpuL2Blocking(tile_m=16, tile_n=16, tile_k=16)).estimate(mlp(), runtime="eager")
    assert estimate.breakdown[0].tile_shape == (16, 16, 16)
    assert estimate.breakdown[0].tiles == 2 * 64 * 16


def test_unknown_operators_are_listed_with_place_and_bytes():
    """Their bytes count, their flops are not made up."""
    b = GraphBuilder()
    y = b.call("frobnicate", {"self": b.tensor((10, 10))}, (10, 10))
    estimate = AnalysisDirector(load_profile("cpu_server_generic")).estimate(b.graph(y))
    (unknown,) = estimate.unknown_ops
    assert (unknown.op, unknown.count, unknown.bytes) == ("aten.frobnicate", 1, 800)


def test_fewer_threads_take_longer():
    """One core against all of them."""
    director = AnalysisDirector(load_profile("cpu_server_generic"))
    graph = mlp(4096)
    assert director.estimate(graph, threads=1).latency_s.value > 2 * director.estimate(graph).latency_s.value


def test_threads_outside_the_machine_are_refused():
    """Allowed values are named; GPUs have none."""
    with pytest.raises(InputError, match="allowed: 1 to its"):
        with_threads(load_profile("cpu_server_generic"), 0)
    with pytest.raises(InputError, match="threads apply to CPUs only"):
        with_threads(load_profile("gpu_v100"), 2)


def test_a_runtime_of_another_family_is_refused():
    """xla runs on TPUs."""
    with pytest.raises(InputError, match="runtime on a cpu"):
        AnalysisDirector(load_profile("cpu_server_generic")).estimate(mlp(), runtime="xla")


def test_intervals_are_the_same_for_the_same_seed():
    """Estimates are pure."""
    director = AnalysisDirector(load_profile("kpu_t256"))
    assert director.estimate(mlp()) == director.estimate(mlp())


def test_what_graphs_say_reaches_every_record():
    """A note of several graphs is said once, in the estimate, its record and its row."""
    noted = msgspec.structs.replace(mlp(), notes=("counted at the limit",))
    estimate = AnalysisDirector(load_profile("brief_gpu")).estimate([noted, noted, mlp()])
    assert estimate.notes == ("counted at the limit",)
    assert estimate_record(estimate, "mlp")["notes"] == ["counted at the limit"]
    assert flatten(estimate_record(estimate, "mlp"))["notes"] == "counted at the limit"


def test_a_model_without_a_kernel_is_refused():
    """A view alone takes no time on any machine."""
    b = GraphBuilder()
    with pytest.raises(InputError, match="nothing to estimate"):
        AnalysisDirector(load_profile("tpu_v4")).estimate(b.graph(b.view(b.tensor((4, 4)), (16,))))


@pytest.mark.parametrize("asked", ["int8", "bfloat16", "float16"])
def test_a_graph_is_not_computed_in_a_type_that_it_is_not_stored_in(asked):
    """float32 tensors would keep their 4 bytes an element: the type they are stored in is chosen when the model is captured."""
    director = AnalysisDirector(load_profile("gpu_h100"))
    expected = rf"compute_dtype '{asked}' does not apply to contractions of tensors stored as float32.*tf32.*dtype='{asked}'"
    with pytest.raises(InputError, match=expected):
        director.estimate(mlp(), compute_dtype=asked)
    with pytest.raises(InputError, match=expected):
        director.estimate_cases([mlp()], compute_dtypes=[asked])
    with pytest.raises(InputError, match=expected):
        schedule(director, [mlp()], compute_dtype=asked)


def test_tf32_multiplies_float32_tensors_and_no_others():
    """Bytes stay, time falls; of a mixed graph only the float32 product changes, and a bfloat16 graph has none."""
    director = AnalysisDirector(load_profile("gpu_h100"))
    large = GraphBuilder()
    product = large.graph(large.linear(large.tensor((4096, 4096)), 4096))
    whole, fast = director.estimate(product), director.estimate(product, compute_dtype="tf32")
    assert (fast.dtype, fast.bytes, fast.flops) == ("tf32", whole.bytes, whole.flops)
    assert fast.latency_s.value < whole.latency_s.value
    half = GraphBuilder("bfloat16")
    graph = half.graph(half.linear(half.tensor((512, 512)), 512))
    with pytest.raises(InputError, match="tensors stored as bfloat16"):
        director.estimate(graph, compute_dtype="tf32")
    table, _ = director.tabulate([mlp(), graph], "inductor", "tf32")
    assert table.dtype[-1] == DTYPE_CODE["bfloat16"]
    assert (table.dtype[table.matrix_flops > 0][:-1] == DTYPE_CODE["tf32"]).all()


@pytest.mark.parametrize("name", [name for name in builtin_names() if load_profile(name).get("peak.matrix.tf32") is None])
def test_without_tf32_a_machine_multiplies_in_float32(name):
    """A T4, V100 or P100 runs the kernels of float32, with what was measured of them: the same interval, energy, basis and
    kernels, whatever asks. Only the type that was asked for is another."""
    director, product, image = AnalysisDirector(load_profile(name)), GraphBuilder(), GraphBuilder()
    linear = product.graph(product.linear(product.tensor((1024, 1024)), 1024))
    conv = image.graph(image.conv(image.tensor((8, 64, 56, 56)), 64))
    for graph in (linear, conv, mlp(4096)):
        whole, fast = director.estimate(graph), director.estimate(graph, compute_dtype="tf32")
        assert msgspec.structs.replace(fast, dtype="float32") == whole
        assert schedule(director, [graph], compute_dtype="tf32")[1] == schedule(director, [graph])[1]
    assert director.estimate_cases([linear, conv], compute_dtypes=("tf32", "tf32")) == director.estimate_cases([linear, conv])


def test_corrections_of_float32_hold_in_tf32_where_there_is_none():
    """Those measured on a T4 move the estimate of a product."""
    b = GraphBuilder()
    graph = b.graph(b.linear(b.tensor((1024, 1024)), 1024))
    assert AnalysisDirector(load_profile("gpu_t4")).estimate(graph, compute_dtype="tf32").breakdown[0].residual != 1.0


@pytest.mark.parametrize(
    ("name", "slower"),
    [("gpu_t4", 30), ("gpu_v100", 2), ("cpu_server_generic", 2), ("gpu_h100", 1), ("tpu_v4", 8), ("kpu_t256", 2.5)],
)
def test_float64_takes_the_rate_of_its_units(name, slower):
    """A product that fills the machine takes as many times longer as its units are slower at float64, at least, where no power
    cap slows float32; where tensor cores multiply it at the rate of float32, its bytes alone are more; where bytes bound float32,
    the difference is less."""
    profile = load_profile(name)
    free = variant(profile, {"power.tdp": 10 * profile.value("power.tdp")})
    director, double = AnalysisDirector(free), GraphBuilder("float64")
    single = GraphBuilder()
    times = [director.estimate(b.graph(b.linear(b.tensor((4096, 4096)), 4096))).latency_s.value for b in (single, double)]
    assert times[1] > 0.85 * slower * times[0]
    assert director.estimate(double.graph(double.relu(double.tensor((8, 8))))).dtype == "float64"


def test_a_single_number_of_float64_decides_no_type():
    """A float32 tensor times one number computes in float32; a complex tensor in the type of its parts."""

    def computes_in(*specs):
        return OpCall("aten.mul", specs, specs[:1], ("self", "other")[: len(specs)]).computes_in

    assert computes_in(TensorSpec((4,)), TensorSpec((), "float64")) == "float32"
    assert computes_in(TensorSpec((4,), "float64")) == "float64"
    assert computes_in(TensorSpec((4,), "complex64")) == "float32"
    assert computes_in(TensorSpec((4,), "complex128")) == "float64"


def test_tensors_are_not_stored_in_tf32():
    """It is a way to multiply float32."""
    with pytest.raises(InputError, match=r"tensors are not stored as tf32.*compute_dtype='tf32'"):
        with_dtype(mlp(), "tf32")


def test_modules_and_savings_are_of_the_type_asked_for():
    """A model's time in tf32 is one number, whatever asks for it."""
    director, model = AnalysisDirector(load_profile("gpu_a100_40g")), mlp(1 << 16)  # more than the host takes
    expected = director.estimate(model, compute_dtype="tf32").latency_s.value
    assert expected != director.estimate(model).latency_s.value
    modules = inspect_graphs([model], {"gpu_a100_40g": director}, compute_dtype="tf32").modules
    assert modules[0].on["gpu_a100_40g"].latency_s == pytest.approx(expected, rel=1e-9)
    assert fusion_savings(director, [model], compute_dtype="tf32").fused.latency_s == pytest.approx(expected, rel=1e-9)
    assert schedule(director, [model], compute_dtype="tf32")[0].latency_s.value == pytest.approx(expected, rel=1e-9)


def test_a_call_of_no_samples_is_refused():
    """Its rate would be none."""
    with pytest.raises(InputError, match="at least 1 sample"):
        AnalysisDirector(load_profile("gpu_t4")).estimate(mlp(), batch=0)


def test_a_type_that_a_machine_does_not_multiply_is_told():
    """A TPU v1 multiplies 8-bit integers alone: float32 products take their time, and the estimate says so. On a v4 float32 has a
    rate, and a KPU has one of as many bits for bfloat16."""
    said = {}
    for name, dtype in (("tpu_v1", "float32"), ("tpu_v1", "int8"), ("tpu_v4", "float32"), ("kpu_t64", "bfloat16")):
        b = GraphBuilder(dtype)
        said[name, dtype] = AnalysisDirector(load_profile(name)).estimate(b.graph(b.linear(b.tensor((8, 64)), 64))).notes
    assert said.pop(("tpu_v1", "float32")) == (
        "tpu_v1 does not multiply float32: its products take the time of int8, as of a quantized model",
    )
    assert set(said.values()) == {()}


def test_types_that_a_machine_does_not_multiply_are_told():
    """An A100 multiplies float8 in bfloat16, an H100 as it is."""
    graph = with_dtype(mlp(), "float8")
    a100, h100 = (AnalysisDirector(load_profile(name)).estimate([graph]) for name in ("gpu_a100_80g", "gpu_h100"))
    assert a100.notes == ("gpu_a100_80g does not multiply float8: its values are multiplied in bfloat16",)
    assert h100.notes == ()
    small = AnalysisDirector(load_profile("gpu_h100")).estimate([with_dtype(mlp(), "nvfp4")])
    assert small.notes == ("gpu_h100 does not multiply nvfp4: its values are multiplied in float8",)
