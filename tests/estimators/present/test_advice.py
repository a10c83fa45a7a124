"""Advice: shares that add up, roofs by arithmetic, changes that a machine has, and differences by paired draws."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from shmoo.estimators.costs.quantize import quantized, with_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph, Interval
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.draws import ERROR_CORRELATION, draw, kernel_identities, shared_draws
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.predict.limits import kernel_roofs
from shmoo.estimators.present.advice import Advice, Comparison, Effect, advise, sensitivity
from shmoo.estimators.present.sentences import advice_record, advice_sentences, headline, sensitivity_sentences
from shmoo.estimators.present.setups import FACTOR, Change, GraphsOf, Setup, changes, part_changes
from shmoo.estimators.present.spending import pattern
from tests.build import GraphBuilder

COMMAND = "shmoo estimate net --arch a"


def network(batch: int = 8, width: int = 256) -> Graph:
    """Linear layers with an activation between them, in modules layers.0, layers.1 and head."""
    b = GraphBuilder()
    x = b.tensor((batch, width))
    x = b.relu(b.linear(b.linear(x, width), width))
    graph = b.graph(b.linear(x, 10), name="net")
    modules = ("layers.0", "layers.1", "layers.1.act", "head")
    return msgspec.structs.replace(
        graph, calls=tuple(msgspec.structs.replace(c, module=m) for c, m in zip(graph.calls, modules, strict=True))
    )


def graphs_of(setup: Setup, width: int = 256) -> tuple[Graph, ...]:
    """The network in a setup; it has no images."""
    if setup.channels_last:
        raise InputError("no images")
    graphs = (network(setup.batch, width),)
    if setup.dtype not in (None, "float32", "tf32"):
        graphs = tuple(with_dtype(graph, setup.dtype) for graph in graphs)
    return graphs if setup.quantize is None else quantized(graphs, setup.quantize)


def advice(arch: str, runtime: str | None = None, **setup: object) -> Advice:
    profile = load_profile(arch)
    base = Setup(runtime=runtime or profile.default_runtime, batch=8, **setup)
    return advise(profile, base, graphs_of, "net")


@pytest.mark.parametrize("arch", ["cpu_server_generic", "gpu_t4", "tpu_v5e", "kpu_t256"])
def test_shares_add_up(arch: str) -> None:
    """By bound to the call, by unit to its energy; no module is more than the call."""
    made = advice(arch)
    latency, energy = made.estimate.latency_s.value, made.estimate.energy_j.value
    assert sum(share.time_s for share in made.bounds) == pytest.approx(latency)
    assert sum(share.energy_j for share in made.bounds) == pytest.approx(energy)
    assert sum(share.energy_j for share in made.units) == pytest.approx(energy)
    assert sum(share.time_s for share in made.modules) == pytest.approx(latency)
    assert sum(share.energy_j for share in made.modules) == pytest.approx(energy)
    assert sum(gap.time_s for gap in made.kernels) == pytest.approx(latency - made.bounds[-1].time_s)


def test_repeated_modules_stand_together() -> None:
    """Numbers in paths do not tell modules apart; numbers in names do."""
    assert pattern("model.layers.12.mlp") == "model.layers.*.mlp"
    assert pattern("layer4.0.conv1") == "layer4.*.conv1"
    assert [share.name for share in advice("kpu_t256").modules if share.calls == 2] == ["layers.*"]


def test_the_roof_is_peak_and_bandwidth() -> None:
    """512 x 512 x 512 in float32: 2 x 512^3 flops at the peak, three matrices through main memory and through each cache."""
    b = GraphBuilder()
    graph = b.graph(b.linear(b.tensor((512, 512)), 512))
    profile = load_profile("cpu_server_generic")
    director = AnalysisDirector(profile)
    work = tabulate_model((graph,), "eager", "cpu")
    tiling, c = director.tile(work.table), Coefficients(profile)
    # What an earlier call left in the caches need not come from main memory.
    moved = min(tiling.level_bytes["dram"][0], 3 * 512 * 512 * 4)
    taken = director.price(work.table, "eager", tiling=tiling).prediction.dynamic_j
    roofs = kernel_roofs(work.table, tiling, c, "eager", taken)
    assert roofs.compute_s[0] == pytest.approx(2 * 512**3 / c.value("peak.matrix.float32"))
    through = {"dram": moved, **dict.fromkeys(("l1", "l2", "l3"), 3 * 512 * 512 * 4)}
    assert roofs.memory_s[0] == pytest.approx(max(nbytes / c.value(f"bandwidth.{level}") for level, nbytes in through.items()))
    joules = 2 * 512**3 * c.value("energy.flop.matrix.float32") + moved * c.value("energy.byte.dram")
    assert roofs.energy_j[0] == pytest.approx(joules)


def images(setup: Setup) -> tuple[Graph, ...]:
    """3x3 convolutions, which a library may do with fewer multiplications."""
    b = GraphBuilder()
    return (b.graph(b.conv(b.conv(b.tensor((setup.batch, 64, 56, 56)), 64), 64), name="net"),)


@pytest.mark.parametrize("arch", ["gpu_p100", "gpu_t4", "gpu_a100_40g", "gpu_h100", "cpu_server_generic", "tpu_v5e", "kpu_t256"])
@pytest.mark.parametrize("graphs", [lambda setup: graphs_of(setup, 4096), images])
def test_no_kernel_takes_less_energy_than_at_its_roof(arch: str, graphs: GraphsOf) -> None:
    """Whether a cap lowers the clock, transforms save multiplications, or what the caches keep saves bytes."""
    profile = load_profile(arch)
    made = advise(profile, Setup(runtime=profile.default_runtime, batch=256), graphs, "net")
    for gap in made.kernels:
        assert gap.roof_j <= gap.energy_j * (1 + 1e-9)


def names(arch: str, runtime: str, dtype: str = "float32", **setup: object) -> list[str]:
    profile = load_profile(arch)
    b = GraphBuilder()
    table = tabulate_model((b.graph(b.conv(b.tensor((1, 8, 8, 8)), 8)),), runtime, profile.family).table
    return [change.name for change in changes(profile, Setup(runtime=runtime, **setup), dtype, table)]


def test_changes_are_those_that_a_machine_has() -> None:
    """CUDA graphs and channels-last on GPUs that take images as they are, types that the machine multiplies in."""
    t4, h100, tpu, kpu, cpu = (
        names("gpu_t4", "eager"),
        names("gpu_h100", "inductor"),
        names("tpu_v5e", "xla"),
        names("kpu_t256", "domainflow"),
        names("cpu_server_generic", "eager"),
    )
    assert {"cudagraphs", "inductor", "channels-last", "float16", "all in int8"} <= set(t4)
    assert not {"tf32", "bfloat16", "all in float8", "float8-dynamic", "no fusion", "eager"} & set(t4)
    assert {"tf32", "bfloat16", "all in float8", "float8-dynamic", "no fusion", "cudagraphs"} <= set(h100)
    assert not {"channels-last", "float16", "inductor"} & set(h100)
    for others in (tpu, kpu, cpu):
        assert not {"cudagraphs", "channels-last", "tf32"} & set(others)
    assert not {"eager", "inductor"} & set(tpu)
    assert {"inductor", "inductor-freezing"} <= set(cpu)


def test_only_narrower_types_are_tried() -> None:
    """From bfloat16 to 8 bits; of quantized weights to no other type."""
    assert not {"tf32", "bfloat16", "float16"} & set(names("gpu_h100", "inductor", "bfloat16"))
    assert not {"all in float8", "all in int8", "int8-weight"} & set(
        names("gpu_h100", "inductor", "bfloat16", quantize="int4-weight")
    )


@pytest.mark.parametrize("arch", ["cpu_server_generic", "gpu_h100", "kpu_t256"])
def test_a_setup_beside_itself_makes_no_difference(arch: str) -> None:
    """All that is uncertain is common, so the ratio is 1 without a spread."""
    profile = load_profile(arch)
    base = Setup(runtime=profile.default_runtime, batch=8)
    effect = Comparison(profile, base, lambda setup: (network(),)).what_if(Change("none", "as it is")).effect
    assert effect.speedup == Interval(1.0, 1.0, 1.0)
    assert (effect.energy_ratio.low, effect.energy_ratio.high) == pytest.approx((1.0, 1.0))


def test_common_uncertainty_cancels() -> None:
    """Batches of one size and another: the interval of the ratio is narrower than that of two independent estimates, and it is
    not nothing, because the kernels are others."""
    profile = load_profile("kpu_t256")
    director = AnalysisDirector(profile)
    small, large = (tabulate_model((network(batch, 2048),), "domainflow", "kpu") for batch in (8, 64))
    comparison = Comparison(profile, Setup(runtime="domainflow", batch=8), lambda setup: (network(setup.batch, 2048),))
    speedup = comparison.what_if(Change("batch", "batch 64", {"batch": 64})).effect.speedup
    a, b = (
        director.price(work.table, "domainflow", seed=seed).total().draws.latency_s[:, 0]
        for work, seed in ((small, 1), (large, 2))
    )
    low, high = np.quantile(np.log(a / b), (0.05, 0.95))
    assert 0.05 < np.log(speedup.high / speedup.low) < 0.8 * (high - low)


def test_draws_for_one_runtime_are_shared_with_all() -> None:
    """Each coefficient that varies has one set of values, which any machine with the coefficient takes relative to its own."""
    profile = load_profile("gpu_h100")
    shared = shared_draws(profile, ("eager", "inductor"), 50)
    alone = draw(profile, ["bandwidth.l2"], 50)
    twice = profile.replacing(coefficients={name: c.scaled(2.0) for name, c in profile.coefficients.items()})
    assert {"graph.eager", "graph.inductor"} <= set(shared.factors)
    assert set(alone) <= set(shared.factors)
    for name, values in shared.of(twice).items():
        if name in profile.coefficients and not (profile.host and entry(name).of_host):
            assert values == pytest.approx(2.0 * shared.of(profile)[name])


def test_changed_kernels_share_a_part_of_the_error() -> None:
    """The spread stays; two estimates correlate by `ERROR_CORRELATION` where all kernels changed, fully where none did."""
    profile = load_profile("kpu_t256").replacing(
        coefficients={
            name: dataclasses.replace(c) if dataclasses.is_dataclass(c) else msgspec.structs.replace(c, low=None, high=None)
            for name, c in load_profile("kpu_t256").coefficients.items()
        }
    )
    director = AnalysisDirector(profile)
    work = tabulate_model((network(),), "domainflow", "kpu")
    shared = shared_draws(profile, ("domainflow",), 200)
    base = director.price(work.table, "domainflow", seed=0, shared=shared)
    same = frozenset(kernel_identities(work.table, base.tiling))

    def kernels(common: frozenset[bytes], own_seed: int) -> np.ndarray:
        one = dataclasses.replace(shared, shared_kernels=common, own_seed=own_seed, factors={})
        priced = director.price(work.table, "domainflow", seed=0, shared=one)
        return np.log(priced.draws.latency_s[:, 0])

    plain = np.log(
        director.price(work.table, "domainflow", seed=0, shared=dataclasses.replace(shared, factors={})).draws.latency_s[:, 0]
    )
    assert kernels(same, 5) == pytest.approx(plain)
    changed = kernels(frozenset(), 5)
    assert changed.std() == pytest.approx(plain.std(), rel=0.15)
    assert np.corrcoef(plain, changed)[0, 1] == pytest.approx(ERROR_CORRELATION**0.5, abs=0.15)
    assert np.corrcoef(kernels(frozenset(), 7), changed)[0, 1] == pytest.approx(ERROR_CORRELATION, abs=0.15)


@pytest.mark.parametrize("column", ["dilation", "group", "causal", "channels_in", "window_height", "special_flops", "m"])
def test_kernels_that_do_other_work_are_others(column: str) -> None:
    """Whatever extent differs, so that a dilated or a grouped convolution shares no error of a plain one."""
    director, work = AnalysisDirector(load_profile("gpu_h100")), tabulate_model((network(),), "eager", "gpu")
    other = dataclasses.replace(work.table, **{column: getattr(work.table, column) + 1.0})
    tiling = director.tile(work.table)
    assert not {*kernel_identities(work.table, tiling)} & {*kernel_identities(other, tiling)}


def effect(low: float, value: float, high: float) -> Effect:
    one = Interval(1.0, 1.0, 1.0)
    return Effect(one, one, Interval(value, low, high), Interval(1 / value, 1 / high, 1 / low))


def test_a_difference_counts_where_it_is_larger_than_its_interval() -> None:
    """Better and worse by both aims; open where the interval holds 1."""
    assert [effect(*e).verdict("time") for e in ((1.1, 1.2, 1.3), (0.9, 1.2, 1.5), (0.7, 0.8, 0.9))] == [
        "better",
        "open",
        "worse",
    ]
    assert [effect(*e).verdict("energy") for e in ((1.1, 1.2, 1.3), (0.9, 1.2, 1.5), (0.7, 0.8, 0.9))] == [
        "better",
        "open",
        "worse",
    ]
    assert effect(1.001, 1.002, 1.003).verdict("time") == effect(0.995, 1.0, 1.005).verdict("time") == "same"
    assert msgspec.structs.replace(effect(1.1, 1.2, 1.3), energy_ratio=None).verdict("energy") == "open"


def test_what_helps_comes_first_and_is_added_up() -> None:
    """Sure gains, open ones, losses; combinations only of what surely helps."""
    made = advice("gpu_t4", "eager")
    order = {"better": 0, "open": 1, "same": 2, "worse": 3}
    places = [order[w.effect.verdict("time")] for w in made.what_ifs if w.memory.fits is not False]
    assert places == sorted(places)
    single = {w.change.name: w.effect.verdict("time") for w in made.what_ifs if w.change.kind != "together"}
    for combined in (w for w in made.what_ifs if w.change.kind == "together"):
        assert {single[name] for name in combined.change.name.split(" + ")} == {"better"}
    assert "better" in single.values()


def test_what_does_not_apply_is_named_with_its_reason() -> None:
    """A capture of images alone, say, on a model without images: it is left out, and said so."""

    def no_batches(setup: Setup) -> tuple[Graph, ...]:
        if setup.batch != 8:
            raise InputError("the input is fixed")
        return graphs_of(setup)

    made = advise(load_profile("kpu_t256"), Setup(runtime="domainflow", batch=8), no_batches, "net")
    assert set(made.left_out) == {"batch 32", "batch 128", "batch 512"}
    assert any("the input is fixed" in sentence for sentence in advice_sentences(made, COMMAND))


def test_sentences_give_the_command_of_each_advice() -> None:
    """Every sure change of a sentence can be copied; the headline has the call's time."""
    made = advice("gpu_t4", "eager")
    assert "a call takes" in headline(made)
    text = advice_sentences(made, COMMAND)
    best = made.sure[0]
    assert any(sentence.endswith(f"{COMMAND} {best.setup.options}") for sentence in text)
    assert not any("does not fit" in sentence for sentence in text)


