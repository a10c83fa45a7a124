"""The pipeline from kernels to time and energy: one record, whatever the coefficients hold."""

import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import NORMAL_90, Coefficient
from shmoo.estimators.machine.coefficients import MANY_KERNELS, Coefficients, on_tensor_cores
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict import pipeline
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.draws import normals
from shmoo.estimators.predict.equal_kernels import EqualKernels, find_equal
from shmoo.estimators.predict.pipeline import DRAWS, interval_ends, intervals_of, price
from shmoo.estimators.table import KernelTable
from tests.build import GraphBuilder, kernel_table


def two_models() -> KernelTable:
    """Two linear layers in one segment, a pointwise call in another."""
    b = GraphBuilder()
    layers = b.graph(b.linear(b.linear(b.tensor((64, 256)), 512), 128))
    c = GraphBuilder()
    sums = c.graph(c.add(c.tensor((1000, 1000)), c.tensor((1000, 1000))))
    return KernelTable.concat([kernel_table(graph, fuse(graph)) for graph in (layers, sums)])


@pytest.mark.parametrize("name", ["cpu_server_generic", "gpu_a100_40g", "tpu_v4", "kpu_t256"])
def test_draws_stand_beside_the_nominal_values(name):
    """Asking for intervals changes no value, and every interval holds its value."""
    director, table = AnalysisDirector(load_profile(name)), two_models()
    runtime = director.profile.default_runtime
    alone, drawn = (director.price(table, runtime, seed=seed) for seed in (None, 0))
    assert alone.latency_s.tolist() == drawn.latency_s.tolist()
    assert alone.energy_j.tolist() == drawn.energy_j.tolist()
    assert drawn.draws.latency_s.shape == drawn.draws.energy_j.shape == (DRAWS, 2)
    for value, (latency, energy) in zip(alone.latency_s, drawn.intervals(), strict=True):
        assert latency.low < latency.value == value < latency.high
        assert energy.low < energy.value < energy.high


@pytest.mark.parametrize("name", ["cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t256"])
def test_operators_in_a_table_take_what_they_take_beside_a_model(name):
    """A table of single kernels needs no sums over segments; with a model of several kernels in it, it does."""
    director, model = AnalysisDirector(load_profile(name)), two_models()
    lone = [model.take(np.array([2])), model.take(np.array([0]))]
    runtime = director.profile.default_runtime
    single, mixed = KernelTable.concat(lone), KernelTable.concat([*lone, model])
    assert (single.single, mixed.single) == (True, False)
    alone, beside = (director.price(table, runtime, seed=0) for table in (single, mixed))
    for one, other in ((alone, beside), (alone.draws, beside.draws)):
        for field in ("latency_s", "energy_j", "device_s"):
            assert getattr(one, field) == pytest.approx(getattr(other, field)[..., :2], rel=1e-9), field


def test_the_whole_is_the_sum_of_its_segments():
    """Latency, energy and each of their draws add up; power is energy over latency."""
    director = AnalysisDirector(load_profile("gpu_h100"))
    parts = director.price(two_models(), "inductor", seed=0)
    whole = parts.total()
    for sums, segments in ((whole, parts), (whole.draws, parts.draws)):
        for field in ("latency_s", "energy_j"):
            assert getattr(sums, field)[..., 0] == pytest.approx(getattr(segments, field).sum(axis=-1))
    (power,) = intervals_of(*whole.quantities_with_draws()["average_power_w"])
    assert power.value == pytest.approx(parts.energy_j.sum() / parts.latency_s.sum())


def test_many_values_of_a_coefficient_give_as_many_latencies():
    """Three bandwidths at once are three machines, one after the other."""
    profile, table = load_profile("cpu_server_generic"), two_models()
    tiling = AnalysisDirector(profile).tile(table)
    bandwidths = np.array([1e10, 5e10, 2e11])

    def latency(value: float | np.ndarray) -> np.ndarray:
        return price(table, tiling, Coefficients(profile, {"bandwidth.dram": value}), "eager").latency_s

    assert latency(bandwidths) == pytest.approx(np.stack([latency(float(one)) for one in bandwidths]))


def test_the_residual_is_left_out_on_demand():
    """A fit sees the physics alone: as of a profile without corrections."""
    profile, table = load_profile("gpu_a100_40g"), two_models()
    assert profile.residual
    director = AnalysisDirector(profile)
    physical = price(table, director.tile(table), Coefficients(profile), "eager", residual=False)
    assert physical.correction is None
    bare = AnalysisDirector(profile, residual=False).price(table, "eager")
    assert physical.latency_s.tolist() == bare.latency_s.tolist()
    assert (director.price(table, "eager").device_s != bare.device_s).any()


def test_ends_of_intervals_are_the_5_and_95_percent_points_of_log_normal_draws():
    """Exactly, of draws that are the law's own quantiles, whatever their spread and order; of both sides apart; and an end never
    passes the value."""
    law = normals(0, DRAWS, 3)[1:]
    values, spread = np.array([1.0, 2e-6, 3e9]), np.array([0.1, 0.5, 2.0])
    low, high = interval_ends(values, values * np.exp(law * spread))
    assert low == pytest.approx(values * np.exp(-NORMAL_90 * spread))
    assert high == pytest.approx(values * np.exp(NORMAL_90 * spread))
    steep = np.exp(np.where(law < 0, 0.1, 0.4) * law)
    assert interval_ends(np.ones(3), steep)[0] == pytest.approx(np.exp(-0.1 * NORMAL_90 * np.ones(3)))
    assert interval_ends(np.ones(3), steep)[1] == pytest.approx(np.exp(0.4 * NORMAL_90 * np.ones(3)))
    assert interval_ends(np.full(3, 1e9), steep)[1].tolist() == [1e9] * 3
    assert (
        interval_ends(np.ones(3), np.clip(steep, 0.99, 1.01))[0].tolist() == [0.99] * 3
    )  # a limit of every draw holds for the end
    assert [end.tolist() for end in interval_ends(np.zeros(2), np.zeros((DRAWS, 2)))] == [[0.0, 0.0]] * 2


