"""Models that torch.compile does not take whole."""

from __future__ import annotations

import torch
from torch import nn


class Split(nn.Module):
    """A layer, an LSTM and another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.head = nn.Linear(8, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.first(x).relu())[0].relu())


def split() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The model and its input."""
    return Split().eval(), (torch.rand(2, 5, 8),)
