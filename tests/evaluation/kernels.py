"""Single kernels in 16 bits and below, and products in float32, as others measured them: device time, batched.

Files, all in the folder `measured`: `gemm_bf16.csv`, `gemm_lowbit.csv`, `attention_bf16.csv`, `vidur_ops_fp16.csv`,
`deepbench_gemm.csv`, `llmcompass_ops_fp16.csv`; its README says how each was measured. Products of the first two replay layers
with different weights, those of the others repeat the same operands.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, block_of
from shmoo.calibrate.fit.intervals import HeldOut, held_out
from shmoo.estimators.costs.quantize import quantized
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph, single_call_graph
from shmoo.estimators.machine.coefficients import TENSOR
from shmoo.estimators.machine.names import continues, whose
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, ResidualGroup, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.energy import mean_decay
from shmoo.harness.cli.verbs.profiles import KERNELS
from shmoo.runs.tables.operators import TABLE_OPERATORS
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.declared import CONTROLLER, COOL
from tests.evaluation.loops import capability, digest_of, with_loops, with_loops_of
from tests.evaluation.results import Kept, Result, of_cases, together
from tests.evaluation.transfer import off_by, transfer, typical

PROFILES = MappingProxyType(
    {
        "a100_sxm_80gb": "gpu_a100_sxm_80g",
        "a100": "gpu_a100_sxm_80g",
        "h100_sxm_80gb": "gpu_h100",
        "h200_sxm": "gpu_h200",
        "b200_sxm": "gpu_b200",
        "l40s": "gpu_l40s",
        "v100_sxm2_dgx1": "gpu_v100_sxm2",
        "t4": "gpu_t4",
        "p100_pcie": "gpu_p100",
    }
)
"""Device of the tables -> profile."""
RUNTIME = "cudagraphs"
AT_ONCE = 4000
DECADES = (0.0, 1e-5, 1e-4, 1e-3, np.inf)
"""Bounds of the measured seconds that are told apart."""
TIMES = ("below 10 us", "10 to 100 us", "0.1 to 1 ms", "above 1 ms")
"""The measured times between them, in words."""
_BOUNDS = dict(zip(TIMES, pairwise(DECADES), strict=True))
UNSEEN = "not fitted"
"""The rows of the test split, in words."""
FRAMEWORKS = ("trtllm_s", "vllm_s", "sglang_s")
"""Columns of the same product in three frameworks: the first that has a value counts."""
TYPES = MappingProxyType({"float16_float32_accumulate": "float16"})
"""Types of tables -> those of the vocabulary."""
LOWBIT = MappingProxyType(
    {"fp8": ("bfloat16", "float8"), "fp8_block": ("bfloat16", "float8"), "sq": ("int8", ""), "int8_wo": ("bfloat16", "int8"),
     "int4_wo": ("bfloat16", "int4"), "nvfp4": ("bfloat16", "float4")}
)  # fmt: skip
"""Kind of a product -> type of its activations, and that of its weights where it is another."""
ROUNDED_BEFORE = ("fp8_block",)
"""Kinds whose activations were rounded before the clock started, multiplied in kernels of their own."""
DEEPBENCH_PRODUCTS, DEEPBENCH_CALLS = 1e11, 10
"""Multiply-adds that DeepBench repeats a call for, and the fewest calls (gemm_bench.cu). It fills new matrices before each case,
so that a board starts cool."""
OLD_CUDA = ("p100_pcie",)
"""Devices that DeepBench measured with CUDA 8, whose products have other tiles than the CUDA 12 that the card is fitted to."""
OF_VLLM = ("rms_norm",)
"""Operators of Vidur that run in kernels of vLLM, whose threads read one element of 2 bytes at a time; others are PyTorch's."""
TWICE = (("add", "phi-2"),)
"""Operators and models of Vidur whose rows hold two kernels: attention and layer of Phi-2 are parallel, and both are added."""
COMPILED = ("layernorm", "gelu")
"""Loops of LLMCompass that torch.compile made."""
FLOOR_S = 1e-4
"""Rows of a table whose host is inside count from here."""


