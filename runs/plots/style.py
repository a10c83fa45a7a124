"""Colours and symbols of every figure; they read on light and on dark backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FAMILY_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "gemm": "#4f7df3",
        "conv": "#f2803a",
        "depthwise": "#d9a514",
        "conv_transpose": "#b3702d",
        "attention": "#9a62e8",
        "pointwise": "#19b28a",
        "normalization": "#1aa7c7",
        "softmax": "#e5579b",
        "pooling": "#7cb52b",
        "gather": "#6f7f95",
        "copy": "#9aa7b8",
        "linalg": "#7068d8",
        "unknown": "#c0392b",
        "free": "#b8c0cc",
        "synthetic": "#5f8f6b",
        "networks": "#e0344f",
    }
)
"""One colour per family in every plot, of medium lightness so that it reads on white and on near-black."""

ARCHITECTURE_COLOURS: Mapping[str, str] = MappingProxyType(
    {"cpu": "#4f7df3", "gpu": "#3faf46", "tpu": "#ee9a1a", "kpu": "#c056d8"}
)
COLOURS = ("#4f7df3", "#3faf46", "#ee9a1a", "#c056d8", "#1aa7c7", "#e0344f", "#7cb52b", "#7068d8", "#b3702d", "#6f7f95")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon", "hexagon", "triangle-down", "x")
GREY = "#8a94a3"


def colour_of(group: str) -> str:
    """The colour of a family or group: "gemm (inductor)" has the colour of "gemm", and unknown names are grey."""
    return FAMILY_COLOURS.get(group.split(" ")[0], GREY)


def architecture_family(name: str) -> str:
    """Family in an architecture's name, "cpu", "gpu", "tpu" or "kpu"; "" when the name contains none of them."""
    parts = name.lower().replace("-", "_").split("_")
    return next((family for family in ARCHITECTURE_COLOURS if family in parts), "")
