"""What is costed of torch's own operators and of transformers' newest models: every sample of torch's operator database, and a
small config of each architecture, captured as a user's model would be."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture import capture, capture_workload
from shmoo.harness.workloads.configs import config_workload
from shmoo.harness.workloads.zoo import import_torchvision

STATUSES = ("costed", "free", "unknown", "refused", "crashed")
"""A costed capture has work and no unknown operator; a free one has no work; one that is refused says why."""
_DTYPES = (torch.float32, torch.complex64, torch.int64, torch.bool)
_LAYERS = 2
_SEQ_LEN = 16
_COUNT = re.compile(r"^(n_layers?|num_layers|num_\w*layers|\w+_layers|n_layer|depth|num_\w*blocks)$")
"""Names in configs of how often something is repeated."""
_NULL = ("_token_id", "_token_ids", "_window", "_implementation", "dtype", "_config", "_lora_rank", "name_or_path")
"""How the names end of entries whose null has a meaning."""
_KINDS_OF_LAYERS = re.compile(r"(layer_types|layers_block_type|mlp_layer_types|block_types|\w*_types|layer_\w+_pattern)$")


class Outcome(msgspec.Struct, frozen=True):
    """What became of one capture.

    Attributes:
        status: one of `STATUSES`. calls: of its graphs. operators: those without a cost. reason: of a refusal or a crash.
    """

    name: str
    status: str
    calls: int = 0
    operators: tuple[str, ...] = ()
    reason: str = ""


def outcome(name: str, graphs_of: Callable[[], Sequence[Graph]]) -> Outcome:
    """Capture and cost."""
    torch._dynamo.reset()  # thousands of functions of one name would reach the limit of recompilations
    graphs: Sequence[Graph] | None = None
    try:
        graphs = graphs_of()
        costs = [graph_cost(graph) for graph in graphs]
    except Exception as error:
        # A capture may be refused; what is captured has a cost.
        if graphs is None and isinstance(error, InputError):
            return Outcome(name, "refused", reason=_short(error))
        return Outcome(name, "crashed", reason=f"{type(error).__name__}: {_short(error)}")
    unknown = tuple(dict.fromkeys(op.op for cost in costs for op in cost.unknown))
    status = "unknown" if unknown else "costed" if any(cost.families for cost in costs) else "free"
    return Outcome(name, status, sum(len(graph.calls) for graph in graphs), unknown)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# Operators ---------------------------------------------------------------------------------------------------------------


class _Sample(nn.Module):
    """One call of an operator, its tensors as inputs."""

    def __init__(self, function: Callable[..., Any], values: Any) -> None:
        super().__init__()
        self.function = function
        leaves, self.structure = tree_flatten(values)
        self.leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.tensors = tuple(leaves[i] for i in self.places)

    def forward(self, *tensors: torch.Tensor) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.structure)
        return self.function(*args, **kwargs)


def operator_names() -> list[str]:
    """The operators of torch's database, each variant by its own name."""
    return [entry.full_name for entry in _database()]


def operators(names: Iterable[str] | None = None, samples: int = 3) -> Iterator[Outcome]:
    """The outcome of each sample of some operators, or of all.

    Args:
        samples: of each operator at most, evenly spread over those that the database has.
    """
    chosen = None if names is None else frozenset(names)
    for entry in _database():
        if chosen is None or entry.full_name in chosen:
            dtype = next((dtype for dtype in (*_DTYPES, *sorted(entry.dtypes, key=str)) if dtype in entry.dtypes), None)
            if dtype is None:
                yield Outcome(entry.full_name, "refused", reason="has no type on a CPU")
                continue
            for sample in _spread(list(islice(entry.sample_inputs("cpu", dtype), 200)), samples):
                module = _Sample(entry.op, ((sample.input, *sample.args), dict(sample.kwargs)))
                yield outcome(entry.full_name, lambda module=module: capture(module.eval(), module.tensors).graphs)


