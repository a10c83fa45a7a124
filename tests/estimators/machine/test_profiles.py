"""The built-in profiles: complete, sourced, and plausible enough that a wrong digit is noticed."""

import json
import math

import pytest

from shmoo.calibrate.fit.parameters import search_space
from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.variants import variant
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values

NAMES = [
    *("cpu_server_generic", "cpu_i7_12700k"),
    *("cpu_icelake_8375c", "cpu_sapphire_rapids", "cpu_epyc_milan", "cpu_epyc_genoa", "cpu_graviton3", "cpu_graviton4"),
    *("cpu_grace", "cpu_apple_m", "cpu_i9_10940x", "cpu_i7_12700h"),
    *("gpu_p100", "gpu_v100", "gpu_t4", "gpu_a100_40g", "gpu_a100_80g", "gpu_l4", "gpu_h100", "gpu_h200"),
    *("gpu_v100_sxm2", "gpu_a100_sxm_40g", "gpu_a100_sxm_80g", "gpu_a10", "gpu_a40", "gpu_l40s", "gpu_rtx3090", "gpu_rtx4090"),
    *("gpu_rtx5090", "gpu_rtx_pro_6000", "gpu_b200", "gpu_h20", "gpu_orin"),
    *("tpu_v1", "tpu_v3", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e", "tpu_v7"),
    *("kpu_t64", "kpu_t256", "kpu_t768"),
    *("brief_cpu", "brief_gpu", "brief_tpu", "brief_kpu"),
]
REAL = [name for name in NAMES if not name.startswith("brief_")]
BRIEF = {
    "brief_cpu": (100e9, 50e9, 1e-9, 100e-12),
    "brief_gpu": (10e12, 900e9, 0.5e-9, 30e-12),
    "brief_tpu": (45e12, 600e9, 0.2e-9, 10e-12),
    "brief_kpu": (1e12, 100e9, 0.1e-9, 5e-12),
}

# Class bounds: (flop/s, main memory B/s, flop per byte at the ridge, J/flop, main memory J/B, TDP in W). A factor of ten on a
# peak or a bandwidth leaves these, or the structure below, or the power budget.
BOUNDS = {
    "cpu": ((0.3e12, 20e12), (20e9, 1e12), (5, 60), (5e-12, 150e-12), (50e-12, 350e-12), (15, 500)),
    "gpu": ((5e12, 1200e12), (200e9, 9e12), (9, 420), (0.1e-12, 30e-12), (15e-12, 105e-12), (60, 1000)),
    "tpu": ((80e12, 2500e12), (30e9, 8e12), (100, 2800), (0.05e-12, 2e-12), (25e-12, 250e-12), (50, 1000)),
    "kpu": ((1e12, 600e12), (50e9, 2e12), (80, 900), (0.05e-12, 1e-12), (5e-12, 100e-12), (3, 250)),
}
PUBLISHED_BANDWIDTH = {
    "cpu_server_generic": 8 * 25.6e9, "cpu_i7_12700k": 2 * 38.4e9,
    "gpu_p100": 4096 / 8 * 1.43e9, "gpu_v100": 4096 / 8 * 1.76e9, "gpu_t4": 256 / 8 * 10e9, "gpu_a100_40g": 5120 / 8 * 2.43e9,
    "gpu_a100_80g": 5120 / 8 * 3.02e9, "gpu_l4": 192 / 8 * 12.5e9, "gpu_h100": 5120 / 8 * 5.23e9, "gpu_h200": 6144 / 8 * 6.25e9,
    "gpu_v100_sxm2": 4096 / 8 * 1.76e9, "gpu_a100_sxm_40g": 5120 / 8 * 2.43e9, "gpu_a100_sxm_80g": 5120 / 8 * 3.186e9,
    "gpu_a10": 384 / 8 * 12.5e9, "gpu_a40": 384 / 8 * 14.5e9, "gpu_rtx3090": 384 / 8 * 19.5e9, "gpu_rtx4090": 384 / 8 * 21e9,
    "gpu_rtx5090": 512 / 8 * 28e9, "gpu_rtx_pro_6000": 512 / 8 * 28e9, "gpu_h20": 6144 / 8 * 5.2e9, "gpu_orin": 256 / 8 * 6.4e9,
    "gpu_l40s": 384 / 8 * 18e9, "gpu_b200": 8192 / 8 * 7.8e9,
    "cpu_icelake_8375c": 8 * 25.6e9, "cpu_sapphire_rapids": 8 * 38.4e9, "cpu_epyc_milan": 8 * 25.6e9,
    "cpu_epyc_genoa": 12 * 38.4e9, "cpu_graviton3": 8 * 38.4e9, "cpu_graviton4": 12 * 44.8e9, "cpu_grace": 500e9,
    "cpu_apple_m": 128 / 8 * 4.266e9, "cpu_i9_10940x": 4 * 8 * 2.933e9, "cpu_i7_12700h": 2 * 38.4e9, "tpu_v7": 7.38e12,
    "tpu_v1": 2 * 17e9, "tpu_v3": 900e9, "tpu_v4": 1.2e12, "tpu_v5e": 819e9, "tpu_v5p": 2765e9, "tpu_v6e": 1638e9,
    "kpu_t64": 64e9, "kpu_t256": 256e9, "kpu_t768": 1600e9,
}  # fmt: skip
"""Main memory bandwidth from bus width and data rate, or as published where only the total is."""


def main_dtype(profile: ArchitectureProfile) -> str:
    if profile.name == "tpu_v1":
        return "int8"
    return "bfloat16" if profile.family == "tpu" else "float32"


def structural_peak(profile: ArchitectureProfile) -> float:
    """Dense peak from units, clock and lanes; a multiply-add is 2 flops."""
    v = profile.value
    if profile.family == "cpu":
        return 2 * v("count.cores") * v("count.pipes") * v("vector.lanes") * v("clock")
    if profile.family == "gpu":
        return 2 * v("count.sms") * v("vector.lanes") * v("clock")
    units = v("count.units") if profile.family == "tpu" else v("count.tiles")
    return 2 * units * v("array.rows") * v("array.cols") * v("clock")


def rate_ratios(profile: ArchitectureProfile) -> list[float]:
    """How much faster than the main type another type can be: powers of two of one unit, or of tensor cores on a GPU."""
    if profile.family != "gpu":
        # Instructions that multiply matrices (AMX, BFMMLA, SMMLA) and dot products of short types.
        return {"cpu": [1, 2, 4, 8, 16, 32], "tpu": [1, 2], "kpu": [1]}[profile.family]
    tensor = profile.get("matrix.lanes")
    if tensor is None:
        return [1, 2]
    # Tensor cores may run at a lower boost clock than the vector units; the peak of float16 is checked on its own.
    half = profile.value("peak.matrix.float16") / profile.value("peak.matrix.float32")
    # Consumer cards halve the rate of float16 that accumulates in float32, and not that of float4.
    return [1, half / 2, half, 2 * half, 4 * half, 8 * half]


FLOAT32_J = {
    6.0: 25e-12,
    7.0: 16e-12,
    7.5: 16e-12,
    8.0: 13e-12,
    8.6: 7e-12,
    8.7: 7e-12,
    8.9: 7e-12,
    9.0: 6e-12,
    10.0: 5e-12,
    12.0: 4e-12,
}
"""Compute capability -> joules of a flop of float32 products, at the rated clock."""
TENSOR_SHARE = {"float16": 0.15, "bfloat16": 0.15, "tf32": 0.3, "float8": 0.075, "int8": 0.075, "int4": 0.0375, "float4": 0.0375}
"""Type -> energy of a flop on tensor cores relative to float32's, whose registers feed one multiply-add at a time: 0.1 as fitted
to an A100, more on boards of other generations."""


def usual_energy(profile: ArchitectureProfile, dtype: str) -> float:
    """Joules of a matrix flop of a GPU's generation."""
    return FLOAT32_J[profile.value("compute.capability")] * TENSOR_SHARE.get(dtype, 1.0)


def implausibilities(profile: ArchitectureProfile) -> list[str]:
    """What of a profile cannot be, as the tests below apply it; empty for a sound one."""
    v = profile.value
    wrong = []
    peak_bounds, bandwidth_bounds, ridge_bounds, flop_bounds, byte_bounds, power_bounds = BOUNDS[profile.family]

    def within(what: str, value: float, bounds: tuple[float, float]) -> None:
        if not bounds[0] <= value <= bounds[1]:
            wrong.append(f"{what} = {value:.3g}, not in {bounds}")

    dtype = main_dtype(profile)
    tdp, static = v("power.tdp"), v("power.static")
    bandwidth, byte = v("bandwidth.dram"), v("energy.byte.dram")
    within("bandwidth.dram", bandwidth, bandwidth_bounds)
    within("bandwidth.dram / published bus", bandwidth / PUBLISHED_BANDWIDTH[profile.name], (0.95, 1.05))
    within("energy.byte.dram", byte, byte_bounds)
    within("power.tdp", tdp, power_bounds)
    within("power.static / power.tdp", static / tdp, (0.03, 0.6))
    within("power.idle / power.static", v("power.idle") / static, (0.2, 1.01))
    within("peak", v(f"peak.matrix.{dtype}"), peak_bounds)
    within("ridge", v(f"peak.matrix.{dtype}") / bandwidth, ridge_bounds)
    within("peak / units x clock x lanes", v(f"peak.matrix.{dtype}") / structural_peak(profile), (0.9, 1.1))
    within("streaming power / TDP", (static + bandwidth * byte) / tdp, (0.0, 1.0))
    for name, coefficient in profile.coefficients.items():
        kind = name.rpartition(".")[2]
        if name.startswith("peak.matrix."):
            ratio = coefficient.value / v(f"peak.matrix.{dtype}")
            if not any(abs(ratio / allowed - 1) < 0.02 for allowed in rate_ratios(profile)):
                wrong.append(f"{name} is {ratio:.3g} x {dtype}, not one of {rate_ratios(profile)}")
            energy = profile.get(f"energy.flop.matrix.{kind}")
            if energy is not None and profile.family == "gpu":
                # At its rated clock a board may ask for more than its cap leaves, but not for more than its generation does.
                within(f"energy.flop.matrix.{kind} of its generation", energy.value / usual_energy(profile, kind), (0.34, 3.0))
            elif energy is not None:
                within(
                    f"{name} x its energy of (TDP - static)",
                    coefficient.value * energy.value / max(tdp - static, 1e-9),
                    (0.12, 1.0),
                )
        if name.startswith("energy.flop.matrix.") and kind:
            within(name, coefficient.value, (0.01e-12, flop_bounds[1]))
    tensor = profile.get("matrix.lanes")
    if tensor is not None:
        ratio = v("peak.matrix.float16") / (2 * v("count.sms") * tensor.value * v("clock"))
        within("float16 peak / tensor cores x clock", ratio, (0.9, 1.1))
    within(f"energy.flop.matrix.{dtype}", v(f"energy.flop.matrix.{dtype}"), flop_bounds)
    nearer = [v(f"bandwidth.{level}") for level in profile.levels]
    if nearer != sorted(nearer, reverse=True):
        wrong.append(f"bandwidths {nearer} do not fall outward")
    per_byte = [v(f"energy.byte.{level}") for level in profile.levels]
    if per_byte != sorted(per_byte):
        wrong.append(f"energies per byte {per_byte} do not rise outward")
    for level in profile.levels[:-1]:
        within(f"bandwidth.{level} / peak in B/flop", v(f"bandwidth.{level}") / v(f"peak.matrix.{dtype}"), (0.003, 8.0))
    return wrong


def test_every_documented_profile_is_built_in():
    """All documented names are there, and only `cpu_local` is left to calibration."""
    assert set(NAMES) <= set(builtin_names())


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_and_round_trips(name):
    """A profile equals what its own JSON reads back, and its file is named after it."""
    profile = load_profile(name)
    assert profile.name == name
    assert ArchitectureProfile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("name", NAMES)
def test_every_coefficient_has_a_unit_and_a_reference(name):
    """No number stands alone, and each lies inside its own range."""
    for key, c in load_profile(name).coefficients.items():
        assert c.unit, key
        assert len(c.reference) > 10, key
        assert math.isfinite(c.value), key
        assert c.value >= 0, key
        assert (c.low is None) == (c.high is None), key
        assert c.bounds[0] <= c.value <= c.bounds[1], key


@pytest.mark.parametrize("name", NAMES)
def test_levels_have_capacity_and_bandwidth(name):
    """Every memory level holds more than the one before and is slower; the last is the main memory."""
    profile = load_profile(name)
    assert profile.main_memory == "dram"
    capacities = [profile.value(f"capacity.{level}") for level in profile.levels]
    bandwidths = [profile.value(f"bandwidth.{level}") for level in profile.levels]
    assert min(capacities[0], bandwidths[-1]) > 0
    assert capacities == sorted(set(capacities))
    assert bandwidths == sorted(set(bandwidths), reverse=True)


@pytest.mark.parametrize("name", REAL)
def test_profile_is_plausible(name):
    """Peaks follow from structure, ridges and energies lie in their class, full load stays under TDP."""
    assert implausibilities(load_profile(name)) == []


@pytest.mark.parametrize("name", REAL)
def test_wrong_digit_is_noticed(name):
    """Ten times too much or too little of a dense peak, the main memory's bandwidth, an energy or TDP fails the checks above."""
    profile = load_profile(name)
    keys = [
        key
        for key in profile.coefficients
        if key.startswith(("peak.matrix.", "energy.flop.matrix.")) or key in ("bandwidth.dram", "energy.byte.dram", "power.tdp")
    ]
    passed = [
        (key, factor)
        for key in keys
        for factor in (0.1, 10.0)
        if not implausibilities(with_values(profile, {key: profile.value(key) * factor}))
    ]
    assert passed == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("kpu_")])
