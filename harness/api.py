"""The Python interface in short: a model, or its name, becomes tables of estimates, inspections, fusion summaries and runs.

`import shmoo` offers the functions as `shmoo.estimate` and so on. Importing this module imports neither torch nor pandas."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import matrix_dtype, shown_dtype
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, estimate_on
from shmoo.estimators.predict.tabular import Record, estimate_record, flatten
from shmoo.estimators.present.inspection import Inspection, inspect_graphs
from shmoo.estimators.present.savings import FusionSummary, summarize_fusion
from shmoo.estimators.progress import Progress
from shmoo.estimators.registry import on_demand
from shmoo.estimators.sweep.controller import AxisValue
from shmoo.harness.defaults import LOCAL, ONE_OF_EACH_FAMILY, VISITS, run_directory
from shmoo.harness.machine.architectures import load_architecture as load_profile
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Capture
from shmoo.harness.question import Architecture, Architectures, Model, Options, Question, ask, listed, renamed
from shmoo.harness.sweeps import controllers, plan_sweep
from shmoo.runs.analysis.compare import Comparison, compare_runs
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE
from shmoo.runs.store.store import Run

if TYPE_CHECKING:
    import pandas as pd

    from shmoo.calibrate.calibration import calibrate
    from shmoo.harness.capture import capture
    from shmoo.harness.models.model_graphs import model_graphs

__all__ = [
    "Architecture",
    "Capture",
    "Comparison",
    "Estimate",
    "FusionSummary",
    "Inspection",
    "Model",
    "Options",
    "Run",
    "calibrate",
    "capture",
    "compare",
    "estimate",
    "estimates",
    "fusion",
    "inspect",
    "load_profile",
    "measure",
    "model_graphs",
    "save_page",
    "sweep",
]

__getattr__ = on_demand(
    __name__,
    {
        "calibrate": "shmoo.calibrate.calibration",
        "capture": "shmoo.harness.capture",
        "model_graphs": "shmoo.harness.models.model_graphs",
    },
)


def estimate(
    workload: Model,
    arch: Architectures = None,
    *,
    residual: bool = True,
    model: str = "",
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A table of estimates, as `shmoo estimate --csv`: one row for each architecture, batch size, element type and runtime.

    `AnalysisDirector(load_profile(name)).estimate(graphs)` gives one estimate with its breakdown by kernel.

    Args:
        workload: a model's name as on the command line ("resnet18", "hf:config.json", "package.module:factory"), a module or
            function, or what `capture` and `model_graphs` return.
        arch: one architecture or several; all built-in ones for `None`.
        residual: with the profiles' fitted corrections.
        model: name for the rows; the workload's own for "".
        options: as in `Options`; of `batch`, `dtype` and `runtime` one value or several.

    Returns:
        Numbers in SI units; NAME_low and NAME_high are the ends of the 90 % interval of NAME.

    Raises:
        InputError: an unknown name, or what the estimate refuses.
        CaptureError: torch cannot capture the model.
    """
    import pandas as pd

    return pd.DataFrame(map(flatten, estimate_records([workload], ask(arch, **options), residual=residual, model=model)))


def estimate_records(
    workloads: Sequence[Model], asked: Question, unnamed: Sequence[str] = (), *, residual: bool = True, model: str = ""
) -> list[Record]:
    """One record for each model x batch x dtype x architecture x runtime, as `shmoo estimate --json`; `unnamed` are the
    architectures where none is named, for none all built-in ones."""
    machines = [(AnalysisDirector(profile, residual=residual), runtime) for profile, runtime in asked.targets(unnamed)]
    records = []
    for found in (found for workload in workloads for found in asked.captures(workload)):
        made = estimate_on(machines, found.graphs, compute_dtype=found.compute_dtype, threads=asked.threads, batch=found.batch)
        records += [estimate_record(one, model or found.name) | _mode_record(asked.mode, found) for one in made]
    return records


def _mode_record(mode: Mode, found: Capture) -> Record:
    """What a record of an estimate says about the inputs, the mode and the capture; empty texts for nothing."""
    values = [value for value in found.graphs[0].values if value.kind == "input"] if found.graphs else []
    counts = Counter(f"{'x'.join(map(str, value.spec.shape)) or 'scalar'} {shown_dtype(value.spec.dtype)}" for value in values)
    return {
        "inputs": ", ".join(text if count == 1 else f"{count} times {text}" for text, count in counts.items()),
        "mode": mode.name,
        "autocast": mode.autocast or "",
        "quantize": mode.quantize or "",
        "channels_last": mode.channels_last,
        "capture": found.note,
    }


estimates = renamed(graphs="workload", archs="arch")(estimate)
"""`estimate` under its older name."""


@renamed(archs="arch")
def inspect(
    workload: Model,
    arch: Architectures = ONE_OF_EACH_FAMILY,
    *,
    model: str = "",
    **options: Unpack[Options],
) -> Inspection:
    """A model by module and operator: parameters, work, and where its time goes on each architecture.

    `Inspection.tree(depth, sort)` gives the modules, `Inspection.operators` the operators, `Inspection.kernels[arch]` the graph
    of kernels on an architecture.

    Args:
        workload: as for `estimate`.
        arch: one at least; the first is what `sort="time"` refers to.
        model: name for people; the workload's own for "".
        options: as in `Options`, each of one value.

    Raises:
        InputError: no or an unknown architecture, or a runtime that one of them lacks.
    """
    asked = ask(arch, **options)
    if not asked.arch:
        raise InputError("an inspection needs at least one architecture; name one, such as gpu_h100")
    directors = {profile.name: AnalysisDirector(profile) for profile, _ in asked.machines()}
    found, runtime = asked.capture(workload), next(iter(asked.runtime), None)
    return inspect_graphs(found.graphs, directors, runtime=runtime, compute_dtype=found.compute_dtype, model=model or found.name)


