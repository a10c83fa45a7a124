"""Convolutions on a GPU by how their images are stored and shared: depthwise ones stream, tensor cores take channels-last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import CHANNELS_LAST, Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.graph_rows import kernel_tables
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import strategy_for
from shmoo.estimators.tiling.gpu import threads
from shmoo.estimators.tiling.gpu.threads import group_filling, keeps_rows

CARDS = ("gpu_p100", "gpu_v100", "gpu_t4", "gpu_a100_40g", "gpu_l4", "gpu_h100")


def conv(
    channels: int, kernel: int, dtype: str, *, groups: int = 1, side: int = 56, batch: int = 64, last: bool = False
) -> Graph:
    image = TensorSpec((batch, channels, side, side), dtype)
    weight = TensorSpec((channels, channels // groups, kernel, kernel), dtype)
    attributes = {"stride": [1, 1], "padding": [kernel // 2] * 2, "dilation": [1, 1], "groups": groups}
    attributes |= {"memory_format": CHANNELS_LAST} if last else {}
    return single_call_graph(OpCall("aten.conv2d", (image, weight), (image,), ("input", "weight"), attributes), (1,))


def device_s(card: str, graph: Graph, runtime: str = "eager") -> float:
    return AnalysisDirector(load_profile(card)).estimate(graph, runtime=runtime).device_s


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_depthwise_convolution_streams(card, dtype):
    """EfficientNet's at 56 x 56: no faster than its bytes at the bandwidth, and within four times that. A tile of a product for
    each channel would take forty."""
    graph = conv(144, 3, dtype, groups=144)
    least = sum(spec.nbytes for spec in (*graph.calls[0].inputs, *graph.calls[0].outputs)) / load_profile(card).value(
        "bandwidth.dram"
    )
    assert least < device_s(card, graph) < 4.0 * least


def test_larger_windows_of_depthwise_convolutions_take_longer():
    """49 points a window are more loads than 9, in the same bytes, in the library's kernels of channels-last images."""
    small, large = (device_s("gpu_a100_40g", conv(144, kernel, "float16", groups=144, last=True)) for kernel in (3, 7))
    assert 1.3 * small < large < 49 / 9 * small


def test_images_in_rows_are_converted_around_a_window():
    """The image and the result are read and written once more, by two kernels; compiled code and channels-last need none."""
    profile = load_profile("gpu_v100")
    rows, last = (device_s("gpu_v100", conv(64, 3, "float16", last=flag)) for flag in (False, True))
    image = 64 * 64 * 56 * 56 * 2
    c = Coefficients(profile)
    rate = profile.value("bandwidth.dram") * c.value("efficiency.bandwidth.transposition")
    assert rows - last == pytest.approx(2 * 2 * image / rate + 2 * c.value("device_launch"))
    assert device_s("gpu_v100", conv(64, 3, "float16"), "inductor") == device_s(
        "gpu_v100", conv(64, 3, "float16", last=True), "inductor"
    )
    for kernel, dtype in ((1, "float16"), (3, "float32")):
        assert device_s("gpu_v100", conv(64, kernel, dtype)) == device_s("gpu_v100", conv(64, kernel, dtype, last=True))


def test_kernels_for_tf32_write_rows_themselves():
    """The image alone is converted, by one kernel."""
    profile = load_profile("gpu_a100_40g")
    director, c = AnalysisDirector(profile), Coefficients(profile)
    rows, last = (
        director.estimate(conv(64, 3, "float32", last=flag), runtime="eager", compute_dtype="tf32").device_s
        for flag in (False, True)
    )
    rate = profile.value("bandwidth.dram") * c.value("efficiency.bandwidth.transposition", "efficiency.bandwidth")
    image = conv(64, 3, "float32").calls[0].inputs[0].nbytes
    assert rows - last == pytest.approx(2.0 * image / rate + c.value("device_launch"), rel=0.02)


