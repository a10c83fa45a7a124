"""The Python interface in short: a model, or its name, becomes tables of estimates, inspections, fusion summaries and runs.

`import shmoo` offers the functions as `shmoo.estimate` and so on. Importing this module imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import compute_dtype, matrix_dtype
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, estimate_on
from shmoo.estimators.predict.tabular import estimate_record, flatten
from shmoo.estimators.present.inspection import Inspection, inspect_graphs
from shmoo.estimators.present.savings import FusionSummary, summarize_fusion
from shmoo.estimators.progress import Progress
from shmoo.estimators.registry import on_demand
from shmoo.estimators.sweep.controller import AxisValue, SweepController
from shmoo.harness.defaults import LOCAL, ONE_OF_EACH_FAMILY, VISITS, run_directory
from shmoo.harness.machine.architectures import choose_targets, load_architectures
from shmoo.harness.machine.architectures import load_architecture as load_profile
from shmoo.harness.module import Capture
from shmoo.runs.analysis.compare import Comparison, compare_runs
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE
from shmoo.runs.store.store import Run

if TYPE_CHECKING:
    import pandas as pd

    from shmoo.calibrate.calibration import calibrate
    from shmoo.harness.capture import capture
    from shmoo.harness.models.capture_cache import ModelSource
    from shmoo.harness.models.model_graphs import model_graphs

__all__ = [
    "Capture",
    "Comparison",
    "Estimate",
    "FusionSummary",
    "Inspection",
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

Graphs = Graph | Sequence[Graph]
Model = str | Graphs | Capture | Callable[..., Any]
"""A model's name as on the command line, its graphs, what `capture` and `model_graphs` return, or a module or function."""
Architecture = str | ArchitectureProfile
"""A name as `shmoo profiles list` gives it, the path of a profile file, or a profile."""


class _Work(NamedTuple):
    """The graphs to estimate, how many samples one call processes, a display name, and the type that contractions compute in
    where it is not the type their tensors are stored in (tf32)."""

    graphs: tuple[Graph, ...]
    batch: int
    name: str
    compute_dtype: str | None


def estimate(
    workload: Model,
    arch: Architecture | Sequence[Architecture] | None = None,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    host: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
    model: str = "",
) -> pd.DataFrame:
    """A table of estimates: one row an architecture, with the columns of `shmoo estimate --csv`.

    `AnalysisDirector(load_profile(name)).estimate(graphs)` gives one estimate with its breakdown by kernel.

    Args:
        workload: a model's name as on the command line ("resnet18", "hf:config.json", "package.module:factory"), a module or
            function, or what `capture` and `model_graphs` return.
        arch: one architecture or several; all built-in ones for `None`.
        args, kwargs: arguments that a module or function is captured with.
        batch: samples a call processes. By name: the model's own for `None`. Otherwise it only scales throughput, 1 for `None`.
        dtype: element type, as --dtype; for `None` a user's own model keeps its types, and named ones are float32.
        runtime: each architecture's own for `None`; of the built-in architectures those that have it.
        threads: of the CPUs among the architectures.
        host: that launches the kernels of the GPUs among them, as --host.
        input_shape, seq_len, trust: of a model by name, as on the command line.
        model: name for the rows; the workload's own for "".

    Returns:
        Numbers in SI units; NAME_low and NAME_high are the ends of the 90 % interval of NAME.

    Raises:
        InputError: an unknown name, or what the estimate refuses.
        CaptureError: torch cannot capture the model.
    """
    import pandas as pd

    targets = choose_targets(_listed(arch), _listed(runtime), threads, host)
    work = work_of(workload, args, kwargs, batch, dtype, input_shape, seq_len, trust)
    machines = [(AnalysisDirector(profile), chosen) for profile, chosen in targets]
    made = estimate_on(machines, work.graphs, compute_dtype=work.compute_dtype, threads=threads, batch=work.batch)
    return pd.DataFrame([flatten(estimate_record(one, model or work.name)) for one in made])


