"""A history as one page."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from shmoo.estimators.graph.records import NORMAL_90
from shmoo.estimators.shown_columns import Cell, quantity
from shmoo.estimators.units import counted, percent, si
from shmoo.runs.analysis.history import ChangePoint, History, Series
from shmoo.runs.plots.page import TEMPLATES, Table, cards, page, render

MOST_DRAWN = 200
"""Most cases drawn; those that changed come first."""
WIDTH, HEIGHT, MARGIN = 1000.0, 120.0, 12.0
"""Size of a picture and the space around it."""
LEAST_SPAN = 0.1
"""Smallest logarithmic span of a picture, so that noise looks like noise."""


def render_history(history: History, threshold: float) -> str:
    """The page as text; all names in it are escaped."""
    drawn = history.every[:MOST_DRAWN]
    notice = Markup('<p class="notice">{} was measured on another machine or setting: {}</p>')
    changed = sum(bool(series.changes) for series in history.series)
    figures = (
        (str(len(history.runs)), "runs", f"{_minute(history.runs[0].started_at)} to {_minute(history.runs[-1].started_at)}"),
        (str(len(history.series)), "cases", "usable in two runs at least, or listed with their rows"),
        (str(changed), "changed", f"by more than {percent(threshold)}"),
    )
    body = render(
        "history.html.j2",
        threshold=percent(threshold),
        changes=[change_row(history, series, change) for series in history.every for change in series.changes],
        drawn=[{"label": series.label, "remark": _remark(series), **_picture(history, series)} for series in drawn],
        count=len(history.runs),
        more=len(history.every) - len(drawn),
        runs=_runs(history),
    )
    return page(
        f"{counted(len(history.runs), 'run')} over time",
        body,
        eyebrow="History",
        answer=f"{history.headline}.",
        summary=cards(figures)
        + Markup("").join(notice.format(run.label, ", ".join(run.differs)) for run in history.runs if run.differs),
        links=[("changes", "Changes"), ("cases", "Cases"), ("runs", "Runs")],
        style=(TEMPLATES / "history.css").read_text(encoding="utf-8"),
    )


def change_row(history: History, series: Series, change: ChangePoint) -> dict[str, Cell]:
    """Table row of a case and the run from which on it differs."""
    ratio = change.ratio
    return {
        "case": Cell(series.label),
        "first run that differs": Cell(history.runs[change.run].label),
        "ratio": Cell(f"{ratio.value:.3f}", ratio.value, "poor" if ratio.value > 1 else "good", numeric=True),
        "90 % interval": Cell(f"{ratio.low:.3f} to {ratio.high:.3f}", ratio.low, numeric=True),
        "standard errors": Cell(f"{change.errors:.1f}", change.errors, numeric=True),
    }


def _runs(history: History) -> Table:
    return [
        {
            "#": quantity(number, "#"),
            "run": Cell(str(run.path)),
            "commit": Cell(run.commit or "not recorded"),
            "started": Cell(_minute(run.started_at)),
            "machine differs from the first in": Cell(", ".join(run.differs)),
        }
        for number, run in enumerate(history.runs, 1)
    ]


def _minute(moment: str) -> str:
    """An ISO 8601 time in shorter form, without seconds."""
    return moment[:16].replace("T", " ") or "not recorded"


def _remark(series: Series) -> str:
    values = [point.value_s for point in series.points if point.value_s is not None]
    noise = "noise unknown: too few runs" if series.noise is None else f"equal runs differ by {percent(series.noise)}"
    if not values or series.case is None:
        return noise
    return f"{si(min(values), 's')} to {si(max(values), 's')}; {noise}"


def _picture(history: History, series: Series) -> dict[str, Any]:
    """A series for the template, on a logarithmic scale: positions in pixels, and the text of each mark."""
    timed = [(p.run, math.log(p.value_s), NORMAL_90 * (p.relative_se or 0.0)) for p in series.points if p.value_s]
    ends = [log + side * half for _, log, half in timed for side in (-1, 1)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)
    widen = max(LEAST_SPAN - (high - low), 0.0) / 2
    low, high = low - widen, high + widen

    def across(run: float) -> str:
        return f"{MARGIN + (WIDTH - 2 * MARGIN) * (run / max(len(history.runs) - 1, 1)):.1f}"

    def up(log: float) -> str:
        return f"{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (log - low) / (high - low):.1f}"

    def value_text(log: float) -> str:
        return f"{math.exp(log):.3f} of the first run" if series.case is None else si(math.exp(log), "s")

    labels = [run.label for run in history.runs]
    return {
        "size": (WIDTH, HEIGHT),
        "steps": [across(change.run - 0.5) for change in series.changes],
        "marks": [
            (across(run), up(log), up(log - half), up(log + half), f"{labels[run]}: {value_text(log)}")
            for run, log, half in timed
        ],
        "gone": [(across(p.run), f"{labels[p.run]}: {p.status}") for p in series.points if p.value_s is None],
        "edge": HEIGHT - MARGIN / 2,
    }
