"""The frame of every page: one self-contained file with a title, the answer in one sentence, and sections.

Texts are escaped; only `Markup` is HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from markupsafe import Markup

from shmoo.estimators.shown_columns import Cell
from shmoo.runs.plots.chart import Figure, figures_json, script_json
from shmoo.runs.store.files import replace_file

TEMPLATES = Path(__file__).parents[1] / "templates"


Table = Sequence[Mapping[str, Cell]]
"""Rows of a table: column title -> cell, the same titles in every row."""


def page(
    title: str,
    body: Markup,
    *,
    answer: str,
    eyebrow: str = "",
    summary: Markup | None = None,
    links: Sequence[tuple[str, str]] = (),
    figures: Mapping[str, Figure] = MappingProxyType({}),
    data: Mapping[str, object] = MappingProxyType({}),
    style: str = "",
    scripts: Sequence[str] = (),
    footer: str = "",
) -> str:
    """A whole page as text.

    Args:
        title: subject of the page, as the window's title and as the heading.
        body: sections, from `section` or a template.
        answer: one sentence below the heading with the page's main result, with numbers and units.
        eyebrow: two or three words above the heading that name the kind of page.
        summary: content after the answer in the first section, such as `cards`.
        links: (anchor, text) of the sections that the bar at the top leads to.
        figures: name -> figure, drawn in place of the `plot` of that name in the body.
        data: element id -> value that a script of the page reads as JSON.
        style, scripts: CSS and scripts for this page only, added to the shared ones.
        footer: a sentence at the end, such as the date of the measurement and the file with the numbers.
    """
    shared = [_source("page.js"), *([_source("chart.js")] if figures else [])]
    embedded = {name: script_json(value) for name, value in data.items()}
    if figures:
        embedded["figures"] = figures_json(figures)
    frame = _environment().get_template("page.html.j2")
    return frame.render(
        title=title,
        # A number stays on one line with its unit.
        answer=re.sub(r"(?<=\d) (?=(%|[nµmkMGT]?(s|J|W|i?B|flop)\b))", "\u00a0", answer),
        eyebrow=eyebrow,
        summary=summary or "",
        body=body,
        links=links,
        data={name: Markup(text) for name, text in embedded.items()},
        style=Markup((_source("chart.css") if figures else "") + style),
        scripts=[Markup(script) for script in (*shared, *scripts)],
        footer=footer,
    )


def section(anchor: str, heading: str, *parts: Markup | str) -> Markup:
    """A section of a page; plain texts become paragraphs. `anchor` is the target of links."""
    return _part("section", anchor, heading, *parts)


def cards(values: Sequence[tuple[str, str, str]]) -> Markup:
    """Cards with the most important figures, each (value with its unit, its name, a remark)."""
    return _part("cards", values)


def table(rows: Table, label: str) -> Markup:
    """A table that a click on a heading sorts; `label` describes it for screen readers."""
    return _part("table", rows, label)


def plot(name: str, label: str) -> Markup:
    """The place of the figure of that name; `label` describes it for screen readers."""
    return _part("plot", name, label)


def _part(macro: str, *values: object) -> Markup:
    markup: Markup = getattr(_environment().get_template("parts.html.j2").module, macro)(*values)
    return markup


def render(template: str, **values: Any) -> Markup:
    """A part of a page from a template, which may use `cards`, `table` and `plot`."""
    return Markup(_environment().get_template(template).render(**values))


def write(text: str, path: str | Path) -> None:
    """Write a page; characters that UTF-8 cannot encode are written as escapes."""
    replace_file(Path(path), text.encode("utf-8", "backslashreplace"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"cards": cards, "table": table, "plot": plot}
    return environment


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
