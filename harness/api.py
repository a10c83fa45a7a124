"""The Python interface in short: a model becomes graphs, and graphs become estimates, inspections and fusion summaries.

What these functions return shows itself as a table in a notebook, and is plain data everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from shmoo.estimators.director import AnalysisDirector, Estimate
from shmoo.estimators.fusion_savings import FusionSummary, summarize_fusion
from shmoo.estimators.inspection import Inspection, inspect_graphs
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import Graph
from shmoo.estimators.tabular import estimate_record, flatten
from shmoo.harness.architectures import default_names, load_architecture
from shmoo.harness.capture import Capture, capture
from shmoo.harness.models import ModelGraphs, model_graphs

__all__ = [
    "Capture",
    "Estimate",
    "FusionSummary",
    "Inspection",
    "ModelGraphs",
    "capture",
    "estimate",
    "estimates",
    "fusion",
    "inspect",
    "model_graphs",
    "save_page",
]

Graphs = Graph | Sequence[Graph]
Architecture = str | ArchitectureProfile
"""A name as `shmoo profiles list` gives it, the path of a profile file, or a profile."""


def estimate(
    graphs: Graphs,
    arch: Architecture,
    *,
    runtime: str | None = None,
    compute_dtype: str | None = None,
    threads: int | None = None,
    batch: int = 1,
) -> Estimate:
    """One model on one architecture, with the breakdown by kernel.

    Args:
        graphs: what `capture(model, args).graphs` or `model_graphs(name).graphs` holds.
        runtime, compute_dtype, threads, batch: as `AnalysisDirector.estimate` takes them.

    Raises:
        InputError: an unknown architecture, or what the estimate refuses.
    """
    return _director(arch).estimate(_listed(graphs), runtime=runtime, compute_dtype=compute_dtype, threads=threads, batch=batch)


def estimates(
    graphs: Graphs,
    archs: Sequence[Architecture] | None = None,
    *,
    runtime: str | None = None,
    compute_dtype: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    model: str = "",
) -> pd.DataFrame:
    """One row an architecture, with the columns of `shmoo estimate --csv`.

    Args:
        graphs: as for `estimate`.
        archs: all built-in architectures for `None`.
        runtime, compute_dtype, threads, batch: as `AnalysisDirector.estimate` takes them.
        model: name for the rows; the graph's for "".

    Returns:
        Numbers in SI units; NAME_low and NAME_high are the ends of the 90 % interval of NAME.

    Raises:
        InputError: an unknown architecture, or what the estimate refuses.
    """
    listed = _listed(graphs)
    name = model or next((graph.name for graph in listed if graph.name), "model")
    rows = []
    for arch in default_names() if archs is None else archs:
        made = estimate(listed, arch, runtime=runtime, compute_dtype=compute_dtype, threads=threads, batch=batch)
        rows.append(flatten(estimate_record(made, name)))
    return pd.DataFrame(rows)


def inspect(
    graphs: Graphs,
    archs: Sequence[Architecture],
    *,
    runtime: str | None = None,
    compute_dtype: str | None = None,
    model: str = "",
) -> Inspection:
    """A model by module and operator: parameters, work, and where its time goes on each architecture.

    `Inspection.tree(depth, sort)` gives the modules, `Inspection.operators` the operators, `Inspection.kernels[arch]` the graph
    of kernels on an architecture.

    Args:
        archs: one at least; the first is what `sort="time"` refers to.
        runtime: each architecture's default for `None`. compute_dtype: as `AnalysisDirector.estimate` takes it.
        model: name for people; the graph's for "".

    Raises:
        InputError: no or an unknown architecture, or a runtime that one of them lacks.
    """
    directors = {director.profile.name: director for director in map(_director, archs)}
    return inspect_graphs(_listed(graphs), directors, runtime=runtime, compute_dtype=compute_dtype, model=model)


def save_page(inspection: Inspection, path: str | Path, arch: str | None = None) -> Path:
    """Write the interactive page of an inspection, as `shmoo inspect --html` does; returns its path.

    Args:
        arch: whose bounds colour it; the inspection's first architecture for `None`.

    Raises:
        InputError: the inspection does not cover the architecture.
        OSError: the file cannot be written.
    """
    from shmoo.estimators.errors import unknown
    from shmoo.harness.inspectpage import write_page

    chosen = inspection.architectures[0] if arch is None else arch
    if chosen not in inspection.architectures:
        raise unknown("architecture of the inspection", chosen, inspection.architectures)
    write_page(inspection, chosen, path)
    return Path(path)


def fusion(
    graphs: Graphs,
    arch: Architecture,
    *,
    runtime: str | None = None,
    compute_dtype: str | None = None,
    model: str = "",
) -> FusionSummary:
    """Which operators share a kernel on an architecture, and what that saves in kernels, bytes, time and energy.

    Args:
        runtime: that fuses; for `None` the architecture's default, or its first that fuses where the default is eager.
        compute_dtype: as `AnalysisDirector.estimate` takes it.
        model: name for people; the graph's for "".

    Raises:
        InputError: an unknown architecture, or a runtime that it lacks.
    """
    return summarize_fusion(_director(arch), _listed(graphs), runtime, model, compute_dtype=compute_dtype)


def _listed(graphs: Graphs) -> tuple[Graph, ...]:
    return (graphs,) if isinstance(graphs, Graph) else tuple(graphs)


def _director(arch: Architecture) -> AnalysisDirector:
    return AnalysisDirector(arch if isinstance(arch, ArchitectureProfile) else load_architecture(arch))
