"""Convolutions on a GPU by how their images are stored and shared: depthwise ones stream, tensor cores take channels-last."""

from __future__ import annotations

import numpy as np
import pytest

from shmoo.estimators.graph.records import CHANNELS_LAST, Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict

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


def test_loops_on_a_gpu_compute_in_float32():
    """Elements of 16 bits are converted and computed as float32, so that half the bytes take the same arithmetic."""
    director = AnalysisDirector(load_profile("gpu_a100_40g"))
    times = []
    for dtype in ("float32", "bfloat16", "float16"):
        spec = TensorSpec((1 << 24,), dtype)
        table, _ = director.tabulate([single_call_graph(OpCall("aten.add", (spec, spec), (spec,), ("self", "other")))], "eager")
        times.append(predict(table, director.tile(table), Coefficients(director.profile), "eager").compute_s)
    assert np.ptp(times) == pytest.approx(0.0)
