"""Kernels of a table that are alike, such as those of a model's equal layers: what depends on a kernel alone is computed once."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, KernelTable
from shmoo.estimators.tiling.base import Tiling


@dataclass(frozen=True, slots=True)
class Twins:
    """The distinct kernels of a table of K.

    Attributes:
        rows: (U,) one kernel of each kind, ascending.
        kind: (K,) place of each kernel's kind in `rows`.
        table, tiling: of `rows`.
    """

    rows: np.ndarray
    kind: np.ndarray
    table: KernelTable
    tiling: Tiling

    def spread(self, amounts: np.ndarray) -> np.ndarray:
        """(..., K) amounts of all kernels from the (..., U) amounts of each kind."""
        return amounts if len(self.rows) == len(self.kind) else np.take(amounts, self.kind, axis=-1)


def find_twins(table: KernelTable, tiling: Tiling) -> Twins:
    """Kernels of the same numbers, in the table, in the bytes of each kind of access, and in their tiling on one machine."""
    columns = [getattr(table, f.name) for f in fields(table) if f.name != "labels" and not f.name.startswith("access_")]
    columns += [table.bytes_of_kind(kind) for kind in (READ_WEIGHT, READ_ACTIVATION, WRITE)]
    columns += _columns(tiling, len(table))
    numbers = np.ascontiguousarray(np.stack([column.astype(np.float64) for column in columns], axis=1))
    packed = numbers.view(np.dtype((np.void, numbers.dtype.itemsize * numbers.shape[1]))).ravel()
    _, first, kind = np.unique(packed, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    rows = first[order]
    return Twins(rows, place[kind], table.take(rows), _taken(tiling, rows, len(table)))


def _columns(part: object, count: int) -> list[np.ndarray]:
    """Every array of a tiling that has a value for each kernel, a column for each design point."""
    if isinstance(part, np.ndarray):
        return list(part.reshape(-1, count)) if part.ndim and part.shape[-1] == count else []
    if is_dataclass(part):
        return [column for f in fields(part) for column in _columns(getattr(part, f.name), count)]
    members = part.values() if isinstance(part, dict) else part if isinstance(part, tuple) else ()
    return [column for member in members for column in _columns(member, count)]


def _taken(part: Any, rows: np.ndarray, count: int) -> Any:
    """A tiling of some of its kernels."""
    if isinstance(part, np.ndarray):
        return part[..., rows] if part.ndim and part.shape[-1] == count else part
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _taken(getattr(part, f.name), rows, count) for f in fields(part)})
    if isinstance(part, dict):
        return {name: _taken(member, rows, count) for name, member in part.items()}
    return tuple(_taken(member, rows, count) for member in part) if isinstance(part, tuple) else part
