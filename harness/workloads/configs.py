"""Models that transformers builds from a config, with random weights. Nothing is downloaded.

The signature of a model's `forward` determines its inputs, and its config their sizes: tokens, pixels, audio, or several of them.
Masks are left out: nothing is padded. Well-known models are entries of `configs.json`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shmoo.estimators.errors import InputError, not_installed, unknown
from shmoo.harness.module import Axis, Built, DNNModule, Maker, dim
from shmoo.harness.workloads.quantization import QUANTIZATION_KEYS, quantization_of
from shmoo.harness.workloads.zoo import import_torchvision

DEFAULT_SEQ_LEN = 128
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names in configs of the number of experts of a layer."""
_ACTIVE_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "num_selected_experts")
"""Names of the number of experts that process a token; a config without one sends each token to one expert."""


class ConfigModel(msgspec.Struct, frozen=True):
    """A well-known model.

    Attributes:
        config: the entries of its transformers config that differ from the defaults of its type.
        source: the publication of its sizes.
        axes: defaults of its axes that differ from those of every config.
        parameters: published number of parameters, where there is one for exactly this model.
    """

    config: dict[str, Any]
    source: str
    axes: dict[str, int] = {}
    parameters: float | None = None


@cache
def config_models() -> Mapping[str, ConfigModel]:
    """The well-known models by name."""
    return msgspec.json.decode((files(__package__) / "configs.json").read_bytes(), type=dict[str, ConfigModel])


def find_config_model(name: str) -> DNNModule:
    """The well-known model of that name.

    Raises:
        InputError: there is none (the nearest names are suggested), or transformers is missing.
    """
    if name not in config_models():
        raise unknown("model", name, config_models())
    model = config_models()[name]
    return config_workload(name, model.config, defaults=model.axes)


def load_config(path: str) -> DNNModule:
    """The model of a config.json, named after the file.

    Raises:
        InputError: transformers is missing, or the config is not there, not JSON, of an unknown type or of a model with unknown
            inputs.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"no config at {path!r}; give the path of a config.json")
    try:
        settings = json.loads(source.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path!r} is not JSON: {error}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise InputError(f'{path!r} has no \'model_type\'; a transformers config names it, such as "model_type": "bert"')
    return config_workload(source.stem, settings)


def config_workload(name: str, settings: Mapping[str, Any], *, defaults: Mapping[str, int] | None = None) -> DNNModule:
    """The model of a transformers config, with axes for the open sizes of its inputs.

    Its architecture is the first that the config names, or the bare model of its type. The axes are "batch", and "seq_len" for
    tokens, "height" and "width" for pixels where the config does not fix them, "samples" for raw audio.

    Args:
        settings: the config, with its "model_type".
        defaults: defaults of axes that replace those of every config.

    Raises:
        InputError: transformers is missing or cannot use the config, or the model's inputs are not known.
    """
    settings, left_out = _harmless(settings)
    # transformers imports torchvision for its image models, and fails where torchvision alone would; others do without.
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
        parameters = inspect.signature(architecture.forward).parameters
        inputs = [
            entry for entry in _INPUTS if entry.name in parameters and (entry.name != _DECODER or config.is_encoder_decoder)
        ]
        if {_GRID, "input_ids"} <= set(parameters):
            inputs = [entry for entry in inputs if entry.name != "pixel_values"]
            notes = (*notes, f"text alone is counted: images come in patches with {_GRID}, which a config does not give")
        if len(inputs) > 1 and not hasattr(_audio(config), "num_mel_bins") and "input_features" in parameters:
            inputs = [entry for entry in inputs if entry.name != "input_features"]
            notes = (*notes, "audio is left out: the config has no num_mel_bins, which is the height of a spectrum")
        if not inputs:
            raise InputError(
                f"{architecture.__name__} takes {', '.join(list(parameters)[1:4])}, ...; models that take one of "
                f"{', '.join(entry.name for entry in _INPUTS)} can be built: give a factory (package.module:factory) for others"
            )
        axes = (dim("batch", 1, "inputs at once"), *dict.fromkeys(axis for entry in inputs for axis in entry.axes(config)))
    defaults = defaults or {}
    axes = tuple(msgspec.structs.replace(axis, default=defaults.get(axis.name, axis.default)) for axis in axes)

    def build(make: Maker, **sizes: Any) -> Built:
        # Building a model changes its config, so each build has a new one.
        config = _config(transformers, settings, name)
        # Those that pass are `DNNModule`'s own to explain.
        with _refusals(name, ValueError, RuntimeError):
            model = make.module(lambda: architecture(config))
            kwargs = {entry.name: entry.make(make, config, sizes) for entry in inputs}
            return Built(model, (), kwargs, traced=True, notes=_expert_notes(config))

    noted = (*left_out, *notes, *quantized)
    return DNNModule(name, "network", axes, build, quantization=quantization, notes=noted, without_memory=True)


_LOADING = ("auto_map", "trust_remote_code", "custom_pipelines", "backbone", "backbone_checkpoint", "use_timm_backbone")
"""Entries of a config that name code or a model in a hub."""
_OWN_KERNELS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
"""Implementations of attention and experts that come with torch and transformers; others are looked up in a hub of kernels."""
_COUNTS = re.compile(r"(^|_)(n_layers?|(num_)?layers|num_(\w+_)?layers|depth|(n|num)_blocks|(num_|n_)(\w+_)?experts)$")
_MOST_PARTS = 10_000


def _harmless(settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config without what would load code or a model from elsewhere, and a note for each such entry, those of its parts
    included.

    Raises:
        InputError: it asks for so many layers or experts that building them would not end.
    """
    kept: dict[str, Any] = {}
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
        kept[key] = cleaned[0][0] if isinstance(value, dict) else [part for part, _ in cleaned] if parts else value
    if "use_pretrained_backbone" in kept:
        kept["use_pretrained_backbone"] = False  # its weights would be downloaded
    return kept, tuple(notes)


