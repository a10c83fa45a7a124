"""Calibration on synthetic machines whose coefficients are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy.stats import norm

from shmoo.calibrate.calibration import calibrate, calibrate_cases, quick_profile
from shmoo.calibrate.fit.base import base_profile
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, blocks, read_sources
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.calibrate.fit.intervals import held_out
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.records import Coefficient, Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.hosts import HOSTS
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.store.records import Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from shmoo.runs.tables.reading import TableRow, read_table

TRUTH = {
    "bandwidth.l1": 900e9,
    "bandwidth.l2": 310e9,
    "bandwidth.l3": 95e9,
    "bandwidth.dram": 41e9,
    "launch.eager.linear": 4.4e-6,
    "launch.eager.add": 2.9e-6,
    "launch.eager.relu": 2.4e-6,
    "launch.eager.softmax": 3.7e-6,
    "efficiency.gemm": 0.83,
    "half.k.gemm": 23.0,
    "efficiency.special.softmax": 0.31,
    "efficiency.bandwidth.softmax": 0.55,
    "page_fault": 6.7e-9,
}


ASSUMED = {
    "efficiency": 0.75,
    "efficiency.vector": 0.5,
    "overlap": 3.0,
    "overlap.pointwise": 3.0,
    "launch": 8e-6,
    "launch.eager.pointwise": 8e-6,
    "join": 0.0,
    "skew": 0.0,
    "page_fault": 0.0,
}


def known_cpu() -> ArchitectureProfile:
    """A server's CPU whose assumptions are written down, so that what a fit finds does not follow the catalogue's."""
    profile = load_profile("cpu_server_generic")
    assumed = {name: Coefficient(value, entry(name).unit, "fallback", "assumed") for name, value in ASSUMED.items()}
    return profile.replacing(coefficients={**profile.coefficients, **assumed})


def table_rows() -> list[TableRow]:
    sides = (48, 96, 200, 420, 900, 1500)
    rows = [TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}) for m, n, k in itertools.product(sides, sides, sides)]
    for op in ("add", "relu", "softmax"):
        rows += [TableRow(0, op, {"shape": f"{r}x{c}"}) for r in (64, 512, 2048, 8192, 20000) for c in (16, 128, 700, 1024, 3000)]
    return rows


def measured_on(
    profile: ArchitectureProfile, truth: dict[str, float], noise: float = 0.0, seed: int = 1
) -> tuple[MeasuredCase, ...]:
    """What a machine with these coefficients would have measured."""
    rows = table_rows()
    unknown = [MeasuredCase(row.case, (row.graph(),), 1.0) for row in rows]
    block = blocks(unknown, profile)
    seconds = predicted_latency(block, Coefficients(profile, truth))
    seconds = seconds * np.exp(np.random.default_rng(seed).normal(0, noise, len(seconds)))
    return tuple(MeasuredCase(c.case, c.graphs, float(s)) for c, s in zip(unknown, seconds, strict=True))


def sources_of(cases: tuple[MeasuredCase, ...]) -> Sources:
    return Sources(cases, "synthetic", ("synthetic",), None)


def test_cases_of_another_release_of_the_library_do_not_move_the_physics():
    """Linear layers that take twice as long as the other cases say change no coefficient; the error card holds them."""
    base = known_cpu()
    cases = measured_on(base, TRUTH)
    alone = calibrate_cases(sources_of(cases), base, name="alone", residual=False).profile
    older = tuple(replace(c, latency_s=2.0 * c.latency_s, other_release=True) for c in cases if c.case.workload == "linear")
    both = calibrate_cases(sources_of((*cases, *older)), base, name="both", residual=False).profile
    assert {n: c.value for n, c in both.coefficients.items()} == {n: c.value for n, c in alone.coefficients.items()}
    assert both.error_card["test"]["gemm"].n == 2 * alone.error_card["test"]["gemm"].n


def test_a_machine_with_known_coefficients_is_recovered_within_two_per_cent():
    """Without noise, every coefficient that the cases exercise comes back."""
    base = known_cpu()
    calibration = calibrate_cases(sources_of(measured_on(base, TRUTH)), base, name="recovered")
    recovered = {name: calibration.profile.value(name) for name in TRUTH}
    for name, true in TRUTH.items():
        assert recovered[name] == pytest.approx(true, rel=0.02), name


def test_ninety_per_cent_intervals_cover_about_ninety_per_cent_of_held_out_cases():
    """The share of measurements with 8 % of noise around a case's true time that its interval covers follows from the normal
    law: over the test splits of four calibrations 90 %, to 4 points, with intervals 1.645 x 8 % wide to either side."""
    base, noise = known_cpu(), 0.08
    tested = [case for case in measured_on(base, TRUTH) if case.case.split == "test"]
    covered, widths = [], []
    for seed in range(4):
        cases = measured_on(base, TRUTH, noise, seed)
        profile = calibrate_cases(sources_of(cases), base, name="noisy").profile
        truth = held_out(blocks(tested, profile), profile)
        below, above = np.log(truth.measured / truth.low), np.log(truth.high / truth.measured)
        covered.append(norm.cdf(above / noise) - norm.cdf(-below / noise))
        widths.append((below + above) / 2)
        assert profile.error_card["test"]["gemm"].mean < 0.09
    assert np.mean(covered) == pytest.approx(0.9, abs=0.04)
    assert np.median(widths) == pytest.approx(1.645 * noise, rel=0.2)


def test_fitted_coefficients_say_what_they_were_fitted_to():
    """Value, standard error, range and reference stand together, and the profile names its rows."""
    base = known_cpu()
    profile = calibrate_cases(sources_of(measured_on(base, TRUTH, noise=0.02)), base, name="noisy").profile
    fitted = profile.coefficients["efficiency.gemm"]
    assert fitted.source == "fitted"
    assert fitted.stderr > 0
    assert fitted.low < fitted.value < fitted.high
    assert "synthetic" in fitted.reference
    assert profile.fitted_from.rows_hash == "synthetic"
    assert ArchitectureProfile.from_json(profile.to_json()) == profile


def test_a_fit_says_which_values_are_its_bounds_and_which_its_priors():
    """Products twice as fast as any may be: their share of the peak ends at its bound, and what few cases feel stays where it
    began. References say where the numbers come from and nothing about that."""
    base = known_cpu()
    fast = measured_on(base, {**TRUTH, "efficiency": 3.0, "efficiency.gemm": 3.0})
    profile = calibrate_cases(sources_of(fast), base, name="fast", residual=False).profile
    share = profile.coefficients["efficiency.gemm"]
    assert (share.source, share.value) == ("at bound", pytest.approx(entry("efficiency.gemm").fit_on["cpu"].high, rel=1e-3))
    assert {"fitted", "at bound", "prior"} == {c.source for c in profile.coefficients.values() if c.from_fit}
    for c in profile.coefficients.values():
        assert c.source != "prior" or (c.reference == share.reference and c.assumed and c.stderr is None)
    assert ArchitectureProfile.from_json(profile.to_json()) == profile


def test_a_run_on_a_gpu_holds_launches_of_its_own_host_alone():
    """The built-in T4's launches, operator by operator, are of another machine. A run that has no tanh says what its loops take
    there; a table, which does not say where it is from, leaves the profile's."""
    base = load_profile("gpu_t4")
    cases, machine = measured_on(base, {})[::3], Machine("Xeon", 16, 16, 1 << 36, threads=16)
    fitted = [
        calibrate_cases(Sources(cases, "h", ("run",), m), base, name="own", residual=False).profile for m in (machine, None)
    ]
    run, table = (profile.coefficients for profile in fitted)
    assert table["launch.eager.tanh"] == base.coefficients["launch.eager.tanh"]
    assert "launch.eager.tanh" not in run
    assert run["launch.eager.pointwise"].value == pytest.approx(HOSTS[base.host].seconds["launch.eager"][0], rel=0.25)


