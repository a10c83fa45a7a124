"""The Python interface to decisions, as `shmoo.advise` and `shmoo.explore`. Importing it imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import msgspec

from shmoo.estimators.predict.tabulated import tabulated
from shmoo.estimators.present.advice import Advice, Aim, Sensitivity, sensitivity
from shmoo.estimators.present.advice import advise as advise_on
from shmoo.estimators.present.setups import GraphsOf, Setup
from shmoo.estimators.sweep import explore as spaces
from shmoo.harness.defaults import LOCAL
from shmoo.harness.models.setups import ModelSetups, of_graphs
from shmoo.harness.question import Architecture, Model, Options, Question, ask, listed

if TYPE_CHECKING:
    import pandas as pd


def advise(
    workload: Model,
    arch: Architecture | Sequence[Architecture] = LOCAL,
    *,
    by: Aim = "time",
    model: str = "",
    **options: Unpack[Options],
) -> Advice:
    """Where a model's time and energy go on an architecture, and what each change would bring, best first.

    `Advice.what_ifs` holds the changes with their effects, `Advice.sure` those that help by more than their uncertainty.

    Args:
        workload: as for `estimate`. Other batches and orders of images are compared for a model by name only.
        by: what to rank changes by.
        model: name for people; the workload's own for "".
        options: as in `Options`, each of one value.

    Raises:
        InputError: an unknown name, or what an estimate refuses.
    """
    return advice_of(workload, ask(arch, **options), by, model)


def advice_of(workload: Model, asked: Question, by: Aim, model: str = "", top: int = 8) -> Advice:
    """Advice on the one architecture asked for; `top` kernels and modules are listed."""
    profile, runtime = asked.machine()
    base, graphs_of, name = _setups(workload, asked, runtime)
    return advise_on(profile, base, graphs_of, model or name, aim=by, top=top)


def sensitivity_of(workload: Model, asked: Question, by: Aim) -> Sensitivity:
    """What the parts of the one architecture asked for are worth to a model."""
    profile, runtime = asked.machine()
    base, graphs_of, name = _setups(workload, asked, runtime)
    return sensitivity(profile, base, graphs_of, name, aim=by)


def _setups(workload: Model, asked: Question, runtime: str) -> tuple[Setup, GraphsOf, str]:
    """The model as it is asked for, its graphs in other setups, and its name."""
    if isinstance(workload, str):
        setups = ModelSetups(asked.request(workload, asked.dtype), asked.batch, asked.open_source)
        base = setups.base(runtime)
        asked.tell(workload, setups.found(base))
        return base, setups.graphs, workload
    # A setup quantizes the weights itself.
    plain = replace(asked, mode=msgspec.structs.replace(asked.mode, quantize=None))
    asked.mode.check(asked.dtype or "float32")
    work = plain.capture(workload)
    base = Setup(runtime=runtime, batch=work.batch, dtype=work.dtype, quantize=asked.mode.quantize)
    return base, of_graphs(work.graphs, base), work.name


def explore(
    models: str | Sequence[str],
    arch: Architecture | Sequence[Architecture] = LOCAL,
    *,
    over: Mapping[str, Sequence[float]],
    minimize: Sequence[str] = ("latency", "energy"),
    within: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    search: int | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """The Pareto front of a design space: one row a design, best in the first objective first, as `shmoo explore --csv`.

    Args:
        models: one or several by name; quantities are their geometric mean.
        over: coefficient of the architecture -> its values; for a search its ends.
        minimize: "latency", "energy", "power", "edp", "throughput" (of which more is better), or coefficients.
        within, at_least: quantity or coefficient -> its largest or least value, for every model.
        weights: of models in the mean; 1 where not named.
        search: designs to look at by NSGA-II in place of the grid; needs pymoo.
        options: as in `Options`, each of one value.

    Raises:
        InputError: an unknown name, or a space without axes or of too many points.
    """
    import pandas as pd

    limits = [spaces.Limit(name, True, value) for name, value in (within or {}).items()]
    limits += [spaces.Limit(name, False, value) for name, value in (at_least or {}).items()]
    space = space_of(listed(models), ask(arch, **options), over, minimize, limits, weights or {})
    return pd.DataFrame(spaces.front_rows(front_of(space, search, seed)))


def space_of(
    models: Sequence[str],
    asked: Question,
    over: Mapping[str, Sequence[float]],
    minimize: Sequence[str],
    limits: Sequence[spaces.Limit],
    weights: Mapping[str, float],
) -> spaces.Space:
    """The design space about the one architecture asked for."""
    profile, runtime = asked.machine()
    workloads = []
    for work in map(asked.capture, models):
        table = tabulated(work.graphs, runtime, profile.family, work.compute_dtype)
        workloads.append(spaces.Workload(work.name, table, work.batch, weights.get(work.name, 1.0)))
    axes = {name: tuple(float(value) for value in values) for name, values in over.items()}
    return spaces.Space(profile, runtime, workloads, axes, tuple(minimize), tuple(limits))


def front_of(space: spaces.Space, search: int | None, seed: int) -> spaces.Front:
    """The designs that no other is better than in everything at once, of the grid or of a search among so many."""
    return spaces.explore_grid(space) if search is None else spaces.search(space, search, seed)
