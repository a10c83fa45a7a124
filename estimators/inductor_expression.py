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

    def store(self, name: int) -> None:
        """Become a load of the buffer that it is computed into."""
        self.reads, self.loads, self.owner = frozenset((name,)), frozenset(((name, None),)), name
        self.calls, self.elsewhere, self.rows = frozenset(), frozenset(), frozenset()
        self.operations, self.special, self.base, self.look = 0, False, None, None

    def as_base_is(self, view: int) -> Expression:
        """The same; where it looks at another, with what that is by now, seen through a view."""
        base = self.base
        if base is not None:
            self.reads, self.calls, self.owner = base.reads, base.calls, base.owner
            self.loads = frozenset((name, view) for name in base.reads)
            self.operations, self.special, self.elsewhere = base.operations, base.special, base.reads
            self.rows = base.rows | self.look.cuts if self.look is not None else base.rows
        return self
