"""Held-out power and energy on GPUs: whole networks at locked clocks, and products that run back to back.

Files of DATA_DIR/measured: `energy_networks.csv`, forward passes in eager PyTorch with the board's power integrated over a loop
(EnergAIzer's artifact, ISPASS 2026), and `gemm_power.csv`, products in graphs with their mean power (NVIDIA's AIConfigurator,
2026). Power is predicted with the measured latency too, so that errors of power and of time can be told apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from shmoo.calibrate.fit.dataset import Block, MeasuredCase, block_of, blocks
from shmoo.calibrate.fit.energy import fit_energy
from shmoo.calibrate.fit.intervals import HeldOut, together
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Coefficient, Graph, Interval
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict
from shmoo.estimators.variants import variant
from shmoo.harness.models.model_graphs import WorkloadGraphs
from shmoo.harness.workloads.configs import config_workload
from shmoo.harness.workloads.loading import resolve_model
from shmoo.runs.store.records import AxisValue, CaseSpec
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.results import Result, of_cases, read_rows

NETWORKS, PRODUCTS = "networks", "products"
PROFILES = MappingProxyType({"a100_pcie_40gb": "gpu_a100_40g", "h200_sxm": "gpu_h200", "b200_sxm": "gpu_b200"})
"""Device of the tables -> profile."""
POWER, ENERGY = 0.07, 0.09
"""Largest mean errors of a device's networks that the device bounds."""
DEVICE_BOUND = 1.5
"""A network bound by its host takes about as long at any batch: the device bounds the rows that take so many times the
shortest of their network and type."""
DTYPES = MappingProxyType({"fp8": "float8", "fp8_block": "float8"})
CONFIGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "BertModel": {
            "model_type": "bert",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
        "OPTModel": {
            "model_type": "opt",
            "hidden_size": 2048,
            "word_embed_proj_dim": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "ffn_dim": 8192,
        },
    }
)
"""Class of Hugging Face -> the published sizes that differ from its defaults: bert-large and opt-1.3b."""


@dataclass(frozen=True, slots=True)
class Judged:
    """n rows of one device, type and group with what a profile says of them.

    Attributes:
        power, energy, latency: from the profile alone. power_as_measured: with the measured latency.
        device_bound: (n,) rows in which the host does not hold the device up.
    """

    profile: str
    dtype: str
    group: str
    power: HeldOut
    energy: HeldOut
    latency: HeldOut
    power_as_measured: HeldOut
    device_bound: np.ndarray


def evaluate(folder: Path, cache: Path | None = None) -> list[Result]:
    """Errors by device, type and group, with the built-in profiles.

    Args:
        cache: folder in which captured graphs are kept.

    Raises:
        InputError: a table is missing.
    """
    cases = read_cases(folder, cache)
    return results([judged for name, of in cases.items() for judged in judge(load_profile(name), of)])


def read_cases(folder: Path, cache: Path | None = None) -> dict[str, list[MeasuredCase]]:
    """Profile -> the rows of its device in both tables, for the devices that have a built-in profile."""
    found: dict[str, list[MeasuredCase]] = {}
    rows = [*_networks(folder / "measured" / "energy_networks.csv", cache), *_products(folder / "measured" / "gemm_power.csv")]
    for device, case in rows:
        name = PROFILES.get(device)
        if name in builtin_names():
            found.setdefault(name, []).append(case)
    return found


def judge(profile: ArchitectureProfile, cases: Sequence[MeasuredCase]) -> Iterator[Judged]:
    """What a profile says of the rows, for each type and group of them."""
    for group, dtype in sorted({(case.case.kind, case.case.dtype) for case in cases}):
        of = [case for case in cases if (case.case.kind, case.case.dtype) == (group, dtype)]
        clocks = sorted({case.clock_hz or 0.0 for case in of})
        at = {clock: [case for case in of if (case.clock_hz or 0.0) == clock] for clock in clocks}
        parts = [_priced(profile, cases_at, clock) for clock, cases_at in at.items()]
        power, energy, latency, as_measured = (together(list(column)) for column in zip(*parts, strict=True))
        in_order = [case for cases_at in at.values() for case in cases_at]
        shortest: dict[str, float] = {}
        for case in in_order:
            shortest[case.case.workload] = min(case.latency_s, shortest.get(case.case.workload, case.latency_s))
        bound = np.asarray([case.latency_s >= DEVICE_BOUND * shortest[case.case.workload] for case in in_order])
        yield Judged(profile.name, dtype, group, power, energy, latency, as_measured, bound)


