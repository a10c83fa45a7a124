"""Equal kernels of a table, such as those of a model's equal layers: terms that depend on a kernel alone are computed once."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, Floats, KernelTable, distinct_rows
from shmoo.estimators.tiling.base import Tiling


@dataclass(frozen=True, slots=True)
class KernelKinds(KernelTable):
    """The kinds of kernels of a table in place of its kernels: a sum over a segment counts each kind as often as it occurs there.

    Attributes:
        times: (U,) number of kernels of each kind.
    """

    times: Floats

    @property
    def single(self) -> bool:
        """False: some kind occurs several times in a segment."""
        return False

    @property
    def counts(self) -> np.ndarray:
        """(S,) kernels of each segment."""
        return np.add.reduceat(self.times, self.starts).astype(np.int64)

    def of_segments(self, amounts: Floats, add: np.ufunc = np.add) -> Floats:
        """(..., S) sums over segments of an amount of each kernel, or another reduction by `add`."""
        sums: Floats = add.reduceat(amounts * self.times if add is np.add else amounts, self.starts, axis=-1)
        return sums


@dataclass(frozen=True, slots=True)
class EqualKernels:
    """The distinct kernels of a table of K: equal kernels of one segment share a kind.

    Attributes:
        kind: (K,) row of each kernel's kind in the table of kinds.
        table, tiling: the U kinds, or all kernels where no two are equal.
    """

    kind: np.ndarray
    table: KernelTable
    tiling: Tiling

    def spread(self, amounts: np.ndarray) -> np.ndarray:
        """(..., K) amounts of all kernels from the (..., U) amounts of each kind."""
        return amounts if len(self.table) == len(self.kind) else np.take(amounts, self.kind, axis=-1)


def find_equal(table: KernelTable, tiling: Tiling) -> EqualKernels:
    """Find kernels with the same numbers in the table, the same bytes of each kind of access and the same tiling."""
    columns = [getattr(table, f.name) for f in fields(table) if f.name != "labels" and not f.name.startswith("access_")]
    columns += [table.bytes_of_kind(kind) for kind in (READ_WEIGHT, READ_ACTIVATION, WRITE)]
    columns += _columns(tiling, len(table))
    rows, kind = distinct_rows(columns)
    if len(rows) == len(table):
        return EqualKernels(kind, table, tiling)
    first_kernels = table.take(rows)
    times = np.bincount(kind).astype(np.float64)
    kinds = KernelKinds(**{f.name: getattr(first_kernels, f.name) for f in fields(first_kernels)}, times=times)
    return EqualKernels(kind, kinds, _take(tiling, rows, len(table)))


def _columns(tiling: object, count: int) -> list[np.ndarray]:
    """Every array of a tiling that has a value for each kernel, a column for each design point."""
    if isinstance(tiling, np.ndarray):
        return list(tiling.reshape(-1, count)) if tiling.ndim and tiling.shape[-1] == count else []
    if is_dataclass(tiling):
        return [column for f in fields(tiling) for column in _columns(getattr(tiling, f.name), count)]
    members = tiling.values() if isinstance(tiling, dict) else tiling if isinstance(tiling, tuple) else ()
    return [column for member in members for column in _columns(member, count)]


def _take(tiling: Any, rows: np.ndarray, count: int) -> Any:
    """A tiling of some of its kernels."""
    if isinstance(tiling, np.ndarray):
        return tiling[..., rows] if tiling.ndim and tiling.shape[-1] == count else tiling
    if is_dataclass(tiling) and not isinstance(tiling, type):
        return replace(tiling, **{f.name: _take(getattr(tiling, f.name), rows, count) for f in fields(tiling)})
    if isinstance(tiling, dict):
        return {name: _take(member, rows, count) for name, member in tiling.items()}
    return tuple(_take(member, rows, count) for member in tiling) if isinstance(tiling, tuple) else tiling