def test_the_smallest_change_that_makes_it_fit() -> None:
    """Of a machine whose memory holds the weights in half the bits only, narrower types and a second device are named."""
    profile = load_profile("kpu_t256")
    needed = advice("kpu_t256").estimate.memory.needed_bytes
    capacity = profile.coefficients["capacity.dram"]
    small = profile.replacing(
        coefficients={**profile.coefficients, "capacity.dram": capacity.scaled(0.7 * needed / capacity.value)}
    )
    made = advise(small, Setup(runtime="domainflow", batch=8), graphs_of, "net")
    text = advice_sentences(made, COMMAND)
    assert made.estimate.memory.fits is False
    assert "does not fit" in text[0]
    assert "2 devices" in text[0]
    assert "bfloat16" in text[1]
    assert {w.change.name for w in made.sure}.isdisjoint({"batch 32", "batch 128", "batch 512"})


def test_a_record_is_plain() -> None:
    """It holds the verdicts and the sentences, and JSON takes it."""
    record = advice_record(advice("kpu_t256"), COMMAND)
    assert msgspec.json.decode(msgspec.json.encode(record)) == record
    assert {w["verdict"] for w in record["what_ifs"]} <= {"better", "open", "same", "worse"}


def test_twice_the_bandwidth_helps_what_it_bounds() -> None:
    """A long copy: twice the bandwidth of main memory nearly halves its time, twice the tiles buy nothing."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.tensor((1 << 28,))))
    profile = load_profile("kpu_t256")
    found = sensitivity(profile, Setup(runtime="domainflow"), lambda setup: (graph,), "copy")
    assert found.bottleneck is not None
    assert found.bottleneck.change.name == "bandwidth.dram"
    assert 1.7 < found.bottleneck.effect.speedup.value <= 2.0
    by_name = {lever.change.name: lever for lever in found.levers}
    assert by_name["count.tiles"].effect.speedup.value == pytest.approx(1.0, abs=0.05)
    assert by_name["count.tiles"].power_cap_w == 2 * profile.value("power.tdp")
    assert sensitivity_sentences(found)[0].startswith("The principal bottleneck is bandwidth.dram")


def test_a_machine_is_compared_without_what_was_fitted_beyond_physics() -> None:
    """Corrections of the measured machine hold for no other, so neither side has them: capacities beyond need change nothing."""
    profile = load_profile("gpu_t4")
    assert profile.residual
    found = sensitivity(profile, Setup(runtime="eager", batch=8), graphs_of, "net")
    main = next(lever for lever in found.levers if lever.change.name == "capacity.dram")
    assert main.effect.speedup == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("arch", "count"), [("cpu_server_generic", "cores"), ("gpu_t4", "sms"), ("tpu_v5e", "units")])
def test_every_level_and_part_is_a_lever(arch: str, count: str) -> None:
    """The count of parts, the clock, and bandwidth and capacity of main memory."""
    profile = load_profile(arch)
    changed = {change.name: change.coefficients for change in part_changes(profile, profile.default_runtime)}
    assert {f"count.{count}", "clock", "bandwidth.dram", "capacity.dram"} <= set(changed)
    assert ("peak" in changed) == (count != "units")
    for name, values in changed.items():
        factor = 1 / FACTOR if name.startswith("launch") else 2.0
        assert values == {one: factor * profile.all_coefficients[one].value for one in values}


def test_the_bottleneck_is_a_single_part() -> None:
    """Large products on a T4 are bound by its units: twice their peak, and neither the clock nor the multiprocessors, which bring
    other parts along."""
    b = GraphBuilder()
    graph = b.graph(b.linear(b.tensor((4096, 4096)), 4096))
    found = sensitivity(load_profile("gpu_t4"), Setup(runtime="eager"), lambda setup: (graph,), "product")
    assert found.bottleneck is not None
    assert found.bottleneck.change.name == "peak"
    assert {lever.change.name for lever in found.levers if lever.change.kind == "parts"} == {"count.sms", "clock"}


@pytest.mark.parametrize(("tokens", "level"), [(64, "l2"), (1 << 16, "hbm")])
def test_the_roof_of_a_copy_is_a_memory_whatever_holds_it(tokens, level):
    """What caches hold crosses them once all the same; keys and values that no cache holds come from main memory."""
    profile = load_profile("gpu_h100")
    b = GraphBuilder()
    shape = (tokens, 1024)
    graph = b.graph(b.call("add", {"self": b.tensor(shape), "other": b.tensor(shape)}, shape))
    work = tabulate_model((graph,), "eager", "gpu")
    priced = AnalysisDirector(profile).price(work.table, "eager")
    roofs = kernel_roofs(work.table, priced.tiling, Coefficients(profile), "eager", None)
    bandwidth = profile.value(f"bandwidth.{'l2' if level == 'l2' else profile.main_memory}")
    assert roofs.memory_s[0] == pytest.approx(3 * 4 * tokens * 1024 / bandwidth, rel=0.2)
    assert roofs.memory_s[0] > roofs.compute_s[0]