@dataclass(frozen=True, slots=True)
class Row:
    """A measured kernel: profile of its device, group that it is shown in, and the case."""

    profile: str
    group: str
    case: MeasuredCase


def _row(device: str, group: str, row: TableRow) -> Row | None:
    name = PROFILES.get(device)
    return None if name is None or row.latency_s is None else Row(name, group, _case(row))


def _case(row: TableRow) -> MeasuredCase:
    return MeasuredCase(row.case, (row.graph(),), row.latency_s or 0.0, time="device")


def _table_row(
    op: str,
    axes: dict[str, int | float | str | bool],
    dtype: str,
    latency_s: float,
    cold: bool = False,
    weights: str = "",
    other: bool = False,
) -> TableRow:
    state, library = "cold_weights" if cold else "warm", "other" if other else "measured"
    return TableRow(0, op, axes, dtype, latency_s, None, "", "cuda", RUNTIME, "k", "device", state, weights, library)


def _extents(x: Mapping[str, str], m: str = "m", n: str = "n", k: str = "k") -> dict[str, int | float | str | bool]:
    return {"b": 1, "m": int(x[m]), "n": int(x[n]), "k": int(x[k])}


def _gemm_bf16(x: Mapping[str, str]) -> Row | None:
    latency = next((float(x[name]) for name in FRAMEWORKS if x[name]), None)
    if latency is None:
        return None
    return _row(x["device"], "gemm bfloat16", _table_row("linear", _extents(x), "bfloat16", latency, True))


def _gemm_lowbit(x: Mapping[str, str]) -> Row | None:
    if x["kind"] not in LOWBIT:
        return None
    dtype, weights = LOWBIT[x["kind"]]
    before = x["kind"] in ROUNDED_BEFORE
    group = f"{'DeepGEMM' if before else 'gemm'} {x['kind']}"
    row = _row(x["device"], group, _table_row("linear", _extents(x), dtype, float(x["latency_s"]), True, weights))
    if row is None or not before:
        return row
    # Blocks of 128 by 128 share a scale, activations of groups of 128.
    extents = {name: int(extent) for name, extent in _extents(x).items()}
    call, weights_at = TABLE_OPERATORS["linear"].build({**extents, "bias": 0}, dtype)
    (graph,) = quantized((single_call_graph(call, weights_at),), "float8-dynamic")
    return replace(row, case=replace(row.case, graphs=(_last_call(graph),)))


def _last_call(graph: Graph) -> Graph:
    call = graph.calls[-1]
    weights = [position for position, value in enumerate(call.reads) if graph.values[value].is_weight]
    return single_call_graph(call, weights, name=graph.name)


def _attention(x: Mapping[str, str]) -> Row | None:
    """A call of attention. TensorRT-LLM's operator forms a separate group, since its kernels differ from those that PyTorch and
    vLLM call. Where they do not rotate and store keys and values themselves, a pass over queries, keys and values comes first. A
    prefill begins with a kernel that sums up the lengths of its sequences."""
    prefill, other = x["phase"] == "prefill", x["framework"].startswith("trtllm")
    axes: dict[str, int | float | str | bool] = {
        "b": int(x["batch"]), "m": int(x["q_len"]), "n": int(x["kv_len"]), "k": int(x["head_dim"]),
        "heads": int(x["heads"]), "kv_heads": int(x["kv_heads"]), "causal": int(prefill),
    }  # fmt: skip
    call = _table_row("attention", axes, "bfloat16", float(x["latency_s"]), other=other)
    row = _row(x["device"], f"attention {x['phase']}", call)
    if row is None or not other:
        return row
    case = row.case
    if prefill or x["device"] == "b200_sxm":
        width = (int(x["heads"]) + 2 * int(x["kv_heads"])) * int(x["head_dim"])
        shapes = [f"{x['batch']}x1"] * prefill + [f"{int(x['batch']) * int(x['q_len'])}x{width}"]
        first = (_table_row("add_scalar", {"shape": shape}, "bfloat16", case.latency_s) for shape in shapes)
        case = replace(case, graphs=(*(row.graph() for row in first), *case.graphs))
    return Row(row.profile, f"TensorRT-LLM {row.group}", case)