def biased(dtype: str, groups: int = 1, last: bool = False) -> Graph:
    image, weight = TensorSpec((64, 64, 56, 56), dtype), TensorSpec((64, 64 // groups, 3, 3), dtype)
    attributes = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": groups}
    attributes |= {"memory_format": CHANNELS_LAST} if last else {}
    operands = ("input", "weight", "bias")
    call = OpCall("aten.conv2d", (image, weight, TensorSpec((64,), dtype)), (image,), operands, attributes)
    return single_call_graph(call, (1, 2))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_eager_convolutions_add_their_bias_in_a_kernel_of_its_own(dtype):
    """The result is read and written once more. Compiled code adds it in the loop that follows, PyTorch's own depthwise kernel
    as it writes."""
    profile = load_profile("gpu_v100")
    c, image = Coefficients(profile), 64 * 64 * 56 * 56 * (2 if dtype == "float16" else 4)
    with_bias, without = (device_s("gpu_v100", graph) for graph in (biased(dtype, last=True), conv(64, 3, dtype, last=True)))
    rate = profile.value("bandwidth.dram") * c.value("efficiency.bandwidth.pointwise")
    assert with_bias - without == pytest.approx(2 * image / rate + c.value("device_launch"), rel=0.05)
    inside = device_s("gpu_v100", biased(dtype, last=True), "inductor") - device_s(
        "gpu_v100", conv(64, 3, dtype, last=True), "inductor"
    )
    assert inside < 0.1 * (with_bias - without)
    own = device_s("gpu_v100", biased("float32", groups=64)) - device_s("gpu_v100", conv(64, 3, "float32", groups=64))
    assert own < 0.1 * (with_bias - without)


def columns(*calls: Graph) -> KernelTable:
    table = KernelTable.concat([kernel_tables([(graph, fuse(graph))]) for graph in calls])
    return replace(table, segment=np.zeros(len(table), dtype=np.int64))


@pytest.mark.parametrize(
    ("width", "filled"), [(8, 1.0), (16, 1.0), (24, 4 / 3), (48, 4 / 3), (56, 8 / 7), (112, 8 / 7), (128, 1.0), (168, 8 / 7)]
)
def test_groups_fill_whole_slices_of_32_channels(width, filled):
    """Or half of one and less, as they are. Single groups and channels are never padded."""
    table = columns(
        conv(4 * width, 3, "float16", groups=4), conv(4 * width, 3, "float16"), conv(width, 3, "float16", groups=width)
    )
    assert group_filling(table) == pytest.approx([filled, 1.0, 1.0])
    assert group_filling(columns(conv(4 * 24, 3, "float32", groups=4)).computed_in("tf32")) == pytest.approx([4 / 3])
    assert group_filling(columns(conv(4 * 48, 3, "float32", groups=4)).computed_in("tf32")) == pytest.approx([1.0])


def test_padded_groups_are_copied_around_their_convolution(monkeypatch):
    """In and out: read as they are, written and read padded, by two kernels more. Those of images in rows are padded as these are
    converted."""
    profile = load_profile("gpu_a100_40g")
    c = Coefficients(profile)
    rate = profile.value("bandwidth.dram") * c.value("efficiency.bandwidth.transposition", "efficiency.bandwidth")
    image = 64 * 96 * 56 * 56 * 2

    def prediction(last: bool, groups: int) -> float:
        table = columns(conv(96, 3, "float16", groups=groups, last=last))
        strategy = strategy_for(profile)
        return predict(table, strategy.apply(table, profile, strategy.choose(table, profile)), c, "cudagraphs").device_s[0]

    padded, of_rows = prediction(True, 4), prediction(False, 4)
    assert of_rows == pytest.approx(padded)
    monkeypatch.setattr(threads, "group_filling", lambda table: np.ones(len(table)))
    copied = 2 * (4 / 3) * 2 * image / rate + 2 * c.value("device_launch")
    assert padded - prediction(True, 4) == pytest.approx(copied)


def test_inductor_leaves_images_in_rows_where_most_work_is_in_groups():
    """Groups cost 1.358 of their time channels-last, other convolutions 0.823: more than a third of the work in groups."""
    grouped, whole = conv(256, 3, "float16", groups=2), conv(256, 1, "float16")
    assert keeps_rows(columns(grouped, whole)).all()
    assert not keeps_rows(columns(grouped, *[whole] * 10)).any()  # 4.5 of 14.5
    assert keeps_rows(columns(grouped, *[whole] * 8)).all()  # 4.5 of 12.5
    assert not keeps_rows(columns(conv(256, 3, "float16", groups=256), whole)).any()


def test_loops_on_a_gpu_compute_in_float32():
    """Elements of 16 bits are converted and computed as float32, so that half the bytes take the same arithmetic."""
    director = AnalysisDirector(load_profile("gpu_a100_40g"))
    times = []
    for dtype in ("float32", "bfloat16", "float16"):
        spec = TensorSpec((1 << 24,), dtype)
        table, _ = director.tabulate([single_call_graph(OpCall("aten.add", (spec, spec), (spec,), ("self", "other")))], "eager")
        times.append(predict(table, director.tile(table), Coefficients(director.profile), "eager").compute_s)
    assert np.ptp(times) == pytest.approx(0.0)
