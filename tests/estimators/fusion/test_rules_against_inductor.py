"""Predicted kernels held against those Inductor really makes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shmoo.estimators.fusion.rules import fusion_groups
from shmoo.estimators.present.savings import FusionScore, fusion_score
from shmoo.harness.runtimes.inductor_groups import inductor_groups, workload_groups
from shmoo.harness.workloads.loading import find_workload

MODES = {"inductor": False, "inductor-freezing": True}
NETWORKS = (
    *(
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "densenet121",
        "convnext_tiny",
        "vit_b_16",
    ),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "swin_t", "squeezenet1_1", "googlenet", "inception_v3", "mnasnet1_0", "vgg11_bn"),
)


def score(found, runtime: str) -> list[FusionScore]:
    return [fusion_score([g.calls for g in fusion_groups(piece.graph, runtime)], piece.groups) for piece in found]


class Residual(nn.Module):
    """conv+bn+relu, conv+bn, a projected residual, global pooling and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.project = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.norms[0](self.first(x)))
        y = torch.relu(self.norms[1](self.second(y)) + self.norms[2](self.project(x)))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Gated(nn.Module):
    """Squeeze and excitation: a pooled gate over what it was pooled from."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.gate = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = F.silu(self.norm(self.conv(x)))
        return self.last(y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1))))


class Fire(nn.Module):
    """Branches that are concatenated, one of them twice."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x):
        left = torch.relu(self.left(x))
        first = torch.cat([left, torch.relu(self.right(x)), F.max_pool2d(x, 3, 1, 1)], 1)
        return torch.cat([first, left], 1)


class Blocks(nn.Module):
    """Pre-norm transformer blocks without attention: residuals that are inlined until they read too much."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(5))
        self.up = nn.ModuleList(nn.Linear(16, 32) for _ in range(5))
        self.down = nn.ModuleList(nn.Linear(32, 16) for _ in range(5))

    def forward(self, x):
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return x


SMALL = {Residual: (2, 4, 16, 16), Gated: (1, 4, 12, 12), Fire: (1, 4, 12, 12), Blocks: (2, 8, 16)}


@pytest.mark.parametrize("runtime", MODES)
@pytest.mark.parametrize("model", SMALL)
def test_small_models_are_predicted_exactly(model, runtime):
    """The rules of both modes, in the patterns that networks are made of."""
    found, _ = inductor_groups(model().eval(), (torch.zeros(SMALL[model]),), freezing=MODES[runtime])
    (agreement,) = score(found, runtime)
    assert agreement.f1 == 1
    assert agreement.predicted_kernels == pytest.approx(agreement.real_kernels, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", MODES)
def test_networks_are_predicted(runtime):
    """Mean F1 at least 0.90, and as many kernels within 10 % over all networks."""
    scores = [s for name in NETWORKS for s in score(workload_groups(find_workload(name), freezing=MODES[runtime]), runtime)]
    assert sum(s.f1 for s in scores) / len(scores) >= 0.90
    ratio = sum(s.predicted_kernels for s in scores) / sum(s.real_kernels for s in scores)
    assert ratio == pytest.approx(1, abs=0.1)