def _vidur(x: Mapping[str, str]) -> Row | None:
    """Vidur's libraries are of 2024, AIConfigurator's of 2025 and later: fitted to these, the physics is 17 % too fast for layers
    of 10 to 100 us on an H100, 1 % on an A100."""
    latency = float(x["latency_s"])
    if x["op"] == "linear":
        layer = _table_row("linear", _extents(x, "m_tokens", "n_out", "k_in"), "float16", latency)
        row = _row(x["device"], "LLM linear float16", layer)
        return None if row is None else replace(row, case=replace(row.case, other_release=True))
    if x["op"] not in ("add", "gelu", "layer_norm", "rms_norm"):
        return None
    group = f"{'vLLM' if x['op'] in OF_VLLM else 'LLM'} loops float16"
    axes: dict[str, int | float | str | bool] = {"shape": f"{x['m_tokens']}x{x['n_out']}"}
    found = _row(x["device"], group, _table_row(x["op"], axes, "float16", latency, other=x["op"] in OF_VLLM))
    if found is None or (x["op"], x["models"]) not in TWICE:
        return found
    return replace(found, case=replace(found.case, graphs=found.case.graphs * 2))


def _deepbench(x: Mapping[str, str]) -> Row | None:
    dtype = TYPES.get(x["dtype"], x["dtype"])
    if dtype not in ("float32", "float16", "int8"):
        return None
    # Matrices lie column by column, so a transposed first one is a linear layer's weight and others are products of two rows.
    op = "linear" if x["a_transposed"] == "T" else "matmul"
    seconds = float(x["latency_s"])
    product = _table_row(op, _extents(x, "n", "m"), dtype, seconds, other=x["device"] in OLD_CUDA)
    row = _row(x["device"], f"DeepBench {dtype}", product)
    if row is None:
        return None
    calls = max(math.ceil(DEEPBENCH_PRODUCTS / (int(x["m"]) * int(x["n"]) * int(x["k"]))), DEEPBENCH_CALLS)
    return replace(row, case=replace(row.case, warm=float(1.0 - mean_decay(np.asarray(calls * seconds)))))


def _llmcompass(x: Mapping[str, str]) -> Row | None:
    latency = float(x["latency_s"])
    if latency < FLOOR_S:
        return None
    if x["op"] == "matmul":
        row = _table_row("linear", _extents(x, "rows_m", "columns_n", "reduction_k"), "float16", latency)
        return _row(x["device"], "LLMCompass float16", row)
    op = {"layernorm": "layer_norm"}.get(x["op"], x["op"])
    group = "LLMCompass compiled loops" if x["op"] in COMPILED else "LLMCompass loops"
    return _row(x["device"], group, _table_row(op, {"shape": f"{x['rows_m']}x{x['columns_n']}"}, "float16", latency))


READERS: Mapping[str, Callable[[Mapping[str, str]], Row | None]] = MappingProxyType(
    {
        "gemm_bf16": _gemm_bf16,
        "gemm_lowbit": _gemm_lowbit,
        "attention_bf16": _attention,
        "vidur_ops_fp16": _vidur,
        "deepbench_gemm": _deepbench,
        "llmcompass_ops_fp16": _llmcompass,
    }
)
"""File -> what reads one of its rows."""


def read(folder: Path, files: Sequence[str] = tuple(READERS)) -> list[Row]:
    """The rows of the tables that a built-in profile describes the device of.

    Raises:
        InputError: a table is missing.
    """
    found: list[Row] = []
    for name in files:
        path = folder / "measured" / f"{name}.csv"
        if not path.is_file():
            raise InputError(f"no table at {str(path)!r}; DATA_DIR is the folder that holds measured")
        with path.open(encoding="utf-8") as file:
            found += [row for cells in csv.DictReader(file) if (row := READERS[name](cells)) is not None]
    return found


