"""Peak memory from lifetimes, added up by hand."""

import msgspec
import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.memory.peak import memory_steps, peak_memory_bytes
from shmoo.estimators.memory.workspace import workspace_bytes
from tests.build import GraphBuilder


def in_modules(graph: Graph, *paths: str) -> Graph:
    """The graph with its calls in these modules."""
    calls = [msgspec.structs.replace(call, module=path) for call, path in zip(graph.calls, paths, strict=True)]
    return msgspec.structs.replace(graph, calls=tuple(calls))


def test_peak_is_weights_and_input_plus_the_largest_live_set():
    """8x16 in, 8x1000 and 8x1000 alive together while relu runs, 8x4 out."""
    b = GraphBuilder()
    x = b.tensor((8, 16))
    graph = b.graph(b.linear(b.relu(b.linear(x, 1000)), 4))
    weights = 4 * (16 * 1000 + 1000 * 4)
    assert peak_memory_bytes(graph) == weights + 4 * 8 * 16 + 2 * 4 * 8 * 1000


def test_a_view_keeps_its_base_alive_and_costs_nothing():
    """The base is needed as long as its view is read."""
    b = GraphBuilder()
    base = b.relu(b.tensor((100,)))
    seen = b.view(base, (10, 10))
    other = b.relu(b.tensor((100,)))
    graph = b.graph(b.add(seen, b.view(other, (10, 10))))
    assert peak_memory_bytes(graph) == 4 * (2 * 100) + 4 * (3 * 100)  # two inputs; base, other and their sum


def test_an_expanded_view_takes_what_its_base_takes():
    """(1, 10) seen as (50, 10): 10 floats in, 10 made, 500 out."""
    b = GraphBuilder()
    row = b.relu(b.tensor((1, 10)))
    wide = b.call("expand", {"self": row}, (50, 10), storage=row, size=[50, 10])
    assert peak_memory_bytes(b.graph(b.relu(wide))) == 4 * (10 + 10 + 500)


def test_an_in_place_result_takes_no_memory_of_its_own():
    """relu_ writes into the linear layer's output."""
    b = GraphBuilder()
    y = b.linear(b.tensor((8, 16)), 32)
    z = b.call("relu", {"self": y}, (8, 32), storage=y, inplace=True)
    assert peak_memory_bytes(b.graph(z)) == 4 * (16 * 32 + 8 * 16 + 8 * 32)


def test_the_argument_of_a_module_lives_until_the_module_returns():
    """stem, then body.0 and body.1 on it: the stem's result is alive in body.1 as well, which does not read it."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.tensor((100,))))))
    flat = [step.held_bytes for step in memory_steps(graph)]
    assert flat == [400, 800, 800]
    nested = [step.held_bytes for step in memory_steps(in_modules(graph, "stem", "body.0", "body.1"))]
    assert nested == [400, 800, 1200]


def test_a_module_called_again_later_is_another_call():
    """act, norm, act: the first activation's argument is gone when the second runs."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.relu(b.tensor((100,)))))))
    steps = memory_steps(in_modules(graph, "stem", "act", "norm", "act"))
    assert [step.held_bytes for step in steps] == [400, 800, 800, 800]


def test_pieces_of_a_model_share_their_weights():
    """Two pieces with one weight of 8x8: counted once; the larger piece decides the rest."""

    def piece(rows: int) -> Graph:
        b = GraphBuilder()
        x, weight = b.tensor((rows, 8)), b.tensor((8, 8), "parameter", "tied.weight")
        return b.graph(b.call("linear", {"input": x, "weight": weight}, (rows, 8)))

    assert peak_memory_bytes([piece(2), piece(4)]) == 4 * (8 * 8 + 4 * 8 + 4 * 8)


def test_what_passes_inside_a_kernel_takes_no_memory():
    """Three relus: one kernel when compiled, which only makes the result."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.tensor((1000,))))))
    assert peak_memory_bytes(graph) == 4 * 3000
    assert peak_memory_bytes(graph, "inductor") == 4 * 2000


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("max_pool2d", {"kernel_size": [2, 2]}, 8 * 2 * 4),  # the place of each maximum
        ("layer_norm", {"normalized_shape": [4]}, 2 * 4 * 2),  # mean and deviation of two rows
        ("roll", {"shifts": [1, 1], "dims": [0, 1]}, 4 * 2 * 4),  # rolled along one dimension, then the other
        ("roll", {"shifts": [1], "dims": [0]}, 0),
        ("relu", {}, 0),
    ],
)
def test_workspaces_are_those_of_the_library(op, attributes, expected):
    """Of a 2x4 result, on a CPU; nothing is known of other machines."""
    b = GraphBuilder()
    b.call(op, {"self": b.tensor((2, 4))}, (2, 4), **attributes)
    assert workspace_bytes(b.calls[0]) == expected
    assert workspace_bytes(b.calls[0], "tpu") == 0


def test_weights_that_nothing_reads_take_memory():
    """A second layer of 8x8 that is not called."""
    torch = pytest.importorskip("torch")
    from shmoo.harness.capture import capture

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.used(x)

    (graph,) = capture(Half(), (torch.zeros(2, 8),)).graphs
    assert graph.weight_bytes == 4 * (64 + 64)
    assert graph.params == 64 + 64
    assert peak_memory_bytes(graph) == 4 * (64 + 64 + 16 + 16)


def test_a_convolution_computes_in_a_layout_of_its_own():
    """1x16x64x64 by 16x16x3x3: image and weights in blocks beside the result in blocks, before it is written out."""
    b = GraphBuilder()
    graph = b.graph(b.conv(b.tensor((1, 16, 64, 64)), 16))
    image, weights = 4 * 16 * 64 * 64, 4 * 16 * 16 * 9
    assert peak_memory_bytes(graph) == (weights + image) + (weights + 2 * image)
    assert memory_steps(graph)[0].workspace_bytes == weights + image


def test_operands_of_a_statement_live_until_its_end():
    """norm(x) and then conv of it in one line: x, made before, is in a variable."""
    b = GraphBuilder()
    graph = b.graph(b.relu(b.relu(b.relu(b.tensor((100,))))))
    calls = [
        msgspec.structs.replace(call, module=f"layer.{i}", source=f"model.py:{line}")
        for i, (call, line) in enumerate(zip(graph.calls, (1, 2, 2), strict=True))
    ]
    steps = memory_steps(msgspec.structs.replace(graph, calls=tuple(calls)))
    assert [step.held_bytes for step in steps] == [400, 800, 1200]
