"""The storage of a model's weights according to the `quantization_config` of a transformers config: weights in a small type,
scales and zero points, as each method's library stores them. If no element type of the vocabulary fits, a note says so, and
weights count in the model's type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from msgspec.structs import replace

from shmoo.estimators.costs.quantize import ACTIVATION_DTYPE, Scheme
from shmoo.estimators.errors import InputError

Settings = Mapping[str, Any]
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Entries of a config about the storage of weights; older versions of compressed-tensors had their own."""
_SKIPPED = (
    "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules", "skip_modules",
)  # fmt: skip
"""Entries for the list of modules that are not quantized."""
_HEADS = ("lm_head", "embed_out", "score", "classifier", "qa_outputs")
"""Names of heads, which transformers does not quantize: the output embedding and a model's last module."""
_WIDEST_PATTERN = 40
"""Most names that one pattern with alternatives may represent."""
_PACKED = {4: "int4", 8: "int8"}


def quantization_of(settings: Settings) -> tuple[tuple[Scheme, ...], tuple[str, ...]]:
    """The schemes in which a config stores the weights of linear layers, and notes on settings that are ignored."""
    declared = next(_declared(settings), None)
    if declared is None:
        return (), ()
    if not isinstance(declared, Mapping):
        return (), (f"the config's quantization {declared!r} is not an object, so it is not taken into account",)
    method = str(declared.get("quant_method") or ("bitsandbytes" if _bits_of_loading(declared) else "unnamed")).lower()
    ignored = f"the config's quantization ({method}) is not taken into account"
    if declared.get("dequantize") is True or declared.get("run_compressed") is False:
        return (), (f"{ignored}: the config asks for weights that are converted back when they are loaded",)
    if method not in _METHODS:
        return (), (f"{ignored}: weights are counted in the element type",)
    try:
        schemes_and_notes, kept_names = tuple(_METHODS[method](declared)), _kept_module_names(declared)
    except InputError as error:
        return (), (f"{ignored}: {error}; weights are counted in the element type",)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError):
        return (), (f"{ignored}: its entries are not as {method} writes them; weights are counted in the element type",)
    schemes = [scheme for scheme in schemes_and_notes if isinstance(scheme, Scheme)]
    notes = [note for note in schemes_and_notes if isinstance(note, str)]
    return tuple(replace(s, kept=(*kept_names, *s.kept), parts=True) for s in schemes), tuple(dict.fromkeys(notes))


def _declared(settings: Settings) -> Iterator[Any]:
    """The quantization entries of the config and its parts."""
    for key in QUANTIZATION_KEYS:
        if settings.get(key) is not None:
            yield settings[key]
    for part in settings.values():
        if isinstance(part, Mapping):
            yield from _declared(part)


def _bits_of_loading(settings: Settings) -> int:
    """4 or 8 bits in the settings of bitsandbytes; 0 where neither is on."""
    on = [bits for bits in (4, 8) if settings.get(f"load_in_{bits}bit") is True or settings.get(f"_load_in_{bits}bit") is True]
    return on[0] if on else 0


def described(scheme: Scheme) -> str:
    """A scheme in words."""
    width = {"int4": "4 bits", "int8": "int8", "float8": "float8"}[scheme.weight]
    high, wide = ("all" if extent == 0 else str(extent) for extent in scheme.block)
    parts = [f"weights in {width}, a scale for {high} x {wide} of them"]
    if scheme.zero is not None:
        parts.append("with a zero point")
    parts.append(f"products in {scheme.weight if scheme.name.endswith('dynamic') else 'the type of the activations'}")
    if scheme.only:
        parts.append(f"only in {', '.join(scheme.only)}")
    if scheme.kept:
        kept_names = [name for name in scheme.kept if name not in _HEADS or name == _HEADS[0]]
        remainder = f" and {len(kept_names) - 6} more" if len(kept_names) > 6 else ""
        parts.append(f"except in {', '.join(kept_names[:6])}{remainder}")
    return ", ".join(parts)


# Names of modules --------------------------------------------------------------------------------------------------


def _kept_module_names(settings: Settings) -> tuple[str, ...]:
    """Names of the modules that are not quantized, including heads unless the config quantizes them."""
    all_heads, output_head = settings.get("include_input_output_embeddings"), settings.get("lm_head") is True
    quantized = _HEADS if all_heads else _HEADS[:1] if output_head else ()
    skipped = next((settings[name] for name in _SKIPPED if settings.get(name)), ())
    names = skipped if isinstance(skipped, list | tuple) else (skipped,)
    kept_names = dict.fromkeys((*_HEADS, *(glob for name in names if isinstance(name, str) for glob in _globs(name))))
    return tuple(name for name in kept_names if name not in quantized)


