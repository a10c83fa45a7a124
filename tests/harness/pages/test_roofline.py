"""The roofline page: kernels at their intensity and rate, roofs of the machine, and measured calls of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.inspection import inspect_graphs
from shmoo.harness.pages.roofline import call_points, kernel_points, roofs_of, write_roofline
from shmoo.runs.store.records import CaseSpec, ChildTime, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.build import GraphBuilder
from tests.cli_runner import shmoo

ARCH = "cpu_server_generic"


def network() -> Graph:
    b = GraphBuilder()
    return b.graph(b.relu(b.linear(b.tensor((64, 128)), 256)))


def run(path: Path) -> Run:
    """A network whose two calls took 1 ms and 1 us."""
    graph = network()
    children = (ChildTime(0, "aten.linear", 1e-3, "interpreter"), ChildTime(1, "aten.relu", 1e-6, "interpreter"))
    machine = Machine("a CPU", 4, 8, 1 << 34)
    with RunWriter(path, RunManifest(machine, "nets")) as writer:
        case = CaseSpec("net", "network", {"batch": 64})
        writer.append(Measurement(case, "ok", (), (graph.content_hash,), Timing((1e-3, 1.1e-3)), children), [graph])
    return Run.open(path)


def test_kernels_stand_at_their_work_over_their_time() -> None:
    """64 x 128 x 256 multiply-adds over three matrices; the rate is that of the time a kernel adds to the call."""
    inspection = inspect_graphs([network()], {ARCH: AnalysisDirector(load_profile(ARCH))}, runtime="eager")
    linear, relu = kernel_points(inspection, ARCH)
    nbytes = 4 * (64 * 128 + 128 * 256 + 64 * 256)
    assert linear.intensity == pytest.approx(2 * 64 * 128 * 256 / nbytes)
    assert linear.rate == pytest.approx(2 * 64 * 128 * 256 / inspection.kernels[ARCH][0].kernel.elapsed_s)
    assert relu.intensity == pytest.approx(1 / 8)
    assert linear.share + relu.share == pytest.approx(1 - inspection.entry_s(ARCH) / inspection.modules[0].on[ARCH].latency_s)


def test_roofs_are_the_profile_s() -> None:
    """The peak of the type, and a bandwidth a memory level, main memory last."""
    profile = load_profile("gpu_t4")
    roofs = roofs_of(profile, "float16")
    assert roofs[0][2] == profile.value("peak.matrix.float16")
    assert roofs[-1][1] == profile.value("bandwidth.dram")


def test_measured_calls_have_the_work_of_their_graph(tmp_path: Path) -> None:
    """Their rate is work over measured time; a workload without timed calls is refused, and those with them are named."""
    linear, relu = call_points(run(tmp_path / "run"), "net")
    assert linear.rate == pytest.approx(2 * 64 * 128 * 256 / 1e-3)
    assert linear.text == "measured: aten.linear in the model itself: 1.00 ms"
    assert relu.rate == pytest.approx(64 * 256 / 1e-6)
    with pytest.raises(InputError, match="it timed those of net"):
        call_points(Run.open(tmp_path / "run"), "resnet18")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    """One dot a kernel, one diamond a measured call, texts escaped, no address to fetch."""
    inspection = inspect_graphs([network()], {ARCH: AnalysisDirector(load_profile(ARCH))}, runtime="eager", model="<net>")
    path = tmp_path / "roofline.html"
    write_roofline(inspection, load_profile(ARCH), "float32", path, call_points(run(tmp_path / "run"), "net"))
    page = path.read_text(encoding="utf-8")
    (chart,) = json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)[1])[
        "figures"
    ]["roofline"]["charts"]
    dots = [mark for mark in chart["marks"] if mark["type"] == "points"]
    assert sum(len(mark["x"]) for mark in dots if mark["name"] != "measured") == 2
    assert sum(len(mark["x"]) for mark in dots if mark["name"] == "measured") == 2
    assert "&lt;net&gt;" in page
    assert "<net>" not in page
    assert not re.search(r"(src|href)=[\"']https?:", page)


@pytest.mark.usefixtures("own_home")
def test_inspect_writes_it_and_shows_time_energy_and_shapes() -> None:
    """--roofline on the first architecture; --run alone is refused."""
    result = shmoo("inspect", "mlp", "--arch", f"{ARCH},kpu_t64", "--roofline", "roofline.html")
    assert result.exit_code == 0, result.output
    assert Path("roofline.html").stat().st_size > 1000
    for header in ("output", f"time {ARCH}", f"energy {ARCH}", "time kpu_t64", "energy kpu_t64"):
        assert header in result.stdout
    refused = shmoo("inspect", "mlp", "--run", "run")
    assert refused.exit_code == 2
    assert "--roofline" in refused.stderr
