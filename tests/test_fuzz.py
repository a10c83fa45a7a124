"""Files and command lines at random: no traceback, no call without end, only documented exit codes, no absurd number.

The short part runs with every test run, always over the same examples; the long one draws new examples each time it runs.
Examples that once failed are listed with `@example`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.catalogue import DEFAULTS, entry
from shmoo.estimators.machine.profile import builtin_names
from shmoo.harness.workloads.quantization import described, quantization_of
from tests.build import GraphBuilder
from tests.hostile import TABLE, linear, profile_json, rename_graph, survives, time_limit, write_run, write_table
from tests.hostile_configs import CONFIGS, QUANTIZATIONS, TINY_CONFIG

pytestmark = pytest.mark.skipif(os.name != "posix", reason="alarms of POSIX")
SHORT = settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
LONG = settings(SHORT, max_examples=1500, derandomize=False)

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 0.5, -0.0, 1e-300, 1e-30, 1e-9, 1e9, 1e30, 1e308, -1e30, 2**31, 2**63, 2**64, 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**6), 10**6),
)
texts = st.one_of(
    st.sampled_from(
        ["", "x", "../x", "/", "a\0b", "\x1b[2J", "=1+1", "nan", "inf", "-", "gpu_t4", "float32", "dram", "l2", "ü" * 300]
    ),
    st.text(max_size=20),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6)


class Damage:
    """Changes at random places of a JSON document. `places` are drawn from 0 to 1 along the document's leaves and branches."""

    def __init__(self, changes: list[tuple[float, str, Any]]) -> None:
        self.changes = changes

    def __repr__(self) -> str:
        return f"Damage({self.changes!r})"

    def __call__(self, document: Any) -> None:
        for place, how, value in self.changes:
            spots = list(_spots(document))
            if not spots:
                return
            parent, key = spots[min(int(place * len(spots)), len(spots) - 1)]
            known = parent[key]
            number = isinstance(known, int | float) and not isinstance(known, bool)
            if how == "remove":
                del parent[key]
            elif how == "negate" and number:
                parent[key] = -known
            elif how == "scale" and number:
                parent[key] = known * 10.0 ** max(-40, min(40, value if isinstance(value, int) else 9))
            elif how == "double" and isinstance(parent, list):
                parent.append(copy.deepcopy(known))
            else:
                parent[key] = copy.deepcopy(value)


def _spots(document: Any) -> Iterator[tuple[Any, Any]]:
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _spots(document[key])


