"""Models that transformers builds from a config, with random weights; nothing is downloaded. Masks are omitted, since nothing is
padded. Well-known models are entries of `configs.json`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from shmoo.estimators.errors import InputError, not_installed, unknown
from shmoo.harness.module import Built, DNNModule, Maker, dim
from shmoo.harness.workloads.config_inputs import FIXED, inputs_of
from shmoo.harness.workloads.quantization import QUANTIZATION_KEYS, quantization_of
from shmoo.harness.workloads.zoo import import_torchvision

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Config entries for the number of experts of a layer."""
_ACTIVE_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "num_selected_experts")
"""Config entries for the number of experts per token; without one, each token goes to one expert."""


class ConfigModel(msgspec.Struct, frozen=True):
    """A well-known model: the entries of its transformers config that differ from its type's defaults, the publication of its
    sizes, its own defaults of axes, and its published number of parameters, if there is one for exactly this model."""

    config: dict[str, Any]
    source: str
    axes: dict[str, int] = {}
    parameters: float | None = None


@cache
def config_models() -> Mapping[str, ConfigModel]:
    """The well-known models by name."""
    return msgspec.json.decode((files(__package__) / "configs.json").read_bytes(), type=dict[str, ConfigModel])


def load_config(path: str) -> DNNModule:
    """The model of a config.json, named after the file; `InputError` where transformers is missing, or the config is missing,
    not JSON, of an unknown type or of a model with unknown inputs."""
    source = Path(path)
    if not source.is_file():
        raise InputError(f"no config at {path!r}; give the path of a config.json")
    try:
        settings = json.loads(source.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path!r} is not JSON: {error}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise InputError(f'{path!r} has no \'model_type\'; a transformers config names it, such as "model_type": "bert"')
    return config_workload(source.stem, settings)


def config_workload(name: str, settings: Mapping[str, Any], *, defaults: Mapping[str, int] | None = None) -> DNNModule:
    """The model of a transformers config (with its "model_type"), with axes for the open sizes of its inputs: "batch", and
    "seq_len" for tokens, "height" and "width" for pixels where the config does not fix them, "samples" for raw audio; `defaults`
    replace those of every config. Its architecture is the first that the config names, or the bare model of its type.
    `InputError` where transformers is missing or cannot use the config, or the model's inputs are unknown."""
    settings, left_out = _harmless(settings)
    # transformers imports torchvision for its image models, and fails if torchvision does; other models do not need it.
    with suppress(InputError):
        import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise not_installed("models from a config", "transformers>=4.56") from error
    config = _config(transformers, settings, name)
    quantization, quantized = quantization_of(settings)
    with _refusals(name):
        architecture, notes = _architecture(transformers, config, name)
        inputs, left_out_inputs = inputs_of(config, inspect.signature(architecture.forward).parameters, architecture.__name__)
        notes += left_out_inputs
        axes = (dim("batch", 1, "inputs at once"), *dict.fromkeys(axis for entry in inputs for axis in entry.axes(config)))
    optional = tuple(
        (entry.description, (entry.name, *entry.companions)) for entry in inputs if entry.description and len(inputs) > 1
    )
    defaults = defaults or {}
    axes = tuple(msgspec.structs.replace(axis, default=defaults.get(axis.name, axis.default)) for axis in axes)

    def build(make: Maker, **sizes: Any) -> Built:
        # Building a model changes its config, so each build has a new one.
        config = _config(transformers, settings, name)
        # Passing errors are explained by `DNNModule`.
        with _refusals(name, ValueError, RuntimeError):
            model = make.module(lambda: architecture(config))
            model_inputs = {name: value for entry in inputs for name, value in entry.make(make, config, sizes).items()}
            alternatives = tuple(alternative for entry in inputs for alternative in entry.alternatives(model_inputs, config))
            notes = _expert_notes(config)
            return Built(
                model, (), model_inputs, traced=True, notes=notes, alternatives=alternatives, optional=optional, fixed=FIXED
            )

    noted = (*left_out, *notes, *quantized)
    return DNNModule(name, "network", axes, build, quantization=quantization, notes=noted, without_memory=True)


