"""The inputs of models from configs: the signature of a model's `forward` determines which, and its config their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from shmoo.estimators.errors import InputError
from shmoo.harness.module import Axis, Maker, dim

DEFAULT_SEQ_LEN = 128
_DECODER = "decoder_input_ids"
_GRID = "image_grid_thw"
"""Input with the grid of patches of each image: frames, rows and columns."""
_SIZES = "image_sizes"
_MASK = "input_features_mask"
FIXED = (_GRID, _MASK)
"""Inputs whose values follow from sizes and determine other sizes."""
_CHANNELS = ("num_channels", "in_channels", "in_chans", "image_channels")
_PATCHES_SIDE = 448
"""Default height and width of images that come in patches, in pixels."""

NamedInputs = dict[str, Any]


class Input(NamedTuple):
    """An input that a model can take.

    Attributes:
        name: parameter name in signatures.
        axes: axes that the input adds.
        make: makes it, and the inputs that must accompany it, by name.
        part: entry of a composed config for the model that takes it; if the entry is `None`, there is no such model.
        description: description of an input that is optional for a model with other inputs, otherwise "".
        alternatives: from all inputs, inputs to try instead of it, or in addition, where the model refuses it.
        companions: further inputs that come with it in one of these forms.
    """

    name: str
    axes: Callable[[Any], Sequence[Axis]]
    make: Callable[[Maker, Any, Mapping[str, Any]], NamedInputs]
    part: str = ""
    description: str = ""
    alternatives: Callable[[NamedInputs, Any], Sequence[NamedInputs]] = lambda inputs, config: ()
    companions: tuple[str, ...] = ()


def inputs_of(config: Any, parameters: Mapping[str, Parameter], model: str) -> tuple[tuple[Input, ...], tuple[str, ...]]:
    """The inputs for a model's signature (`model` is its class, for messages), and notes on inputs that are left out;
    `InputError` where no input can be made."""
    notes = []
    inputs: list[Input] = []
    for entry in _inputs(parameters):
        if entry.name not in parameters or (entry.name == _DECODER and not config.is_encoder_decoder):
            continue
        no_tokens = "input_ids" not in parameters
        if entry.description and not no_tokens and getattr(config, entry.part, "") is None:
            notes.append(f"{entry.description} left out: the config has no {entry.part}")
        elif entry.name == "input_features" and not no_tokens and not hasattr(_audio(config), "num_mel_bins"):
            notes.append(f"{entry.description} left out: the config has no num_mel_bins, which is the height of a spectrum")
        else:
            inputs.append(entry)
    if not inputs:
        raise InputError(
            f"{model} takes {', '.join(list(parameters)[1:4])}, ...; models that take one of {', '.join(_NAMES)} can be built: "
            "give a factory (package.module:factory) for others"
        )
    return tuple(inputs), tuple(notes)


def _inputs(parameters: Mapping[str, Parameter]) -> tuple[Input, ...]:
    """All inputs in the form that a signature requires."""
    images = _PATCHES if _GRID in parameters else _SIZED_IMAGES if _SIZES in parameters else _IMAGES
    spectrum = _MASKED_SPECTRUM if _MASK in parameters else _SPECTRUM
    return (_TOKENS, images, spectrum, _WAVE, _DECODER_TOKENS)


def _parts(config: Any) -> list[Any]:
    """The configs of a composed model's parts."""
    return [part for part in vars(config).values() if hasattr(part, "model_type")]


# Tokens ------------------------------------------------------------------------------------------------------------


def _token_axes(config: Any) -> Sequence[Axis]:
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_target_positions"))
    limit = next((limit for limit in limits if isinstance(limit, int)), DEFAULT_SEQ_LEN)
    return (dim("seq_len", min(DEFAULT_SEQ_LEN, limit), "tokens in an input, and in the decoder's where there is one"),)


def _tokens(name: str) -> Input:
    def make(maker: Maker, config: Any, sizes: Mapping[str, Any]) -> NamedInputs:
        return {name: maker.indices(config.get_text_config().vocab_size, sizes["batch"], sizes["seq_len"])}

    return Input(name, _token_axes, make)


# Images ------------------------------------------------------------------------------------------------------------


def _vision(config: Any) -> Any:
    """The config of the part that takes images; of several, the one with an image size."""
    parts = (getattr(config, "vision_config", None), config, *_parts(config))
    return parts[0] or next((part for part in parts[1:] if getattr(part, "image_size", None)), config)


def _channels(config: Any) -> int:
    return next((count for name in _CHANNELS if (count := getattr(_vision(config), name, None))), 3)


def _pixel_axes(config: Any) -> Sequence[Axis]:
    if getattr(_vision(config), "image_size", None):
        return ()
    return (dim("height", 224, "height of an image"), dim("width", 224, "width of an image"))


