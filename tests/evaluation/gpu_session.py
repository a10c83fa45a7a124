"""One session on a machine with a GPU, the most informative cases first, within a given time and resumable:

    operators, time -> operators, energy -> networks, time -> networks, energy -> networks in Inductor -> again -> cross-checks

Two runs come out, DIR/time and DIR/energy, and DIR/findings.json: the counter's update period, the counter against integrated
power, repeated visits, and, where they are installed, time against `triton.testing.do_bench` and energy against Zeus. Called
again, it goes on where it stopped; every part looks at the time left, so that it can be given in slices of ten minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median as middle
from typing import Any

import msgspec

from shmoo.harness.campaign.campaign import CampaignSettings, run_campaign
from shmoo.harness.campaign.worker import CaseMeasurer
from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.measuring.timing import MeasureSettings, TimingSettings
from shmoo.harness.workloads.suites import NETWORKS, plan_suite
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.metrics import repeat_spread
from shmoo.runs.store.records import CaseSpec, Machine, Measurement
from shmoo.runs.store.statistics import median
from shmoo.runs.store.store import MANIFEST, Run

DTYPES = ("float32", "tf32", "bfloat16", "float16")
TRANSFORMERS = ("bert_base", "gpt2", "llama3_8b")
MORE_NETWORKS = ("swin_t", "mobilenet_v2", "resnet34", "vgg11", "googlenet", "squeezenet1_1", "mnasnet1_0")
BATCHES = (1, 32)
MARGIN_S = 30.0
"""Time kept back for the case in flight when a part's time is up."""
CHECKED = 10
"""Operators timed cold as well, for the comparison with do_bench, which clears the L2 before each call."""
SHORT = TimingSettings(warmup_s=0.03, max_warmup_s=0.3, min_s=0.1, max_s=0.3)
LONGER = TimingSettings(warmup_s=0.1, max_warmup_s=0.6, min_s=0.4, max_s=1.0)
TIME = MeasureSettings(gpu=SHORT, gpu_network=LONGER, energy=EnergySettings(window_s=0.0), children_s=0.0)
ENERGY = MeasureSettings(
    gpu=SHORT, gpu_network=LONGER, energy=EnergySettings(trials=2, settle_s=0.5), children_s=0.0, memory=False
)


class Part(msgspec.Struct, frozen=True):
    """One part of the session: which run it adds to, its cases in order, its share of the time then left, and how many visits
    each of its cases will have had in the end."""

    run: str
    name: str
    cases: tuple[CaseSpec, ...]
    share: float
    visits: int = 1


def plan(machine: Machine) -> tuple[Part, ...]:
    """The parts in order. Shapes follow the card's memory; transformers are left out where their library is not installed."""
    suite = plan_suite("micro", machine, device="cuda")
    operators = tuple(msgspec.structs.replace(case, dtype=DTYPES[i % len(DTYPES)]) for i, case in enumerate(suite))
    cold = tuple(msgspec.structs.replace(case, cache_state="cold") for case in operators[:CHECKED])
    transformers = TRANSFORMERS if find_spec("transformers") is not None else ()
    names = tuple(dict.fromkeys((*NETWORKS, *transformers, *MORE_NETWORKS)))
    networks = tuple(
        CaseSpec(name, "network", {"batch": batch}, "bfloat16", runtime, "cuda")
        for name in names
        for batch in (BATCHES if name not in TRANSFORMERS else BATCHES[:1])
        for runtime in (("eager", "cudagraphs") if name not in TRANSFORMERS else ("eager",))
    )
    full = tuple(case for case in networks if case.axes["batch"] == BATCHES[-1] or case.workload in TRANSFORMERS)
    compiled = tuple(msgspec.structs.replace(case, runtime="inductor") for case in networks if case.runtime == "eager")
    return (
        Part("time", "operators", operators[: 4 * CHECKED] + cold + operators[4 * CHECKED :], 0.3),
        Part("energy", "operators", energy_operators(machine), 0.35),
        Part("time", "networks", networks, 0.55),
        Part("energy", "networks", tuple(case for case in full if case.runtime == "eager"), 0.6),
        Part("time", "networks in Inductor", compiled, 0.9),
        Part("time", "operators again", operators, 1.0, visits=2),
        Part("energy", "operators again", energy_operators(machine), 1.0, visits=2),
    )