def _database() -> Sequence[Any]:
    import torch

    # The import forbids the process to set flags of back-ends from then on.
    settable = not torch.backends.flags_frozen()
    from torch.testing._internal.common_methods_invocations import op_db

    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = settable
    return sorted(op_db, key=lambda entry: entry.full_name)


def _spread(samples: Sequence[Any], count: int) -> list[Any]:
    if len(samples) <= count:
        return list(samples)
    return [samples[round(i * (len(samples) - 1) / max(count - 1, 1))] for i in range(count)]


# Models ------------------------------------------------------------------------------------------------------------------


def newest_architectures(count: int) -> list[str]:
    """The model types of transformers whose sources have the latest year of copyright, by name within a year."""
    import_torchvision()
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    root = Path(transformers.__file__).parent / "models"
    dated = []
    for name in CONFIG_MAPPING_NAMES:
        folder = model_type_to_module_name(name)
        source = root / folder / f"configuration_{folder}.py"
        # A type without a folder of its own is a part of another model.
        if folder == name.replace("-", "_") and source.is_file() and name in MODEL_MAPPING_NAMES:
            year = re.search(r"Copyright (?:\(c\) )?(20\d\d)", source.read_text(encoding="utf-8"))
            dated.append((-int(year[1]) if year else 0, name))
    return [name for _, name in sorted(dated)[:count]]


def models(names: Sequence[str]) -> Iterator[Outcome]:
    """The outcome of a shallow model of each type, as wide as its config's defaults."""
    for name in names:
        yield outcome(name, lambda name=name: _graphs_of_model(name))


def _graphs_of_model(name: str) -> Sequence[Graph]:
    import_torchvision()
    from transformers import CONFIG_MAPPING

    settings = json.loads(CONFIG_MAPPING[name]().to_json_string(use_diff=False))
    changes = _shallow(settings)
    # Parts of some configs have no defaults, some defaults are no model, and some entries count the layers.
    ways: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: changes,
        lambda: _merged(settings, changes),
        lambda: _merged(filled := _filled(settings), _shallow(filled)),
        dict,
        lambda: _merged(_filled(settings), {}),
    )
    refusals = []
    for way in ways:
        try:
            return _captured(name, way())
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def _captured(name: str, settings: dict[str, Any]) -> Sequence[Graph]:
    module = config_workload(name, {**settings, "model_type": name})
    short = {axis.name: min(axis.default, _SEQ_LEN) for axis in module.axes if axis.name == "seq_len"}
    return capture_workload(module, short).graphs


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    parts = {key for key, value in changes.items() if isinstance(value, dict) and "model_type" in value}
    both = {key: _merged(settings[key], value) if key in parts else value for key, value in changes.items()}
    return {key: value for key, value in {**settings, **both}.items() if key not in ("architectures", "transformers_version")}