def test_kpu_numbers_say_that_no_silicon_was_measured(name):
    """Every KPU number is marked as simulated or as a guess; the area of its memory is that of others' in the same process."""
    coefficients = load_profile(name).coefficients
    assert {c.source for stem, c in coefficients.items() if stem != "area.byte"} <= {"simulated", "fallback"}


def test_uncertain_array_of_t256_carries_its_range():
    """Public sources give 16, 20 and 32: the range holds them all."""
    rows = load_profile("kpu_t256").get("array.rows")
    assert rows.bounds == (16, 32)


@pytest.mark.parametrize("name", BRIEF)
def test_illustrations_hold_the_round_numbers(name):
    """The four illustrations are marked as such and hold flop/s, B/s, J/flop and J/B as given."""
    profile = load_profile(name)
    v = profile.value
    assert profile.illustrative
    held = (v("peak.matrix.float32"), v("bandwidth.dram"), v("energy.flop.matrix.float32"), v("energy.byte.dram"))
    assert held == pytest.approx(BRIEF[name])
    assert not any(load_profile(real).illustrative for real in REAL)


def test_illustrative_kpu_streams_through_64_mib():
    """The KPU of the illustration has 64 MiB on chip, and one 16 x 16 array that reaches 1e12 flop/s."""
    profile = load_profile("brief_kpu")
    assert profile.value("capacity.l3") == 64 * 2**20
    assert structural_peak(profile) == pytest.approx(1e12)


