"""Peak memory from lifetimes, added up by hand."""

from build import GraphBuilder

from shmoo.estimators.memory import peak_memory_bytes


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


def test_an_in_place_result_takes_no_memory_of_its_own():
    """relu_ writes into the linear layer's output."""
    b = GraphBuilder()
    y = b.linear(b.tensor((8, 16)), 32)
    z = b.call("relu", {"self": y}, (8, 32), storage=y, inplace=True)
    assert peak_memory_bytes(b.graph(z)) == 4 * (16 * 32 + 8 * 16 + 8 * 32)