def estimates(cases: Sequence[MeasuredCase], profile: ArchitectureProfile) -> HeldOut:
    """A profile's device times of cases, in order."""
    director = AnalysisDirector(profile)
    parts = [block_of(cases[start : start + AT_ONCE], RUNTIME, director) for start in range(0, len(cases), AT_ONCE)]
    return together([held_out([part], profile) for part in parts])


def evaluate(rows: Sequence[Row], profiles: Mapping[str, ArchitectureProfile] | None = None) -> list[Result]:
    """Errors by device and group, of all times and of each decade."""
    results = []
    for name, group in dict.fromkeys((row.profile, row.group) for row in rows):
        profile = profiles[name] if profiles and name in profiles else load_profile(name)
        cases = [row.case for row in rows if (row.profile, row.group) == (name, group)]
        of_group = estimates(cases, profile)
        parts = {times: (of_group.measured >= low) & (of_group.measured < high) for times, (low, high) in _BOUNDS.items()}
        parts[UNSEEN] = np.asarray([case.case.split == "test" for case in cases])
        results.append(of_cases(name, of_group.entry(), kept=Kept(name, KERNELS, group), width=of_group.width))
        for part, there in parts.items():
            if there.any():
                results.append(of_cases(name, of_group.entry(there), kept=Kept(name, f"{KERNELS}, {part}", group)))
    return results


def shown(results: Sequence[Result]) -> Iterator[str]:
    """Results of `evaluate` as aligned text, a line for each device and group. Beside the errors stand the share of rows inside
    their 90 % intervals, of those that no fit saw, and the high end of an interval over its low end."""
    columns = ("mean", "median", "bias", "inside", "unseen", "width")
    headings = f"{' '.join(f'{name:>6}' for name in columns)}  " + "  ".join(f"{name:>18}" for name in TIMES)
    yield f"{'profile':17} {'group':22} {'rows':>5}  {headings}"
    entries = {(one.kept.profile, one.kept.group, one.kept.split): one.entry for one in results if one.kept and one.entry}
    for whole in results:
        if whole.kept is not None and whole.kept.split == KERNELS and (entry := whole.entry) is not None:
            unseen, *parts = (
                entries.get((whole.kept.profile, whole.kept.group, f"{KERNELS}, {part}")) for part in (UNSEEN, *TIMES)
            )
            share = f"{entry.mean:6.1%} {entry.median:6.1%} {entry.bias:+6.1%} {entry.coverage or 0.0:6.1%}"
            share += f" {unseen.coverage or 0.0:6.1%}" if unseen else " " * 7
            cells = (f"{part.mean:6.1%} {part.bias:+6.1%} {part.n:4d}" if part else " " * 18 for part in parts)
            yield f"{whole.what:17} {whole.kept.group:22} {entry.n:5d}  {share} {whole.width or 0.0:6.2f}  " + "  ".join(cells)


FITTED = ("gpu_a100_sxm_80g", "gpu_h100", "gpu_b200", "gpu_l40s")
"""Profiles that rows of products and attention are fitted to."""
OLDER, OLDER_TEACHING, OLDER_UNITS = "gpu_v100_sxm2", ("DeepBench float16",), ("DeepBench float32",)
"""A card whose products in a library of its time are fitted to DeepBench, for cards of its generation, and these rows, on tensor
cores and on float32 units. Kernels from before Ampere copy through registers: what is common to later ones is a third too fast
for products of 10 to 100 us."""
OLDER_CHIP = "gpu_v100"
"""The card with its chip that operators in float32 are fitted on."""
OF_UNITS = ("gemm", "gemm_batched", "gemv")
"""Last parts of the names of what products in float32 say."""
TRANSFERRED = ("gpu_v100", "gpu_t4", "gpu_a100_40g", "gpu_a100_80g", "gpu_l4", "gpu_h200")
"""Profiles with tensor cores that what is common to the fitted ones is carried to."""
TEACHING = ("gemm bfloat16", "gemm fp8", "gemm sq", "gemm int", "gemm nvfp4", "DeepGEMM", "attention", "LLM linear")
"""Groups of rows that are fitted, by how their names start."""
ROUNDING = ("quantize_affine", "triton_quantize_nvfp4")
"""Operators that round the activations of narrow products, whose shortest kernels only these rows show."""
LOOPS = ("LLM loops", "LLMCompass loops")
"""Groups of rows of loops in 16 bits, in PyTorch's own kernels."""
TAUGHT = (*TENSOR, *ROUNDING)
"""Last parts of the names of what is fitted: kernels on tensor cores, and the rounding before them."""
TABLES = ("products and attention of aiconfigurator @ 095f58a5, linear layers of vidur @ 7d475133",)
"""What the cards of `FITTED` are fitted to."""
SPREAD_ROWS = 1500
"""Rows of a device that say how far off coefficients from elsewhere are."""