def test_unknown_profile_suggests_the_nearest():
    """A misspelt architecture names what was probably meant."""
    with pytest.raises(InputError, match="gpu_v100"):
        load_profile("gpu_v10")


@pytest.mark.parametrize("asked", ["A100", "gpu_a100", "GPU-A100"])
def test_a_part_of_a_name_suggests_all_that_have_it(asked):
    """The cards of a chip, before names of other chips that look alike."""
    with pytest.raises(InputError, match=r"did you mean 'gpu_a100_40g' or .* or 'gpu_a100_sxm_80g'"):
        load_profile(asked)


def test_profile_without_a_level_bandwidth_is_refused():
    """A level that nothing is known about is an error that names it."""
    profile = load_profile("tpu_v4")
    rest = {key: c for key, c in profile.coefficients.items() if key != "bandwidth.cmem"}
    with pytest.raises(FormatError, match="cmem"):
        ArchitectureProfile.from_json(profile.replacing(coefficients=rest).to_json())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.pop("model_form"), "model_form"),
        (lambda file: file.update(levels=[]), "levels"),
        (
            lambda file: file["coefficients"].update({"bandwidth.dram": {"value": 0.0, "unit": "B/s", "source": "datasheet"}}),
            "dram",
        ),
    ],
)
def test_a_profile_that_nothing_can_be_predicted_from_is_refused(damage, words):
    """Coefficients of an unsaid form, no memory, a rate of nothing: the message names the field."""
    file = json.loads(load_profile("tpu_v4").to_json())
    damage(file)
    with pytest.raises(FormatError, match=words):
        ArchitectureProfile.from_json(json.dumps(file))


