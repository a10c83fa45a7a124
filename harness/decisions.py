"""The Python interface to decisions, as `shmoo.advise` and `shmoo.explore`. Importing it imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import msgspec

from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.graph_table import tabulated
from shmoo.estimators.present.advice import Advice, Aim, Sensitivity
from shmoo.estimators.present.advice import advise as advise_on
from shmoo.estimators.present.advice import sensitivity as sensitivity_on
from shmoo.estimators.present.setups import GraphsOf, Setup
from shmoo.estimators.sweep import explore as spaces
from shmoo.harness.defaults import LOCAL
from shmoo.harness.models.setups import ModelSetups, of_graphs
from shmoo.harness.question import Architectures, Model, Options, Question, ask, listed

if TYPE_CHECKING:
    import pandas as pd


def advise(
    workload: Model,
    arch: Architectures = LOCAL,
    *,
    by: Aim = "time",
    model: str = "",
    top: int = 8,
    **options: Unpack[Options],
) -> Advice:
    """Where a model's time and energy go on an architecture, and what each change would bring, best first.

    `Advice.what_ifs` holds the changes with their effects, `Advice.sure` those that help by more than their uncertainty.

    Args:
        workload: as for `estimate`. Other batches and orders of images are compared for a model by name only.
        by: what to rank changes by.
        top: kernels and modules to list.
        model: name for people; the workload's own for "".
        options: as in `Options`, each of one value.

    Raises:
        InputError: an unknown name, or what an estimate refuses.
    """
    profile, base, graphs_of, name = _setups(workload, ask(arch, **options))
    return advise_on(profile, base, graphs_of, model or name, aim=by, top=top)


def sensitivity(
    workload: Model, arch: Architectures = LOCAL, *, by: Aim = "time", model: str = "", **options: Unpack[Options]
) -> Sensitivity:
    """What the parts of an architecture are worth to a model, as `shmoo advise --machine`; arguments as of `advise`."""
    profile, base, graphs_of, name = _setups(workload, ask(arch, **options))
    return sensitivity_on(profile, base, graphs_of, model or name, aim=by)


def _setups(workload: Model, asked: Question) -> tuple[ArchitectureProfile, Setup, GraphsOf, str]:
    """The architecture, the model on it as it is asked for, its graphs in other setups, and its name."""
    profile, runtime = asked.machine()
    if isinstance(workload, str):
        setups = ModelSetups(asked.request(workload, asked.dtype), asked.batch, asked.open_source)
        base = setups.base(runtime)
        asked.tell(workload, setups.found(base))
        return profile, base, setups.graphs, workload
    # A setup quantizes the weights itself.
    plain = replace(asked, mode=msgspec.structs.replace(asked.mode, quantize=None))
    asked.mode.check(asked.dtype or "float32")
    found = plain.capture(workload)
    base = Setup(runtime=runtime, batch=found.batch, dtype=asked.dtype, quantize=asked.mode.quantize)
    return profile, base, of_graphs(found.graphs, base), found.name


def explore(
    models: str | Sequence[str],
    arch: Architectures = LOCAL,
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
    _, front = front_of(listed(models), ask(arch, **options), over, minimize, limits, weights or {}, search, seed)
    return pd.DataFrame(spaces.front_rows(front))


def front_of(
    models: Sequence[str],
    asked: Question,
    over: Mapping[str, Sequence[float]],
    minimize: Sequence[str],
    limits: Sequence[spaces.Limit],
    weights: Mapping[str, float],
    search: int | None,
    seed: int,
) -> tuple[spaces.Space, spaces.Front]:
    """The design space about the one architecture asked for, and its front; arguments as of `explore`."""
    profile, runtime = asked.machine()
    workloads = []
    for found in map(asked.capture, models):
        table = tabulated(found.graphs, runtime, profile.family, found.compute_dtype)
        workloads.append(spaces.Workload(found.name, table, found.batch, weights.get(found.name, 1.0)))
    axes = {name: tuple(float(value) for value in values) for name, values in over.items()}
    space = spaces.Space(profile, runtime, workloads, axes, tuple(minimize), tuple(limits))
    return space, spaces.explore_grid(space) if search is None else spaces.search(space, search, seed)
