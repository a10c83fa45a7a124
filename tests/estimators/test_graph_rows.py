"""Operands of products that are copied because of how they lie in memory."""

from __future__ import annotations

import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import Graph, OpCall
from shmoo.estimators.graph.views import view_of
from shmoo.estimators.graph_rows import copied_bytes
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.model import predict
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import strategy_for
from tests.build import GraphBuilder, kernel_table

BATCH, TOKENS, HEADS, WIDTH = 4, 64, 8, 32


def producers_of(graph: Graph) -> dict[int, OpCall]:
    return {value: call for call in graph.calls for value in call.writes}


def heads_of(b: GraphBuilder, images: int, features: int = HEADS * WIDTH) -> int:
    """The heads of one projection: (batch, heads, tokens, width) of (batch, tokens, heads * width)."""
    made = b.call("relu", {"self": b.tensor((images, TOKENS, features))}, (images, TOKENS, features))
    if features > HEADS * WIDTH:
        made = b.call("slice", {"self": made}, (images, TOKENS, HEADS * WIDTH), storage=made, dim=-1)
    root = b.values[made].storage or made
    split = b.call("view", {"self": made}, (images, TOKENS, HEADS, WIDTH), storage=root)
    return b.call("transpose", {"self": split}, (images, HEADS, TOKENS, WIDTH), storage=root, dim0=1, dim1=2)


def scores(images: int = BATCH, features: int = HEADS * WIDTH) -> tuple[GraphBuilder, int]:
    b = GraphBuilder("float16")
    queries, keys = heads_of(b, images, features), heads_of(b, images, features)
    root = b.values[keys].storage
    turned = b.call("transpose", {"self": keys}, (images, HEADS, WIDTH, TOKENS), storage=root, dim0=-2, dim1=-1)
    return b, b.call("matmul", {"self": queries, "other": turned}, (images, HEADS, TOKENS, TOKENS))


@pytest.mark.parametrize(("features", "step"), [(HEADS * WIDTH, HEADS * WIDTH), (3 * HEADS * WIDTH, 3 * HEADS * WIDTH)])
def test_heads_lie_in_the_features_of_their_token(features: int, step: int) -> None:
    """One image is tokens times features away, one token a row of features, also where the row holds three projections."""
    b, out = scores(features=features)
    graph = b.graph(out)
    queries, keys = graph.calls[-1].reads
    assert view_of(graph, queries, producers_of(graph)).strides == (TOKENS * step, WIDTH, step, 1)
    assert view_of(graph, keys, producers_of(graph)).strides == (TOKENS * step, WIDTH, 1, step)


def test_heads_of_several_images_are_copied_before_they_are_multiplied() -> None:
    """Both operands in 2 bytes an element; heads of one image are a batch as they lie, and so are scores."""
    operand = BATCH * HEADS * TOKENS * WIDTH * 2
    for images, copied in ((BATCH, 2 * operand), (1, 0)):
        b, out = scores(images)
        graph = b.graph(out)
        assert copied_bytes(graph, graph.calls[-1], producers_of(graph)) == copied
    b, out = scores()
    values = heads_of(b, BATCH)
    graph = b.graph(b.call("matmul", {"self": out, "other": values}, (BATCH, HEADS, TOKENS, WIDTH)))
    assert copied_bytes(graph, graph.calls[-1], producers_of(graph)) == operand


def table_of(images: int) -> KernelTable:
    b, out = scores(images)
    graph = b.graph(out)
    table = kernel_table(graph, fuse(graph))
    return table.take(np.flatnonzero(table.matrix_flops > 0))


def test_copies_are_kernels_of_their_own_on_gpus() -> None:
    """Each takes at least a shortest kernel on the device, and a launch within the call; compiled code has none."""
    profile = load_profile("gpu_a100_40g")
    table = table_of(BATCH)
    dense = table_of(BATCH)
    dense.strided_bytes[:] = 0.0
    tiling, c = strategy_for(profile), Coefficients(profile)
    for runtime, device, launches in (("eager", 2.0, 2.0), ("cudagraphs", 2.0, 0.0), ("inductor", 0.0, 0.0)):
        copied, other = (predict(t, tiling.apply(t, profile, tiling.choose(t, profile)), c, runtime) for t in (table, dense))
        more = copied.device_s[0] - other.device_s[0]
        assert (more > device * c.value("device_launch")) if device else (more == 0.0)
        assert copied.launch_s[0] - other.launch_s[0] == pytest.approx(launches * c.value("launch.driver"))


def test_a_view_between_fused_calls_keeps_nothing_in_memory() -> None:
    """A compiled sum of two tensors, seen in another shape and rectified, reads both and writes one: 12 bytes an element, as
    without the view."""
    for seen in (False, True):
        b = GraphBuilder("float32")
        made = b.add(b.tensor((64, 512)), b.tensor((64, 512)))
        graph = b.graph(b.relu(b.view(made, (512, 64)) if seen else made))
        table = kernel_table(graph, fuse(graph, "inductor", "gpu"))
        assert (len(table), float(table.bytes[0])) == (1, 12.0 * 64 * 512)
