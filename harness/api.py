"""The Python interface in short: model -> graphs -> estimates as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import Graph
from shmoo.estimators.tabular import estimate_record, flatten
from shmoo.harness.architectures import default_names, load_architecture
from shmoo.harness.capture import Capture, capture

__all__ = ["Capture", "capture", "estimates"]


def estimates(
    graphs: Graph | Sequence[Graph],
    archs: Sequence[str | ArchitectureProfile] | None = None,
    *,
    runtime: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    model: str = "",
) -> pd.DataFrame:
    """One row an architecture, with the columns of `shmoo estimate --csv`.

    Args:
        graphs: what `capture(model, args).graphs` holds.
        archs: names as `shmoo profiles list` gives them, paths of profile files, or profiles; all built-in ones for `None`.
        runtime, dtype, threads, batch: as `AnalysisDirector.estimate` takes them.
        model: name for the rows; the graph's for "".

    Returns:
        Numbers in SI units; NAME_low and NAME_high are the ends of the 90 % interval of NAME.

    Raises:
        InputError: an unknown architecture, or what the estimate refuses.
    """
    listed = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
    name = model or next((graph.name for graph in listed if graph.name), "model")
    rows = []
    for arch in default_names() if archs is None else archs:
        profile = arch if isinstance(arch, ArchitectureProfile) else load_architecture(arch)
        estimate = AnalysisDirector(profile).estimate(listed, runtime=runtime, dtype=dtype, threads=threads, batch=batch)
        rows.append(flatten(estimate_record(estimate, name)))
    return pd.DataFrame(rows)