def _pixels(make: Maker, config: Any, sizes: Mapping[str, Any]) -> NamedInputs:
    fixed = getattr(_vision(config), "image_size", None) or (sizes["height"], sizes["width"])
    height, width = (fixed, fixed) if isinstance(fixed, int) else fixed
    return {"pixel_values": make.tensor(sizes["batch"], _channels(config), height, width)}


def _with_sizes(inputs: NamedInputs, config: Any) -> Sequence[NamedInputs]:
    """The size of each image, for models that accept padded batches."""
    batch, _, height, width = inputs["pixel_values"].shape
    return ({_SIZES: [(height, width)] * batch},)


def _patch_axes(config: Any) -> Sequence[Axis]:
    return (
        dim("height", _PATCHES_SIDE, "height of an image, rounded to whole merged patches"),
        dim("width", _PATCHES_SIDE, "width of an image, rounded to whole merged patches"),
    )


def _patches(make: Maker, config: Any, sizes: Mapping[str, Any]) -> NamedInputs:
    """Patches of all images in a row, each flattened, and their grids."""
    vision = _vision(config)
    side, frames = (getattr(vision, name, None) or 1 for name in ("patch_size", "temporal_patch_size"))
    side, frames = (extent if isinstance(extent, int) else extent[0] for extent in (side, frames))
    merged = getattr(vision, "spatial_merge_size", None) or 1
    rows, columns = (max(sizes[name] // (side * merged), 1) * merged for name in ("height", "width"))
    batch = sizes["batch"]
    pixels = make.tensor(batch * rows * columns, _channels(config) * frames * side * side)
    return {"pixel_values": pixels, _GRID: make.torch.tensor([[1, rows, columns]] * batch)}


def _other_patches(inputs: NamedInputs, config: Any) -> Sequence[NamedInputs]:
    """The frame, row and column of each token, which usually follow from the positions of images; and each patch as an image."""
    import torch

    tokens = inputs.get("input_ids")
    positions = {} if tokens is None else {"position_ids": torch.arange(tokens.shape[1]).expand(3, *tokens.shape)}
    patches = inputs["pixel_values"]
    channels = _channels(config)
    side = round((patches.shape[1] / channels) ** 0.5)
    square = channels * side * side == patches.shape[1]
    images = {"pixel_values": patches.reshape(-1, channels, side, side)} if square else {}
    return tuple(alternative for alternative in (positions, images) if alternative)


# Audio -------------------------------------------------------------------------------------------------------------


def _audio(config: Any) -> Any:
    """The config of the part that takes a spectrum."""
    return next((part for part in (config, *_parts(config)) if hasattr(part, "num_mel_bins")), config)


def _frame_axes(config: Any) -> Sequence[Axis]:
    if hasattr(_audio(config), "max_source_positions"):
        return ()
    return (dim("frames", 1000, "frames of a spectrum; 100 per second for most models"),)


def _spectrum(make: Maker, config: Any, sizes: Mapping[str, Any]) -> NamedInputs:
    audio = _audio(config)
    if "frames" in sizes:
        # Several frames may be stacked.
        stacked = getattr(audio, "num_stacked_frames", None) or 1
        return {"input_features": make.tensor(sizes["batch"], sizes["frames"], audio.num_mel_bins * stacked)}
    # Two frames for each position of the encoder, whose second convolution halves their number.
    return {"input_features": make.tensor(sizes["batch"], audio.num_mel_bins, 2 * audio.max_source_positions)}


def _with_mask(inputs: NamedInputs, config: Any) -> Sequence[NamedInputs]:
    """A mask in which every frame belongs to the recording."""
    import torch

    return ({_MASK: torch.ones(inputs["input_features"].shape[:2], dtype=torch.bool)},)


def _wave(make: Maker, config: Any, sizes: Mapping[str, Any]) -> NamedInputs:
    return {"input_values": make.tensor(sizes["batch"], sizes["samples"])}


_TOKENS = _tokens("input_ids")
_DECODER_TOKENS = _tokens(_DECODER)
_IMAGES = Input("pixel_values", _pixel_axes, _pixels, "vision_config", "images are")
_SIZED_IMAGES = _IMAGES._replace(alternatives=_with_sizes, companions=(_SIZES,))
_PATCHES = Input("pixel_values", _patch_axes, _patches, "vision_config", "images are", _other_patches, (_GRID,))
_SPECTRUM = Input("input_features", _frame_axes, _spectrum, "audio_config", "audio is")
_MASKED_SPECTRUM = _SPECTRUM._replace(alternatives=_with_mask, companions=(_MASK,))
_WAVE = Input(
    "input_values", lambda config: (dim("samples", 16000, "samples of audio; 16000 are a second for most models"),), _wave,
    "audio_config", "audio is",
)  # fmt: skip
_NAMES = tuple(entry.name for entry in (_TOKENS, _IMAGES, _SPECTRUM, _WAVE, _DECODER_TOKENS))