def test_a_profile_of_format_1_opens_and_says_what_a_prior_held():
    """There it was a fallback whose reference began with it; the newest format has a source for it. Guesses stay guesses."""
    file = json.loads(load_profile("tpu_v4").to_json())
    guess = {"value": 0.5, "unit": "1", "source": "fallback", "reference": "a guess"}
    head = "held by its prior, the data say next to nothing about it; "
    file["format"] = 1
    file["coefficients"] |= {"efficiency.linalg": guess, "half.m": guess | {"reference": f"{head}fitted to a table"}}
    profile = ArchitectureProfile.from_json(json.dumps(file))
    assert profile.coefficients["efficiency.linalg"].source == "fallback"
    held = profile.coefficients["half.m"]
    assert (held.value, held.source, held.reference) == (0.5, "prior", "fitted to a table")
    assert profile.format == 2
    assert ArchitectureProfile.from_json(profile.to_json()) == profile


def of_times(name: str) -> bool:
    """Whether a coefficient is fitted to times; energies have bounds of their own, from the profile."""
    return entry(name).role not in ("energy", "spread") and name != "energy.clock"


@pytest.mark.parametrize("name", NAMES)
def test_a_value_at_the_end_of_its_range_does_not_pass_for_a_fitted_one(name):
    """Of everything that a fit wrote, what lies at a bound of the search, or beyond it, says so, and nothing else does."""
    profile = load_profile(name)
    fits = {key: c for key, c in profile.coefficients.items() if c.from_fit and of_times(key)}
    ends = {key: search_space(key, profile) for key in fits}
    at_bound = {
        key for key, c in fits.items() if min(math.log(c.value / ends[key].low), math.log(ends[key].high / c.value)) < 1e-3
    }
    assert {key for key, c in fits.items() if c.source == "at bound"} == at_bound