def _filled(settings: dict[str, Any]) -> dict[str, Any]:
    """A config in which entries that are null have the commonest default of other architectures, where there is one."""
    layers = max((value for key, value in settings.items() if _COUNT.match(key) and type(value) is int), default=0)

    def fill(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _filled(value)
        if value is not None or key.endswith(_NULL):
            return value
        common = _commonest().get(key)
        return (common * layers)[:layers] if isinstance(common, list) else common

    return {key: fill(key, value) for key, value in settings.items()}


@cache
def _commonest() -> Mapping[str, Any]:
    """Entry of configs -> its commonest default over all architectures; of a list, one entry a kind of layer."""
    from transformers import CONFIG_MAPPING

    found: dict[str, Counter[str]] = {}
    for name in CONFIG_MAPPING:
        with suppress(Exception):  # a config without defaults
            for key, value in _entries(json.loads(CONFIG_MAPPING[name]().to_json_string(use_diff=False))):
                if isinstance(value, list) and _KINDS_OF_LAYERS.search(key):
                    value = list(dict.fromkeys(value))
                if isinstance(value, int | float | str | list) and not isinstance(value, bool):
                    found.setdefault(key, Counter())[json.dumps(value)] += 1
    return {key: json.loads(counter.most_common(1)[0][0]) for key, counter in found.items()}


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield from _entries(value) if isinstance(value, dict) else ((key, value),)


def _shallow(settings: dict[str, Any]) -> dict[str, Any]:
    """Entries of a config that make the model shallow: few layers, one of each kind of them, in every part of the model."""
    counts = {key: value for key, value in settings.items() if _COUNT.match(key) and type(value) is int and value > _LAYERS}
    lists = {key: value for key, value in settings.items() if isinstance(value, list) and len(value) in counts.values()}
    kinds = [dict.fromkeys(map(repr, value)) for key, value in lists.items() if _KINDS_OF_LAYERS.search(key)]
    layers = max([_LAYERS, *map(len, kinds)])
    changed: dict[str, Any] = {key: layers for key in counts}
    changed |= {key: _one_of_each(value, layers) for key, value in lists.items()}
    for key, value in settings.items():
        if isinstance(value, dict) and "model_type" in value and (part := _shallow(value)):
            changed[key] = {"model_type": value["model_type"], **part}
        elif isinstance(value, dict) and counts and all(str(index).isdigit() for index in value):
            changed[key] = {index: of_layer for index, of_layer in value.items() if int(index) < layers}
    return changed


def _one_of_each(values: Sequence[Any], length: int) -> list[Any]:
    """A list of that length in which every distinct value occurs, if it is long enough."""
    distinct = list({repr(value): value for value in values}.values())
    return [*distinct, *values][:length]


# Tables ------------------------------------------------------------------------------------------------------------------


def markdown(operator_outcomes: Sequence[Outcome], model_outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The tables of docs/coverage.md, line by line."""
    yield f"## Operators of torch {torch.__version__.partition('+')[0]}"
    yield ""
    yield from _counts(operator_outcomes, "operators", "samples")
    yield from _listed(operator_outcomes)
    yield ""
    yield f"Free: {_named(operator_outcomes, 'free')}."
    yield ""
    from transformers import __version__

    yield f"## Models of transformers {__version__}"
    yield ""
    yield from _counts(model_outcomes, "architectures", None)
    yield from _listed(model_outcomes)
    yield ""
    yield f"Costed: {_named(model_outcomes, 'costed')}."


def _named(outcomes: Sequence[Outcome], status: str) -> str:
    return ", ".join(f"`{one.name}`" for one in by_name(outcomes).values() if one.status == status)


def by_name(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """The worst outcome of each name."""
    # One costed sample makes an operator costed, though another, of an empty tensor, is free.
    order = ("free", "costed", *STATUSES[2:])
    worst: dict[str, Outcome] = {}
    for one in sorted(outcomes, key=lambda one: order.index(one.status)):
        worst[one.name] = one
    return worst


def _counts(outcomes: Sequence[Outcome], things: str, samples: str | None) -> Iterator[str]:
    each = Counter(one.status for one in by_name(outcomes).values())
    every = Counter(one.status for one in outcomes)
    yield f"| | {things} |" + (f" {samples} |" if samples else "")
    yield "|---|---|" + ("---|" if samples else "")
    for status in STATUSES:
        yield f"| {status} | {each[status]} |" + (f" {every[status]} |" if samples else "")
    yield f"| all | {sum(each.values())} |" + (f" {len(outcomes)} |" if samples else "")


def _listed(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What is not costed, with the operator or the reason."""
    others = [one for one in by_name(outcomes).values() if one.status in STATUSES[2:]]
    if others:
        yield ""
        yield "| name | status | operator or reason |"
        yield "|---|---|---|"
    for one in sorted(others, key=lambda one: (one.status, one.name)):
        said = ", ".join(f"`{name}`" for name in one.operators) or one.reason.replace("|", "\\|")
        yield f"| `{one.name}` | {one.status} | {said} |"