def _priced(
    profile: ArchitectureProfile, cases: Sequence[MeasuredCase], clock_hz: float
) -> tuple[HeldOut, HeldOut, HeldOut, HeldOut]:
    block = block_of(cases, cases[0].case.runtime, AnalysisDirector(profile))
    machine = settled(profile, clock_hz)
    priced = AnalysisDirector(machine).price(block.table, block.runtime, seed=0)
    latencies, energies = zip(*priced.intervals(), strict=True)
    powers = priced.intervals_of(lambda seconds, joules: joules / seconds)
    watts = block.energy_j / block.measured_s
    known = power_at(block, machine)
    return (
        _held_out(powers, watts),
        _held_out(energies, block.energy_j),
        _held_out(latencies, block.measured_s),
        HeldOut(known, known, known, known, watts, np.zeros(len(watts))),
    )


def settled(profile: ArchitectureProfile, clock_hz: float = 0.0) -> ArchitectureProfile:
    """A machine in a loop of a second and more, at a clock (its own for 0): its controller has seen the load for long."""
    machine = variant(profile, {"clock": clock_hz}) if clock_hz else profile
    instant = Coefficient(1e-9, "s", "literature", "loops of a second and more")
    no_entry = Coefficient(0.0, "s", "literature", "products are timed inside a graph")
    return machine.replacing(coefficients={**machine.coefficients, "throttle.time": instant, "graph.cudagraphs": no_entry})


def power_at(block: Block, machine: ArchitectureProfile) -> np.ndarray:
    """(S,) watts of cases that take the time that was measured."""
    uncapped = machine.replacing(coefficients={n: c for n, c in machine.coefficients.items() if n != "power.tdp"})
    dynamic = predict(block.table, block.tiling, Coefficients(uncapped), block.runtime).dynamic_j
    if dynamic is None:
        raise InputError(f"profile {machine.name!r} has no energy coefficients; publish them first")
    c = Coefficients(machine)
    watts = c.value("power.static") + np.add.reduceat(dynamic, block.table.starts) / block.measured_s
    return np.minimum(watts, c.value("throttle.cap") * c.value("power.tdp"))


def _held_out(found: Sequence[Interval | None], measured: np.ndarray) -> HeldOut:
    value, low, high = np.asarray([(of.value, of.low, of.high) for of in found if of is not None]).T
    return HeldOut(value, low, high, value, measured, np.zeros(len(measured)))


def results(judged: Sequence[Judged]) -> list[Result]:
    """Lines by device, type and group; networks also for the rows that the device bounds, which the targets are of."""
    found = []
    for of in judged:
        parts = {"all": np.ones(len(of.device_bound), dtype=bool)}
        if of.group == NETWORKS and of.device_bound.any():
            parts["device-bound"] = of.device_bound
        for part, mask in parts.items():
            bounds = (POWER, ENERGY) if part == "device-bound" else (None, None)
            what = f"{of.profile}, {of.dtype} {of.group}, {part}"
            columns = (("power", of.power, bounds[0]), ("energy", of.energy, bounds[1]))
            found += [of_cases(f"{what}: {name}", held.entry(mask), bound) for name, held, bound in columns]
            found.append(of_cases("   latency", of.latency.entry(mask)))
            found.append(Result("   power with the measured latency", int(mask.sum()), of.power_as_measured.entry(mask).mean))
    return found


def _networks(path: Path, cache: Path | None) -> Iterator[tuple[str, MeasuredCase]]:
    rows = [row for row in read_rows(path) if row["device"] in PROFILES]
    graphs = _captured([_shape(row) for row in rows], cache)
    for row in rows:
        model, dtype, axes = _shape(row)
        case = CaseSpec(model, NETWORKS, {**dict(axes), "clock_mhz": int(row["clock_locked_mhz"])}, dtype, "eager", "cuda")
        of = graphs[model, dtype, axes]
        clock = float(row["clock_locked_mhz"]) * 1e6
        yield row["device"], MeasuredCase(case, of, float(row["latency_s"]), float(row["energy_j"]), clock_hz=clock)