def test_what_ended_at_a_bound_or_with_its_prior_is_known():
    """What an A100 is published with: five shares at a bound, and those of single rows and launches that no row tells."""
    coefficients = load_profile("gpu_a100_40g").coefficients
    bound = {key for key, c in coefficients.items() if c.source == "at bound"}
    loops = ("special.softmax", "bandwidth.softmax", "bandwidth.layer_norm")
    assert bound == {f"efficiency.{key}" for key in ("gemm_batched", "bandwidth.gemm_batched", *loops)}
    assert {"efficiency.bandwidth.gemv", "launch_tail", "efficiency.special"} <= {
        key for key, c in coefficients.items() if c.source == "prior" and of_times(key)
    }
    assert not [c for name in NAMES for c in load_profile(name).coefficients.values() if "prior" in c.reference]


def described(**changed) -> bytes:
    """A board of the A100's chip with 400 W and without int4, and further fields."""
    coefficients = {"power.tdp": {"value": 400.0, "unit": "W", "source": "datasheet", "reference": "of a test"}}
    own = {"format": 2, "name": "board", "base": "gpu_a100_40g", "coefficients": {**coefficients, "peak.matrix.int4": None}}
    return json.dumps({**own, **changed}).encode()


def test_a_machine_is_described_by_what_differs_from_another():
    """Its own numbers and those of its base, which are transferred where they were fitted: wider, and errors larger. A null is
    left out, and so is what was measured of the base."""
    base, board = load_profile("gpu_a100_40g"), ArchitectureProfile.from_json(described())
    assert (board.name, board.value("power.tdp"), board.levels, board.tiling) == ("board", 400.0, base.levels, base.tiling)
    assert "peak.matrix.int4" not in board.coefficients
    assert board.coefficients["count.sms"] == base.coefficients["count.sms"]
    carried, fitted = board.coefficients["efficiency.gemm"], base.coefficients["efficiency.gemm"]
    assert (carried.value, carried.source) == (fitted.value, "transferred")
    assert carried.bounds[0] < fitted.bounds[0] < fitted.bounds[1] < carried.bounds[1]
    assert board.value("sigma.gemm") == pytest.approx(1.5 * base.value("sigma.gemm"))
    assert not board.residual
    assert not board.error_card
    assert ArchitectureProfile.from_json(board.to_json()) == board


