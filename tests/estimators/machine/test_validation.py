"""Whatever a profile's file holds, it is refused or gives sound numbers."""

from __future__ import annotations

import itertools
import json
import math

import msgspec
import numpy as np
import pytest

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.graph.records import OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.catalogue import CATALOGUE, DEFAULTS, entry
from shmoo.estimators.machine.profile import (
    BUILTIN_DIR,
    ArchitectureProfile,
    TilingSpec,
    builtin_names,
    find_profile,
    load_profile,
    means_profile,
)
from shmoo.estimators.machine.validation import ON_CHIP, check_name, first_problem
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.variants import variant
from tests.hostile import profile_json


def changed(name, **coefficients):
    """The file of a built-in profile with some fields of some coefficients replaced."""
    file = profile_json(name)
    for key, fields in coefficients.items():
        known = file["coefficients"].get(key.replace("__", "."), {"unit": "1", "source": "fitted"})
        for gone in ("stderr", "low", "high"):
            known.pop(gone, None)
        file["coefficients"][key.replace("__", ".")] = known | fields
    return json.dumps(file)


@pytest.mark.parametrize("name", builtin_names())
def test_the_built_in_profiles_are_sound(name):
    """Every number of ours lies in the ranges, every unit is the catalogue's."""
    assert first_problem(load_profile(name)) is None


@pytest.mark.parametrize("family", DEFAULTS)
def test_what_the_model_assumes_is_sound(family):
    """Defaults, too: they stand in any profile."""
    base = load_profile(f"brief_{family}")
    assumed = base.replacing(coefficients={**DEFAULTS[family], **base.coefficients})
    assert first_problem(assumed) is None


def test_every_kind_of_coefficient_has_a_range():
    """By its unit, or of its own."""
    without = [stem for stem, listed in CATALOGUE.items() if not all(map(math.isfinite, listed.range))]
    assert without == []


