"""Models that transformers builds from a config, with random weights. Nothing is downloaded.

What a model takes follows from the signature of its `forward`, and the sizes of that from its config: tokens, pixels, audio, or
several of them. Masks are left out: nothing is padded. Well-known models are entries of `configs.json`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.workloads.module import Axis, Built, DNNModule, Maker, dim
from shmoo.harness.workloads.torchvision_ops import import_torchvision

DEFAULT_SEQ_LEN = 128
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names that configs have for the number of experts of a layer."""
_ACTIVE_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "num_selected_experts")
"""Names for how many of them work on a token; a config without one sends each token to one."""


class ConfigModel(msgspec.Struct, frozen=True):
    """A well-known model.

    Attributes:
        config: what its transformers config says, as far as it differs from the defaults of its type.
        source: where its sizes are published.
        axes: defaults of its axes, where they are not those of every config.
        parameters: published number of parameters, where there is one for just this model.
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
        InputError: there is none; the nearest names are given. Or transformers is missing.
    """
    if name not in config_models():
        raise unknown("model", name, config_models())
    found = config_models()[name]
    return config_workload(name, found.config, defaults=found.axes, meaning=found.source)


def load_config(path: str) -> DNNModule:
    """The model of a config.json, named after the file.

    Raises:
        InputError: transformers is missing, or the config is not there, not JSON, of an unknown type or of a model whose inputs
            are not known.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"no config at {path!r}; give the path of a config.json")
    try:
        settings = json.loads(source.read_text())
    except ValueError as error:
        raise InputError(f"{path!r} is not JSON: {error}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise InputError(f'{path!r} has no \'model_type\'; a transformers config names it, such as "model_type": "bert"')
    return config_workload(source.stem, settings)


def config_workload(
    name: str, settings: Mapping[str, Any], *, defaults: Mapping[str, int] | None = None, meaning: str = ""
) -> DNNModule:
    """The model of a transformers config, with axes for what its inputs leave open.

    Its architecture is the first that the config names, or the bare model of its type. The axes are "batch", and "seq_len" for
    tokens, "height" and "width" for pixels where the config does not fix them, "samples" for raw audio.

    Args:
        settings: the config, with its "model_type".
        defaults: of axes, in place of those of every config.

    Raises:
        InputError: transformers is missing or cannot use the config, or the model's inputs are not known.
    """
    transformers = import_transformers()
    config = _config(transformers, settings, name)
    made_by = _architecture(transformers, config, name)
    taken = inspect.signature(made_by.forward).parameters
    inputs = [entry for entry in _INPUTS if entry.name in taken and (entry.name != _DECODER or config.is_encoder_decoder)]
    if not inputs:
        raise InputError(
            f"{made_by.__name__} takes {', '.join(list(taken)[1:4])}, ...; models that take one of "
            f"{', '.join(entry.name for entry in _INPUTS)} can be built: give a factory (package.module:factory) for others"
        )
    axes = (dim("batch", 1, "inputs at once"), *dict.fromkeys(axis for entry in inputs for axis in entry.axes(config)))
    chosen = defaults or {}
    axes = tuple(msgspec.structs.replace(axis, default=chosen.get(axis.name, axis.default)) for axis in axes)

    def build(make: Maker, **sizes: Any) -> Built:
        # Building a model notes its choices in the config, so each has one of its own.
        own = _config(transformers, settings, name)
        try:
            model = make.module(lambda: made_by(own))
        except ImportError as error:
            raise InputError(f"{name!r} needs another library: {' '.join(str(error).split())}") from error
        return Built(
            model, (), {entry.name: entry.make(make, own, sizes) for entry in inputs}, traced=True, notes=_expert_notes(own)
        )

    return DNNModule(name, "network", axes, build, meaning)


def import_transformers() -> Any:
    """transformers.

    Raises:
        InputError: it is not installed.
    """
    # It imports torchvision for its image models, and fails where torchvision alone would.
    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise InputError("models from a config need transformers; install it with: pip install 'shmoo[models]'") from error
    return transformers


def _config(transformers: Any, settings: Mapping[str, Any], name: str) -> Any:
    options = {key: value for key, value in settings.items() if key != "model_type"}
    if "use_pretrained_backbone" in options:
        options["use_pretrained_backbone"] = False  # its weights would be downloaded
    try:
        return transformers.AutoConfig.for_model(settings["model_type"], **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"transformers cannot use the config {name!r}: {str(error).splitlines()[0]}") from error


def _architecture(transformers: Any, config: Any, name: str) -> Any:
    """The class of the model."""
    named = (config.architectures or [""])[0]
    found = getattr(transformers, named, None)
    if found is not None:
        return found
    try:
        return transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"transformers has no model for the config {name!r} of type {config.model_type!r}") from None


def _expert_notes(config: Any) -> tuple[str, ...]:
    """How many experts are counted, for a mixture of them."""
    text = config.get_text_config()
    count = next((value for name in _EXPERTS if (value := getattr(text, name, None))), 0)
    if not count or count == 1:
        return ()
    active = next((value for name in _ACTIVE_EXPERTS if (value := getattr(text, name, None))), 1)
    said = f"{active} of {count} experts are counted for each token, evenly spread"
    capacity = getattr(text, "expert_capacity", None)
    return (f"{said}; tokens beyond an expert's capacity of {capacity} are dropped" if capacity else said,)


# What models take ---------------------------------------------------------------------------------------------------


class _Input(NamedTuple):
    """A tensor that a model can take: its name in signatures, the axes it adds, and how it is made."""

    name: str
    axes: Callable[[Any], Sequence[Axis]]
    make: Callable[[Maker, Any, Mapping[str, Any]], Any]


_DECODER = "decoder_input_ids"


def _token_axes(config: Any) -> Sequence[Axis]:
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_target_positions"))
    most = next((limit for limit in limits if isinstance(limit, int)), DEFAULT_SEQ_LEN)
    return (dim("seq_len", min(DEFAULT_SEQ_LEN, most), "tokens in an input, and in the decoder's where there is one"),)


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


def _spectrum(make: Maker, config: Any, sizes: Mapping[str, Any]) -> Any:
    """Two frames for each position of the encoder, whose second convolution halves their number."""
    return make.tensor(sizes["batch"], config.num_mel_bins, 2 * config.max_source_positions)


_INPUTS = (
    _Input("input_ids", _token_axes, _tokens),
    _Input("pixel_values", _pixel_axes, _pixels),
    _Input("input_features", lambda config: (), _spectrum),
    _Input(
        "input_values",
        lambda config: (dim("samples", 16000, "samples of audio; 16000 are a second for most models"),),
        lambda make, config, sizes: make.tensor(sizes["batch"], sizes["samples"]),
    ),
    _Input(_DECODER, _token_axes, _tokens),
)
