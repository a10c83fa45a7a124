"""The frame of pages: what is escaped, what is in it, and colours that read."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup

from shmoo.estimators.shown_columns import Cell
from shmoo.runs.plots.chart import Points, figure, log_axis
from shmoo.runs.plots.page import TEMPLATES, cards, page, plot, section, table

HOSTILE = "</script><img src=x onerror=alert(1)>"
LEAST_CONTRAST = 4.5
"""Of text, by WCAG 2.1, criterion 1.4.3."""


def test_texts_are_escaped_wherever_they_stand() -> None:
    """Titles, answers, links, headings, cells, cards, labels and data of others add no element."""
    body = section(
        HOSTILE, HOSTILE, HOSTILE, table([{HOSTILE: Cell(HOSTILE, 1.0, "poor", HOSTILE)}], HOSTILE), plot("a", HOSTILE)
    )
    text = page(
        HOSTILE,
        body,
        answer=HOSTILE,
        eyebrow=HOSTILE,
        summary=cards([(HOSTILE, HOSTILE, HOSTILE)]),
        links=[(HOSTILE, HOSTILE)],
        data={"x": HOSTILE},
        footer=HOSTILE,
    )
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert text.count("&lt;img") > 10


def test_a_page_has_a_title_an_answer_and_only_the_scripts_it_needs() -> None:
    """Without a figure there is nothing that draws one. A number of the answer does not part with its unit."""
    text = page("resnet50 on kpu_t256", Markup(""), answer="1.2 ms a call.")
    assert "<title>resnet50 on kpu_t256 · Shmoo</title>" in text
    assert text.index("<h1>resnet50 on kpu_t256</h1>") < text.index('<p class="answer">1.2\u00a0ms a call.</p>')
    assert len(text) < 20_000
    axis = log_axis("time", [1.0, 2.0], "s")
    drawn = page("a", plot("a", "b"), answer="c", figures={"a": figure(Points(x=(1.0,), y=(2.0,)), x=axis, y=axis)})
    assert 'id="figures"' in drawn
    assert len(drawn) > len(text) + 10_000


def test_a_table_without_rows_says_so() -> None:
    """Rather than showing headings of nothing."""
    assert "Nothing to show" in table([], "rows")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_reads_on_every_ground(theme: int) -> None:
    """Inks on the grounds of page and panel, and marks of errors on their own grounds."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]))
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("ground", "panel")]
    pairs += [(tone, f"{tone}-ground") for tone in ("good", "fair", "poor")]
    for ink, ground in pairs:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= LEAST_CONTRAST, (ink, ground)
