"""A model by module: sums, shares, and the tree."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.catalogue import DEFAULTS
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.inspection import ENTRY, inspect_graphs, parent_of, paths_to
from shmoo.estimators.units import si
from shmoo.harness.cli.app import cli
from shmoo.harness.pages.inspect import COLOURS, call_time, graph_data, headline, module_data, write_page
from tests.build import GraphBuilder

ARCH = "cpu_server_generic"


def inspection_graph():
    """body.fc1 (8x16 by 16x32), body.act, fc2 (8x32 by 32x4)."""
    b = GraphBuilder()
    x = b.relu(b.linear(b.tensor((8, 16)), 32))
    graph = b.graph(b.linear(x, 4), name="toy")
    modules = ("body.fc1", "body.act", "fc2")
    calls = tuple(msgspec.structs.replace(call, module=module) for call, module in zip(graph.calls, modules, strict=True))
    values = [msgspec.structs.replace(v, name=f"{i}.weight") if v.kind == "parameter" else v for i, v in enumerate(graph.values)]
    return msgspec.structs.replace(graph, calls=calls, values=tuple(values))


def inspection():
    """The graph on one machine."""
    return inspect_graphs([inspection_graph()], {ARCH: AnalysisDirector(load_profile(ARCH))}, runtime="eager")


def test_modules_hold_their_calls_and_those_of_the_modules_in_them():
    """The body has fc1 and its activation."""
    rows = {row.name: row for row in inspection().modules}
    assert list(rows) == ["", "body", "body.fc1", "body.act", "fc2"]
    assert rows["body"].flops == 2 * 8 * 16 * 32 + 8 * 32
    assert rows["body"].calls == 2
    assert rows[""].params == 16 * 32 + 32 * 4
    assert rows["body"].params == 16 * 32
    assert rows["fc2"].intensity == 2 * 8 * 32 * 4 / (4 * (8 * 32 + 32 * 4 + 8 * 4))


def test_shares_of_siblings_sum_to_their_parent():
    """All time is in some module, but for the entry of the graph, which is the model's own."""
    rows = {row.name: row.on[ARCH] for row in inspection().modules}
    entry = DEFAULTS["cpu"]["graph"].value / rows[""].latency_s
    assert rows[""].share == pytest.approx(1)
    assert rows["body"].share + rows["fc2"].share == pytest.approx(1 - entry)
    assert rows["body.fc1"].share + rows["body.act"].share == pytest.approx(rows["body"].share)
    assert sum(rows["body"].bound_s.values()) == pytest.approx(rows["body"].latency_s)


def test_a_shared_parameter_counts_once():
    """Two layers of one weight."""
    b = GraphBuilder()
    x, weight = b.tensor((4, 8)), b.tensor((8, 8), "parameter", "tied.weight")
    y = b.call("linear", {"input": x, "weight": weight}, (4, 8))
    graph = b.graph(b.call("linear", {"input": y, "weight": weight}, (4, 8)))
    found = inspect_graphs([graph], {ARCH: AnalysisDirector(load_profile(ARCH))})
    assert found.modules[0].params == 64


def test_the_tree_is_cut_and_sorted():
    """Depth 1 leaves out what is in the body; flops sort siblings, among them the entry of the graph."""
    found = inspection()
    assert [row.name for row in found.tree(1)] == ["", ENTRY, "body", "fc2"]
    assert [row.name for row in found.tree(0)] == [""]
    assert [row.name for row in found.tree(sort="name")] == ["", ENTRY, "body", "body.act", "body.fc1", "fc2"]
    assert [row.name for row in found.tree(sort="params")] == ["", "body", "body.fc1", "body.act", "fc2", ENTRY]
    with pytest.raises(InputError, match="flops"):
        found.tree(sort="flop")


def test_paths_lead_from_the_model_to_the_module():
    """Every holder, the model first."""
    assert paths_to("a.b.c") == ["", "a", "a.b", "a.b.c"]
    assert paths_to("") == [""]
    assert parent_of("a.b") == "a"


def test_the_page_holds_the_graph_of_kernels():
    """Two linear layers and an activation: each reads the one before, the activation is named after its own module."""
    data = graph_data(inspection(), ARCH)
    assert [kernel["sources"] for kernel in data["kernels"]] == [(), (0,), (1,)]
    assert [kernel["module"] for kernel in data["kernels"]] == ["body.fc1", "body.act", "fc2"]
    entry = DEFAULTS["cpu"]["graph"].value / inspection().modules[0].on[ARCH].latency_s
    assert sum(kernel["share"] for kernel in data["kernels"]) == pytest.approx(1 - entry)
    assert set(data["modules"]) == {"", "body", "body.fc1", "body.act", "fc2"}
    assert {kernel["bound"] for kernel in data["kernels"]} <= set(data["colours"])


def test_the_icicle_has_a_box_a_module_and_the_page_needs_no_network(tmp_path):
    """Each box stands on an earlier one that holds it, the model on none; names are escaped; the page loads nothing."""
    found = inspection()
    found = msgspec.structs.replace(found, model="<script>alert(1)</script>")
    boxes = module_data(found, ARCH)["boxes"]
    assert [box["label"] for box in boxes] == [found.model, "body", "fc1", "act", "fc2"]
    assert [box["parent"] for box in boxes] == [-1, 0, 1, 1, 0]
    assert boxes[0]["share"] == pytest.approx(1.0)
    assert boxes[1]["share"] == pytest.approx(boxes[2]["share"] + boxes[3]["share"])
    page = tmp_path / "page.html"
    write_page(found, ARCH, page)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert 'src="http' not in text
    assert len(text) < 200_000
    assert found._repr_html_().count("<tr>") == 1 + len(found.tree(2))
    assert "<script>" not in found._repr_html_()


