"""What an allocator maps anew, worked out by hand in MiB."""

import pytest

from shmoo.estimators.memory.heap import MAPPED_BYTES, TRIMMED_BYTES, Temporary, fresh_memory
from shmoo.estimators.memory.residency import Touch

MIB = 2.0**20


def fresh_bytes(kernels, temporaries=None) -> list[float]:
    return [sum(fresh) for fresh in fresh_memory(kernels, temporaries)]


def writes(storage: int, mib: float, *reads: int) -> list[Touch]:
    """A kernel that makes a result and reads others, whose sizes do not matter."""
    return [*(Touch(r, 1.0) for r in reads), Touch(storage, mib * MIB, write=True, size=mib * MIB)]


def test_a_small_model_finds_its_memory_again():
    """Three results of 16 MiB: the heap keeps their memory from call to call."""
    assert fresh_bytes([writes(1, 16), writes(2, 16, 1), writes(3, 16, 2)]) == [0, 0, 0]


def test_a_large_result_is_mapped_at_every_call():
    """40 MiB are above the 32 MiB that the heap takes; 24 MiB are not."""
    assert MAPPED_BYTES == 32 * MIB
    assert fresh_bytes([writes(1, 40)]) == [40 * MIB]
    assert fresh_bytes([writes(1, 24)]) == [0]


def test_a_heap_that_is_trimmed_grows_again_at_every_call():
    """Four results of 24 MiB alive at once are 96 MiB of heap; free, they are more than 64 MiB and go back to the system."""
    assert TRIMMED_BYTES == 64 * MIB
    kernels = [writes(1, 24), writes(2, 24), writes(3, 24), writes(4, 24, 1, 2, 3)]
    assert fresh_bytes(kernels) == pytest.approx([24 * MIB] * 4, abs=1024)


def test_a_block_does_not_fit_the_hole_that_one_of_its_own_size_left():
    """Alignment asks for a little more, so a chain of equal results needs three blocks: of 72 MiB all go back, of 60 none."""

    def chain(mib):
        return [writes(1, mib), *(writes(i, mib, i - 1) for i in range(2, 9))]

    assert fresh_bytes(chain(20)) == [0] * 8
    assert sum(fresh_bytes(chain(24))) == pytest.approx(72 * MIB, abs=1024)


def test_the_smallest_hole_that_fits_is_taken():
    """Beside a block that lives on, the holes are 30 and 20 MiB: 18 MiB go into the smaller, so 28 MiB still fit."""
    kernels = [
        writes(1, 30),
        writes(2, 1),
        writes(3, 20, 1),
        writes(4, 1, 3),
        writes(5, 18),
        writes(6, 28),
        writes(7, 1, 2, 4, 5, 6),
    ]
    assert sum(fresh_bytes(kernels)) == 0


def test_a_librarys_copies_need_memory_too():
    """24 MiB in and out: beside the result the heap holds a copy of each, 72 MiB, and is given back when all is free again."""
    kernel = [Touch(0, 24 * MIB, persistent=True), Touch(1, 24 * MIB, write=True, size=24 * MIB)]
    assert fresh_bytes([kernel], [None]) == [0]
    assert fresh_bytes([kernel], [Temporary(24 * MIB, 24 * MIB)]) == [pytest.approx(72 * MIB, abs=1024)]
    assert fresh_bytes([kernel], [Temporary(0.0, 24 * MIB)]) == [0]  # an image of few channels is read as it lies


def test_a_library_may_copy_a_result_twice():
    """A result of 24 MiB beside two copies: 72 MiB of heap, given back when all is free again; with one copy 48 MiB stay."""
    kernel = [Touch(0, MIB, persistent=True), Touch(1, 24 * MIB, write=True, size=24 * MIB)]
    assert fresh_bytes([kernel], [Temporary(0.0, 24 * MIB, 2)]) == [pytest.approx(72 * MIB, abs=1024)]
    assert fresh_bytes([kernel], [Temporary(0.0, 24 * MIB, 1)]) == [0]


def test_what_is_written_in_place_is_not_allocated():
    """The second kernel writes into the first one's result; a persistent memory is there already."""
    kernels = [writes(1, 40), [Touch(1, 40 * MIB), Touch(1, 40 * MIB, write=True, size=40 * MIB)]]
    assert fresh_bytes(kernels) == [40 * MIB, 0]
    assert fresh_bytes([[Touch(0, 40 * MIB, persistent=True, write=True, size=40 * MIB)]]) == [0]


def test_mapped_blocks_and_the_heap_are_told_apart():
    """40 MiB by themselves; of three results of 24 MiB, 72 MiB of heap."""
    assert fresh_memory([writes(1, 40)]) == [(40 * MIB, 0)]
    chain = fresh_memory([writes(1, 24), writes(2, 24, 1), writes(3, 24, 2), writes(4, 24, 3)])
    assert sum(fresh.grown for fresh in chain) == pytest.approx(72 * MIB, abs=1024)
    assert sum(fresh.mapped for fresh in chain) == 0