def _products(path: Path) -> Iterator[tuple[str, MeasuredCase]]:
    for row in read_rows(path):
        dtype = DTYPES.get(row["dtype"], row["dtype"])
        axes: dict[str, AxisValue] = {"b": 1, **{name: int(row[name]) for name in ("m", "n", "k")}}
        case = CaseSpec("linear", PRODUCTS, axes, dtype, "cudagraphs", "cuda")
        graph = TableRow(0, "linear", axes, dtype).graph()
        yield row["device"], MeasuredCase(case, (graph,), float(row["latency_s"]), float(row["energy_j"]))


Shape = tuple[str, str, tuple[tuple[str, int], ...]]
"""A network's class, type and axes."""


def _shape(row: Mapping[str, str]) -> Shape:
    model = row["model"].partition(",")[0].split()[-1]
    sizes = {"batch": row["batch"], "seq_len": row["seq_len"]}
    return model, row["dtype"], tuple((name, int(size)) for name, size in sizes.items() if size)


def _captured(shapes: Sequence[Shape], cache: Path | None) -> dict[Shape, tuple[Graph, ...]]:
    """The graphs of networks, captured in eager execution with attention as separate products and softmax, or from the cache."""
    found: dict[Shape, tuple[Graph, ...]] = {}
    for model, dtype in sorted({(model, dtype) for model, dtype, _ in shapes}):
        points = sorted({axes for of, kind, axes in shapes if (of, kind) == (model, dtype)})
        files = {axes: _cache_file(cache, (model, dtype, axes)) for axes in points}
        missing = [axes for axes in points if not (files[axes] and files[axes].is_file())]
        if missing:
            settings = CONFIGS.get(model)
            architecture = {"architectures": [model], "attn_implementation": "eager"}
            module = resolve_model(model) if settings is None else config_workload(model, {**settings, **architecture})
            source = WorkloadGraphs(module, [dict(axes) for axes in missing], dtype)
        for axes in points:
            file = files[axes]
            if axes in missing:
                graphs = source.at(dict(axes)).graphs
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(b"\n".join(graph.to_json().replace(b"\n", b" ") for graph in graphs))
            else:
                graphs = tuple(Graph.from_json(line) for line in file.read_bytes().split(b"\n"))
            found[model, dtype, axes] = graphs
    return found


def _cache_file(cache: Path | None, shape: Shape) -> Path | None:
    if cache is None:
        return None
    digest = hashlib.sha256(json.dumps([shape, dict(CONFIGS.get(shape[0], {}))]).encode()).hexdigest()[:16]
    return cache / f"{shape[0]}-{digest}.jsonl"


FITTED = MappingProxyType(
    {"gpu_a100_40g": "energies of networks on an A100 PCIe at 510 to 1410 MHz (EnergAIzer's artifact, ISPASS 2026)"}
)
"""Profile whose energies are fitted -> the rows. The products' mean powers are at the cap in four of five rows, and their
operands are in part no random numbers, which take up to half of the power: they judge, and are not fitted."""
RELATIVE = MappingProxyType(
    {"bfloat16": 1.0, "float16": 1.0, "tf32": 2.0, "float8": 0.5, "int8": 0.5, "nvfp4": 0.25, "int4": 0.25}
)
"""Energy of a flop of tensor cores by type, relative to 16 bits, where no row is of that type: as the peaks, the other way
round."""


def with_fitted_energy(profile: ArchitectureProfile, cases: Sequence[MeasuredCase]) -> ArchitectureProfile:
    """A profile with energies fitted to rows of its device; types that no row is of follow that of 16 bits."""
    products = all(case.case.kind == PRODUCTS for case in cases)
    # Products keep a board busy all the time, and so do not tell static power from the rest.
    known = ("power.static",) if products else ()
    found = fit_energy(blocks(cases, profile), profile, f"fitted to {FITTED[profile.name]}", known)
    if found is None:
        raise InputError(f"no row of {profile.name!r} says what its flops take; its power is at the cap in all of them")
    return profile.replacing(coefficients={**profile.coefficients, **by_type(profile, found.coefficients)})


def by_type(profile: ArchitectureProfile, fitted: Mapping[str, Coefficient]) -> dict[str, Coefficient]:
    """Fitted coefficients with those of the types between them."""
    half = fitted.get("energy.flop.matrix.bfloat16")
    if half is None:
        return dict(fitted)
    others = {}
    for dtype, share in RELATIVE.items():
        name = f"energy.flop.matrix.{dtype}"
        if name in profile.coefficients and name not in fitted:
            why = f"{share:g} of bfloat16's, as the peaks; {half.reference}"
            others[name] = msgspec.structs.replace(half.scaled(share), reference=why)
    return {**fitted, **others}