def test_recurrent_layers_do_not_set_the_launch_of_products():
    """A layer of many steps in bfloat16 takes the host 600 us beside one sequence. A product of one row still takes 10."""
    base = load_profile("gpu_a100_40g")
    products = [TableRow(0, "linear", {"b": 1, "m": 1, "n": n, "k": k}, "bfloat16") for n in (64, 300) for k in (64, 512, 1024)]
    known = [MeasuredCase(row.case, (row.graph(),), 10e-6) for row in products]
    layer = [MeasuredCase(row.case, (_lstm(steps),), 600e-6) for steps, row in zip((40, 60), products, strict=False)]
    measured = blocks([*known, *layer], base)
    names = {parameter.name: parameter for parameter in parameters_for(measured, base)}
    assert names["launch.eager.gemv_tensor"].affects.tolist() == [True] * 6 + [False] * 2
    assert names["launch.eager.recurrent_tensor"].affects.tolist() == [False] * 6 + [True] * 2
    assert names["launch.eager.recurrent_tensor"].parent == "launch.eager"


def test_depthwise_convolutions_of_a_gpu_are_not_drawn_towards_blocks():
    """Their rate is a load and an address for each point of a window, 0.15 of the float32 units and not 0.9."""
    base = load_profile("gpu_h200")
    images = ({**_CONV, "conv_c_in": c, "conv_c_out": c, "conv_groups": groups} for c in (64, 256) for groups in (c, 1))
    rows = [TableRow(0, "conv", axes, "float16") for axes in images]
    names = {p.name for p in parameters_for(blocks([MeasuredCase(r.case, (r.graph(),), 1e-4) for r in rows], base), base)}
    assert {"efficiency.conv_tensor", "efficiency.bandwidth.depthwise", "tile_overhead.conv_tensor"} <= names
    of_blocks = ("efficiency", "half.tile", "half.k", "half.fill", "tile_overhead")
    assert not names & {f"{stem}.depthwise" for stem in of_blocks}


