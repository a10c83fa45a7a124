"""Whole networks that others measured: reading their files, and the arithmetic of the errors."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from shmoo.estimators.errors import InputError
from shmoo.harness.capture.traced import capture_traced
from tests.evaluation.network_graphs import Asked, graphs_of
from tests.evaluation.networks import MeasuredNetwork, bound_of, estimated, evaluate, left_out, profile_of, read_networks, shown
from tests.evaluation.torch_1 import with_biases_after

NVIDIA = (
    "device,precision,model,torchvision_model,resolution,batch,images_per_s,latency_mean_s,latency_p95_s,latency_p99_s,source\n"
)
ENERGY = "device,set,model,dtype,batch,seq_len,mode,attention,clock_locked_mhz,clock_mean_mhz,latency_s,energy_j\n"


def test_rows_say_what_was_measured(tmp_path):
    """Mixed precision of NVIDIA's runs is channels-last; a locked clock is the card's; unknown networks are left out."""
    (tmp_path / "nvidia_dle_convnets.csv").write_text(
        NVIDIA + "t4,autocast_float16,resnet50,resnet50,224,8,400,x\n" + "t4,float32,se,,224,8,400,x\n"
    )
    (tmp_path / "energy_networks.csv").write_text(
        ENERGY
        + '"a100_pcie_40gb",all,"hf BertModel, bert-large sizes",bfloat16,2,128,prefill,,900,900,0.01,1\n'
        + '"a100_pcie_40gb",all,"hf ViTModel",bfloat16,2,,prefill,,900,900,0.01,1\n'
    )
    bert, resnet = read_networks(tmp_path)
    assert resnet.asked == Asked("resnet50", "float32", 8, 0, 224, "float16", True)
    assert resnet.latency_s == pytest.approx(8 / 400)
    assert bert.asked == Asked("bert_large", "bfloat16", 2, 128)
    assert profile_of(bert).value("clock") == 900e6
    with pytest.raises(InputError, match="energy_networks"):
        read_networks(tmp_path / "missing")


def test_a_cpu_is_judged_in_float32_and_not_on_networks_built_otherwise(tmp_path):
    """Of each network the smallest image; mixed precision of a CPU, other versions of torch and vgg are left out."""
    names = "mode,device,dtype,layout,runtime,torch,torchvision_model,img_size,batch,step_s\n"
    row = "infer,cpu_i9_10940x,{},nchw,inductor,{},{},{},1,0.01\n"
    rows = (("float32", "2.4.0", "resnet34", 288), ("float32", "2.4.0", "resnet34", 160), ("float32", "2.2.1", "resnet18", 224))
    left_out = (("autocast_bfloat16", "2.4.0", "resnet34", 96), ("float32", "2.4.0", "vgg11", 224))
    (tmp_path / "timm_networks.csv").write_text(names + "".join(row.format(*values) for values in (*rows, *left_out)))
    (only,) = read_networks(tmp_path)
    assert only.asked == Asked("resnet34", "float32", 1, 0, 160)
    assert only.name == "timm, cpu_i9_10940x, nchw inductor"
    assert bound_of(only, profile_of(only), tmp_path) == "device"


def test_a_network_is_captured_once_and_read_back_the_same(tmp_path, monkeypatch):
    """The second time its graphs come from the folder."""
    asked = Asked("squeezenet1_1", "float32", 2, 0, 64, channels_last=True)
    first = graphs_of(asked, tmp_path)
    monkeypatch.setattr("tests.evaluation.network_graphs._capture", lambda asked: pytest.fail("captured again"))
    assert msgspec.json.encode(graphs_of(asked, tmp_path)) == msgspec.json.encode(first)


def test_errors_are_grouped_by_what_bounds_them(tmp_path):
    """A small batch waits for a slow host, a large one does not; estimates of twice the time are off by 100 %."""
    rows = []
    for asked in (Asked("squeezenet1_1", "float32", 1, 0, 64), Asked("squeezenet1_1", "float32", 512, 0, 224)):
        row = MeasuredNetwork("made", "t4", "float32", asked, "eager", 1.0)
        exact = estimated(row, profile_of(row), tmp_path).latency_s.value
        rows.append(replace(row, latency_s=exact / 2.0))
    results = {result.what: result for result in evaluate(rows, tmp_path)}
    assert {name for name in results if name.startswith("all")} == {"all, host", "all, device"}
    assert results["all, host"].value == pytest.approx(1.0)
    assert results["made, t4, float32, device"].cases == 1
    assert "100.0%" in list(shown(list(results.values())))[1]


def test_a_chip_has_the_spread_of_the_others():
    """Two chips whose networks are off by 0.1 and 0.2 (90 % points): each gets the other's, times sqrt(2), and a third one their
    root mean square, 0.158, times sqrt(1.5). So 0.1 x sqrt(2) covers none of 0.2, and 0.2 x sqrt(2) all of 0.1."""
    chips = [[(np.exp(error), 0.0, 0.0, 1.0)] * 20 for error in (0.1, -0.2)]
    ((what, found),) = left_out(chips, "gpu")
    assert what == f"gpu, 2 chips, each left out; spread for the next {0.1581 * 1.5**0.5 / 1.645:.3f}"
    assert np.log(found.high / found.estimated) == pytest.approx(np.repeat((0.2, 0.1), 20) * 2**0.5)
    assert found.entry().coverage == 0.5


def test_networks_of_a_single_chip_have_the_spread_of_each_other():
    """Of errors of 0.1 and one of 0.5, the one is outside of the intervals that the others give it."""
    chip = [(np.exp(error), 0.0, 0.0, 1.0) for error in (*[0.1] * 19, 0.5)]
    ((_, found),) = left_out([chip], "cpu")
    assert found.entry().coverage == pytest.approx(0.95)
    assert not list(left_out([chip[:1]], "cpu"))


def test_only_convolutions_are_multiplied_in_tf32_where_torch_does_so(tmp_path):
    """With torch's defaults a float32 network convolves in tf32 and multiplies its matrices in float32."""
    row = MeasuredNetwork("made", "a100", "x", Asked("vgg11", "float32", 8, 0, 224), "eager", 1.0, compute="tf32")
    everything, only = (
        estimated(replace(row, convolutions_only=flag), profile_of(row), tmp_path).device_s for flag in (False, True)
    )
    assert only > everything


def test_biases_of_pytorch_1_are_added_by_kernels_of_their_own():
    """The results stay, layers without a bias too, and a traced layer is a product and an addition."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False))
    images = torch.randn(2, 5, 4)
    expected = model(images)
    changed = with_biases_after(model)
    torch.testing.assert_close(changed(images), expected)
    (graph,) = capture_traced(changed, (images,), {}, name="linear").graphs
    assert [call.op for call in graph.calls] == ["aten.linear", "aten.add", "aten.relu", "aten.linear"]