_LOADING = ("auto_map", "trust_remote_code", "custom_pipelines", "backbone", "backbone_checkpoint", "use_timm_backbone")
"""Entries of a config that name code or a model in a hub."""
_OWN_KERNELS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
"""Implementations of attention and experts that come with torch and transformers; others are looked up in a hub of kernels."""
_COUNTS = re.compile(r"(^|_)(n_layers?|(num_)?layers|num_(\w+_)?layers|depth|(n|num)_blocks|(num_|n_)(\w+_)?experts)$")
_MOST_PARTS = 10_000


def _harmless(settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config without entries that load code or a model from elsewhere, in its parts too, and a note for each. `InputError` for
    so many layers or experts that building them would not end."""
    harmless: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in settings.items():
        implementation = key.strip("_").removesuffix("_internal").endswith("_implementation")
        if (implementation and value not in _OWN_KERNELS) or (key in _LOADING and value):
            notes.append(f"the config's {key} {value!r} is left out: it would be looked up in a hub")
            continue
        if _COUNTS.search(key) and isinstance(value, int | float) and value > _MOST_PARTS:
            raise InputError(f"the config's {key} is {value:g}; at most {_MOST_PARTS} can be built")
        parts = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        cleaned = [_harmless(part) if isinstance(part, dict) else (part, ()) for part in parts]
        notes += [note for _, part_notes in cleaned for note in part_notes]
        harmless[key] = cleaned[0][0] if isinstance(value, dict) else [part for part, _ in cleaned] if parts else value
    if "use_pretrained_backbone" in harmless:
        harmless["use_pretrained_backbone"] = False  # its weights would be downloaded
    return harmless, tuple(notes)


@contextmanager
def _refusals(name: str, *passing: type[Exception]) -> Iterator[None]:
    """While active, hubs are offline, and exceptions of transformers become `InputError`, except those in `passing`."""
    from shmoo.harness.capture.fx.guard import hubs_offline

    passes: tuple[type[Exception], ...] = (InputError, *passing)
    try:
        with hubs_offline():
            yield
    except passes:
        raise
    except ImportError as error:
        raise InputError(f"{name!r} needs another library: {' '.join(str(error).split())}") from error
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = text if isinstance(error, ValueError | RuntimeError) and text else f"{type(error).__name__}: {text}"
        raise InputError(f"transformers cannot use the config {name!r}: {reason}") from error


def _config(transformers: Any, settings: Mapping[str, Any], name: str) -> Any:
    options = {key: value for key, value in settings.items() if key not in ("model_type", *QUANTIZATION_KEYS)}
    kind = settings["model_type"]
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        near = unknown("model_type", str(kind), list(transformers.CONFIG_MAPPING))
        raise InputError(f"transformers cannot use the config {name!r}: {near}")
    with _refusals(name):
        return transformers.AutoConfig.for_model(kind, **options)


def _architecture(transformers: Any, config: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """The class of the model: the config's class, or the bare model of its type, with a note if the config names another
    class."""
    architectures = config.architectures if isinstance(config.architectures, list) else []
    class_name = next((text for text in architectures if isinstance(text, str)), "")
    model_class = getattr(transformers, class_name, None) if class_name else None
    if isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel):
        return model_class, ()
    try:
        bare = transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"transformers has no model for the config {name!r} of type {config.model_type!r}") from None
    note = f"transformers has no {class_name}: {bare.__name__} is counted instead, without a head, which is unknown"
    return bare, (note,) if class_name else ()


def _expert_notes(config: Any) -> tuple[str, ...]:
    text = config.get_text_config()
    count = next((value for name in _EXPERTS if (value := getattr(text, name, None))), 1)
    if count == 1:
        return ()
    active = next((value for name in _ACTIVE_EXPERTS if (value := getattr(text, name, None))), 1)
    note = f"{active} of {count} experts are counted for each token, evenly spread"
    capacity = getattr(text, "expert_capacity", None)
    return (f"{note}; tokens beyond an expert's capacity of {capacity} are dropped" if capacity else note,)