def estimates(
    graphs: Graphs,
    archs: Sequence[Architecture] | None = None,
    *,
    runtime: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    model: str = "",
) -> pd.DataFrame:
    """`estimate` of captured graphs alone, under its older name."""
    return estimate(graphs, archs, runtime=runtime, dtype=dtype, threads=threads, batch=batch, model=model)


def inspect(
    workload: Model,
    archs: Architecture | Sequence[Architecture] = ONE_OF_EACH_FAMILY,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    model: str = "",
) -> Inspection:
    """A model by module and operator: parameters, work, and where its time goes on each architecture.

    `Inspection.tree(depth, sort)` gives the modules, `Inspection.operators` the operators, `Inspection.kernels[arch]` the graph
    of kernels on an architecture.

    Args:
        workload, args, kwargs, batch, dtype: as for `estimate`.
        archs: one at least; the first is what `sort="time"` refers to.
        runtime: each architecture's default for `None`.
        model: name for people; the workload's own for "".

    Raises:
        InputError: no or an unknown architecture, or a runtime that one of them lacks.
    """
    work = work_of(workload, args, kwargs, batch, dtype)
    directors = {profile.name: AnalysisDirector(profile) for profile in load_architectures(_listed(archs))}
    return inspect_graphs(work.graphs, directors, runtime=runtime, compute_dtype=work.compute_dtype, model=model or work.name)


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
    arch: Architecture = LOCAL,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    model: str = "",
) -> FusionSummary:
    """Which operators share a kernel on an architecture, and what that saves in kernels, bytes, time and energy.

    Args:
        workload, args, kwargs, batch, dtype: as for `estimate`.
        runtime: that fuses; for `None` the architecture's default, or its first that fuses where the default is eager.
        model: name for people; the workload's own for "".

    Raises:
        InputError: an unknown architecture, or a runtime that it lacks.
    """
    work = work_of(workload, args, kwargs, batch, dtype)
    director = AnalysisDirector(load_profile(arch))
    return summarize_fusion(director, work.graphs, runtime, model or work.name, compute_dtype=work.compute_dtype)


def sweep(
    workload: str,
    axes: Mapping[str, Sequence[AxisValue]] | None = None,
    archs: Architecture | Sequence[Architecture] | None = None,
    *,
    profile_axes: Mapping[str, Sequence[AxisValue]] | None = None,
    fixed: Mapping[str, AxisValue] | None = None,
    dtype: str | None = None,
    runtime: str | Sequence[str] = (),
    fusion: Sequence[bool] = (True,),
    threads: int | None = None,
    trust: bool = False,
) -> pd.DataFrame:
    """A table of estimates over axes of a workload and of architectures, with the columns of `shmoo sweep --csv`.

    Args:
        workload: a workload's or a model's name.
        axes: axis of the workload -> its values, such as {"batch": (1, 8, 64)}.
        archs: one architecture or several; all built-in ones for `None`.
        profile_axes: coefficient or tiling parameter of the architectures -> its values; every architecture must have it.
        fixed: axes of the workload that keep one value.
        dtype, threads, trust: as for `estimate`.
        runtime: one or several; each architecture's own for none.
        fusion: whether kernels are fused as the runtime does (`True`) or every operator is a kernel of its own.

    Raises:
        InputError: an unknown name or axis, or what an estimate refuses.
    """
    import pandas as pd

    from shmoo.harness.models.asked import Asked, at_ends
    from shmoo.harness.models.capture_cache import ModelSource

    wanted, axes, fixed = None if dtype is None else compute_dtype(dtype), dict(axes or {}), dict(fixed or {})
    if twice := sorted(axes.keys() & fixed.keys()):
        raise InputError(f"axis {twice[0]!r} is swept and fixed; give it to axes or to fixed")
    profiles = {profile.name: profile for profile, _ in choose_targets(_listed(archs), _listed(runtime), threads)}
    asked = {**axes, **{name: (value,) for name, value in fixed.items()}}
    source = ModelSource(Asked(workload, wanted, trust=trust, points=at_ends(asked)))
    machines, runtimes = list(profiles.values()), _listed(runtime)
    controller = controller_of(workload, source, machines, axes, profile_axes or {}, fixed, runtimes, fusion)
    return pd.DataFrame(controller.rows(compute_dtype=matrix_dtype(wanted), threads=threads))


