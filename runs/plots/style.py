"""How every plot looks: colours that read on light and dark backgrounds, axes in readable units, and escaped text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go

from shmoo.estimators.units import si, size

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
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon", "hexagon", "triangle-down", "x")
GREY = "#8a94a3"
FAINT = "rgba(128,140,155,0.22)"
HEAT = (
    (0.0, "#22264f"),
    (0.2, "#38509b"),
    (0.4, "#2f8cae"),
    (0.6, "#3fbf95"),
    (0.8, "#b8d64f"),
    (1.0, "#fde859"),
)
"""Colour scale of heat maps: dark is slow, bright is fast; lightness rises evenly, so it also reads without colour."""


def plain(text: object) -> str:
    """Text escaped for a plot: plotly interprets some markup in labels and hover texts."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def colour_of(group: str) -> str:
    """The colour of a family or group: "gemm (inductor)" has the colour of "gemm", and unknown names are grey."""
    return FAMILY_COLOURS.get(group.split(" ")[0], GREY)


def architecture_family(name: str) -> str:
    """Family in an architecture's name, "cpu", "gpu", "tpu" or "kpu"; "" when the name contains none of them."""
    parts = name.lower().replace("-", "_").split("_")
    return next((family for family in ARCHITECTURE_COLOURS if family in parts), "")


AXIS: Mapping[str, Any] = MappingProxyType(
    {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": FAINT, "ticks": "", "automargin": True}
)


def house_layout(height: int) -> dict[str, Any]:
    """Layout of every figure except its axes. The background is transparent, so that the page's theme shows through."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#566173"},
        "margin": {"l": 10, "r": 10, "t": 56, "b": 10},
        "hoverlabel": {"font": {"size": 13}, "align": "left"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0, "itemsizing": "constant", "traceorder": "normal"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": "#3566e0"},
    }


def figure(
    traces: Sequence[Any],
    x: dict[str, Any],
    y: dict[str, Any],
    *,
    height: int = 520,
    layout: Mapping[str, Any] = MappingProxyType({}),
) -> go.Figure:
    """A figure with one pair of axes in the house style."""
    axes = {"xaxis": {**AXIS, **x}, "yaxis": {**AXIS, **y}}
    return go.Figure(list(traces), {**house_layout(height), **axes, **layout})


def line(x: Sequence[float], y: Sequence[float], style: Mapping[str, Any]) -> go.Scatter:
    """A guide line without hover text or legend entry."""
    return go.Scatter(x=x, y=y, mode="lines", line=style, hoverinfo="skip", showlegend=False)


def error_bars(values: Sequence[float], low: Sequence[float], high: Sequence[float], width: int = 0) -> dict[str, Any]:
    """Error bars from `low` to `high` around `values`, with caps of `width` pixels."""
    up = [end - value for value, end in zip(values, high, strict=True)]
    down = [value - end for value, end in zip(values, low, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": width}


def dropdown(buttons: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> dict[str, Any]:
    """A menu at the left edge of a figure."""
    # plotly paints the hovered entry near-white whatever the theme, so the menu keeps dark text on a light background.
    colours = {"bgcolor": "#dfe4ec", "font": {"color": "#18202c"}}
    return {"buttons": buttons, "x": 0, "xanchor": "left", "showactive": True, **colours, **place}


def log_axis(title: str, values: Iterable[float], unit: str, pad: float = 0.08) -> dict[str, Any]:
    """A logarithmic axis over positive values with ticks such as "10 µs"."""
    positive = [value for value in values if value and value > 0 and math.isfinite(value)]
    low, high = (math.log10(min(positive)), math.log10(max(positive))) if positive else (0.0, 1.0)
    # The axis spans at least half a decade, so that a nearly flat line looks flat.
    margin = max(pad * max(high - low, 0.5), (0.5 - (high - low)) / 2)
    low, high = low - margin, high + margin
    ticks = log_ticks(low, high)
    return {
        "type": "log",
        "title": {"text": title},
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [si(tick, unit, 1) for tick in ticks],
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from 10^low to 10^high: decades only on a long axis, several per decade on a short one."""
    span = high - low
    step = max(1, math.ceil(span / 9))
    digits = (1,) if span > 3 else (1, 2, 5) if span > 1 else (1, 2, 3, 5, 7)
    numbers = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1, step) for digit in digits]
    return [number for number in numbers if low - 1e-9 <= math.log10(number) <= high + 1e-9]


def octave_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A linear axis over log2 of bytes with ticks such as "64 KiB"; `low` and `high` are exponents of two."""
    step = max(1, math.ceil((high - low) / 10))
    ticks = list(range(math.floor(low), math.ceil(high) + 1, step))
    return {
        "title": {"text": title},
        "range": [low - 0.5, high + 0.5],
        "tickvals": ticks,
        "ticktext": [size(2.0**tick, 1 if tick % 10 < 4 else 3).replace(".0 ", " ") for tick in ticks],
        "showgrid": False,
    }


def vertical_line(x: float, style: Mapping[str, Any]) -> dict[str, Any]:
    """Shape of a line at `x` over the whole height of a plot."""
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": style}


def vertical_marks(places: Mapping[str, float]) -> dict[str, list[dict[str, Any]]]:
    """Shapes and annotations of labelled vertical lines; `places` maps label to x."""
    top = {"xref": "x", "yref": "paper", "y": 1.0, "yanchor": "bottom", "showarrow": False}
    return {
        "shapes": [vertical_line(x, {"color": "#e0344f", "width": 1.5, "dash": "dot"}) for x in places.values()],
        "annotations": [{**top, "x": x, "text": plain(label)} for label, x in places.items()],
    }
