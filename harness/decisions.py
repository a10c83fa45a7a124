"""The Python interface to decisions, as `shmoo.advise` and `shmoo.explore`. Importing it imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shmoo.estimators.graph.dtypes import compute_dtype
from shmoo.estimators.machine.profile import check_runtime
from shmoo.estimators.predict.tabulated import tabulated
from shmoo.estimators.present.advice import Advice, Aim
from shmoo.estimators.present.advice import advise as advise_on
from shmoo.estimators.present.setups import Setup
from shmoo.estimators.sweep import explore as spaces
from shmoo.harness.api import Architecture, Model, load_profile, work_of
from shmoo.harness.defaults import LOCAL
from shmoo.harness.models.asked import Asked
from shmoo.harness.models.setups import ModelSetups, of_graphs

if TYPE_CHECKING:
    import pandas as pd


def advise(
    workload: Model,
    arch: Architecture = LOCAL,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    by: Aim = "time",
    model: str = "",
) -> Advice:
    """Where a model's time and energy go on an architecture, and what each change would bring, best first.

    `Advice.what_ifs` holds the changes with their effects, `Advice.sure` those that help by more than their uncertainty.

    Args:
        workload, args, kwargs, batch, dtype: as for `estimate`. Other batches and orders of images are compared for a model by
            name only.
        runtime: the architecture's own for `None`.
        by: what to rank changes by.
        model: name for people; the workload's own for "".

    Raises:
        InputError: an unknown name, or what an estimate refuses.
    """
    profile = load_profile(arch)
    chosen = check_runtime(profile, runtime)
    wanted = None if dtype is None else compute_dtype(dtype)
    if isinstance(workload, str) and not args and not kwargs:
        setups = ModelSetups(Asked(workload, wanted), batch)
        return advise_on(profile, setups.base(chosen), setups.graphs, model or workload, aim=by)
    work = work_of(workload, args, kwargs, batch, dtype)
    base = Setup(runtime=chosen, batch=work.batch, dtype=wanted)
    return advise_on(profile, base, of_graphs(work.graphs, base), model or work.name, aim=by)


def explore(
    models: str | Sequence[str],
    arch: Architecture = LOCAL,
    *,
    over: Mapping[str, Sequence[float]],
    minimize: Sequence[str] = ("latency", "energy"),
    within: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    search: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
) -> pd.DataFrame:
    """The Pareto front of a design space: one row a design, best in the first objective first, as `shmoo explore --csv`.

    Args:
        models: one or several by name; quantities are their geometric mean.
        over: coefficient of the architecture -> its values; for a search its ends.
        minimize: "latency", "energy", "power", "edp", "throughput" (of which more is better), or coefficients.
        within, at_least: quantity or coefficient -> its largest or least value, for every model.
        weights: of models in the mean; 1 where not named.
        search: designs to look at by NSGA-II in place of the grid; needs pymoo.
        batch, dtype, runtime: as for `estimate`.

    Raises:
        InputError: an unknown name, or a space without axes or of too many points.
    """
    import pandas as pd

    profile = load_profile(arch)
    chosen = check_runtime(profile, runtime)
    workloads = []
    for model in [models] if isinstance(models, str) else models:
        work = work_of(model, (), None, batch, dtype)
        table = tabulated(work.graphs, chosen, profile.family, work.compute_dtype)
        workloads.append(spaces.Workload(model, table, work.batch, (weights or {}).get(model, 1.0)))
    limits = [spaces.Limit(name, True, value) for name, value in (within or {}).items()]
    limits += [spaces.Limit(name, False, value) for name, value in (at_least or {}).items()]
    axes = {name: tuple(float(value) for value in values) for name, values in over.items()}
    space = spaces.Space(profile, chosen, workloads, axes, tuple(minimize), tuple(limits))
    front = spaces.explore_grid(space) if search is None else spaces.search(space, search, seed)
    return pd.DataFrame(spaces.front_rows(front))