@pytest.mark.parametrize(
    ("base", "count", "given"),
    [("kpu_t256", "count.tiles", ()), ("kpu_t256", "array.rows", ("peak.matrix.int8",)), ("tpu_v5e", "count.units", ())],
)
def test_another_count_of_parts_brings_along_what_it_does_in_a_variant(base, count, given):
    """Twice the parts in a file: what the file gives stays, the rest grows as in `NAME@count=`."""
    machine = load_profile(base)
    own = {count: 2 * machine.value(count), **{name: machine.value(name) for name in given}}
    stated = {name: {"value": value, "unit": machine.coefficients[name].unit, "source": "simulated", "reference": "of a test"}
              for name, value in own.items()}  # fmt: skip
    read = ArchitectureProfile.from_json(described(base=base, coefficients=stated))
    grown = variant(machine, own)
    values = {name: c.value for name, c in read.coefficients.items() if not name.startswith("sigma.")}
    assert values == pytest.approx({name: grown.value(name) for name in values})
    assert read.value("peak.matrix.bfloat16") == pytest.approx(2 * machine.value("peak.matrix.bfloat16"))


def test_shares_of_bandwidth_are_of_what_codes_leave_on_a_base_too():
    """A board whose error-correcting codes take a tenth of the bandwidth reaches 0.9 of the share of one without."""
    codes = {"value": 0.9, "unit": "1", "source": "literature", "reference": "test"}
    base, board = load_profile("gpu_a100_40g"), ArchitectureProfile.from_json(described(coefficients={"ecc.share": codes}))
    name = "efficiency.bandwidth.pointwise"
    assert board.value(name) == pytest.approx(0.9 * base.value(name))
    assert board.coefficients[name].low == pytest.approx(0.9 / 1.28 * base.value(name))
    assert board.value("efficiency.gemm") == pytest.approx(base.value("efficiency.gemm"))


def test_an_unknown_base_suggests_the_nearest():
    """A misspelt base names what was probably meant."""
    with pytest.raises(InputError, match="gpu_a100_40g"):
        ArchitectureProfile.from_json(described(base="gpu_a100_40"))


@pytest.mark.parametrize("changed", [{"base": {}}, {"base": None}, {"coefficients": []}, {"coefficients": {"clock": 1}}])
def test_a_damaged_description_is_refused(changed):
    """A base that is no name, and coefficients that are none."""
    with pytest.raises((FormatError, InputError)):
        ArchitectureProfile.from_json(described(**changed))


