import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import shmoo
from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.gate import QUANTITIES, Baseline, check, footprint
from shmoo.estimators.present.inspection import inspect_graphs
from shmoo.harness.cli.app import cli
from tests.build import GraphBuilder

ARCHS = ("gpu_h100", "kpu_t256")
NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)

    def forward(self, x):
        {body}


def build():
    return Net().eval()
"""
FUSED = "return self.second(self.act(self.first(x)) * 3.0)"
LOST = "return self.second(self.act(self.first(x))) * 3.0"
"""The multiplication no longer follows the activation: equal flops, one kernel more."""
LARGER = "return self.second(self.act(self.first(x)) * 3.0) @ self.first.weight"


def graph_of(order):
    """linear, then relu and mul in one kernel, then linear; or with the mul at the end, in a kernel of its own."""
    build = GraphBuilder()

    def linear(value):
        weights = {"weight": build.tensor((512, 512), "parameter", "weight"), "bias": build.tensor((512,), "parameter", "bias")}
        return build.call("linear", {"input": value, **weights}, (64, 512))

    value = linear(build.tensor((64, 512)))
    value = build.call("relu", {"self": value}, (64, 512))
    if order == "fused":
        value = build.call("mul", {"self": value}, (64, 512), other=3.0)
    value = linear(value)
    if order == "lost":
        value = build.call("mul", {"self": value}, (64, 512), other=3.0)
    graph = build.graph(value)
    names = {"aten.linear": "block.fc", "aten.relu": "block.act", "aten.mul": "block.scale"}
    return msgspec.structs.replace(
        graph, calls=tuple(msgspec.structs.replace(call, module=names[call.op]) for call in graph.calls)
    )


def footprints(order, archs=ARCHS):
    return [footprint(AnalysisDirector(load_profile(arch)), [graph_of(order)], "net") for arch in archs]


def test_a_lost_fusion_is_found_with_its_module():
    """Flops are equal; the kernel more, its bytes and its time are named with the operators that were one kernel."""
    found = check(Baseline(tuple(footprints("fused"))), footprints("lost"), {})
    on_gpu = {finding.quantity: finding for finding in found.findings if "gpu_h100" in finding.footprint}
    assert found.answer == "fail"
    assert "flops" not in on_gpu
    assert {"kernels", "bytes", "latency_s", "energy_j"} <= on_gpu.keys()
    kernels = on_gpu["kernels"]
    assert kernels.now == kernels.before + 1
    assert [module.module for module in kernels.modules] == ["block.scale"]
    before, now = footprints("fused", ["gpu_h100"])[0], footprints("lost", ["gpu_h100"])[0]
    assert before.modules["block.act"].groups == {"relu + mul": 1}
    assert now.modules["block.act"].groups == {"relu": 1}
    assert "block.scale (new: mul)" in kernels.text


def test_modules_that_hardly_grew_are_not_named():
    """One grew by a kernel's bytes, the other by a thousandth of that."""
    (before,), (now,) = footprints("fused", ["gpu_h100"]), footprints("lost", ["gpu_h100"])
    share = before.modules["block.act"]
    trivial = now.modules | {"block.act": msgspec.structs.replace(share, bytes=share.bytes + 1.0)}
    found = check(Baseline((before,)), [msgspec.structs.replace(now, modules=trivial)], {})
    (finding,) = (finding for finding in found.findings if finding.quantity == "bytes")
    assert [module.module for module in finding.modules] == ["block.scale"]


def test_equal_models_are_equal_to_the_last_digit():
    """The files are the same bytes, and nothing is found with nothing allowed."""
    first, second = (Baseline(()).replacing(footprints("fused")) for _ in range(2))
    assert first.to_json() == second.to_json()
    found = check(first, second.footprints, dict.fromkeys(QUANTITIES, 0.0))
    assert found.answer == "pass"


def test_equal_across_processes():
    """Hashing is random in each; no number depends on it."""
    code = (
        "from tests.estimators.present.test_gate import footprints; from shmoo.estimators.present.gate import Baseline; "
        "import hashlib; print(hashlib.sha256(Baseline(()).replacing(footprints('lost')).to_json()).hexdigest())"
    )
    hashes = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(hashes) == 1


def test_modules_add_up_to_the_model():
    """Kernels and bytes of the modules are those of the whole."""
    for one in footprints("lost"):
        assert sum(share.kernels for share in one.modules.values()) == one.totals["kernels"]
        assert sum(share.bytes for share in one.modules.values()) == pytest.approx(one.totals["bytes"])


def test_a_module_takes_what_inspect_says_it_takes():
    """Time and energy of a kernel with operators of two modules go to both, in the parts that an inspection gives them."""
    graph = graph_of("fused")
    for arch in ARCHS:
        director = AnalysisDirector(load_profile(arch))
        modules = footprint(director, [graph], "net").modules
        rows = {row.name: row.on[arch] for row in inspect_graphs([graph], {arch: director}).modules}
        assert set(modules) == {"block.fc", "block.act", "block.scale"}
        for name, share in modules.items():
            assert 0 < share.latency_s == pytest.approx(rows[name].latency_s)
            assert 0 < share.energy_j == pytest.approx(rows[name].energy_j)
        assert modules["block.scale"].kernels == 0