@pytest.mark.parametrize(
    ("name", "coefficient", "fields", "words"),
    [
        ("gpu_t4", "power__static", {"value": -5.0}, "power.static"),
        ("gpu_t4", "energy__byte__dram", {"value": -1e-12}, "energy.byte.dram"),
        ("gpu_t4", "energy__flop__matrix__float32", {"value": -1e-12}, "energy.flop"),
        ("gpu_t4", "launch__eager", {"value": -1.0, "unit": "s"}, "launch.eager"),
        ("gpu_t4", "tile_overhead__gemm", {"value": -1e-6, "unit": "s"}, "tile_overhead"),
        ("gpu_t4", "page_fault", {"value": -1e-9, "unit": "s/B"}, "page_fault"),
        ("gpu_t4", "sigma__gemm", {"value": -0.1}, "sigma"),
        ("gpu_t4", "sigma__gemm", {"value": 700.0}, "sigma"),
        ("gpu_t4", "efficiency__gemm", {"value": 0.0}, "rate|allowed|positive"),
        ("gpu_t4", "launch_tail", {"value": 1.5}, "launch_tail"),
        ("gpu_t4", "overlap", {"value": 0.0}, "overlap"),
        ("gpu_t4", "count__sms", {"value": 0}, "count.sms"),
        ("gpu_t4", "bandwidth__dram", {"value": 1e300}, "bandwidth.dram"),
        ("gpu_t4", "bandwidth__dram", {"value": 320, "unit": "GB/s"}, "GB/s"),
        ("gpu_t4", "bandwidth__dram", {"value": 3e11, "stderr": 1e300}, "range ends"),
        ("gpu_t4", "bandwidth__dram", {"value": 3e11, "stderr": -1.0}, "standard error"),
        ("gpu_t4", "bandwidth__dram", {"value": 3e11, "low": 1e11}, "one end"),
        ("gpu_t4", "bandwidth__dram", {"value": 3e11, "low": 4e11, "high": 5e11}, "own range"),
        ("gpu_t4", "power__static", {"value": 80.0}, "power.tdp"),
        ("kpu_t64", "array__rows", {"value": -16}, "array.rows"),
        ("tpu_v4", "clock", {"value": -1e9}, "positive"),
        ("cpu_server_generic", "capacity__l2", {"value": -1}, "capacity.l2"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(name, coefficient, fields, words):
    """Signs, ranges, units and uncertainties."""
    with pytest.raises(FormatError, match=words):
        ArchitectureProfile.from_json(changed(name, **{coefficient: fields}))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("levels", ["shared", "l2", "l2", "dram"], "twice"),
        ("levels", ["shared", "l2", "../dram"], "no name"),
        ("levels", ["shared", "l2", "l9", "dram"], "l9"),
        ("levels", ["l2"] * 99, "at most"),
        ("name", "../../etc/passwd", "path"),
        ("name", "red\x1b[31m", "name"),
        ("name", "", "name"),
        ("fitted_from", {"dtypes": ["float99"]}, "float99"),
    ],
)
def test_names_are_names(field, value, words):
    """Of the profile, of its memory levels, of the types it was fitted to."""
    with pytest.raises(FormatError, match=words):
        ArchitectureProfile.from_json(json.dumps(profile_json("gpu_t4") | {field: value}))


@pytest.mark.parametrize("name", ["gpu_t4", "tpu_v4", "kpu_t64", "cpu_server_generic"])
def test_a_profile_without_some_levels_is_refused_or_estimates(name):
    """Every choice of them: a level that the tiling cuts for is named where it is missing, or is the main memory."""
    profile = load_profile(name)
    specs = TensorSpec((256, 512)), TensorSpec((128, 512)), TensorSpec((256, 128))
    graph = single_call_graph(OpCall("aten.linear", specs[:2], specs[2:], ("input", "weight")), (1,))
    for count in range(1, len(profile.levels)):
        for levels in itertools.combinations(profile.levels, count):
            file = profile.replacing(levels=levels, residual=()).to_json()
            if not set(ON_CHIP[profile.family]) <= set(levels[:-1]):
                with pytest.raises(FormatError, match="before the last one, its main memory"):
                    ArchitectureProfile.from_json(file)
                continue
            made = ArchitectureProfile.from_json(file)
            with np.errstate(all="raise", under="ignore"):
                latency = AnalysisDirector(made).estimate(graph).latency_s
            assert 0 < latency.low <= latency.value <= latency.high < math.inf


@pytest.mark.parametrize("name", ["gpu_t4", "tpu_v4", "kpu_t64", "cpu_server_generic"])
def test_a_profile_without_any_one_coefficient_is_refused_or_estimates(name):
    """Never a crash: what a family cannot do without is named."""
    profile = load_profile(name)
    specs = TensorSpec((256, 512)), TensorSpec((128, 512)), TensorSpec((256, 128))
    graph = single_call_graph(OpCall("aten.linear", specs[:2], specs[2:], ("input", "weight")), (1,))
    refused = []
    for key in profile.coefficients:
        rest = {other: c for other, c in profile.coefficients.items() if other != key}
        try:
            made = ArchitectureProfile.from_json(profile.replacing(coefficients=rest, residual=()).to_json())
            latency = AnalysisDirector(made).estimate(graph).latency_s
        except InputError as error:
            refused.append((key, str(error)))
            continue
        assert 0 < latency.low <= latency.value <= latency.high < math.inf
    assert all(key in message or key.rpartition(".")[0] in message for key, message in refused)
    assert f"bandwidth.{profile.levels[0]}" in dict(refused)


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        ("gpu_thread_block", {}),
        ("gpu_thread_blocks", {"tile_q": 4}),
        *(("gpu_thread_blocks", {"tile_m": value}) for value in (-1, 0, "x", True, [1, 2], 1e300)),
        *(("gpu_thread_blocks", {"library": value}) for value in (5, [1], "amper")),
        *(("tpu_weight_stationary", {"mode": value}) for value in (5, [1], "x")),
    ],
)
def test_a_tiling_that_cannot_be_is_refused(strategy, parameters):
    """Unknown strategies and parameters, sizes that are none."""
    profile = load_profile("gpu_t4").replacing(tiling=TilingSpec(strategy, parameters))
    with pytest.raises(InputError):
        AnalysisDirector(profile)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\x00b", "\x1b[31m", "x" * 300])
def test_a_path_is_no_name(name):
    """Names become file names and reach terminals."""
    with pytest.raises(InputError, match="no name"):
        check_name(name)


@pytest.mark.parametrize("name", ["gpu_t4", "kpu_t64@capacity.l3=64MiB", "my A100", "größe-2"])
def test_ordinary_names_pass(name):
    """Letters of any alphabet, what-ifs, spaces."""
    assert check_name(name) == name


def test_entries_without_a_unit_are_not_checked_for_one():
    """What nobody listed is ignored by the model and stays as it is."""
    assert entry("made.up").unit == ""


def on_base(**coefficients):
    return msgspec.json.encode({"name": "mine", "base": "gpu_h100", "coefficients": coefficients})


def test_a_misspelled_coefficient_beside_a_base_is_refused_with_the_nearest():
    """It would change nothing; what other built-in machines have may be added."""
    given = {"value": 300.0, "unit": "W", "source": "datasheet", "reference": "vendor"}
    with pytest.raises(InputError, match=r"'power\.tpd'.*did you mean 'power\.tdp'"):
        ArchitectureProfile.from_json(on_base(**{"power.tpd": given}))
    peak = {**given, "value": 9e15, "unit": "flop/s"}
    assert ArchitectureProfile.from_json(on_base(**{"peak.matrix.float4": peak})).value("peak.matrix.float4") == 9e15


def test_format_0_never_was():
    fields = msgspec.to_builtins(load_profile("gpu_h100")) | {"format": 0}
    with pytest.raises(FormatError, match="format 0; there are 1 to"):
        ArchitectureProfile.from_json(msgspec.json.encode(fields))


@pytest.mark.parametrize(("name", "value"), [("power.tdp", 10.0), ("power.tdp", np.array([[400.0], [10.0]])), ("clock", 1e30)])
def test_a_variant_that_no_file_could_be_is_refused(name, value):
    """A cap below the power of an idle board, also at one point of a sweep, and a clock out of any range."""
    with pytest.raises(InputError, match=f"'gpu_h100' with {name}"):
        variant(load_profile("gpu_h100"), {name: value})


def test_a_profile_in_another_encoding_is_refused(tmp_path):
    """As an editor saves it that does not write UTF-8."""
    path = tmp_path / "mine.json"
    path.write_bytes(json.dumps(profile_json("gpu_t4") | {"description": "Kärnä"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(FormatError, match=r"cannot read profile .*utf-8"):
        load_profile(path)


@pytest.mark.parametrize("text", ["", '[{"arch": "gpu_t4"'])
def test_results_named_after_a_built_in_profile_leave_it_in_use(tmp_path, text):
    """As `shmoo estimate --json > gpu_t4.json` begins with an empty file; a damaged profile is still one."""
    path = tmp_path / "gpu_t4.json"
    path.write_text(text)
    assert find_profile("gpu_t4", (tmp_path,)) == BUILTIN_DIR / "gpu_t4.json"
    path.write_text('{"name": "gpu_t4", "coefficients": {')
    assert find_profile("gpu_t4", (tmp_path,)) == path


def test_json_of_others_is_no_profile(tmp_path):
    """Also where it has a key of that name."""
    (tmp_path / "stray.json").write_text('{"coefficients": [1, 2]}')
    assert not means_profile(tmp_path / "stray.json")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("family",), None, "it lacks 'family'; a profile has name, family"),
        (("coefficients",), None, "it lacks 'coefficients'"),
        (("family",), "gppu", "its family is 'gppu'; allowed: cpu, gpu, tpu, kpu"),
        (("coefficients",), [], "its coefficients are a list; write an object"),
        (("illustrativ",), True, "no key is called 'illustrativ': did you mean 'illustrative'"),
        (("coefficients", "bandwidth.dram"), 300e9, "coefficient 'bandwidth.dram' is 300000000000.0; write an object"),
        (("coefficients", "bandwidth.dram", "value"), None, "coefficient 'bandwidth.dram' lacks 'value'"),
        (("coefficients", "bandwidth.dram", "unit"), None, "coefficient 'bandwidth.dram' lacks 'unit'"),
        (("coefficients", "bandwidth.dram", "value"), "300e9", "has the value '300e9'; write a number in SI units"),
        (("coefficients", "bandwidth.dram", "value"), True, "has the value True; write a number"),
        (("coefficients", "bandwidth.dram", "source"), "guess", "has the source 'guess'; allowed: fitted"),
        (("coefficients", "bandwidth.dram", "stdder"), 1.0, "no key is called 'stdder': did you mean 'stderr'"),
        (
            ("coefficients", "bandwith.dram"),
            {"value": 1.0, "unit": "B/s", "source": "datasheet"},
            "unknown coefficient 'bandwith.dram': did you mean 'bandwidth.dram'",
        ),
        (("coefficients", "bandwidth.dram"), None, "level 'dram' has no coefficient 'bandwidth.dram'; add it"),
    ],
)
def test_a_file_written_by_hand_is_told_what_is_wrong(tmp_path, place, value, said):
    """The key or the value, what is allowed, and what to write; `None` takes the key out."""
    described = json.loads((BUILTIN_DIR / "gpu_h100.json").read_text())
    *outer, key = place
    home = described
    for name in outer:
        home = home[name]
    if value is None:
        del home[key]
    else:
        home[key] = value
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(described))
    with pytest.raises(FormatError) as error:
        load_profile(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_notes_in_a_profile_are_no_fault(tmp_path):
    """Keys that resemble no other, at the top or of a coefficient."""
    described = json.loads((BUILTIN_DIR / "gpu_l4.json").read_text())
    described["reviewed by"] = "somebody"
    described["coefficients"]["bandwidth.dram"]["page"] = 7
    (tmp_path / "mine.json").write_text(json.dumps(described))
    assert load_profile(tmp_path / "mine.json") == load_profile("gpu_l4")