def save_page(inspection: Inspection, path: str | Path, arch: str | None = None) -> Path:
    """Write the interactive page of an inspection, as `shmoo inspect --html` does; returns its path.

    Args:
        arch: whose bounds colour it; the inspection's first architecture for `None`.

    Raises:
        InputError: the inspection does not cover the architecture.
        OSError: the file cannot be written.
    """
    from shmoo.harness.pages.inspect import write_page

    chosen = inspection.architectures[0] if arch is None else arch
    if chosen not in inspection.architectures:
        raise unknown("architecture of the inspection", chosen, inspection.architectures)
    write_page(inspection, chosen, path)
    return Path(path)


def fusion(
    workload: Model,
    arch: Architectures = LOCAL,
    *,
    model: str = "",
    **options: Unpack[Options],
) -> FusionSummary:
    """Which operators share a kernel on an architecture, and what that saves in kernels, bytes, time and energy.

    Args:
        workload: as for `estimate`.
        model: name for people; the workload's own for "".
        options: as in `Options`, each of one value.

    Raises:
        InputError: an unknown architecture, or a runtime that it lacks.
    """
    asked = ask(arch, **options)
    (profile, runtime), found = asked.machine(), asked.capture(workload)
    director = AnalysisDirector(profile)
    return summarize_fusion(director, found.graphs, runtime, model or found.name, compute_dtype=found.compute_dtype)


@renamed(archs="arch", fixed="set")
def sweep(
    workload: str,
    axes: Mapping[str, Sequence[AxisValue]] | None = None,
    arch: Architectures = None,
    *,
    profile_axes: Mapping[str, Sequence[AxisValue]] | None = None,
    set: Mapping[str, AxisValue] | None = None,
    fusion: Sequence[bool] = (True,),
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A table of estimates over axes of a workload and of architectures, with the columns of `shmoo sweep --csv`.

    Args:
        workload: a workload's or a model's name.
        axes: axis of the workload -> its values, such as {"batch": (1, 8, 64)}.
        arch: one architecture or several; all built-in ones for `None`.
        profile_axes: coefficient or tiling parameter of the architectures -> its values; every architecture must have it.
        set: axes of the workload that keep one value.
        fusion: whether kernels are fused as the runtime does (`True`) or every operator is a kernel of its own.
        options: as in `Options`; of `batch`, `dtype` and `runtime` one value or several.

    Raises:
        InputError: an unknown name or axis, or what an estimate refuses.
    """
    import pandas as pd

    asked = ask(arch, **options)
    swept = controllers(plan_sweep(asked, axes or {}, set or {}, profile_axes or {}, fusion), [workload], asked)
    rows = (one.rows(compute_dtype=matrix_dtype(dtype), threads=asked.threads) for one, dtype in swept)
    return pd.DataFrame(itertools.chain.from_iterable(rows))


def measure(
    models: str | Sequence[str] = (),
    *,
    suite: str | None = None,
    device: str = "cpu",
    runtime: str | Sequence[str] = (),
    dtype: str | Sequence[str] = (),
    batch: int | Sequence[int] = (),
    threads: int | Sequence[int] | None = None,
    visits: int = VISITS,
    budget_s: float | None = None,
    operators: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Time models and operators on this machine, with their energy where it can be read, as `shmoo measure` does.

    Args:
        models: networks by name; the suite "quick" where neither a model nor a suite is named.
        threads: CPU threads of each operator; of several numbers, each case is measured with each.
        budget_s: no visit to a case starts after this time; `None` for no limit.
        out: directory of the run; a new one under ./shmoo-runs for `None`.
        resume: go on with the run in `out`.
        progress: told before each visit.

    Returns:
        The run, whose rows may be noisy, suspect or failed; `run.path` is what `calibrate` and `compare` take.

    Raises:
        InputError: an unknown name, a run that is there already, or another campaign on this machine.
    """
    from shmoo.harness.campaign.cases import check_device, measure_cases, on_threads, plan_cases
    from shmoo.harness.machine.doctor import probe_machine

    if resume and out is None:
        raise InputError("resume=True needs out=: which run to go on with")
    counts = listed(threads)
    machine = probe_machine(max(counts, default=None))
    check_device(device, machine)
    cases = plan_cases(suite, listed(models), machine, device, listed(runtime), listed(dtype), listed(batch), trust, progress)
    cases = on_threads(cases, counts)
    label = suite or ("models" if models else "quick")
    target = run_directory(out, resume, label)
    return measure_cases(
        cases, target, label, machine, resume=resume, visits=visits, budget_s=budget_s, operators=operators, progress=progress
    )


@renamed(min_change="threshold")
def compare(
    a: str | Path | Run | Sequence[str | Path | Run], b: str | Path | Run, *, threshold: float = MIN_CHANGE
) -> Comparison:
    """What changed between runs beyond noise; `Comparison.answer("slower")` is the verdict of `shmoo compare`.

    Args:
        a, b: runs, or their directories; `a` may be several runs of the same state of things.
        threshold: ratios nearer to 1 than this are no change, however certain.

    Raises:
        FormatError, InputError: a directory that holds no run.
    """
    *bases, new = (run if isinstance(run, Run) else Run.open(run) for run in (*listed(a), b))
    return compare_runs(bases, new, min_change=threshold)
