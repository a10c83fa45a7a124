"""The Python interface to decisions, as `shmoo.advise` and `shmoo.explore`. Importing it imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.present.advice import Advice, Aim, Sensitivity
from shmoo.estimators.present.advice import advise as advise_on
from shmoo.estimators.present.advice import sensitivity as sensitivity_on
from shmoo.estimators.present.setups import GraphsOf, Setup
from shmoo.estimators.sweep import explore as spaces
from shmoo.harness.defaults import LOCAL
from shmoo.harness.models.setups import ModelSetups, of_graphs
from shmoo.harness.question import Architectures, Model, Options, Question, as_tuple, ask

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
    """The distribution of a model's time and energy on an architecture, and the gain from each possible change, best first.

    `Advice.what_ifs` lists the changes with their effects, `Advice.sure` those whose gain exceeds its uncertainty.

    Args:
        workload: as for `estimate`. Other batch sizes and image layouts are compared only for a model given by name.
        by: quantity that ranks the changes.
        top: number of kernels and modules to list.
        model: name to show; by default the workload's name.
        options: as in `Options`, each with one value.

    Raises:
        InputError: an unknown name, or a setting that an estimate refuses.
    """
    profile, base, graphs_of, name = _setups(workload, ask(arch, **options))
    return advise_on(profile, base, graphs_of, model or name, aim=by, top=top)


def sensitivity(
    workload: Model, arch: Architectures = LOCAL, *, by: Aim = "time", model: str = "", **options: Unpack[Options]
) -> Sensitivity:
    """The effect of each part of an architecture on a model, as `shmoo advise --machine`; arguments as for `advise`."""
    profile, base, graphs_of, name = _setups(workload, ask(arch, **options))
    return sensitivity_on(profile, base, graphs_of, model or name, aim=by)


def _setups(workload: Model, question: Question) -> tuple[ArchitectureProfile, Setup, GraphsOf, str]:
    """The architecture, the model's requested setup on it, its graphs in other setups, and its name."""
    profile, runtime = question.machine()
    if isinstance(workload, str):
        setups = ModelSetups(question.request(workload, question.dtype), question.batch, question.open_source)
        base = setups.base(runtime)
        question.tell(workload, setups.captured(base))
        return profile, base, setups.graphs, workload
    # The setup quantizes the weights, so the capture does not.
    plain = replace(question, mode=msgspec.structs.replace(question.mode, quantize=None))
    question.mode.check(question.dtype or "float32")
    captured = plain.capture(workload)
    base = Setup(runtime=runtime, batch=captured.batch, dtype=question.dtype, quantize=question.mode.quantize)
    return profile, base, of_graphs(captured.graphs, base), captured.name


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
    """The Pareto front of a design space: one row per design, sorted by the first objective, as `shmoo explore --csv`.

    Args:
        models: one or several names; quantities are geometric means over the models.
        over: coefficient of the architecture -> its values; for a search, the ends of its range.
        minimize: "latency", "energy", "power", "edp", "throughput" (where more is better), or coefficients.
        within, at_least: quantity or coefficient -> its upper or lower limit, for every model.
        weights: model -> weight in the mean; 1 by default.
        search: number of designs that NSGA-II evaluates instead of the grid; needs pymoo.
        options: as in `Options`, each with one value.

    Raises:
        InputError: an unknown name, or a space without axes or of too many points.
    """
    import pandas as pd

    if not isinstance(within or {}, Mapping) or not isinstance(at_least or {}, Mapping):
        raise InputError('limits are mappings, such as within={"power.tdp": 60} and at_least={"throughput": 1e3}')
    limits = [spaces.Limit(name, True, value) for name, value in (within or {}).items()]
    limits += [spaces.Limit(name, False, value) for name, value in (at_least or {}).items()]
    _, front = front_of(as_tuple(models), ask(arch, **options), over, as_tuple(minimize), limits, weights or {}, search, seed)
    return pd.DataFrame(spaces.front_rows(front))


def front_of(
    models: Sequence[str],
    question: Question,
    over: Mapping[str, Sequence[float]],
    minimize: Sequence[str],
    limits: Sequence[spaces.Limit],
    weights: Mapping[str, float],
    search: int | None,
    seed: int,
) -> tuple[spaces.Space, spaces.Front]:
    """The design space around the requested architecture, and its front; arguments as for `explore`."""
    profile, runtime = question.machine()
    workloads = []
    for captured in map(question.capture, models):
        table = tabulate_model(captured.graphs, runtime, profile.family, captured.compute_dtype)
        workloads.append(spaces.Workload(captured.name, table, captured.batch, weights.get(captured.name, 1.0)))
    axes = {name: tuple(float(value) for value in as_tuple(values)) for name, values in over.items()}
    space = spaces.Space(profile, runtime, workloads, axes, tuple(minimize), tuple(limits))
    return space, spaces.explore_grid(space) if search is None else spaces.search(space, search, seed)
