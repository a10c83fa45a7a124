"""What a value is while Inductor's lowering (`inductor.py`) walks the operators."""

from __future__ import annotations

from dataclasses import dataclass

from shmoo.estimators.inductor_layout import Look


@dataclass(slots=True)
class Expression:
    """What a value stands for while lowering: a buffer, or a computation that its readers repeat.

    Attributes:
        reads: buffers and graph inputs that one evaluation reads. loads: the same with the view through which, where it is not
            element by element: what Inductor counts as reads.
        calls: calls evaluated inline; empty for a buffer.
        numel: elements. operations: scalar operations of an element.
        elsewhere: of what is read, what is not read element by element in order: through a view, in a neighbourhood.
        rows: elements of the inner loops, where the loops stay nested as something that is read is the same for several elements.
        owner: the buffer, where this is one. base, look: what a view that changes the order looks at, and how.
    """

    reads: frozenset[int]
    calls: frozenset[int] = frozenset()
    numel: int = 0
    operations: int = 0
    special: bool = False
    elsewhere: frozenset[int] = frozenset()
    rows: frozenset[int] = frozenset()
    owner: int | None = None
    base: Expression | None = None
    look: Look | None = None
    loads: frozenset[tuple[int, object]] = frozenset()

    def __post_init__(self) -> None:
        if not self.loads:
            self.loads = frozenset((name, None) for name in self.reads)

    @property
    def moved(self) -> bool:
        """Whether it is seen through a view that changes the order or the choice of elements."""
        return self.base is not None

    @property
    def computes(self) -> bool:
        """Whether it is evaluated when read, rather than loaded."""
        return self.owner is None and (bool(self.calls) or len(self.reads) > 1)
