import pytest

from shmoo.harness.measuring.allocation import buffer_costs, process_heap, settle_heap


class FakeHeap:
    """Writes 10 GB/s; the first write of a buffer of 2 MiB and more costs 0.2 ns a byte beyond that, for its page faults."""

    def __init__(self, memory=1 << 40):
        self.now = 0.0
        self.memory = memory
        self.untouched = set()
        self.live = 0
        self.next = 4096

    def clock(self):
        return self.now

    def malloc(self, nbytes):
        if nbytes > self.memory:
            return None
        self.live += 1
        self.next += nbytes
        if nbytes >= 2 << 20:
            self.untouched.add(self.next)
        return self.next

    def free(self, address):
        self.live -= 1

    def memset(self, address, value, nbytes):
        self.now += nbytes * (1e-10 + (2e-10 if address in self.untouched else 0.0))
        self.untouched.discard(address)


def test_fresh_large_buffers_cost_their_page_faults():
    """0.1 + 0.2 ns a byte is 3.3 GB/s fresh against 10 GB/s held; small buffers are reused and cost the same."""
    heap = FakeHeap()
    found = buffer_costs(heap, heap.clock)
    assert found == pytest.approx(
        {
            "measured.fresh_1MiB_bytes_per_s": 1e10,
            "measured.held_1MiB_bytes_per_s": 1e10,
            "measured.fresh_64MiB_bytes_per_s": 1e10 / 3,
            "measured.held_64MiB_bytes_per_s": 1e10,
            "measured.fresh_s_per_byte": 2e-10,
        }
    )
    assert heap.live == 0


def test_no_memory_is_a_reason():
    """Nothing is claimed, and the campaign goes on."""
    heap = FakeHeap(memory=2 << 20)
    assert buffer_costs(heap, heap.clock) == {"measured.fresh_reason": f"malloc has no {64 << 20} bytes"}


def test_this_process_has_a_heap():
    """malloc gives memory that memset writes."""
    try:
        heap = process_heap()
    except OSError as error:
        pytest.skip(str(error))
    address = heap.malloc(64)
    heap.memset(address, 1, 64)
    heap.free(address)
    assert address


def test_settling_frees_a_block_just_below_the_largest_threshold():
    """32 MiB less 64 KiB are taken and given back; a heap without memory is left as it is."""
    taken, given = [], []

    class Recording:
        def __init__(self, address):
            self.address = address

        def malloc(self, nbytes):
            taken.append(nbytes)
            return self.address

        def free(self, address):
            given.append(address)

    settle_heap(Recording(4096))
    settle_heap(Recording(None))
    assert (taken, given) == ([(32 << 20) - (64 << 10)] * 2, [4096])
