"""Kernels of an eager framework whose threads wait or compute addresses: by how much they take longer than their bytes."""

from __future__ import annotations

import msgspec
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import CHANNELS_LAST, Attribute, Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.gpu.threads import bytes_read_again, bytes_read_near, dependent_reads, reach, row_work
from tests.build import GraphBuilder, kernel_table

CARDS = ("gpu_v100", "gpu_a100_40g", "gpu_h200")


def device_s(card: str, graph: Graph, runtime: str = "eager") -> float:
    return AnalysisDirector(load_profile(card)).estimate(graph, runtime=runtime).device_s


def pool(kernel: int, channels: int = 64, side: int = 112, dtype: str = "float32") -> Graph:
    image, result = (TensorSpec((16, channels, extent, extent), dtype) for extent in (side, side // kernel))
    attributes = {"kernel_size": [kernel] * 2, "stride": [kernel] * 2, "padding": [0, 0], "ceil_mode": False}
    return single_call_graph(OpCall("aten.avg_pool2d", (image,), (result,), ("self",), attributes))


def adaptive(out: int) -> Graph:
    image, result = (TensorSpec((12, 400, extent, extent), "bfloat16") for extent in (91, out))
    return single_call_graph(OpCall("aten.adaptive_avg_pool2d", (image,), (result,), ("self",), {"output_size": [out, out]}))


def group_norm(groups: int) -> Graph:
    image, weight = TensorSpec((4, 64, 128, 128), "float32"), TensorSpec((64,), "float32")
    operands = ("input", "weight", "bias")
    call = OpCall("aten.group_norm", (image, weight, weight), (image,), operands, {"num_groups": groups, "eps": 1e-5})
    return single_call_graph(call, (1, 2))


def upsample(channels: int, mode: str = "bilinear") -> Graph:
    image, result = (TensorSpec((1, channels, side, side), "float32") for side in (54, 108))
    attributes = {"output_size": [108, 108], "align_corners": False}
    return single_call_graph(OpCall(f"aten.upsample_{mode}2d", (image,), (result,), ("self",), attributes))


def depthwise(dtype: str, kernel: int = 3, last: bool = False) -> Graph:
    image, weight = TensorSpec((8, 256, 112, 112), dtype), TensorSpec((256, 1, kernel, kernel), dtype)
    attributes = {"stride": [1, 1], "padding": [kernel // 2] * 2, "dilation": [1, 1], "groups": 256}
    attributes |= {"memory_format": CHANNELS_LAST} if last else {}
    return single_call_graph(OpCall("aten.conv2d", (image, weight), (image,), ("input", "weight"), attributes), (1,))


def product(n: int, k: int, dtype: str = "bfloat16") -> Graph:
    specs = [TensorSpec(shape, dtype) for shape in ((4096, k), (n, k), (4096, n))]
    return single_call_graph(OpCall("aten.linear", tuple(specs[:2]), (specs[2],), ("input", "weight")), (1,))


def test_windows_take_their_points_and_means_their_bytes():
    """Pooling to one point reads the same image as a stream. In compiled code windows are unrolled loops."""
    assert device_s("gpu_h200", adaptive(7)) > 1.5 * device_s("gpu_h200", adaptive(1))
    assert device_s("gpu_h200", pool(3)) > 1.2 * device_s("gpu_h200", pool(3), "inductor")


def test_a_pooling_in_16_bits_is_no_faster():
    """Addresses take as long whatever they are of."""
    times = [device_s("gpu_h200", pool(3, dtype=dtype)) for dtype in ("float32", "bfloat16")]
    assert times[0] < 1.3 * times[1]


@pytest.mark.parametrize("card", CARDS)
def test_few_groups_leave_multiprocessors_idle(card):
    """One block reduces a group: 4 of them take far longer than 128, which take what 256 do."""
    few, many, more = (device_s(card, group_norm(groups)) for groups in (1, 32, 64))
    assert few > 5.0 * many
    assert more == pytest.approx(many, rel=0.4)


def test_a_bilinear_thread_goes_through_all_channels():
    """Twice as many channels take twice as long where the plane has too few points for the machine, and nearest streams."""
    one, two = (device_s("gpu_h200", upsample(channels)) for channels in (3360, 6720))
    assert two == pytest.approx(2.0 * one, rel=0.1)
    assert two > 4.0 * device_s("gpu_h200", upsample(1680, "nearest"))


@pytest.mark.parametrize("card", CARDS)
def test_depthwise_convolutions_of_the_library_are_faster(card):
    """The framework's own kernel does float32 and bfloat16 in rows; float16 in usual windows and channels-last are cuDNN's."""
    own, library, last = depthwise("bfloat16"), depthwise("float16"), depthwise("bfloat16", last=True)
    assert device_s(card, own) > 1.5 * device_s(card, library)
    assert device_s(card, own) > 1.5 * device_s(card, last)
    assert device_s(card, depthwise("float16", 7)) == device_s(card, depthwise("bfloat16", 7))


def test_rows_that_are_no_multiple_of_16_bytes_are_copied_by_words():
    """k = 4094 of 2 bytes takes over twice the time of 4096; n is only the result's. A float32 row of 4 elements is aligned."""
    card = "gpu_h200"
    assert device_s(card, product(4096, 4094)) > 2.0 * device_s(card, product(4096, 4096))
    assert device_s(card, product(4094, 4096)) == pytest.approx(device_s(card, product(4096, 4096)), rel=0.1)
    assert device_s(card, product(4096, 4092, "float32")) == pytest.approx(
        device_s(card, product(4096, 4096, "float32")), rel=0.1
    )


def test_words_cost_nothing_on_their_way_through_registers():
    """Before Ampere every operand takes that way."""
    for card in ("gpu_v100", "gpu_t4"):
        words, wide = (device_s(card, product(4096, k, "float16")) for k in (4094, 4096))
        assert words == pytest.approx(wide, rel=0.02)


def test_narrow_copies_cost_most_where_they_fall_back_to_an_older_generation():
    """Hopper's kernels are built on tensor memory accesses: without them its products lose more of their rate than an A100's."""
    slower = {card: device_s(card, product(4096, 4094)) / device_s(card, product(4096, 4096)) for card in CARDS[1:]}
    assert 1.2 < slower["gpu_a100_40g"] < 1.9 < slower["gpu_h200"]


def layer_norm(n: int, rows: int = 7616) -> Graph:
    image, weight = TensorSpec((rows, n), "float32"), TensorSpec((n,), "float32")
    operands = ("input", "weight", "bias")
    call = OpCall("aten.layer_norm", (image, weight, weight), (image,), operands, {"normalized_shape": [n], "eps": 1e-5})
    return single_call_graph(call, (1, 2))


@pytest.mark.parametrize("card", CARDS)
def test_rows_that_vectors_cannot_read_wait_for_each_round(card):
    """237 elements a row take longer than 240; in compiled code they take as long."""
    odd, even = (device_s(card, layer_norm(n)) for n in (237, 240))
    assert odd > 1.5 * even
    assert device_s(card, layer_norm(237), "inductor") < 1.02 * device_s(card, layer_norm(240), "inductor")


def test_places_of_maxima_are_written_too():
    """Eager max pooling writes 8 bytes beside each result, so that it moves more than average pooling."""
    maxima = [pool(2, 512), single_call_graph(_with_op(pool(2, 512).calls[0], "aten.max_pool2d"))]
    average, largest = (device_s("gpu_h200", graph) for graph in maxima)
    assert largest > 1.1 * average


def test_a_window_of_one_point_that_leaves_points_out_is_converted():
    """With a step of one it is a product of images as they are stored."""
    assert device_s("gpu_h200", conv_1x1(56)) == device_s("gpu_h200", conv_1x1(56, last=True))
    assert device_s("gpu_h200", conv_1x1(56, stride=2)) > device_s("gpu_h200", conv_1x1(56, stride=2, last=True))


def test_kernels_without_tensor_memory_accesses_take_such_windows_as_stored():
    """No conversion on an A100, where windows of 3 points have one."""
    assert device_s("gpu_a100_40g", conv_1x1(56, stride=2)) == device_s("gpu_a100_40g", conv_1x1(56, stride=2, last=True))


def conv_1x1(side: int, stride: int = 1, last: bool = False) -> Graph:
    out = -(-side // stride)
    image, weight, result = (TensorSpec(s, "bfloat16") for s in ((4, 512, side, side), (512, 512, 1, 1), (4, 512, out, out)))
    attributes = {"stride": [stride] * 2, "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    attributes |= {"memory_format": CHANNELS_LAST} if last else {}
    return single_call_graph(OpCall("aten.conv2d", (image, weight), (result,), ("input", "weight"), attributes), (1,))


def _with_op(call: OpCall, op: str) -> OpCall:
    attributes = {**call.attributes, "dilation": [1, 1]}
    return OpCall(op, call.inputs, call.outputs, call.operands, attributes)


def softmax(n: int, rows: int = 65536, dtype: str = "bfloat16", result: str | None = None) -> Graph:
    source, written = TensorSpec((rows, n), dtype), TensorSpec((rows, n), result or dtype)
    return single_call_graph(OpCall("aten.softmax", (source,), (written,), ("input",), {"dim": -1, "dtype": result}))


def sum_of(*shapes: tuple[int, ...], dtype: str = "bfloat16") -> Graph:
    specs = tuple(TensorSpec(shape, dtype) for shape in shapes)
    return single_call_graph(OpCall("aten.add", specs, (TensorSpec(shapes[0], dtype),), ("self", "other")))


def table(graph: Graph) -> KernelTable:
    return kernel_table(graph, fuse(graph))


def test_threads_of_a_row_work_in_rounds():
    """A warp takes a softmax's row as the next power of two, a block three times; a norm's 128 threads take 4 elements a round,
    and a round to join what they found. Rows that vectors cannot read are counted by their reads."""
    counted = {n: row_work(table(softmax(n)))[0] for n in (368, 1024, 2048)}
    assert counted == {368: 512 / 368, 1024: 1.0, 2048: 1.5}
    counted = {n: row_work(table(layer_norm(n)))[0] for n in (512, 1048, 237)}
    assert counted == {512: 2.0, 1048: 4 * 512 / 1048, 237: 1.0}


def test_rows_in_work_are_read_again_where_no_cache_holds_them():
    """An H200 has 132 x 16 rows of a norm in work: 2,112 of 8 KiB are 17 MB, of 64 KiB 138 MB, which 35 of its 50 MB do not hold.
    A softmax of long rows reads them twice more, near the multiprocessors."""
    card = load_profile("gpu_h200")
    near, far = (bytes_read_again(table(layer_norm(n)), card)[0] / (7616 * n * 4) for n in (2048, 16384))
    held = reach(card) * card.value("capacity.l2")
    assert near == pytest.approx(1.0 - 1.0 / (1.0 + (2112 * 8192 / held) ** 4))
    assert far > 0.98
    assert bytes_read_near(table(softmax(4096)))[0] == 2 * 65536 * 4096 * 2
    assert bytes_read_near(table(softmax(1024)))[0] == 0.0


def test_few_rows_take_as_long_as_one():
    """Each round of blocks waits for its reads: 2,560 elements are five of 512, for up to 2,112 rows on an H200."""
    card = load_profile("gpu_h200")
    for rows, rounds in ((1, 1), (2112, 1), (2113, 2)):
        reads, done = dependent_reads(table(layer_norm(2560, rows)), card)
        assert (reads[0], done[0]) == (5 * rounds, rounds)
    one, many = (device_s("gpu_h200", layer_norm(2560, rows)) for rows in (1, 300))
    assert many == pytest.approx(one, rel=0.05)


def test_a_softmax_in_a_wider_type_converts_first():
    """In bfloat16 it takes a conversion and a softmax in float32; a GPU reads float16 on the way, and compiled code either."""
    wide = softmax(512, result="float32")
    assert table(wide).strided_bytes[0] == 65536 * 512 * 4
    assert table(softmax(512, dtype="float16", result="float32")).strided_bytes[0] == 0.0
    source, result = TensorSpec((65536, 512), "bfloat16"), TensorSpec((65536, 512), "float32")
    convert = single_call_graph(OpCall("aten.to", (source,), (result,), ("self",), {"dtype": "float32"}))
    apart = device_s("gpu_h200", convert) + device_s("gpu_h200", softmax(512, dtype="float32"))
    assert device_s("gpu_h200", wide) == pytest.approx(apart, rel=0.12)
    assert device_s("gpu_h200", wide, "inductor") < 0.6 * device_s("gpu_h200", wide)


@pytest.mark.parametrize("card", CARDS)
def test_an_operand_of_another_shape_costs_addresses(card):
    """A mask that heads share takes longer than its bytes; a number in memory and compiled code cost nothing."""
    scores = (8, 16, 512, 512)
    same, mask = sum_of(scores, scores), sum_of(scores, (8, 1, 512, 512))
    bytes_alone = 2 * 2 * 8 * 16 * 512 * 512 / load_profile(card).value("bandwidth.dram")
    assert [table(graph).strided_bytes[0] for graph in (same, mask, sum_of(scores, (1,)))] == [0.0, 2 * 8 * 16 * 512 * 512, 0.0]
    assert device_s(card, mask) > 1.4 * bytes_alone
    assert device_s(card, mask, "inductor") < 1.3 * bytes_alone
    assert device_s(card, same) < 1.3 * 1.5 * bytes_alone


def test_images_in_rows_are_normalized_point_by_point():
    """An image stored channels-last, as the convolution before it says, streams; in training rows have statistics."""

    def normed(last: bool, training: bool = False) -> Graph:
        b = GraphBuilder("float16")
        image, scale = (16, 64, 112, 112), (64,)
        attributes: dict[str, Attribute] = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
        attributes |= {"memory_format": CHANNELS_LAST} if last else {}
        made = b.call("conv2d", {"input": b.tensor(image), "weight": b.tensor((64, 64, 3, 3), "parameter")}, image, **attributes)
        names = ("weight", "bias", "running_mean", "running_var")
        operands = {"input": made, **{name: b.tensor(scale, "parameter") for name in names}}
        return b.graph(b.call("batch_norm", operands, image, training=training))

    rows, last, trains = (table(normed(*case)).strided_bytes[-1] for case in ((False,), (True,), (False, True)))
    assert (rows, last, trains) == (16 * 64 * 112 * 112 * 2, 0.0, 0.0)


def test_loops_take_single_instructions():
    """Lanes that do two flops at once do not help them: an H100 with half of the lanes normalizes as fast."""
    card = load_profile("gpu_h100")
    peak = card.coefficients["peak.vector.float32"]
    half = card.replacing(
        coefficients={**card.coefficients, "peak.vector.float32": msgspec.structs.replace(peak, value=peak.value / 2)}
    )
    times = [AnalysisDirector(p).estimate(layer_norm(4096, 65536), runtime="eager").device_s for p in (card, half)]
    assert times[1] == pytest.approx(times[0], rel=0.01)


def test_loops_find_less_in_an_l2_of_two_parts():
    """They reach 0.7 of an A100's 40 MB and all of a V100's 6."""
    assert [reach(load_profile(card)) for card in CARDS] == [1.0, 0.7, 0.7]