def _globs(pattern: str) -> tuple[str, ...]:
    """A name, or a regular expression of names, as glob patterns. Other features of regular expressions are not evaluated, since
    some take for ever; such patterns match no module.

    Example:
        >>> _globs(r"re:.*mlp\\.(gate|up)_proj$")
        ('*mlp.gate_proj', '*mlp.up_proj')
    """
    text = pattern
    if pattern.startswith(("re:", "-:")) or set(pattern) & set("\\()^$"):
        text = pattern.removeprefix("re:").removeprefix("-:").removeprefix("^").removesuffix("$").removesuffix("\\b")
        text = re.sub(r"(\\d|\[0-9\]|\[\^\.\]|\.)[*+]\??", "*", text).replace("\\", "")
    pieces = re.split(r"\((?:\?:)?([^()]*)\)", text)
    choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _WIDEST_PATTERN:
        return ()
    return tuple("".join(chosen).strip(".") for chosen in product(*choices) if "".join(chosen).strip("."))


# Methods -----------------------------------------------------------------------------------------------------------

SchemesAndNotes = Iterator[Scheme | str]
"""Schemes, and notes on what they leave out."""
_EXPERTS_IN_4_BITS = Scheme("int4-weight", "int4", (1, 32), "float8", only=("experts",))
"""Only experts, in 4-bit floating point with a one-byte scale per 32 weights: OCP Microscaling Formats (MX) Specification 1.0,
section 5.2."""


def _grouped(bits: Any, group: Any, zero: str | None = None) -> Scheme:
    """Whole numbers of some bits, with a scale for each group of a row; `InputError` where no element type has that width."""
    weight = _PACKED.get(int(bits))
    if weight is None:
        raise InputError(f"no element type has {bits} bits")
    return Scheme(f"{weight}-weight", weight, (1, max(int(group or 0), 0)), zero=zero)


def _float8(settings: Settings) -> SchemesAndNotes:
    """Blocks of 128 by 128 unless the config says otherwise, with scales in float32 or, as powers of two, in a byte: DeepSeek-V3,
    arXiv:2412.19437, section 3.3."""
    block = settings.get("weight_block_size", (128, 128))
    sizes = (0, 0) if block is None else (int(block[0]), int(block[1]))
    if min(sizes) < 0 or len(block or sizes) != 2:
        raise InputError(f"its weight_block_size is {block!r}")
    apart = (_EXPERTS_IN_4_BITS,) if settings.get("expert_dtype") == "fp4" else ()
    yield from apart
    scale = "float8" if settings.get("scale_fmt") == "ue8m0" else "float32"
    yield Scheme("float8-dynamic", "float8", sizes, scale, kept=tuple(name for scheme in apart for name in scheme.only))


def _whole_number_groups(settings: Settings) -> SchemesAndNotes:
    """GPTQ and AWQ (arXiv:2210.17323, arXiv:2306.00978): a scale and a zero point in the weights' own bits for each group."""
    bits = settings.get("bits", settings.get("w_bit", 4))
    group = settings.get("group_size", settings.get("q_group_size", 128))
    zero = None if settings.get("zero_point") is False else _PACKED.get(int(bits))
    blocks = settings.get("modules_in_block_to_quantize") or ()
    only = tuple(name for names in blocks for name in ([names] if isinstance(names, str) else names))
    rules = settings["dynamic"] if isinstance(settings.get("dynamic"), Mapping) else {}
    skipped = tuple(glob for rule in rules if rule.startswith("-:") for glob in _globs(rule))
    yield replace(_grouped(bits, group, zero), only=only, kept=skipped)
    if not all(rule.startswith("-:") for rule in rules):
        yield "settings of single modules (dynamic) are not taken into account"


def _bitsandbytes(settings: Settings) -> SchemesAndNotes:
    """4 bits: 64 weights share a float32 scale, or a one-byte scale if scales are quantized too, without zero points (T. Dettmers
    et al., QLoRA, arXiv:2305.14314, section 3). 8 bits: one float32 scale per row."""
    bits = _bits_of_loading(settings)
    if bits == 0:
        raise InputError("neither load_in_4bit nor load_in_8bit is true")
    if bits == 8:
        yield Scheme("int8-dynamic", "int8", (1, 0), "float32")
    else:
        yield Scheme("int4-weight", "int4", (1, 64), "int8" if settings.get("bnb_4bit_use_double_quant") else "float32")


def _compressed(settings: Settings) -> SchemesAndNotes:
    """Groups of layers, each with the bits, type and blocks of its weights, and of its activations if they are rounded at run
    time."""
    if settings.get("format") == "dense":
        raise InputError("its format is dense, weights that are not compressed")
    groups = [group for group in settings["config_groups"].values() if group.get("weights")]
    if not groups:
        raise InputError("it compresses no weights")
    taken_names: tuple[str, ...] = ()
    for group in sorted(groups, key=_is_general):
        scheme = _group(group)
        yield replace(scheme, kept=taken_names)
        taken_names += scheme.only
        if group.get("input_activations") and not scheme.name.endswith("dynamic"):
            yield "activations are counted in their own type: products of such weights and activations have no rate"
    if settings.get("sparsity_config"):
        yield "the config's sparsity is not taken into account: weights are counted dense"
    if settings.get("kv_cache_scheme"):
        yield "the config's types of keys and values are not taken into account"


