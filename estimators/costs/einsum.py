"""Einstein summation as a chain of matrix products, whose letters are batch, rows, columns or contracted."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import msgspec

from shmoo.estimators.errors import InputError


class Contraction(msgspec.Struct, frozen=True):
    """batch x (m, k) by (k, n), and `sums` additions over letters that only one operand has and the result lacks.

    `product` is False where nothing is contracted: then the batch x m x n products are elementwise multiplications, and a
    batch of 0 stands for no product at all.
    """

    batch: int
    m: int
    n: int
    k: int
    sums: float = 0.0
    product: bool = True

    @property
    def matrix_flops(self) -> float:
        """Flops of the matrix product, a multiply-add as 2."""
        return 2.0 * self.batch * self.m * self.n * self.k if self.product else 0.0

    @property
    def vector_flops(self) -> float:
        """Flops of the sums beforehand and, without contracted letters, of the multiplications."""
        return self.sums + (0 if self.product else self.batch * self.m * self.n)


def _letters(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[str], str, dict[str, int]]:
    """The letters of each operand and of the result, with "..." replaced by letters, and each letter's size."""
    operands_part, arrow, result_part = equation.replace(" ", "").partition("->")
    terms = operands_part.split(",")
    if len(terms) != len(shapes):
        raise InputError(f"einsum {equation!r} names {len(terms)} operands, the call has {len(shapes)}")
    spare_letters = [c for c in string.ascii_uppercase + string.ascii_lowercase if c not in equation]
    depth = max((len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True) if "..." in t), default=0)
    if depth > len(spare_letters):
        raise InputError(f"einsum {equation!r} leaves no letters for the {depth} dimensions of '...'")
    ellipsis = "".join(spare_letters[:depth])
    terms_in_letters: list[str] = []
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        ellipsis_rank = len(shape) - len(term.replace("...", ""))
        letters = term.replace("...", ellipsis[depth - ellipsis_rank :] if ellipsis_rank > 0 else "")
        if len(letters) != len(shape):
            raise InputError(f"einsum term {term!r} has {len(letters)} letters, its operand has shape {tuple(shape)}")
        terms_in_letters.append(letters)
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    if arrow:
        return terms_in_letters, result_part.replace("...", ellipsis), sizes
    all_letters = "".join(terms_in_letters)
    unique_letters = sorted(c for c in set(all_letters) if all_letters.count(c) == 1 and c not in ellipsis)
    return terms_in_letters, ellipsis + "".join(unique_letters), sizes


def contractions_of(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] = ()) -> list[Contraction]:
    """The products of an einsum ("bhqd,bhkd->bhqk"), two operands at a time; `InputError` where equation and shapes do not fit.

    Args:
        path: the places of the two operands of each product, one pair after another, among those that remain; a product takes the
            last place. From left to right where it is empty.
    """
    terms, output, sizes = _letters(equation, shapes)

    def size(letters: set[str]) -> int:
        return math.prod([sizes[c] for c in letters])

    operands = [set(term) for term in terms]
    if len(terms) == 1:
        sums = float(size(operands[0]) - size(operands[0] & set(output)))
        return [Contraction(0, 1, 1, 1, sums=sums, product=False)]
    steps = []
    places = list(zip(path[::2], path[1::2], strict=False)) if len(path) == 2 * (len(terms) - 1) else []
    for position in range(len(terms) - 1):
        i, j = sorted(places[position]) if places else (0, 1)
        right, left = operands.pop(j), operands.pop(i)
        needed_letters = set(output).union(*operands)
        common_letters = left & right
        contracted_letters = common_letters - needed_letters
        # A letter that only one operand has and no later step needs is summed first.
        sums = sum(float(size(s) - size((s & needed_letters) | common_letters)) for s in (left, right))
        m, n = size((left - right) & needed_letters), size((right - left) & needed_letters)
        steps.append(
            Contraction(
                size(common_letters & needed_letters), m, n, size(contracted_letters), sums, product=bool(contracted_letters)
            )
        )
        operands.insert(len(operands) if places else 0, (left | right) & needed_letters)
    return steps
