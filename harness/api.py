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
from shmoo.estimators.predict.estimate_records import Record, estimate_record, flatten
from shmoo.estimators.present.inspection import Inspection, inspect_graphs
from shmoo.estimators.present.savings import FusionSummary, summarize_fusion
from shmoo.estimators.progress import Progress, silent
from shmoo.estimators.registry import on_demand
from shmoo.estimators.sweep.controller import AxisValue
from shmoo.harness.defaults import LOCAL, ONE_OF_EACH_FAMILY, VISITS, run_directory
from shmoo.harness.machine.architectures import load_architecture as load_profile
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Capture
from shmoo.harness.question import (
    Architecture,
    Architectures,
    Model,
    Options,
    Question,
    as_plain,
    as_tuple,
    ask,
    dtype_names,
    renamed,
    sizes_of,
    whole_numbers,
)
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
        residual: whether to apply the profiles' fitted corrections.
        model: name for the rows; by default the workload's name.
        options: as in `Options`; `batch`, `dtype` and `runtime` take one value or several.

    Returns:
        Numbers in SI units; NAME_low and NAME_high are the ends of the 90 % interval of NAME.

    Raises:
        InputError: an unknown name, or a setting that the estimate refuses.
        CaptureError: torch cannot capture the model.
    """
    import pandas as pd

    return pd.DataFrame(map(flatten, estimate_records([workload], ask(arch, **options), residual=residual, model=model)))


def estimate_records(
    workloads: Sequence[Model], question: Question, unnamed: Sequence[str] = (), *, residual: bool = True, model: str = ""
) -> list[Record]:
    """One record per model x batch x dtype x architecture x runtime, as `shmoo estimate --json`. `unnamed` are the architectures
    used where none is named; if empty, all built-in ones."""
    machines = [(AnalysisDirector(profile, residual=residual), runtime) for profile, runtime in question.targets(unnamed)]
    records = []
    for capture in (captured for workload in workloads for captured in question.captures(workload)):
        estimates_made = estimate_on(
            machines, capture.graphs, compute_dtype=capture.compute_dtype, threads=question.threads, batch=capture.batch
        )
        records += [
            estimate_record(estimate_made, model or capture.name) | _mode_record(question.mode, capture)
            for estimate_made in estimates_made
        ]
    return records


def _mode_record(mode: Mode, capture: Capture) -> Record:
    """The fields of an estimate's record about inputs, mode and capture; texts are empty where there is nothing to say."""
    values = [value for value in capture.graphs[0].values if value.kind == "input"] if capture.graphs else []
    counts = Counter(f"{'x'.join(map(str, value.spec.shape)) or 'scalar'} {shown_dtype(value.spec.dtype)}" for value in values)
    return {
        "inputs": ", ".join(text if count == 1 else f"{count} times {text}" for text, count in counts.items()),
        "mode": mode.name,
        "autocast": mode.autocast or "",
        "quantize": mode.quantize or "",
        "channels_last": mode.channels_last,
        "capture": capture.note,
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
    """A model by module and operator: parameters, work, and the distribution of its time on each architecture.

    `Inspection.tree(depth, sort)` gives the modules, `Inspection.operators` the operators, `Inspection.kernels[arch]` the graph
    of kernels on an architecture.

    Args:
        workload: as for `estimate`.
        arch: one or more; `sort="time"` refers to the first.
        model: name to show; by default the workload's name.
        options: as in `Options`, each with one value.

    Raises:
        InputError: no or an unknown architecture, or a runtime that one of them lacks.
    """
    question = ask(arch, **options)
    if not question.arch:
        raise InputError("an inspection needs at least one architecture; name one, such as gpu_h100")
    directors = {profile.name: AnalysisDirector(profile) for profile, _ in question.machines()}
    captured, runtime = question.capture(workload), next(iter(question.runtime), None)
    return inspect_graphs(
        captured.graphs, directors, runtime=runtime, compute_dtype=captured.compute_dtype, model=model or captured.name
    )


def save_page(inspection: Inspection, path: str | Path, arch: str | None = None) -> Path:
    """Write the interactive page of an inspection, as `shmoo inspect --html` does; returns its path.

    Args:
        arch: architecture whose bounds set the colours; by default the inspection's first.

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
    """The operators that share a kernel on an architecture, and the kernels, bytes, time and energy saved by it.

    Args:
        workload: as for `estimate`.
        model: name to show; by default the workload's name.
        options: as in `Options`, each with one value.

    Raises:
        InputError: an unknown architecture, or a runtime that it lacks.
    """
    question = ask(arch, **options)
    (profile, runtime), captured = question.machine(), question.capture(workload)
    director = AnalysisDirector(profile)
    return summarize_fusion(director, captured.graphs, runtime, model or captured.name, compute_dtype=captured.compute_dtype)


@renamed(archs="arch", fixed="set")
def sweep(
    workload: str,
    axes: Mapping[str, Sequence[AxisValue]] | None = None,
    arch: Architectures = None,
    *,
    profile_axes: Mapping[str, Sequence[AxisValue]] | None = None,
    set: Mapping[str, AxisValue] | None = None,
    fusion: bool | Sequence[bool] = (True,),
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A table of estimates over axes of a workload and of architectures, with the columns of `shmoo sweep --csv`.

    Args:
        workload: a workload's or a model's name.
        axes: axis of the workload -> its values, such as {"batch": (1, 8, 64)}.
        arch: one architecture or several; all built-in ones for `None`.
        profile_axes: coefficient or tiling parameter of the architectures -> its values; every architecture must have it.
        set: axes of the workload with a fixed value.
        fusion: whether kernels are fused as the runtime does (`True`) or every operator is a separate kernel.
        options: as in `Options`; `batch`, `dtype` and `runtime` take one value or several.

    Raises:
        InputError: an unknown name or axis, or a setting that the estimate refuses.
    """
    import pandas as pd

    if not isinstance(workload, str):
        raise InputError(f"a sweep takes the name of a workload or model, got a {type(workload).__name__}; estimate that")
    question = ask(arch, **options)
    axes, profile_axes = ({name: as_tuple(values) for name, values in (given or {}).items()} for given in (axes, profile_axes))
    settings = {name: as_plain(value) for name, value in (set or {}).items()}
    swept = controllers(plan_sweep(question, axes, settings, profile_axes, as_tuple(fusion)), [workload], question)
    rows = (controller.rows(compute_dtype=matrix_dtype(dtype), threads=question.threads) for controller, dtype in swept)
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
    input_shape: Sequence[int] | str | None = None,
    seq_len: int | None = None,
    operators: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Time models and operators on this machine, with their energy where it can be read, as `shmoo measure` does.

    Args:
        models: networks by name; without models and suite, the suite "quick" is measured.
        input_shape, seq_len: of the networks by name, as in `Options`.
        threads: CPU threads of each operator; with several numbers, each case is measured with each.
        budget_s: no visit to a case starts after this time; `None` for no limit.
        out: directory of the run; a new one under ./shmoo-runs for `None`.
        resume: continue the run in `out`.
        progress: called before each visit.

    Returns:
        The run; its rows may be noisy, suspect or failed. `calibrate` and `compare` take `run.path`.

    Raises:
        InputError: an unknown name, an existing run in `out`, or another campaign on this machine.
    """
    from shmoo.harness.campaign.cases import Selection, measure_cases

    if resume and out is None:
        raise InputError("resume=True needs out=, the run to continue")
    counts = whole_numbers(threads, "threads")
    if visits < 1 or min(counts, default=1) < 1:
        raise InputError(f"visits and threads are at least 1, got visits={visits}, threads={threads}")
    selection = Selection(
        suite=suite,
        model=as_tuple(models),
        device=str(device),
        runtime=as_tuple(runtime),
        dtype=dtype_names(dtype),
        batch=whole_numbers(batch, "batch"),
        threads=counts,
        input_shape=sizes_of(input_shape, "input_shape"),
        seq_len=seq_len,
        trust=trust,
    )
    machine, label = selection.machine(), selection.label
    cases, target = selection.cases(machine, progress or silent), run_directory(out, resume, label)
    return measure_cases(
        cases, target, label, machine, resume=resume, visits=visits, budget_s=budget_s, operators=operators, progress=progress
    )


@renamed(min_change="threshold")
def compare(
    a: str | Path | Run | Sequence[str | Path | Run], b: str | Path | Run, *, threshold: float = MIN_CHANGE
) -> Comparison:
    """Changes between runs beyond noise; `Comparison.answer("slower")` is the verdict of `shmoo compare`.

    Args:
        a, b: runs, or their directories; `a` may be several runs of the same state of code and machine.
        threshold: ratios nearer to 1 than this never count as a change.

    Raises:
        FormatError, InputError: a directory without a readable run.
    """
    *bases, new = (run if isinstance(run, Run) else Run.open(run) for run in (*as_tuple(a), b))
    return compare_runs(bases, new, min_change=threshold)