def _is_general(group: Settings) -> bool:
    """Whether a group names kinds of modules instead of modules."""
    return any(
        isinstance(name, str) and name.isidentifier() and name[:1].isupper() for name in group.get("targets") or ("Linear",)
    )


def _group(group: Settings) -> Scheme:
    weights, activations = group["weights"], group.get("input_activations")
    bits, kind = int(weights.get("num_bits", 8)), weights.get("type", "int")
    size = int(weights.get("group_size") or 0)
    strategy = weights.get("strategy") or ("group" if size > 0 else "channel")
    structure = weights.get("block_structure") or (128, 128)
    blocks = {"tensor": (0, 0), "block": (int(structure[0]), int(structure[1]))}
    block = blocks.get(strategy, (1, max(size, 0)))
    only = () if _is_general(group) else tuple(glob for name in group["targets"] for glob in _globs(name))
    if (bits, kind) == (8, "float"):
        scale = "float8" if block == (1, 32) else "float32"
        return Scheme("float8-dynamic" if activations else "int8-weight", "float8", block, scale, only=only)
    if (bits, kind) == (4, "float"):
        # NVFP4 and MXFP4: a one-byte scale per group.
        return Scheme("int4-weight", "int4", block, "float8", only=only)
    if kind != "int":
        raise InputError(f"no element type is {kind} of {bits} bits")
    if bits == 8 and activations and block[1] == 0:
        return Scheme("int8-dynamic", "int8", block, only=only)
    zero = None if weights.get("symmetric", True) else _PACKED.get(bits)
    return replace(_grouped(bits, block[1], zero), only=only)


_TORCHAO = {
    "int4weightonly": ("int4-weight", "int4", ACTIVATION_DTYPE),
    "int8weightonly": ("int8-weight", "int8", None),
    "int8dynamicactivationint8weight": ("int8-dynamic", "int8", None),
    "int8dynamicactivationint4weight": ("int4-weight", "int4", None),
    "float8weightonly": ("int8-weight", "float8", None),
    "float8dynamicactivationfloat8weight": ("float8-dynamic", "float8", None),
    "float8dynamicactivationint4weight": ("int4-weight", "int4", None),
}
"""torchao's configs, without case, underscores and "Config" -> way of computing, type of weights, zero points."""


def _torchao(settings: Settings) -> SchemesAndNotes:
    """A config of torchao, given by name or by class with its fields."""
    kind = settings["quant_type"]
    kind = kind["default"] if isinstance(kind, Mapping) and "default" in kind else kind
    fields = kind.get("_data", {}) if isinstance(kind, Mapping) else settings.get("quant_type_kwargs") or {}
    name = str(kind["_type"] if isinstance(kind, Mapping) else kind)
    entry = _TORCHAO.get(name.replace("_", "").lower().removesuffix("config"))
    if entry is None:
        raise InputError(f"{name} is not known")
    way, weight, zero = entry
    group = int(fields.get("group_size") or (128 if weight == "int4" else 0))
    yield Scheme(way, weight, (1, group), "float32" if weight == "float8" else ACTIVATION_DTYPE, zero)
    if settings.get("include_input_output_embeddings"):
        yield "embeddings are counted in their own type"


def _hqq(settings: Settings) -> SchemesAndNotes:
    """A scale and a zero point in the activations' type for each group."""
    weights = (settings.get("quant_config") or settings).get("weight_quant_params") or settings
    yield _grouped(weights.get("nbits", 4), weights.get("group_size", 64), zero=ACTIVATION_DTYPE)


def _quanto(settings: Settings) -> SchemesAndNotes:
    """int8 and float8 with one scale per row, int4 with a scale and a shift per 128 weights."""
    weights = str(settings.get("weights", "int8"))
    if weights not in ("int4", "int8", "float8"):
        raise InputError(f"no element type is {weights}")
    yield _grouped(4, 128, zero=ACTIVATION_DTYPE) if weights == "int4" else Scheme("int8-weight", weights, (1, 0))


_METHODS: dict[str, Callable[[Settings], Iterable[Scheme | str]]] = {
    **dict.fromkeys(("gptq", "awq", "auto-round", "auto_round", "intel/auto-round"), _whole_number_groups),
    **dict.fromkeys(("compressed-tensors", "modelopt"), _compressed),
    "fp8": _float8,
    "fbgemm_fp8": lambda _: [Scheme("float8-dynamic", "float8", (1, 0), "float32")],
    "mxfp8": lambda _: [Scheme("float8-dynamic", "float8", (1, 32), "float8")],
    "mxfp4": lambda _: [_EXPERTS_IN_4_BITS],
    "nvfp4": lambda _: [Scheme("int4-weight", "int4", (1, 16), "float8")],
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "hqq": _hqq,
    "quanto": _quanto,
    "eetq": lambda _: [Scheme("int8-weight", "int8", (1, 0), "float16")],
    "metal": lambda settings: [_grouped(settings.get("bits", 4), settings.get("group_size", 64), zero=ACTIVATION_DTYPE)],
}
"""Method -> its schemes, and notes on what they leave out, from its settings."""
