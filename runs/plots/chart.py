"""Figures as records that the page's script (templates/chart.js) draws: axes, marks in data coordinates, and hover texts.
Colours are CSS colours; texts are plain and may have several lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

Grid = Sequence[Sequence[float | None]]
"""Values of a heat map: one list per position along y."""
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


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """An axis with its range.

    Attributes:
        unit: unit of its numbers; "%" shows fractions as per cent.
        scale: "octave" is logarithmic, with powers of two such as "64 KiB" as ticks.
        labels: names of categories at positions 0, 1, 2 and so on.
    """

    title: str = ""
    unit: str = ""
    scale: Literal["linear", "log", "octave"] = "linear"
    low: float = 0.0
    high: float = 1.0
    labels: tuple[str, ...] = ()


class Points(msgspec.Struct, frozen=True, omit_defaults=True, tag="points", kw_only=True):
    """Marks at points, optionally joined by a line.

    Attributes:
        name: entry in the legend; "" has none. texts: hover text of each point, beside its coordinates.
        line: "" for none, "solid", or a dash pattern in SVG's notation. symbol: "" for none. size: in pixels; sizes: for each
            point where they differ.
        left, right, low, high: ends of the intervals along x and y. hollow: points whose symbol is not filled.
        listed: whether the legend lists it; of several series that share a name, one does.
    """

    x: tuple[float | None, ...]
    y: tuple[float | None, ...]
    name: str = ""
    colour: str = "var(--edge)"
    texts: tuple[str, ...] = ()
    symbol: str = "circle"
    size: float = 7.0
    sizes: tuple[float, ...] = ()
    opacity: float = 1.0
    line: str = ""
    left: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    hollow: tuple[bool, ...] = ()
    listed: bool = True


class Guide(msgspec.Struct, frozen=True, omit_defaults=True, tag="guide", kw_only=True):
    """A reference line with a label at its end."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str = "var(--edge)"
    line: str = "solid"
    width: float = 1.0
    label: str = ""


class Band(msgspec.Struct, frozen=True, omit_defaults=True, tag="band", kw_only=True):
    """The area between two lines over x."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    name: str = ""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, tag="rule", kw_only=True):
    """A vertical line over the whole height, labelled at its top."""

    x: float
    label: str = ""
    colour: str = "#d3304d"


class Bars(msgspec.Struct, frozen=True, omit_defaults=True, tag="bars", kw_only=True):
    """Horizontal bars from `start` to `end` at the positions `at` along y, `thickness` of a category thick."""

    at: tuple[float, ...]
    start: tuple[float, ...]
    end: tuple[float, ...]
    name: str
    colour: str
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    thickness: float = 0.8


class Boxes(msgspec.Struct, frozen=True, omit_defaults=True, tag="boxes", kw_only=True):
    """Horizontal boxes at the positions `at` along y: quartiles, whiskers, and the points beyond them.

    Attributes:
        quartiles: (low whisker, first quartile, median, third quartile, high whisker) of each box. colours: one per box.
    """

    at: tuple[float, ...]
    quartiles: tuple[tuple[float, float, float, float, float], ...]
    colours: tuple[str, ...]


class Layer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One quantity of a heat map, coloured by its logarithm where `log`; with `less`, small values are bright."""

    name: str
    unit: str
    z: Grid
    low: float
    high: float
    log: bool = False
    less: bool = False


class Heat(msgspec.Struct, frozen=True, omit_defaults=True, tag="heat", kw_only=True):
    """A heat map over the categories of both axes. A menu selects one of several layers; the hover text shows all of them.

    Attributes:
        cells: text in each cell; without it, the value. texts: hover text beside the values.
    """

    layers: tuple[Layer, ...]
    cells: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str, ...] = ()


class Regions(msgspec.Struct, frozen=True, omit_defaults=True, tag="regions", kw_only=True):
    """A map of names over the categories of both axes, such as the best machine in each cell; -1 leaves a cell empty."""

    index: Sequence[Sequence[int]]
    names: tuple[str, ...]
    colours: tuple[str, ...]
    texts: tuple[str, ...] = ()


class Contour(msgspec.Struct, frozen=True, omit_defaults=True, tag="contour", kw_only=True):
    """Straight pieces (x0, y0, x1, y1) of a border."""

    pieces: tuple[tuple[float, float, float, float], ...]
    name: str


Mark = Points | Guide | Band | Rule | Bars | Boxes | Heat | Regions | Contour


class Chart(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pair of axes with its marks, the first at the back."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    title: str = ""
    height: int = 420


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Charts side by side where the window is wide enough; with `choose`, a menu shows one at a time by its title."""

    charts: tuple[Chart, ...]
    columns: int = 1
    choose: bool = False


def figure(*marks: Mark, x: Axis, y: Axis, height: int = 420) -> Figure:
    """A figure of one chart."""
    return Figure((Chart(x, y, marks, height=height),))


def log_axis(title: str, values: Iterable[float | None], unit: str, pad: float = 0.08) -> Axis:
    """A logarithmic axis over the positive values. It spans at least half a decade, so that a nearly flat line looks flat."""
    positive = [value for value in values if value and value > 0 and math.isfinite(value)]
    low, high = (math.log10(min(positive)), math.log10(max(positive))) if positive else (0.0, 1.0)
    margin = max(pad * max(high - low, 0.5), (0.5 - (high - low)) / 2)
    return Axis(title, unit, "log", 10 ** (low - margin), 10 ** (high + margin))


def categories(title: str, labels: Sequence[str]) -> Axis:
    """An axis of names, or of the cells of a heat map."""
    return Axis(title, low=-0.5, high=len(labels) - 0.5, labels=tuple(labels))


def figures_json(figures: Mapping[str, Figure]) -> str:
    """Figures by name, in the JSON that the page's script reads. A text shared by several marks is stored once."""
    places: dict[str, int] = {}

    def packed(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}") if math.isfinite(value) else None
        if isinstance(value, list | tuple):
            return [packed(item) for item in value]
        if isinstance(value, dict):
            return {
                name: [places.setdefault(text, len(places)) for text in item] if name == "texts" else packed(item)
                for name, item in value.items()
            }
        return value

    drawn = packed(msgspec.to_builtins(dict(figures)))
    return script_json({"texts": list(places), "figures": drawn})


def script_json(value: object) -> str:
    """JSON for a script element: angle brackets are escaped, so that no "</script" or comment ends it early."""
    escapes: dict[str, str | int | None] = {character: f"\\u{ord(character):04x}" for character in "<>\u2028\u2029"}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(str.maketrans(escapes))


def colour_of(group: str) -> str:
    """The colour of a family or group: "gemm (inductor)" has the colour of "gemm", and unknown names are grey."""
    return FAMILY_COLOURS.get(group.split(" ")[0], GREY)


def architecture_family(name: str) -> str:
    """Family in an architecture's name, "cpu", "gpu", "tpu" or "kpu"; "" when the name contains none of them."""
    parts = name.lower().replace("-", "_").split("_")
    return next((family for family in ARCHITECTURE_COLOURS if family in parts), "")
