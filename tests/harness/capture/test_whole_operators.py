"""Operators that torch.export keeps whole: each is costed or free, in the form in which a model calls it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shmoo.estimators.costs import graph_cost
from shmoo.harness.capture.workload import capture_workload
from shmoo.harness.module import Built, DNNModule

CALLS = {
    "distances": lambda x: torch.dist(x, x) + torch.pdist(x).sum() + torch.trace(x),
    "solvers": lambda x: torch.linalg.lstsq(x, x).solution + torch.linalg.pinv(x) + torch.linalg.matrix_power(x, 3),
    "functions of matrices": lambda x: torch.matrix_exp(x) + torch.linalg.tensorinv(x.view(4, 4, 16), 2).view(16, 16),
    "factors": lambda x: torch.linalg.householder_product(x, x[0]) + torch.linalg.eig(x)[1].real,
    "signals": lambda x: torch.istft(torch.stft(x, 8, return_complex=True), 8),
    "shifts": lambda x: torch.fft.fftshift(x) * torch.hann_window(16),
    "statistics": lambda x: torch.cov(x) + torch.corrcoef(x) + torch.histc(x, 16),
    "pairs": lambda x: torch.isin(x, x) + torch.linalg.vecdot(x, x)[:, None],
    "draws": lambda x: torch.multinomial(x.abs(), 2).sum() + x[torch.randperm(16)] + F.gumbel_softmax(x),
    "whole numbers": lambda x: torch.gcd(x.int(), x.int()) + torch.lcm(x.int(), x.int()),
    "special": lambda x: torch.special.i1(x) + torch.special.bessel_j0(x) + torch.polygamma(1, x),
    "floats": lambda x: torch.nextafter(x, x) + torch.ldexp(x, x) + torch.logaddexp2(x, x),
    "margins": lambda x: F.triplet_margin_loss(x, x + 1, x - 1) + F.cosine_embedding_loss(x, x, torch.ones(16)),
    "sequences": lambda x: F.ctc_loss(
        x[:, None].log_softmax(-1), torch.ones(1, 5, dtype=torch.long), torch.tensor([16]), torch.tensor([5])
    ),
    "segments": lambda x: torch.segment_reduce(x, "sum", lengths=torch.full((4,), 4)),
    "writes": lambda x: x.clone().put_(torch.tensor([0]), torch.tensor([1.0])) + torch.renorm(x, 2, 0, 1.0),
    "long rows": lambda x: F.embedding(torch.tensor([1, 2]), x, max_norm=1.0),
    "windows": lambda x: F.fold(F.unfold(x[None, None], 3), (16, 16), 3) + F.local_response_norm(x[None, None], 2),
    "unpooling": lambda x: F.max_unpool1d(*F.max_pool1d(x[None], 2, return_indices=True), 2),
    "quantiles": lambda x: x.quantile(0.5, -1) + x.nanquantile(0.5, -1),
    "chains": lambda x: torch.chain_matmul(x, x, x) + torch.linalg.multi_dot([x, x, x]) + torch.kron(x[:4, :4], x[:4, :4]),
}


class Calls(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x):
        return CALLS[self.name](x)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_unknown(name):
    def factory(make) -> Built:
        return Built(Calls(name), (torch.randn(16, 16, device=make.device),))

    graphs = capture_workload(DNNModule(name, "network", (), factory)).graphs
    assert [op.op for graph in graphs for op in graph_cost(graph).unknown] == []
    assert sum(graph_cost(graph).flops for graph in graphs) > 0


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(5, 6), nn.GRUCell(6, 6), nn.RNNCell(6, 6)

    def forward(self, x):
        h, c = torch.zeros(3, 6), torch.zeros(3, 6)
        g = r = torch.zeros(3, 6)
        for step in x:
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
            r = self.rnn(g, r)
        return r


@pytest.mark.parametrize("kind", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_a_normalized_weight_is_made_anew_at_each_call(kind):
    """The layer's 4 x 8 x 16 multiply-adds; its weight is a length a row and a direction."""
    model = kind(nn.Linear(8, 16, bias=False)).eval()
    (graph,) = capture_workload(
        DNNModule("normed", "network", (), lambda make: Built(model.to(make.device), (torch.randn(4, 8, device=make.device),)))
    ).graphs
    assert graph_cost(graph).macs == 4 * 8 * 16
    assert graph.params == 8 * 16 + 16
    assert not graph_cost(graph).unknown


def test_cells_count_as_their_layers_do():
    """Two steps of three sequences: 4 and 3 gates and one of 6 units."""
    (graph,) = capture_workload(DNNModule("cells", "network", (), lambda make: Built(Cells(), (torch.randn(2, 3, 5),)))).graphs
    assert graph_cost(graph).macs == 2 * 3 * 6 * (4 * (5 + 6) + 3 * 12 + 12)
    assert not graph_cost(graph).unknown


def test_complex_numbers_stay_complex():
    """A complex product is 4 real ones; a spectral layer's weights keep their 8 bytes a number."""

    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4, 5, dtype=torch.cfloat))

        def forward(self, x):
            spectrum = torch.fft.rfft(x, n=8)
            return torch.fft.irfft(torch.einsum("bif,iof->bof", spectrum, self.weight), n=8)

    def factory(make) -> Built:
        with make.building():
            model = Spectral()
        return Built(model, (torch.randn(3, 2, 16, device=make.device),))

    (graph,) = capture_workload(DNNModule("spectral", "network", (), factory)).graphs
    cost = graph_cost(graph)
    assert cost.macs == 4 * 3 * 2 * 4 * 5
    assert graph.weight_bytes == 2 * 4 * 5 * 8
    # Real transforms of 8 points, there and back: 2.5 * 8 * 3 each.
    transforms = next(family for family in cost.families if family.family == "linalg")
    assert transforms.flops == 60 * (3 * 2 + 3 * 4)