damages = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["remove", "negate", "scale", "double", "set", "set"]), values),
    min_size=1,
    max_size=3,
).map(Damage)


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty current directory with a home of its own, for one example."""
    before, home = Path.cwd(), os.environ.get("SHMOO_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["SHMOO_HOME"] = str(Path(folder) / "home")
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            if home is None:
                del os.environ["SHMOO_HOME"]
            else:
                os.environ["SHMOO_HOME"] = home


def dumped(document: Any) -> str:
    """JSON as others write it, lone surrogates escaped."""
    return json.dumps(document)


def check_estimates(document: str) -> None:
    """Every number of an estimate is a number that can be."""
    for record in json.loads(document):
        for quantity in ("latency_s", "energy_j", "throughput_per_s"):
            interval = record.get(quantity)
            if interval is not None:
                assert 0 <= interval["low"] <= interval["value"] <= interval["high"] < math.inf, record
        if record.get("latency_s") is not None:
            assert 0 < record["latency_s"]["value"] < 1e15, record


def profile_example(name: str, damage: Damage) -> None:
    with workplace() as folder:
        file = profile_json(name)
        damage(file)
        (folder / "mine.json").write_text(dumped(file))
        result = survives("estimate", "--ops", str(write_table(folder)), "--arch", "./mine.json", "--json")
        if result.exit_code == 0:
            check_estimates(result.stdout)
        survives("profiles", "show", "./mine.json")


def coefficients_example(name: str, changed: dict[str | int, float]) -> None:
    """Args: changed: coefficient, by name or by a number, -> its value."""
    with workplace() as folder:
        file = profile_json(name)
        known = file["coefficients"]
        listed = sorted(known)
        for key, value in changed.items():
            chosen = key if isinstance(key, str) else listed[key % len(listed)]
            known.setdefault(chosen, {"unit": entry(chosen).unit, "source": "fitted"})["value"] = value
        (folder / "mine.json").write_text(dumped(file))
        result = survives("estimate", "--ops", str(write_table(folder)), "--arch", "./mine.json", "--json")
        if result.exit_code == 0:
            check_estimates(result.stdout)


def table_example(cells: list[list[str]], measured: bool, arch: str) -> None:
    with workplace() as folder:
        header, *rows = [line.split(",") for line in TABLE.strip().splitlines()]
        if measured:
            header, rows = [*header, "latency_s", "energy_j"], [[*row, "1e-5", "1e-3"] for row in rows]
        for number, row in enumerate(cells):
            for column, cell in enumerate(row):
                rows[number % len(rows)][column % len(header)] = cell
        path = write_table(folder, "\n".join(",".join(row) for row in (header, *rows)) + "\n")
        result = survives("estimate", "--ops", str(path), "--arch", arch, "--json")
        if result.exit_code == 0:
            check_estimates(result.stdout)
        if measured:
            survives("calibrate", str(path), "--base", arch, "-o", "out.json", "--no-residual", limit_s=30.0)


def run_example(damage: Damage, verb: str) -> None:
    with workplace() as folder:
        run = str(write_run(folder / "run", damage))
        survives(
            *{"compare": ("compare", run, run), "report": ("report", run, "--profile", "brief_cpu")}.get(verb, (verb, run)),
            limit_s=30.0,
        )


def network() -> Graph:
    """Convolution to classifier, with a view, a sum and a result written in place."""
    build = GraphBuilder()
    x = build.tensor((2, 3, 8, 8))
    image = build.relu(build.batch_norm(build.conv(x, 4)))
    image = build.add(build.conv(image, 4), image)
    flat = build.call("flatten", {"self": image}, (2, 256), storage=image, start_dim=1, end_dim=-1)
    hidden = build.linear(flat, 16)
    hidden = build.call("relu", {"self": hidden}, (2, 16), storage=hidden, inplace=True)
    scores = build.call("softmax", {"self": build.linear(hidden, 10)}, (2, 10), dim=-1)
    return Graph(tuple(build.values), tuple(build.calls), (scores,), name="net")


def graph_example(damage: Damage, whole: bool) -> None:
    """Args: whole: a network's graph in place of a layer's."""

    def change(content: dict[str, Any]) -> None:
        if whole:
            content.clear()
            content.update(json.loads(network().to_json()))
        damage(content)

    with workplace() as folder:
        run = write_run(folder / "run")
        rename_graph(run, linear(8), change)
        survives("check", str(run))
        survives("report", str(run), "--profile", "brief_cpu", "--arch", "brief_gpu")


def config_example(changes: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    with workplace() as folder:
        (folder / "config.json").write_text(dumped(TINY_CONFIG | changes))
        result = survives("estimate", "hf:config.json", "--arch", "brief_gpu", "--seq-len", "4", "--json", limit_s=30.0)
        if result.exit_code == 0:
            check_estimates(result.stdout)


def document_example(name: str, damage: Damage) -> None:
    pytest.importorskip("transformers")
    config = copy.deepcopy(CONFIGS[name])
    damage(config)
    with workplace() as folder:
        (folder / "config.json").write_text(dumped(config))
        result = survives("estimate", "hf:config.json", "--arch", "brief_gpu", "--json", limit_s=60.0)
        if result.exit_code == 0:
            check_estimates(result.stdout)


def quantization_example(name: str, damage: Damage) -> None:
    settings = {"quant_method": name, **copy.deepcopy(QUANTIZATIONS[name])}
    damage(settings)
    with time_limit(2.0):
        schemes, notes = quantization_of({"quantization_config": settings})
        assert schemes or notes or not settings
        for scheme in schemes:
            assert described(scheme)
            assert scheme.weight in ("int4", "int8", "float8")
            assert min(scheme.block) >= 0
            scheme.takes("model.layers.11.mlp.experts.3.down_proj" + "a" * 100)


LINE = """
estimate measure check compare show calibrate sweep inspect fusion report generate trace profiles list diff characterize doctor
gate history advise explore
--arch --batch --dtype --runtime --threads --input-shape --seq-len --json --csv --ops --base --name -o --out --axis
--profile-axis --set --fusion --phase --quantize --autocast --budget --visits --min-change --reduction --seed --help -h -v
--version --depth --top --sort --plot --html --prompt --new --suite --model --device --curve --force --trust
--against --write --allow --fail-on --threshold --markdown --junit --over --minimize --within --machine
latency energy batch=1,2 slower,faster 3% baseline.json comment.md report.xml
gpu_t4 kpu_t64 brief_cpu linear softmax relu t.csv run config.json missing 1 0 -1 1e9 nan m=1..4 m=1,2 m=2 bandwidth.dram=1e9..2e9
float32 bf16 int4 eager domainflow 8x8 k n on,off x=y hf:config.json builtins:dict a.pt2 out.json out.csv out.html
"""
WORDS = LINE.split()
DANGEROUS = {"measure", "characterize", "doctor"}
"""Verbs that measure: they run with a budget that is refused, and so end before they begin."""


def line_example(words: list[str]) -> None:
    with workplace() as folder:
        (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
        write_table(folder).rename(folder / "t.csv")
        write_run(folder / "run")
        if DANGEROUS & set(words):
            words = [*words, "--no-such-option"]
        survives(*words, limit_s=30.0)


words = st.lists(st.one_of(st.sampled_from(WORDS), texts.filter(lambda text: "\0" not in text)), min_size=1, max_size=7)
named = st.sampled_from(builtin_names())
cells = st.lists(st.lists(st.one_of(texts, numbers.map(str)), min_size=1, max_size=4), min_size=1, max_size=3)
keys = st.one_of(st.sampled_from(sorted(TINY_CONFIG)), texts)
coefficients = st.one_of(st.integers(0, 999), st.sampled_from(sorted({name for known in DEFAULTS.values() for name in known})))
magnitudes = st.one_of(st.sampled_from([0.0, -1.0, 1e-30, 1e-12, 1e-6, 1.0, 1e3, 1e9, 1e15, 1e20]), st.floats(-1e20, 1e20))


@SHORT
@given(named, damages)
@example("tpu_v5e", Damage([(0.859375, "negate", None)]))
def test_profiles(name: str, damage: Damage) -> None:
    """Damaged built-in profiles are refused or estimate sound numbers."""
    profile_example(name, damage)


@SHORT
@given(named, st.dictionaries(coefficients, magnitudes, min_size=1, max_size=3))
@example("gpu_t4", {"power.static": -1.0})
@example("gpu_t4", {"energy.byte.dram": -1.0, "tile_overhead": -1.0})
@example("kpu_t64", {"array.rows": 1e6, "array.cols": 1e6, "count.tiles": 1e6})
@example("cpu_server_generic", {"count.cores": 1e6, "capacity.l2": 0.0})
def test_coefficients(name: str, changed: dict[str | int, float]) -> None:
    """Numbers of any size in place of some coefficients."""
    coefficients_example(name, changed)


@SHORT
@given(cells, st.just(False), st.just("kpu_t64"))
def test_tables(cells: list[list[str]], measured: bool, arch: str) -> None:
    """Cells of any text."""
    table_example(cells, measured, arch)


@SHORT
@given(damages, st.sampled_from(["check", "show", "report", "compare"]))
def test_runs(damage: Damage, verb: str) -> None:
    """Damaged rows."""
    run_example(damage, verb)


@SHORT
@given(damages, st.booleans())
@example(Damage([(0.0, "set", [])]), False)
def test_graphs(damage: Damage, whole: bool) -> None:
    """Damaged graphs that pass for the ones that rows name."""
    graph_example(damage, whole)


@SHORT
@given(words)
@example(["estimate", "linear", "--dtype", "bf16,bfloat16", "--arch", "gpu_t4"])
@example(["estimate", "builtins:dict"])
def test_command_lines(words: list[str]) -> None:
    """Words of the command line in any order."""
    line_example(words)


@settings(SHORT, max_examples=15)
@given(st.dictionaries(keys, values, min_size=1, max_size=2))
def test_configs(changes: dict[str, Any]) -> None:
    """Entries of a config of any type."""
    config_example(changes)


@settings(SHORT, max_examples=12)
@given(st.sampled_from(sorted(CONFIGS)), damages)
def test_config_documents(name: str, damage: Damage) -> None:
    """Configs of several kinds of models, damaged at any depth."""
    document_example(name, damage)


@settings(SHORT, max_examples=400)
@given(st.sampled_from(sorted(QUANTIZATIONS)), damages)
def test_quantizations(name: str, damage: Damage) -> None:
    """Damaged settings of quantization are understood or said."""
    quantization_example(name, damage)


LONG_PARTS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy, ...]]] = {
    "profiles": (profile_example, (named, damages)),
    "coefficients": (coefficients_example, (named, st.dictionaries(coefficients, magnitudes, min_size=1, max_size=4))),
    "tables": (table_example, (cells, st.booleans(), named)),
    "runs": (run_example, (damages, st.sampled_from(["check", "show", "report", "compare", "calibrate"]))),
    "graphs": (graph_example, (damages, st.booleans())),
    "command lines": (line_example, (words,)),
    "configs": (config_example, (st.dictionaries(keys, values, min_size=1, max_size=3),)),
    "config documents": (document_example, (st.sampled_from(sorted(CONFIGS)), damages)),
    "quantizations": (quantization_example, (st.sampled_from(sorted(QUANTIZATIONS)), damages)),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", LONG_PARTS)
def test_at_length(part: str) -> None:
    """The same for some minutes each; what takes longer an example with fewer of them."""
    check, strategies = LONG_PARTS[part]
    run = settings(LONG, max_examples=300) if part in ("configs", "config documents", "runs", "command lines") else LONG
    run(given(*strategies)(check))()