_CONV = {"conv_n": 8, "conv_size": 56, "conv_kernel": 3, "conv_stride": 1, "conv_padding": 1}


def _lstm(steps: int) -> Graph:
    """One layer of 768 units that reads one sequence."""
    shapes = ((1, steps, 768), (1, 1, 768), (1, 1, 768), (3072, 768), (3072, 768), (3072,), (3072,))
    names = ("input", "hx.0", "hx.1", "params.0", "params.1", "params.2", "params.3")
    inputs = tuple(TensorSpec(shape, "bfloat16") for shape in shapes)
    outputs = (inputs[0], inputs[1], inputs[2])
    return single_call_graph(OpCall("aten.lstm", inputs, outputs, names, {"num_layers": 1, "batch_first": True}), (3, 4, 5, 6))


def test_runs_of_different_machines_are_refused_with_the_difference(tmp_path):
    """Each field that differs is named with both values."""
    for name, cpu, threads in (("a", "Xeon", 2), ("b", "Epyc", 4)):
        RunWriter(tmp_path / name, RunManifest(Machine(cpu, threads, threads, 2**30, threads=threads), "micro")).close()
    with pytest.raises(InputError, match=r"cpu_model: 'Xeon' and 'Epyc'; threads: 2 and 4\); calibrate each separately"):
        read_sources([tmp_path / "a", tmp_path / "b"])


def test_no_source_is_an_error_that_says_what_to_name(tmp_path):
    """An empty list, or a table without a usable row."""
    with pytest.raises(InputError, match="run directory or an operator table"):
        read_sources([])
    table = tmp_path / "empty.csv"
    table.write_text("op,dtype,m,n,k,latency_s\n")
    with pytest.raises(NothingMeasuredError, match=r"empty\.csv"):
        read_sources([table])


