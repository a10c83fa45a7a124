"""The picture of fusion: what is left of each network's kernels, bytes, time and energy. plotly is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shmoo.estimators.fusion_savings import QUANTITIES, FusionSummary, amount
from shmoo.estimators.present import percent
from shmoo.runs.plot_style import GREY, figure, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLOURS = {"kernels": "#4f7df3", "bytes": "#19b28a", "latency_s": "#f2803a", "energy_j": "#9a62e8"}
_ROW, _FRAME = 86, 130
"""Height of a network's bars and of what stands around all of them, in pixels."""


def fusion_figure(networks: Sequence[FusionSummary]) -> go.Figure | None:
    """Bars a network: the share of its call-by-call totals that is left when it is fused; `None` without networks."""
    import plotly.graph_objects as go

    if not networks:
        return None
    names = [plain(network.model) for network in networks]
    traces = []
    for field, label, unit in QUANTITIES:
        left, texts, hovers = [], [], []
        for network, name in zip(networks, names, strict=True):
            before, after = getattr(network.savings.alone, field), getattr(network.savings.fused, field)
            saved = network.savings.saved(field)
            left.append(None if saved is None else 1 - saved)
            texts.append("" if saved is None else f"{amount(before, unit)} → {amount(after, unit)}")
            totals = f"{amount(before, unit)} call by call, {amount(after, unit)} fused"
            hovers.append(f"<b>{name}</b><br>{label}: {totals}, {percent(saved)} saved")
        if any(share is not None for share in left):
            traces.append(
                go.Bar(
                    x=left,
                    y=names,
                    orientation="h",
                    name=label,
                    marker={"color": _COLOURS[field]},
                    text=texts,
                    textposition="auto",
                    hovertext=hovers,
                    hoverinfo="text",
                )
            )
    whole = {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": 1,
        "x1": 1,
        "y0": 0,
        "y1": 1,
        "line": {"color": GREY, "dash": "dot"},
    }
    x = {"title": {"text": "left after fusion, of the same network call by call"}, "tickformat": ".0%", "rangemode": "tozero"}
    y = {"autorange": "reversed", "showgrid": False}
    layout = {"barmode": "group", "bargap": 0.3, "shapes": [whole]}
    return figure(traces, x, y, height=_FRAME + _ROW * len(networks), layout=layout)