@pytest.mark.parametrize("name", ["cpu_server_generic", "tpu_v4", "kpu_t64"])
@pytest.mark.parametrize("form", [3, 4])
def test_a_profile_of_an_older_form_opens_where_the_equations_are_known(name, form):
    """Machines without a power cap; a GPU's coefficients had other joules for time than for energy, then other rates of loops."""
    file = json.loads(load_profile(name).to_json()) | {"model_form": form}
    assert ArchitectureProfile.from_json(json.dumps(file)) == load_profile(name)
    with pytest.raises(FormatError, match=f"model form {form}"):
        ArchitectureProfile.from_json(json.dumps(json.loads(load_profile("gpu_t4").to_json()) | {"model_form": form}))


def test_seconds_a_byte_that_all_cores_shared_are_a_core_s():
    """Until form 4 a CPU's seconds per converted and per mapped byte were of all its cores together, 32 here."""
    file = json.loads(load_profile("cpu_server_generic").to_json()) | {"model_form": 4}
    file["coefficients"]["layout.inductor.weights"] = {
        "value": 1e-11, "unit": "s/B", "stderr": 1e-12, "source": "fitted", "reference": "a run"
    }  # fmt: skip
    file["coefficients"]["page_fault"] = {"value": 1e-10, "unit": "s/B", "source": "fitted", "reference": "a run"}
    read = ArchitectureProfile.from_json(json.dumps(file)).coefficients
    weights, faults = read["layout.inductor.weights"], read["page_fault"]
    assert (weights.value, weights.stderr) == (pytest.approx(32e-11), pytest.approx(32e-12))
    assert faults.value == pytest.approx(32e-10)


def test_launches_that_held_the_joining_of_threads_hold_it_still():
    """Those fitted until form 4; a machine without any takes what is assumed now."""
    file = json.loads(load_profile("cpu_server_generic").to_json()) | {"model_form": 4}
    assert not {"join", "skew"} & set(ArchitectureProfile.from_json(json.dumps(file)).coefficients)
    file["coefficients"]["launch.eager"] = {"value": 1e-5, "unit": "s", "stderr": 1e-6, "source": "fitted", "reference": "a run"}
    read = ArchitectureProfile.from_json(json.dumps(file)).coefficients
    assert [read[name].value for name in ("join", "skew")] == [0.0, 0.0]


def test_a_lower_clock_moves_peak_power_and_energy():
    """A warm A100 at 600 of 1410 MHz: a product that the cap slows takes less than 1410 / 600 times as long, at less power and
    dynamic energy."""
    graph = TableRow(0, "linear", {"b": 1, "m": 8192, "n": 8192, "k": 8192}, "bfloat16").graph()
    fast = with_values(load_profile("gpu_a100_40g"), {"throttle.cool.tensor": 0.0})
    slow = variant(fast, {"clock": 6e8})
    at = {name: AnalysisDirector(p).estimate(graph, runtime="cudagraphs") for name, p in (("fast", fast), ("slow", slow))}
    assert slow.value("peak.matrix.bfloat16") == pytest.approx(fast.value("peak.matrix.bfloat16") * 600 / 1410)
    assert 1.0 < at["slow"].latency_s.value / at["fast"].latency_s.value < 1410 / 600
    assert at["fast"].average_power_w.value == pytest.approx(0.96 * 250, rel=0.02)
    assert at["slow"].average_power_w.value < 0.9 * at["fast"].average_power_w.value
    dynamic = {name: e.energy_j.value - fast.value("power.static") * e.latency_s.value for name, e in at.items()}
    assert dynamic["slow"] < dynamic["fast"]


def test_a_machine_multiplies_the_types_that_it_has_a_rate_for():
    """A T4 has no bfloat16 and no TF32; a copy with a rate of one has it, and the machine itself does not."""
    machine = load_profile("gpu_t4")
    assert machine.multiplied_types == {"float32", "float16", "int8", "int4"}
    rate = machine.coefficients["peak.matrix.float16"]
    more = machine.replacing(coefficients={**machine.coefficients, "peak.matrix.bfloat16": rate})
    assert more.multiplied_types - machine.multiplied_types == {"bfloat16"}