@pytest.mark.parametrize(
    ("told", "levels"),
    [
        ({}, ("l1", "l2", "l3", "dram")),
        ({"l1": 65536, "l3": 8 << 20}, ("l1", "l2", "l3", "dram")),
        ({"l2": 1 << 20}, ("l1", "l2", "dram")),
    ],
)
def test_caches_that_a_machine_does_not_tell_are_typical_ones(told, levels):
    """Virtual machines hide them. What is told stands, what is not is a fallback with a range, and the profile predicts."""
    profile = base_profile(Machine("Example CPU", 2, 2, 8 << 30, cache_bytes=told, threads=2))
    assert profile.levels == levels
    for level in levels[:-1]:
        capacity = profile.coefficients[f"capacity.{level}"]
        assert capacity.source == ("datasheet" if level in told else "fallback")
        if level in told:
            assert capacity.value == told[level]
        else:
            assert capacity.low < capacity.value < capacity.high
    sizes = [profile.value(f"capacity.{level}") for level in levels[:-1]]
    assert sizes == sorted(set(sizes))
    graph = TableRow(0, "linear", {"b": 1, "m": 64, "n": 64, "k": 64}).graph()
    assert AnalysisDirector(profile).estimate((graph,)).latency_s.value > 0


def test_rows_of_another_device_do_not_calibrate_a_profile(tmp_path, caplog):
    """A GPU is not fitted to a CPU's rows: refused where there are no others, left out of a run that holds both."""
    table = tmp_path / "cpu.csv"
    table.write_text("op,m,n,k,latency_s\n" + "".join(f"linear,{m},64,64,1e-3\n" for m in (8, 16, 32)))
    cases = [MeasuredCase(row.case, (row.graph(),), 1e-3) for row in read_table(table)]
    for name, devices in (("run", ("cpu",)), ("both", ("cpu", "cuda"))):
        with RunWriter(tmp_path / name, RunManifest(Machine("Example CPU", 2, 2, 2**30), "micro")) as writer:
            for case, device in itertools.product(cases, devices):
                hashes = tuple(graph.content_hash for graph in case.graphs)
                spec = msgspec.structs.replace(case.case, device=device)
                writer.append(Measurement(spec, "ok", (), hashes, Timing((1e-3,))), case.graphs)
    with pytest.raises(InputError, match=r"run holds rows of cpu, and 'gpu_t4' is a gpu"):
        calibrate([tmp_path / "run"], base=load_profile("gpu_t4"))
    with pytest.raises(InputError, match="hardly vary"):
        calibrate([tmp_path / "both"], base=load_profile("gpu_t4"))
    assert "3 cases of other devices than 'cuda' are left out" in caplog.messages


def test_an_unfinished_run_gives_a_profile_that_names_it(tmp_path):
    """Operators measured so far are fitted at once; without any, the error says so."""
    manifest = RunManifest(Machine("Example CPU", 2, 2, 2**30, threads=2), "micro")
    with RunWriter(tmp_path / "run", manifest) as writer:
        with pytest.raises(InputError, match="no operator was measured yet"):
            quick_profile(Run.open(tmp_path / "run"))
        for case in measured_on(base_profile(manifest.machine), {})[::8]:
            hashes = tuple(graph.content_hash for graph in case.graphs)
            writer.append(Measurement(case.case, "ok", (), hashes, Timing((case.latency_s,))), case.graphs)
    profile = quick_profile(Run.open(tmp_path / "run"))
    assert profile.coefficients["launch.eager"].reference == "fitted to run so far"


def test_a_calibration_in_a_hurry_is_whole_and_says_so():
    """Asked to end at once, it has coefficients, intervals and errors, and no corrections; in peace it does not say so."""
    base = known_cpu()
    cases = sources_of(measured_on(base, TRUTH, noise=0.05))
    hurried = calibrate_cases(cases, base, name="hurried", hurry=lambda: True)
    assert hurried.hurried
    assert hurried.profile.residual == ()
    assert {entry.source for entry in hurried.profile.coefficients.values()} >= {"fitted"}
    assert "validation" in hurried.profile.error_card
    assert not calibrate_cases(cases, base, name="whole", residual=False).hurried
