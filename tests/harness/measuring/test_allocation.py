import mmap
import platform
import subprocess
import sys

import pytest

from shmoo.harness.measuring.allocation import (
    FreshPages,
    HeapInfo,
    buffer_costs,
    faulted_bytes,
    fill_holes,
    mapped_apart,
    process_heap,
    settle_heap,
)


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


class Options:
    """Keeps what mallopt was told."""

    def __init__(self):
        self.now = {}

    def mallopt(self, parameter, value):
        self.now[parameter] = value
        return 1


def test_thresholds_settle_where_glibc_stops_raising_them():
    """32 MiB less 64 KiB for a mapping, twice that for trimming; an allocator without mallopt is left as it is."""
    heap = Options()
    settle_heap(heap)
    assert heap.now == {-3: (32 << 20) - (64 << 10), -1: (64 << 20) - (128 << 10)}
    settle_heap(object())


def test_blocks_are_mapped_apart_inside_only():
    """128 KiB inside, the settled threshold afterwards, after an error too."""
    heap = Options()
    inside = []

    def fail():
        with mapped_apart(heap):
            inside.append(heap.now[-3])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [128 << 10]
    assert heap.now[-3] == (32 << 20) - (64 << 10)


LARGE_RESULT = """
import resource, sys, torch
from shmoo.harness.measuring.allocation import mapped_apart, settle_heap
settle_heap()
with mapped_apart():
    operands = [torch.ones(20 << 18) for _ in range(8)]
del operands
x = torch.ones(64 << 18)
torch.relu(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.relu(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep freed pages by rules of their own")
def test_freed_operands_leave_no_room_for_later_results():
    """A result of 64 MiB faults its pages in (16,384 of 4 KiB, fewer where huge ones are used) after 160 MiB of operands have
    gone, as it does in a fresh process."""
    faults = int(subprocess.run([sys.executable, "-c", LARGE_RESULT], capture_output=True, text=True, check=True).stdout)
    assert faults >= 32


class Holed:
    """A heap with rooms of 4 MiB; once they are taken, the top serves."""

    def __init__(self, holes):
        self.holes = holes
        self.top = 1 << 30
        self.freed = []

    def malloc_trim(self, pad):
        return 1

    def malloc(self, nbytes):
        if self.holes:
            self.holes -= 1
            return 4096
        self.top -= nbytes
        return 8192

    def free(self, address):
        self.freed.append(address)

    def mallinfo2(self):
        return HeapInfo(hblks=3, keepcost=self.top)


def test_holes_are_filled_and_the_top_is_left():
    """Three rooms are taken; the fourth block comes from the top and goes back."""
    heap = Holed(3)
    assert fill_holes(heap) == 3
    assert heap.freed == [8192]
    assert fill_holes(object()) == 0


class Host:
    """Gives memory that is cold for the first `cold` bytes touched: 3 ns a byte there, 0.4 ns elsewhere."""

    def __init__(self, cold):
        self.cold = cold
        self.now = 0.0
        self.rounds = self.touched = 0

    def clock(self):
        return self.now

    def touch(self, nbytes):
        cold = min(self.cold, nbytes)
        self.cold -= cold
        self.rounds += 1
        self.touched = nbytes
        self.now += 3e-9 * cold + 0.4e-9 * (nbytes - cold)


def test_memory_is_touched_until_it_is_warm():
    """Two rounds of 100 MB are cold, and the third is not; after that one round shows that all is warm. Little is left alone."""
    host = Host(0)
    pages = FreshPages(host.touch, host.clock)
    host.cold, host.rounds = 200_000_000, 0
    pages.warm(100_000_000)
    assert host.rounds == 3
    pages.warm(100_000_000)
    assert host.rounds == 4
    pages.warm(1_000_000)
    assert host.rounds == 4


def test_less_is_touched_while_all_is_warm():
    """Half as much each time, a sixteenth in the end; all of it again, and until it is warm, once that is cold."""
    host = Host(0)
    pages = FreshPages(host.touch, host.clock)
    touched = []
    for _ in range(7):
        pages.warm(400_000_000)
        touched.append(host.touched)
    assert touched == [400_000_000, 200_000_000, 100_000_000, 50_000_000, 25_000_000, 25_000_000, 25_000_000]
    host.cold, host.rounds = 25_000_000 + 400_000_000, 0
    pages.warm(400_000_000)
    assert host.rounds == 3
    assert host.cold == 0
    assert host.touched == 400_000_000


def test_warming_ends_where_memory_stays_cold():
    """Rounds of 0.9 s: none begins after 1.5 s."""
    host = Host(0)
    pages = FreshPages(host.touch, host.clock)
    host.cold, host.rounds = 1 << 50, 0
    pages.warm(300_000_000)
    assert host.rounds == 2


def test_a_call_tells_what_it_touches():
    """64 MB of a new mapping are 64 MB of new pages, or fewer faults where pages are huge; nothing is touched by nothing."""
    if platform.system() == "Windows":
        pytest.skip("page faults are not counted")

    def touch():
        with mmap.mmap(-1, 64_000_000) as memory:
            for start in range(0, 64_000_000, mmap.PAGESIZE):
                memory[start] = 1

    assert faulted_bytes(touch) >= 32 * mmap.PAGESIZE
    assert faulted_bytes(lambda: None) < 1 << 20