def energy_operators(machine: Machine) -> tuple[CaseSpec, ...]:
    """Operators on both sides of the ridge: square products, which compute, and products with few rows, elementwise and
    normalizing operators on tensors far larger than the L2, which move bytes; so that flops, bytes and time rise apart. The first
    ones say most."""
    memory = machine.gpu_memory_bytes or machine.memory_bytes
    columns = 4096
    products = [
        CaseSpec("linear", "operator", {"b": 1, "m": m, "n": side, "k": side}, dtype, device="cuda")
        for m, side in ((8192, 8192), (16, 8192), (4096, 4096), (2048, 2048))
        for dtype in ("bfloat16", "float32", "tf32", "float16")
    ]
    moving = [
        CaseSpec(name, "operator", {"rows": max(memory // share // (3 * 4 * columns), 1), "cols": columns}, dtype, device="cuda")
        for share in (256, 64)
        for dtype in ("bfloat16", "float32")
        for name in ("add", "softmax", "relu", "layer_norm")
    ]
    return tuple(_complete(case) for pair in zip(products, moving, strict=True) for case in pair)


def _complete(case: CaseSpec) -> CaseSpec:
    """The case with every axis of its workload named, as suites write them."""
    from shmoo.harness.workloads import find_workload

    return msgspec.structs.replace(case, axes=find_workload(case.workload).resolve(case.axes))


def run_session(
    out: Path,
    minutes: float,
    machine: Machine,
    *,
    parts: Sequence[Part] | None = None,
    measurer: CaseMeasurer | None = None,
    checks: Sequence[Callable[[Run, Run], dict[str, object]]] = (),
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda text: None,
    lock: str = "",
) -> dict[str, object]:
    """Measure what the time allows, then write DIR/findings.json.

    Args:
        parts: in order; the plan for this machine by default.
        measurer: in place of worker processes.
        checks: further comparisons; what they return joins the findings.
        lock: as in `CampaignSettings`.

    Returns:
        the findings, with the number of visits left in "left".
    """
    deadline = clock() + 60 * minutes
    parts = plan(machine) if parts is None else parts
    left = 0
    for part in parts:
        spare = deadline - MARGIN_S - clock()
        path = out / part.run
        if spare <= 0:
            left += _missing(path, part)
            continue
        settings = CampaignSettings(
            measure=TIME if part.run == "time" else ENERGY,
            visits=part.visits,
            most_visits=part.visits,
            details_share=1.0,
            budget_s=part.share * spare,
            case_timeout_s=max(min(180.0, spare), 30.0),
            shuffle=False,
            lock=lock,
        )
        tell(f"{part.run}, {part.name}: {_missing(path, part)} visits to go, {part.share * spare:.0f} s")
        run_campaign(
            part.cases,
            path,
            suite=f"gpu session: {part.run}",
            machine=machine,
            settings=settings,
            resume=True,
            measurer=measurer,
            clock=clock,
        )
        left += _missing(path, part)
    found: dict[str, object] = {"format": 1, "left": left}
    runs = [Run.open(out / name) for name in ("time", "energy") if (out / name / MANIFEST).exists()]
    if len(runs) == 2:
        found |= findings(*runs)
        for check in checks:
            if clock() < deadline:
                found |= check(*runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "findings.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return found


def _missing(path: Path, part: Part) -> int:
    """Visits that the cases of a part still lack; a case that failed is not visited again."""
    lines = Run.open(path).visits if (path / MANIFEST).exists() else {}
    visits = [lines.get(case.identity, []) for case in part.cases]
    return sum(max(part.visits - len(v), 0) for v in visits if not any(line.status == "failed" for line in v))


def findings(times: Run, energies: Run) -> dict[str, object]:
    """What the two runs say of the card's counters and of their own repeatability."""
    readings = [r for line in energies.lines if line.timed for r in line.energy if r.domain.startswith("gpu")]
    known = [r for r in readings if r.energy_j is not None]
    periods = [r.update_period_s for r in known if r.update_period_s is not None]
    ratios = [r.integrated_j / r.energy_j for r in known if r.integrated_j is not None]
    trials = [repeat_spread(max(r.trials_j), min(r.trials_j)) for r in known if len(r.trials_j) > 1]
    return {
        "rows": {name: _counts(run.rows) for name, run in (("time", times), ("energy", energies))},
        "energy_readings": len(known),
        "update_period_s": middle(periods) if periods else None,
        "integrated_over_counter": middle(ratios) if ratios else None,
        "spread_of_energy_windows": middle(trials) if trials else None,
        "spread_of_time_visits": _time_spread(times),
        "spread_of_energy_visits": _energy_spread(energies),
    }


def _counts(rows: Sequence[Measurement]) -> dict[str, int]:
    return {status: sum(row.status == status for row in rows) for status in ("ok", "noisy", "suspect", "failed")}


def _visited_twice(run: Run) -> list[tuple[Measurement, Measurement]]:
    """The first two usable visits of each case."""
    usable = ([line for line in lines if line.timed] for lines in run.visits.values())
    return [(lines[0], lines[1]) for lines in usable if len(lines) > 1]


def _time_spread(run: Run) -> float | None:
    spreads = [repeat_spread(a.latency.value_s, b.latency.value_s) for a, b in _visited_twice(run)]
    return middle(spreads) if spreads else None


def _energy_spread(run: Run) -> float | None:
    pairs = [(a.energy_reading, b.energy_reading) for a, b in _visited_twice(run)]
    spreads = [repeat_spread(a.energy_j, b.energy_j) for a, b in pairs if a is not None and b is not None]
    return middle(spreads) if spreads else None


def against_do_bench(times: Run, energies: Run) -> dict[str, object]:
    """Median time of the cold rows over `triton.testing.do_bench` of the same operators; why not, where triton is missing."""
    try:
        from triton.testing import do_bench
    except ImportError as error:
        return {"do_bench_reason": str(error)}
    import torch

    from shmoo.harness.measuring.measure import build_case, matmul_precision

    ratios = {}
    for row in times.rows:
        if row.timed and row.case.cache_state == "cold" and row.case.identity not in ratios:
            built = build_case(row.case)
            with torch.no_grad(), matmul_precision(row.case):
                theirs_s = do_bench(built, return_mode="median") / 1e3
            ratios[row.case.identity] = median(row.timing.samples_s) / theirs_s
    return {"time_over_do_bench": list(ratios.values()), "time_over_do_bench_median": middle(ratios.values()) if ratios else None}


def against_zeus(times: Run, energies: Run, window_s: float = 5.0, cases: int = 4) -> dict[str, object]:
    """Our counter's energy over Zeus's in the same windows; why not, where Zeus is missing."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        return {"zeus_reason": str(error)}
    import torch

    from shmoo.harness.energy.nvml import NvmlProbe, load_nvml, visible_gpus
    from shmoo.harness.measuring.measure import build_case

    nvml = load_nvml()
    probe = NvmlProbe(nvml, visible_gpus(nvml)[0].uuid)
    monitor: Any = ZeusMonitor(gpu_indices=[torch.cuda.current_device()])
    ratios = []
    for row in [row for row in energies.rows if row.timed and row.case.kind == "operator"][:cases]:
        built = build_case(row.case)
        with torch.no_grad():
            built()
            torch.cuda.synchronize()
            monitor.begin_window("shmoo")
            before = probe.snapshot()
            until = time.monotonic() + window_s
            while time.monotonic() < until:
                built()
                torch.cuda.synchronize()
            after = probe.snapshot()
            theirs_j = monitor.end_window("shmoo").total_energy
        ours = probe.energy_j(before, after)[probe.domains[0]]
        if ours.energy_j is not None and theirs_j > 0:
            ratios.append(ours.energy_j / theirs_j)
    return {"energy_over_zeus": ratios}


def against_earlier(out: Path, earlier: Path) -> dict[str, object]:
    """Spread between the time runs of two sessions."""
    found = compare_runs(Run.open(earlier / "time"), Run.open(out / "time"))
    return {"spreads_between_sessions": found.spreads, "energy_spreads_between_sessions": found.energy_spreads}
