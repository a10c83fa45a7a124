"""Segments that a caching allocator asks of the device, counted by hand."""

from __future__ import annotations

from tests.build import GraphBuilder
from tests.evaluation.allocator import MIB, Requests, device_requests, total

FLOATS = MIB // 4


def chain(*megabytes: float, keep: tuple[int, ...] = ()) -> tuple[Requests, ...]:
    """Requests of a chain of operators whose results have these sizes; the graph returns those at `keep`."""
    b = GraphBuilder()
    made = [b.tensor((1,))]
    for size in megabytes:
        made.append(b.call("relu", {"self": made[-1]}, (int(size * FLOATS),)))
    return device_requests(b.graph(*(made[1 + i] for i in keep)))


def test_a_large_result_takes_a_segment_of_its_size_rounded_to_two_mebibytes():
    """11 MiB are 12 MiB of a segment; 10 MiB are 10 MiB."""
    assert chain(11) == (Requests(1, 12 * MIB),)
    assert chain(10) == (Requests(1, 10 * MIB),)


def test_small_and_middling_results_share_segments():
    """Three kept results of 512 KiB: two fit 2 MiB with room for two more; of 4 MiB: 20 MiB hold all three."""
    assert total(chain(0.5, 0.5, 0.5, keep=(0, 1, 2))) == Requests(1, 2 * MIB)
    assert total(chain(*[0.5] * 5, keep=(0, 1, 2, 3, 4))) == Requests(2, 4 * MIB)
    assert total(chain(4, 4, 4, keep=(0, 1, 2))) == Requests(1, 20 * MIB)


def test_two_blocks_serve_a_long_chain():
    """A result and the one before it are alive at once, the third takes the first one's place."""
    assert [r.count for r in chain(32, 32, 32, 32)] == [1, 1, 0, 0]


def test_what_is_returned_keeps_its_memory():
    """A layer's kept result makes the next layer ask again: 4 kept of 32 MiB are 128 MiB."""
    assert total(chain(32, 32, 32, 32, keep=(0, 1, 2, 3))) == Requests(4, 128 * MIB)


def test_the_smallest_block_that_fits_is_taken_and_its_rest_stays_free():
    """64 MiB freed serve 32 and 30 MiB; the 2 MiB left are too small for 4."""
    b = GraphBuilder()
    x = b.tensor((1,))
    first = b.call("relu", {"self": x}, (64 * FLOATS,))
    small = b.call("sum", {"self": first}, (1,))
    kept = [b.call("relu", {"self": small}, (size * FLOATS,)) for size in (32, 30, 4)]
    asked = device_requests(b.graph(*kept))
    assert [r.nbytes / MIB for r in asked] == [64, 2, 0, 0, 20]


def test_freed_neighbours_join():
    """Two of 32 MiB cut from one of 64 make a 64 again."""
    b = GraphBuilder()
    x = b.tensor((1,))
    whole = b.call("relu", {"self": x}, (64 * FLOATS,))
    small = b.call("sum", {"self": whole}, (1,))
    left, right = (b.call("relu", {"self": small}, (32 * FLOATS,)) for _ in range(2))
    both = b.call("add", {"self": left, "other": right}, (1,))
    again = b.call("relu", {"self": both}, (64 * FLOATS,))
    assert [r.count for r in device_requests(b.graph(again))] == [1, 1, 0, 0, 0, 0]


def test_views_and_writes_in_place_ask_for_nothing():
    """They use the memory of what they view."""
    b = GraphBuilder()
    x = b.tensor((1,))
    made = b.call("relu", {"self": x}, (16 * FLOATS,))
    seen = b.view(made, (16, FLOATS))
    b.call("relu_", {"self": seen}, (16, FLOATS), storage=made, inplace=True)
    assert [r.count for r in device_requests(b.graph())] == [1, 0, 0]
