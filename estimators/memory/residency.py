"""Reuse distances: bytes touched since the same memory was last touched, in calls that are repeated back to back (stack distance:
Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2), 1970). The nearest level of the memory
hierarchy whose capacity exceeds its distance serves an access. A device's cache sees kernels one after the other, each of which
walks its operands in order: an access comes at the middle of its kernel, on average, and finds what was touched at the middle of
another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple


class Touch(NamedTuple):
    """One operand access of a kernel. `storage` identifies the memory; `size` is the whole storage for a write that allocates."""

    storage: int
    nbytes: float
    persistent: bool = False
    write: bool = False
    size: float = 0.0


def reuse_distances(kernels: Sequence[Sequence[Touch]], in_order: bool = False) -> list[list[float]]:
    """Distance in bytes of each access, in the order given, at most the footprint of all kernels: data that is touched repeatedly
    in between counts each time.

    Args:
        in_order: whether kernels walk their operands in order, each memory once; else an access happens at its kernel's end.
    """
    if len(kernels) == 1:
        # Between two runs of a lone kernel lies the kernel itself.
        (touches,) = kernels
        return [[_footprint([touch.storage for touch in touches], touches)] * len(touches)]
    blocks = _assign_blocks(kernels)
    block_bytes: dict[int, float] = {}
    for touch, block in zip(chain.from_iterable(kernels), chain.from_iterable(blocks), strict=True):
        block_bytes[block] = max(block_bytes.get(block, 0.0), touch.nbytes)
    footprint = sum(block_bytes.values())
    if in_order:
        kernel_bytes = [_footprint(kernel_blocks, touches) for kernel_blocks, touches in zip(blocks, kernels, strict=True)]
    else:
        kernel_bytes = [sum([touch.nbytes for touch in touches]) for touches in kernels]
    return [[min(footprint, distance) for distance in row] for row in _distances(blocks, kernel_bytes, 0.5 if in_order else 1.0)]


def written_in_place(kernels: Sequence[Sequence[Touch]], loops: Sequence[bool]) -> list[list[Touch]]:
    """The same accesses where loops write their result over an operand of its size that nobody reads later, as Inductor's code
    does (`inplace_buffers` in torch/_inductor/config.py).

    Args:
        loops: whether each kernel is a loop over elements; a library's kernel writes elsewhere.
    """
    last_use = {touch.storage: i for i, touches in enumerate(kernels) for touch in touches}
    target: dict[int, int] = {}  # storage -> the one it is written over
    result = []
    for i, (touches, loop) in enumerate(zip(kernels, loops, strict=True)):
        free_operands = [t for t in touches if not t.write and not t.persistent and last_use[t.storage] == i]
        for touch in touches:
            if not loop or not touch.write or touch.persistent or touch.storage in target:
                continue
            operand = next(
                (t for t in free_operands if t.nbytes == max(touch.size, touch.nbytes) and t.storage != touch.storage), None
            )
            if operand is not None:
                free_operands.remove(operand)
                target[touch.storage] = target.get(operand.storage, operand.storage)
        result.append([t._replace(storage=target.get(t.storage, t.storage)) for t in touches])
    return result


def code_distances(identities: Iterable[Hashable], kernels: Sequence[Sequence[Touch]]) -> list[float]:
    """Bytes touched since a kernel of the same identity last ran, including its own, in a sequence repeated back to back."""
    if len(kernels) == 1:
        return [sum([touch.nbytes for touch in kernels[0]])]
    kernel_bytes = [sum([touch.nbytes for touch in touches]) for touches in kernels]
    return [row[0] for row in _distances([[identity] for identity in identities], kernel_bytes, 1.0)]


def _footprint(blocks: Sequence[int], touches: Sequence[Touch]) -> float:
    """Bytes of the memory that a kernel touches; a block that it reads and overwrites counts once."""
    block_bytes: dict[int, float] = {}
    for block, touch in zip(blocks, touches, strict=True):
        block_bytes[block] = max(block_bytes.get(block, 0.0), touch.nbytes)
    return sum(block_bytes.values())


def _distances(keys: Sequence[Sequence[Hashable]], kernel_bytes: Sequence[float], place: float) -> list[list[float]]:
    """Bytes touched since the last kernel with the same key, for each key of each kernel.

    Args:
        kernel_bytes: bytes of each kernel. place: time of an access within its kernel, 0 at the start and 1 at the end.
    """
    last_touch: dict[Hashable, float] = {}
    clock = 0.0
    for kernel_keys, nbytes in zip(keys, kernel_bytes, strict=True):  # the first repetition only fills `last_touch`
        last_touch.update(dict.fromkeys(kernel_keys, clock + place * nbytes))
        clock += nbytes
    distances: list[list[float]] = []
    for kernel_keys, nbytes in zip(keys, kernel_bytes, strict=True):
        position = clock + place * nbytes
        distances.append([position - last_touch[key] for key in kernel_keys])
        last_touch.update(dict.fromkeys(kernel_keys, position))
        clock += nbytes
    return distances


def _assign_blocks(kernels: Sequence[Sequence[Touch]]) -> list[list[int]]:
    """A memory block for each access. Persistent storages have their own; activations reuse freed blocks, as with caching
    allocators, so that a new result often lands on memory that is still in a cache."""
    last_use = {touch.storage: i for i, touches in enumerate(kernels) for touch in touches}
    block_of: dict[int, int] = {}
    size_of: dict[int, float] = {}
    free_blocks: list[int] = []
    blocks = []
    for i, touches in enumerate(kernels):
        kernel_blocks = []
        for touch in touches:
            if touch.storage not in block_of:
                block = None if touch.persistent or not touch.write else _reuse(free_blocks, size_of, touch.size)
                if block is None:
                    block = len(size_of)
                    size_of[block] = max(touch.size, touch.nbytes)
                block_of[touch.storage] = block
            kernel_blocks.append(block_of[touch.storage])
        blocks.append(kernel_blocks)
        dead_storages = {t.storage for t in touches if not t.persistent and last_use[t.storage] == i}
        free_blocks.extend(block_of[storage] for storage in dead_storages)
    return blocks


def _reuse(free_blocks: list[int], size_of: dict[int, float], size: float) -> int | None:
    """The most recently freed block that fits without wasting more than half of it."""
    for position in range(len(free_blocks) - 1, -1, -1):
        if size <= size_of[free_blocks[position]] <= 2 * size:
            return free_blocks.pop(position)
    return None