def test_a_baseline_of_the_first_format_is_judged_without_naming_modules():
    """What its modules took was counted in another way; the totals are what they were."""
    old = Baseline(tuple(footprints("fused")), format=1)
    read = Baseline.from_json(msgspec.json.encode(old))
    assert [one.totals for one in read.footprints] == [one.totals for one in old.footprints]
    found = check(read, footprints("lost"), {})
    assert found.answer == "fail"
    assert not any(finding.modules for finding in found.findings if finding.quantity != "peak_memory_bytes")


def test_what_is_allowed_passes():
    """Kernels may grow only where that is said; the others by a per cent."""
    baseline, now = Baseline(tuple(footprints("fused"))), footprints("lost")
    assert check(baseline, now, dict.fromkeys(QUANTITIES, 1.0)).answer == "pass"
    left = check(baseline, now, dict.fromkeys((name for name in QUANTITIES if name != "kernels"), 1.0))
    assert {finding.quantity for finding in left.findings} == {"kernels"}


def test_less_is_no_failure():
    """The other way round the fusion is gained."""
    found = check(Baseline(tuple(footprints("lost"))), footprints("fused"), {})
    assert not [finding for finding in found.findings if finding.quantity in ("kernels", "bytes", "latency_s")]


def test_new_operators_without_a_cost_cannot_be_judged():
    """Their flops are in no total, so that fewer flops would be no news."""
    (now,) = footprints("fused", ["kpu_t256"])
    strange = msgspec.structs.replace(now, unknown_ops={"mine.strange": 2})
    found = check(Baseline((now,)), [strange], {})
    assert found.answer == "undecided"
    assert "mine.strange" in found.undecided[0]
    assert check(Baseline((strange,)), [strange], {}).answer == "pass"


def test_a_baseline_of_another_profile_is_refused():
    """A calibration would look like a faster or slower model."""
    (now,) = footprints("fused", ["kpu_t256"])
    other = msgspec.structs.replace(now, profile="0" * 16)
    with pytest.raises(InputError, match="another profile of kpu_t256"):
        check(Baseline((other,)), [now], {})
    with pytest.raises(InputError, match="the baseline has no net on kpu_t256"):
        check(Baseline(()), [now], {})
    with pytest.raises(InputError, match="latency_s"):
        check(Baseline((now,)), [now], {"latency": 0.1})


def test_files_of_newer_and_damaged_baselines_are_refused():
    """With both versions, or the place."""
    with pytest.raises(FormatError, match="format 9"):
        Baseline.from_json(b'{"format": 9, "footprints": []}', "b.json")
    with pytest.raises(FormatError, match=r"b\.json"):
        Baseline.from_json(b'{"format": 1}', "b.json")


# the command


@pytest.fixture
def net(tmp_path, monkeypatch):
    """Writes the model of the current directory."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(body):
        sys.modules.pop("gate_net", None)
        Path("gate_net.py").write_text(NET.format(body=body))

    yield write
    sys.modules.pop("gate_net", None)


def gate(*more):
    given = ["gate", "gate_net:build", "--arch", ",".join(ARCHS), "--against", "b.json", "--input-shape", "64x512", "--no-cache"]
    return CliRunner().invoke(cli, [*given, *more])


def test_the_command_fails_on_a_lost_fusion(net, monkeypatch):
    """Written on one commit, it passes there and fails on the next, with the module; in Python too."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    net(FUSED)
    assert gate("--write").exit_code == 0
    same = gate()
    assert same.exit_code == 0, same.output
    net(LOST)
    lost = gate()
    assert lost.exit_code == 1, lost.output
    assert "kernels" in lost.stdout
    document = json.loads(gate("--json").stdout)
    assert document["answer"] == "fail"
    assert {finding["quantity"] for finding in document["findings"]} >= {"kernels", "bytes"}
    assert gate("--threshold", "100%", "--allow", "kernels=50%").exit_code == 0
    sys.modules.pop("gate_net", None)
    assert shmoo.gate("gate_net:build", ARCHS, "b.json", input_shape=(64, 512)).answer == "fail"
    net(LARGER)
    grown = gate()
    assert grown.exit_code == 1
    assert "flops" in grown.stdout


def test_a_baseline_keeps_what_others_wrote(net):
    """A second architecture joins the first in the file; an unknown one has no baseline."""
    net(FUSED)
    for arch in ("gpu_h100", "kpu_t256"):
        written = CliRunner().invoke(
            cli, ["gate", "gate_net:build", "--arch", arch, "--against", "b.json", "--input-shape", "64x512", "--write"]
        )
        assert written.exit_code == 0, written.output
    assert [one.arch for one in Baseline.from_json(Path("b.json").read_bytes()).footprints] == ["gpu_h100", "kpu_t256"]
    assert gate().exit_code == 0


def test_a_missing_baseline_says_how_to_write_one(net):
    """As does an option that cannot be read, and a gate without an architecture."""
    net(FUSED)
    missing = gate()
    assert missing.exit_code == 2
    assert "--write" in missing.stderr
    assert gate("--allow", "kernels").exit_code == 2
    assert CliRunner().invoke(cli, ["gate", "gate_net:build", "--against", "b.json"]).exit_code == 2
