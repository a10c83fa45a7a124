"""torch.compile back-ends that model a KPU or a TPU; the page of examples is run as it stands."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.tiling.recurrences import lu
from shmoo.harness.capture import capture
from shmoo.harness.runtimes import modelled_backend
from shmoo.harness.runtimes.modelled_backend import recording
from tests.build import with_values

PAGE = Path(__file__).parents[3] / "docs" / "backends.md"


def compiled(model, backend=modelled_backend.kpu, **options):
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, options=options or None)


class Network(nn.Module):
    """A convolution with buffers, a branch that Dynamo breaks at, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(8 * 16 * 16, 10)

    def forward(self, x):
        x = self.body(x)
        torch._dynamo.graph_break()
        return self.head(x)


def test_the_page_of_examples_runs():
    """Outputs equal eager's; latency, energy and a schedule can be read afterwards."""
    names: dict = {}
    torch._dynamo.reset()
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    with torch.no_grad():
        expected = names["model"](names["x"])
    for machine, profile in (("kpu", "kpu_t64"), ("tpu", "tpu_v5e")):
        call = names[f"{machine}_call"]
        assert torch.equal(names[f"{machine}_output"], expected)
        assert call.estimate.arch == profile
        assert 0 < call.latency_s.low <= call.latency_s.value <= call.latency_s.high
        assert call.energy_j == call.estimate.energy_j
        assert call.schedule[-1].end_s == pytest.approx(call.latency_s.value)


def test_back_ends_are_known_by_name_where_shmoo_is_installed():
    """Both entry points lead to the functions here."""
    points = {point.name: point for point in entry_points(group="torch_dynamo_backends")}
    if "kpu" not in points:
        pytest.skip("installed before the back-ends existed; install again (pip install -e .)")
    assert points["kpu"].load() is modelled_backend.kpu
    assert points["tpu"].load() is modelled_backend.tpu


@pytest.mark.parametrize("backend", [modelled_backend.kpu, modelled_backend.tpu])
def test_outputs_and_gradients_equal_eagers(backend):
    """A model in pieces, with buffers, trains as it does eagerly."""
    torch.manual_seed(0)
    model = Network().eval()
    x = torch.rand(2, 3, 16, 16)
    expected = model(x)
    expected.sum().backward()
    gradient = model.head.weight.grad.clone()
    model.zero_grad()
    with recording() as call:
        output = compiled(model, backend)(x)
    output.sum().backward()
    assert torch.equal(output, expected)
    assert torch.equal(model.head.weight.grad, gradient)
    assert len(call.graphs) == 2
    assert sum(graph.params for graph in call.graphs) == sum(p.numel() for p in model.parameters())


def test_a_modelled_call_is_the_estimate_of_the_captured_model():
    """The same graphs as `capture` gives, so the same numbers."""
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)).eval()
    x = torch.rand(4, 64)
    with torch.no_grad(), recording() as call:
        compiled(model, profile="kpu_t768")(x)
    estimate = AnalysisDirector(load_profile("kpu_t768")).estimate(capture(model, (x,)).graphs)
    assert call.latency_s == estimate.latency_s
    assert call.energy_j == estimate.energy_j
    assert [slot.kernel for slot in call.schedule] == list(estimate.breakdown)


def test_schedule_is_in_order_without_gaps():
    """Each kernel starts where the one before ended, the first at once, as a graph of one kernel is entered by its launch; the
    last ends with the call."""
    with torch.no_grad(), recording() as call:
        compiled(Network().eval())(torch.rand(1, 3, 16, 16))
    starts, ends = [s.start_s for s in call.schedule], [s.end_s for s in call.schedule]
    assert starts == pytest.approx([0.0, *ends[:-1]])
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert ends[-1] == pytest.approx(call.latency_s.value)


def test_every_shape_is_modelled_as_it_comes():
    """A graph of symbolic sizes is modelled at the sizes of each call."""
    model = nn.Linear(32, 32).eval()
    run = compiled(model)
    rows = []
    for batch in (3, 5, 9):
        with torch.no_grad(), recording() as call:
            run(torch.rand(batch, 32))
        rows.append(call.estimate.macs)
    assert rows == [batch * 32 * 32 for batch in (3, 5, 9)]


def test_a_profile_can_be_passed_and_changed():
    """Any `ArchitectureProfile` of the family will do: four times the memory bandwidth streams weights faster."""
    profile = load_profile("kpu_t64")
    fast = with_values(profile, {"bandwidth.dram": 4 * profile.value("bandwidth.dram")})
    model, x = nn.Linear(4096, 4096).eval(), torch.rand(1, 4096)
    times = []
    for machine in (profile, fast):
        with torch.no_grad(), recording() as call:
            compiled(model, profile=machine)(x)
        times.append(call.latency_s.value)
    assert times[1] < times[0]


FACTORISATIONS = {
    "lu_factor": (lambda a: torch.linalg.lu_factor(a), 2 / 3),
    "lu": (lambda a: torch.linalg.lu(a), 2 / 3),
    "qr": (lambda a: torch.linalg.qr(a), 2 * 4 / 3),
}
"""Name -> call, and flops over n^3: of QR with its thin Q."""


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_factorizations_reach_the_recurrences(name):
    """torch.linalg's LU and QR compute what they do eagerly, and take 3 n - 2 steps of what a point computes, or of one cycle."""
    n = 48
    factor, flops = FACTORISATIONS[name]
    a = torch.rand(n, n) + n * torch.eye(n)
    with torch.no_grad(), recording() as call:
        output = compiled(factor)(a)
    assert all(map(torch.equal, output, factor(a)))
    director = AnalysisDirector(load_profile("kpu_t256"))
    cycles = director.tile(director.tabulate(call.graphs, "domainflow")[0]).cycles
    assert {slot.kernel.family for slot in call.schedule} == {"linalg"}
    assert cycles[0] == pytest.approx(lu(n, n).latency * max(flops * n**3 / 2 / lu(n, n).phases[0].points, 1.0))


def test_nothing_is_kept_outside_recording():
    """Reading a recording in which nothing ran says so."""
    run = compiled(nn.Linear(4, 4).eval())
    run(torch.rand(1, 4))
    with recording() as call:
        pass
    with pytest.raises(NothingMeasuredError, match="recording"):
        _ = call.latency_s


@pytest.mark.parametrize(
    ("options", "message"),
    [({"profil": "kpu_t64"}, "profile"), ({"profile": "kpu_t46"}, "kpu_t64"), ({"profile": "tpu_v4"}, "models a kpu")],
)
def test_wrong_options_are_refused(options, message):
    """Misspelt options and profiles, and a machine of another family."""
    with pytest.raises(InputError, match=message):
        modelled_backend.kpu(None, (), options=options)


def test_machines_are_not_mixed():
    """Pieces of two machines in one recording have no common estimate."""
    model, x = nn.Linear(4, 4).eval(), torch.rand(1, 4)
    on_kpu = compiled(model)
    with torch.no_grad(), recording() as call:
        on_kpu(x)
        compiled(model, modelled_backend.tpu)(x)
    with pytest.raises(InputError, match="kpu_t256, tpu_v4"):
        _ = call.estimate