def controller_of(
    model: str,
    source: ModelSource,
    profiles: Sequence[ArchitectureProfile],
    axes: Mapping[str, Sequence[AxisValue]],
    machine_axes: Mapping[str, Sequence[AxisValue]],
    fixed: Mapping[str, AxisValue],
    runtimes: Sequence[str],
    fusion: Sequence[bool],
) -> SweepController:
    """The sweep of a model whose graphs come from `source`; arguments as for `sweep`."""
    settings = {name: value for name, value in {**source.axes(), **fixed}.items() if name not in axes}
    return SweepController(model, lambda point: source.at(point).graphs, profiles, axes, machine_axes, settings, runtimes, fusion)


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
    counts = _listed(threads)
    machine = probe_machine(max(counts, default=None))
    check_device(device, machine)
    cases = plan_cases(suite, _listed(models), machine, device, _listed(runtime), _listed(dtype), _listed(batch), trust, progress)
    cases = on_threads(cases, counts)
    label = suite or ("models" if models else "quick")
    target = run_directory(out, resume, label)
    return measure_cases(
        cases, target, label, machine, resume=resume, visits=visits, budget_s=budget_s, operators=operators, progress=progress
    )


def compare(
    a: str | Path | Run | Sequence[str | Path | Run], b: str | Path | Run, *, min_change: float = MIN_CHANGE
) -> Comparison:
    """What changed between runs beyond noise; `Comparison.answer("slower")` is the verdict of `shmoo compare`.

    Args:
        a, b: runs, or their directories; `a` may be several runs of the same state of things.
        min_change: ratios nearer to 1 than this are no change, however certain.

    Raises:
        FormatError, InputError: a directory that holds no run.
    """
    *bases, new = (run if isinstance(run, Run) else Run.open(run) for run in (*_listed(a), b))
    return compare_runs(bases, new, min_change=min_change)


def work_of(
    workload: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    batch: int | None,
    dtype: str | None,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
) -> _Work:
    """The graphs of a workload.

    Raises:
        InputError: an argument that the kind of workload does not take, or none of the kinds.
        CaptureError: torch cannot capture the model.
    """
    wanted = None if dtype is None else compute_dtype(dtype)
    if isinstance(workload, str):
        from shmoo.harness.models.model_graphs import model_graphs

        if args or kwargs:
            raise InputError(f"{workload!r} brings its own inputs; leave args and kwargs out, or pass the model itself")
        found = model_graphs(workload, batch=batch, dtype=wanted, input_shape=input_shape, seq_len=seq_len, trust=trust)
        return _Work(found.graphs, found.batch, workload, matrix_dtype(wanted))
    if input_shape is not None or seq_len is not None or trust:
        raise InputError("input_shape, seq_len and trust apply to a model by name; capture this one at the shapes to estimate")
    if callable(workload):
        from shmoo.harness.capture import capture

        name = getattr(workload, "__name__", type(workload).__name__)
        graphs, samples = capture(workload, args, kwargs, name=name).graphs, 1
    else:
        graphs = _listed(getattr(workload, "graphs", workload))
        if args or kwargs:
            raise InputError("args and kwargs are those of a module or function; these graphs are captured already")
        if not graphs or not all(isinstance(graph, Graph) for graph in graphs):
            raise InputError(f"cannot estimate a {type(workload).__name__}; give a model's name, a module, or captured graphs")
        samples, name = getattr(workload, "batch", 1), next((graph.name for graph in graphs if graph.name), "model")
    if wanted is not None and matrix_dtype(wanted) is None:
        from shmoo.estimators.costs.quantize import with_dtype

        graphs = tuple(with_dtype(graph, wanted) for graph in graphs)
    return _Work(graphs, samples if batch is None else batch, name, matrix_dtype(wanted))


def _listed(value: Any) -> tuple[Any, ...]:
    """One or several as a tuple; nothing for `None`."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