def test_ends_of_intervals_hardly_depend_on_the_seed():
    """Of three equal factors: within 6 % of their distance from the value, root mean square over 50 seeds."""
    ends = [interval_ends(np.ones(1), np.exp(normals(seed, DRAWS, 3)[1:].sum(axis=1, keepdims=True))) for seed in range(50)]
    distance = np.abs(np.log(ends)) / (NORMAL_90 * np.sqrt(3.0))
    assert float(np.sqrt(((distance - 1.0) ** 2).mean())) < 0.07
    assert float(distance.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["cpu_server_generic", "cpu_i7_12700k", "gpu_h100", "gpu_t4", "tpu_v4", "kpu_t256"])
def test_equal_layers_are_priced_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of kernels with their number give the times, energies and draws of all kernels, each in its place."""
    b = GraphBuilder()
    value = b.tensor((64, 256))
    for _ in range(12):
        value = b.relu(b.linear(b.linear(value, 1024), 256))
    layers = b.graph(value)
    director = AnalysisDirector(load_profile(name))
    runtime, family = director.profile.default_runtime, director.profile.family
    table = KernelTable.concat([kernel_table(layers, fuse(layers, runtime, family)), two_models()])
    equal = find_equal(table, director.tile(table))
    assert len(equal.table) < len(table) / 2
    assert equal.table.counts.tolist() == table.counts.tolist()
    once = director.price(table, runtime, seed=0)
    monkeypatch.setattr(pipeline, "find_equal", lambda table, tiling: EqualKernels(np.arange(len(table)), table, tiling))
    each = director.price(table, runtime, seed=0)
    for one, other in ((once, each), (once.draws, each.draws)):
        for field in ("latency_s", "energy_j", "device_s", "device_j"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-12), field
    for field in ("compute_s", "memory_s", "launch_s", "device_s", "latency_s", "dynamic_j"):
        assert getattr(once.prediction, field) == pytest.approx(getattr(each.prediction, field), rel=1e-12), field
    assert once.correction.spread.tolist() == each.correction.spread.tolist()


def test_kernels_above_a_power_cap_are_held_whatever_stands_beside_them() -> None:
    """In a table of single kernels only those above the cap are brought to a lower clock; beside a model all are looked at."""
    director, model = AnalysisDirector(load_profile("gpu_t4")), two_models()
    lone = []
    for size in (64, 4096, 128, 8192):
        b = GraphBuilder()
        product = b.graph(b.linear(b.tensor((size, size)), size))
        lone.append(kernel_table(product, fuse(product)))
    single, mixed = KernelTable.concat(lone), KernelTable.concat([*lone, model])
    alone, beside = (
        director.price(table.in_campaign(on_tensor_cores(table, director.profile)), "eager", seed=0) for table in (single, mixed)
    )
    for one, other in ((alone, beside), (alone.draws, beside.draws)):
        for field in ("latency_s", "energy_j", "device_s"):
            assert getattr(one, field) == pytest.approx(getattr(other, field)[..., :4], rel=1e-9), field
    power = alone.energy_j / alone.latency_s
    own = Coefficients(director.profile)
    cap = own.value("throttle.cap") * own.value("power.tdp")
    assert power[1] == pytest.approx(cap, rel=0.02)
    assert power[0] < 0.9 * cap


def above(machine: ArchitectureProfile, widths: tuple[int, ...]) -> float:
    """Spread by which the interval of layers of these widths in turn reaches above its value."""
    b = GraphBuilder()
    x = b.tensor((2048, 4096))
    for width in widths * (MANY_KERNELS // len(widths)):
        x = b.linear(x, width)
    director = AnalysisDirector(machine)
    table, _ = director.tabulate((b.graph(x),), "eager")
    ((found, _),) = director.price(table, "eager", seed=0).intervals()
    return float(np.log(found.high / found.value) / NORMAL_90)


DIFFERENT = (4096, 2048, 1024, 3072, 1536, 2560)


@pytest.mark.parametrize(("name", "spread"), [("gpu_rtx4090", 0.081), ("cpu_grace", 0.37), ("cpu_i9_10940x", 0.264)])
def test_a_whole_network_has_the_spread_of_whole_networks(name: str, spread: float) -> None:
    """Where no graph of the machine was measured, and whatever its kernels' spreads and the ranges of its coefficients are."""
    profile = load_profile(name)
    assert above(profile, DIFFERENT) == pytest.approx(spread, rel=0.15)
    own = {"sigma.graph": Coefficient(0.5, "1", "fitted", "its own graphs")}
    assert above(profile.replacing(coefficients={**profile.coefficients, **own}), DIFFERENT) > 0.45


def test_a_product_that_is_repeated_is_no_network() -> None:
    """The errors of equal kernels do not average out."""
    profile = load_profile("gpu_rtx4090")
    assert above(profile, (4096,)) > 2.0 * above(profile, DIFFERENT)