def teaching(rows: Sequence[Row], name: str) -> list[MeasuredCase]:
    """The cases of a device that its kernels on tensor cores are fitted to."""
    groups = OLDER_TEACHING if name == OLDER else TEACHING
    return [row.case for row in rows if row.profile == name and row.group.startswith(groups)]


def fitted(cases: Sequence[MeasuredCase], name: str, residual: bool = True) -> ArchitectureProfile:
    """A built-in profile with its kernels on tensor cores fitted to cases of its device; all else as it was."""
    digest = digest_of(cases)
    sources = ("products of DeepBench @ da81ba78",) if name == OLDER else TABLES
    base = load_profile(name)
    start = without_tensor(base)
    # Efficiencies and a controller that is slow by so much describe short loops equally well, and long ones differently. With the
    # controller fitted to them an L40S reaches 0.9 of its peak without a cap, where every other card reaches all of it. A V100's
    # is known from its float32 products.
    if name != OLDER:
        start = start.replacing(coefficients={**start.coefficients, "throttle.time": CONTROLLER})
    read = Sources(tuple(cases), digest, sources, None)
    made = calibrate_cases(read, start, name=name, residual=residual, only=TAUGHT).profile
    return base.replacing(
        coefficients={**start.coefficients, **of_tensor_cores(made)},
        residual=(*_of_units(base), *made.residual),
        fitted_from=made.fitted_from if base.fitted_from is None else base.fitted_from,
        error_card={**base.error_card, **made.error_card},
    )


def with_products(cases: Sequence[MeasuredCase]) -> ArchitectureProfile:
    """The profile of `OLDER` with its products in float32 fitted to device times of its own, from those of its chip elsewhere."""
    card, chip = load_profile(OLDER), load_profile(OLDER_CHIP)
    others = {n: c for n, c in card.coefficients.items() if whose(n) not in OF_UNITS}
    start = card.replacing(coefficients={**others, **{n: c for n, c in chip.coefficients.items() if whose(n) in OF_UNITS}})
    if not cases:
        return start
    read = Sources(tuple(cases), digest_of(cases), ("products of DeepBench @ da81ba78",), None)
    made = calibrate_cases(read, start, name=OLDER, residual=False, only=OF_UNITS).profile
    own = {n: c for n, c in made.coefficients.items() if whose(n) in OF_UNITS and c.from_fit}
    return start.replacing(coefficients={**start.coefficients, **own})


def carried(
    measured: Sequence[ArchitectureProfile], target: ArchitectureProfile, sigma: Mapping[str, Coefficient] | None = None
) -> ArchitectureProfile:
    """A profile with its kernels on tensor cores as those of measured devices, all else as it was. Where one of them runs the
    same generation of kernels, only those count, among them those of the same chip, and what they err is what it errs; elsewhere
    `sigma` says it. A card that differs in memory alone has its corrections too: its products are cut alike."""
    known = without_tensor(target)
    alike = [profile for profile in measured if _library(profile) == _library(target)]
    alike = [profile for profile in alike if _chip(profile)[:2] == _chip(target)[:2]] or alike
    own = [profile.replacing(coefficients={**of_tensor_cores(profile), **_generation(profile)}) for profile in alike or measured]
    boards = {name: c for p in alike for name, c in _controller(p, target).items()}
    if alike:
        sigma = typical([{n: c for n, c in p.coefficients.items() if continues(n, "sigma")} for p in own])
    made = transfer(own, known.replacing(coefficients=_generation(known)), sigma)
    corrections = next((p.residual for p in alike if _chip(p) == _chip(target)), ())
    return known.replacing(
        coefficients={**known.coefficients, **boards, **of_tensor_cores(made)},
        residual=(*_of_units(known), *(group for group in corrections if group.dtype != "float32")),
    )