@contextmanager
def _refusals(name: str, *passing: type[Exception]) -> Iterator[None]:
    """While active, hubs are offline, and whatever transformers raises on a config is an `InputError`, except what is to pass."""
    from shmoo.harness.capture.guard import hubs_offline

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
    """The class of the model, the one that the config names or the bare model of its type; and a note where it names another."""
    listed = config.architectures if isinstance(config.architectures, list) else []
    asked = next((text for text in listed if isinstance(text, str)), "")
    named = getattr(transformers, asked, None) if asked else None
    if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
        return named, ()
    try:
        bare = transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"transformers has no model for the config {name!r} of type {config.model_type!r}") from None
    note = f"transformers has no {asked}: {bare.__name__} is counted in its place, without a head, which is not known"
    return bare, (note,) if asked else ()


def _expert_notes(config: Any) -> tuple[str, ...]:
    """A note on the number of experts that are counted, for a mixture of experts."""
    text = config.get_text_config()
    count = next((value for name in _EXPERTS if (value := getattr(text, name, None))), 1)
    if count == 1:
        return ()
    active = next((value for name in _ACTIVE_EXPERTS if (value := getattr(text, name, None))), 1)
    note = f"{active} of {count} experts are counted for each token, evenly spread"
    capacity = getattr(text, "expert_capacity", None)
    return (f"{note}; tokens beyond an expert's capacity of {capacity} are dropped" if capacity else note,)


# Inputs of models --------------------------------------------------------------------------------------------------


class _Input(NamedTuple):
    """A tensor that a model can take: its name in signatures, the axes it adds, and the function that makes it."""

    name: str
    axes: Callable[[Any], Sequence[Axis]]
    make: Callable[[Maker, Any, Mapping[str, Any]], Any]


_DECODER = "decoder_input_ids"
_GRID = "image_grid_thw"
"""An input that says how the patches of all images together are arranged; models that take it take no image by itself."""


def _token_axes(config: Any) -> Sequence[Axis]:
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_target_positions"))
    limit = next((limit for limit in limits if isinstance(limit, int)), DEFAULT_SEQ_LEN)
    return (dim("seq_len", min(DEFAULT_SEQ_LEN, limit), "tokens in an input, and in the decoder's where there is one"),)


def _tokens(make: Maker, config: Any, sizes: Mapping[str, Any]) -> Any:
    return make.indices(config.get_text_config().vocab_size, sizes["batch"], sizes["seq_len"])


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None) or config


def _pixel_axes(config: Any) -> Sequence[Axis]:
    if getattr(_vision(config), "image_size", None):
        return ()
    return (dim("height", 224, "height of an image"), dim("width", 224, "width of an image"))


def _pixels(make: Maker, config: Any, sizes: Mapping[str, Any]) -> Any:
    vision = _vision(config)
    fixed = getattr(vision, "image_size", None) or (sizes["height"], sizes["width"])
    height, width = (fixed, fixed) if isinstance(fixed, int) else fixed
    return make.tensor(sizes["batch"], getattr(vision, "num_channels", 3), height, width)


def _audio(config: Any) -> Any:
    """The config of the part that takes a spectrum."""
    parts = [part for part in vars(config).values() if hasattr(part, "model_type")]
    return next((part for part in (config, *parts) if hasattr(part, "num_mel_bins")), config)


def _frame_axes(config: Any) -> Sequence[Axis]:
    if hasattr(_audio(config), "max_source_positions"):
        return ()
    return (dim("frames", 1000, "frames of a spectrum; 100 are a second for most models"),)


def _spectrum(make: Maker, config: Any, sizes: Mapping[str, Any]) -> Any:
    audio = _audio(config)
    if "frames" in sizes:
        return make.tensor(sizes["batch"], sizes["frames"], audio.num_mel_bins)
    # Two frames for each position of the encoder, whose second convolution halves their number.
    return make.tensor(sizes["batch"], audio.num_mel_bins, 2 * audio.max_source_positions)


_INPUTS = (
    _Input("input_ids", _token_axes, _tokens),
    _Input("pixel_values", _pixel_axes, _pixels),
    _Input("input_features", _frame_axes, _spectrum),
    _Input(
        "input_values",
        lambda config: (dim("samples", 16000, "samples of audio; 16000 are a second for most models"),),
        lambda make, config, sizes: make.tensor(sizes["batch"], sizes["samples"]),
    ),
    _Input(_DECODER, _token_axes, _tokens),
)