def test_the_headline_says_how_long_and_why(tmp_path):
    """The call's time, the shares of its bounds with the largest first, and the operator that takes most."""
    found = inspection()
    whole, text = found.modules[0].on[ARCH], headline(found, ARCH)
    assert text.startswith(f"One call takes {si(whole.latency_s, 's')}, bound by ")
    assert text.index(whole.bound) == min(text.index(name) for name in whole.bound_s if name in text)
    assert f"; {found.operators[0].name} takes" in text


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_white_text_reads_on_every_bound():
    """A contrast of 4.5 to 1 or more."""
    for name, colour in COLOURS.items():
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, name


def small_layers(count=40):
    """Layers whose launches on a GPU take longer than most of them run, and one that the host overtakes."""
    b = GraphBuilder()
    x = b.linear(b.tensor((4096, 4096)), 4096)
    for _ in range(count):
        x = b.layer_norm(b.linear(x, 64))
    return b.graph(x)


@pytest.mark.parametrize("arch", ["cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t256"])
def test_the_whole_model_takes_what_its_estimate_says(arch):
    """Latency and energy of one call are one number, whether asked as an estimate, as modules or as kernels."""
    director = AnalysisDirector(load_profile(arch))
    graphs = [small_layers(), inspection_graph()]
    estimate = director.estimate(graphs)
    found = inspect_graphs(graphs, {arch: director})
    assert found.modules[0].on[arch].latency_s == pytest.approx(estimate.latency_s.value, rel=1e-9)
    entry = estimate.latency_s.value - sum(kernel.elapsed_s for kernel in estimate.breakdown)
    graph = Coefficients(director.profile).value(f"graph.{estimate.runtime}", "graph")
    assert entry == pytest.approx(len(graphs) * graph, rel=1e-6)
    assert sum(kernel.energy_j for kernel in estimate.breakdown) == pytest.approx(
        estimate.energy_j.value - entry * director.profile.value("power.static"), rel=1e-9
    )


def test_a_launch_that_hides_behind_the_device_takes_no_time():
    """On a GPU a large product gives the host time to launch what follows, and the page says how much."""
    arch = "gpu_h100"
    b = GraphBuilder()
    x = b.tensor((16384, 16384))
    graph = b.graph(b.linear(b.linear(x, 16384), 16384))
    found = inspect_graphs([graph], {arch: AnalysisDirector(load_profile(arch))})
    first, second = (node.kernel for node in found.kernels[arch])
    assert first.elapsed_s > first.latency_s - first.launch_s
    assert second.elapsed_s == pytest.approx(second.latency_s - second.launch_s, rel=1e-9)
    assert second.bound == "compute"
    assert found.hidden_s(arch) >= second.launch_s
    assert "of launches hide behind the device" in call_time(found, arch)
    assert "hide" not in call_time(inspection(), ARCH)


def test_inspect_writes_json_csv_and_a_page(tmp_path):
    """One document on stdout, the files beside it."""
    csv_path, html_path = tmp_path / "m.csv", tmp_path / "m.html"
    arguments = ["inspect", "resnet_block", "--arch", f"{ARCH},gpu_h100", "--depth", "9", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--csv", str(csv_path), "--html", str(html_path)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["architectures"] == [ARCH, "gpu_h100"]
    assert {op["name"] for op in document["operators"]} >= {"aten.conv2d", "aten.batch_norm"}
    assert len(csv_path.read_text().splitlines()) == 1 + len(document["modules"])
    page = html_path.read_text(encoding="utf-8")
    assert f"<h1>resnet_block on {ARCH}</h1>" in page
    assert page.rstrip().endswith("</html>")


def test_inspect_shows_modules_and_operators():
    """The table names both."""
    result = CliRunner().invoke(cli, ["inspect", "resnet_block", "--arch", ARCH, "--top", "3"])
    assert result.exit_code == 0, result.output
    assert "aten.conv2d" in result.stdout
    assert "% cpu_server_generic" in result.stdout


def test_modules_say_what_they_give_and_take():
    """The output of a module is that of its last call; energies of siblings sum to their parent's, the graph's entry is the
    model's own."""
    found = inspection()
    rows = {row.name: row for row in found.modules}
    assert rows["body.fc1"].shape == rows["body.act"].shape == rows["body"].shape == (8, 32)
    assert rows[""].shape == rows["fc2"].shape == (8, 4)
    assert all(row.shape == () for row in found.operators)
    energy = {name: row.on[ARCH].energy_j for name, row in rows.items()}
    estimate = AnalysisDirector(load_profile(ARCH)).estimate([inspection_graph()], runtime="eager")
    assert energy[""] == pytest.approx(estimate.energy_j.value)
    assert energy["body"] == pytest.approx(energy["body.fc1"] + energy["body.act"])
    entry = found.entry_s(ARCH) * load_profile(ARCH).value("power.static")
    assert energy[""] == pytest.approx(energy["body"] + energy["fc2"] + entry)


def test_energy_that_is_not_known_is_none():
    """A profile without energy coefficients."""
    profile = load_profile(ARCH)
    kept = {name: c for name, c in profile.coefficients.items() if not name.startswith("energy.")}
    found = inspect_graphs([inspection_graph()], {ARCH: AnalysisDirector(profile.replacing(coefficients=kept))})
    assert {row.on[ARCH].energy_j for row in (*found.modules, *found.operators)} == {None}