def _of_units(profile: ArchitectureProfile) -> tuple[ResidualGroup, ...]:
    """A profile's corrections of kernels on float32 units."""
    return tuple(group for group in profile.residual if group.dtype == "float32")


def _chip(profile: ArchitectureProfile) -> tuple[float, ...]:
    """What cards with the same chip share, generation and number of multiprocessors, and their lanes, clock and power cap, which
    such cards share that differ in their memory alone."""
    names = ("compute.capability", "count.sms", "matrix.lanes", "clock", "power.tdp")
    return tuple(profile.value(name, 0.0) for name in names)


def _controller(measured: ArchitectureProfile, target: ArchitectureProfile) -> dict[str, Coefficient]:
    """When a board's power cap sets in, as on a measured one of its generation, where its own rows say nothing of it."""
    c, own = measured.coefficients.get("throttle.time"), target.coefficients.get("throttle.time")
    told = own is not None and own.from_fit and not own.assumed
    if c is None or told or capability(measured) != capability(target):
        return {}
    why = f"as of {measured.name}"
    return {"throttle.time": Coefficient(c.value, c.unit, "transferred", why, low=c.bounds[0], high=c.bounds[1])}


def _library(profile: ArchitectureProfile) -> object:
    """The generation of a profile's kernels on tensor cores."""
    return profile.tiling.parameters.get("tensor_library") or profile.tiling.parameters.get("library")


def left_out_sigma(rows: Sequence[Row], measured: Mapping[str, ArchitectureProfile]) -> dict[str, Coefficient]:
    """`sigma.*` of kernels on tensor cores of a device that nobody measured: what each measured one is off by, predicted from
    the others."""
    found = []
    for name in measured:
        cases = teaching(rows, name)
        others = [profile for other, profile in measured.items() if other != name]
        found.append(off_by(carried(others, load_profile(name)), cases[:: -(-len(cases) // SPREAD_ROWS)]))
    return {name: c for name, c in typical(found).items() if whose(name) in TENSOR}


def published_tensor(folder: Path) -> Iterator[ArchitectureProfile]:
    """Every built-in GPU with tensor cores: fitted where rows are at hand, carried from those elsewhere."""
    rows = read(folder)
    loops = {name: [row.case for row in rows if row.profile == name and row.group.startswith(LOOPS)] for name in FITTED}
    measured = {name: with_loops(loops[name], fitted(teaching(rows, name), name)) for name in FITTED}
    yield from measured.values()
    sigma = left_out_sigma(rows, measured)
    older = fitted(teaching(rows, OLDER), OLDER, residual=False)
    for name in TRANSFERRED:
        card = load_profile(name)
        card = card.replacing(coefficients={**card.coefficients, **COOL.get(name, {})})
        yield with_loops_of(list(measured.values()), carried([*measured.values(), older], card, sigma))
    yield with_products([row.case for row in rows if row.profile == OLDER and row.group.startswith(OLDER_UNITS)])


def of_tensor_cores(profile: ArchitectureProfile) -> dict[str, Coefficient]:
    """A profile's fitted or transferred coefficients of kernels on tensor cores and of what rounds their operands."""
    return {n: c for n, c in profile.coefficients.items() if whose(n) in TAUGHT and (c.from_fit or c.source == "transferred")}


def without_tensor(profile: ArchitectureProfile) -> ArchitectureProfile:
    """A profile without what was fitted or transferred of kernels on tensor cores."""
    taken = of_tensor_cores(profile)
    return profile.replacing(coefficients={n: c for n, c in profile.coefficients.items() if n not in taken})


def _generation(profile: ArchitectureProfile) -> dict[str, Coefficient]:
    return {n: c for n, c in profile.coefficients.items() if n in ("compute.capability", "ecc.share")}
