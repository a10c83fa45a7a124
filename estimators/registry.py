"""Registries that decorators fill at import, names of ATen operators, attributes that are imported on demand, and groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from shmoo.estimators.errors import ShmooError, unknown

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def aten(names: str) -> tuple[str, ...]:
    """Full names of ATen operators: ("aten.add", "aten.sub") for "add sub"."""
    return tuple(f"aten.{name}" for name in names.split())


def short_op(op: str) -> str:
    """An operator's name in tables and coefficients: ATen's without their namespace ("linear"), others in full."""
    return op.removeprefix("aten.")


@cache
def name_of(op: str) -> str:
    """An operator's name without its namespace, in ATen's notation and in PyTorch's ("add" of "aten.add" and "aten::add")."""
    return op.split(".")[-1].split("::")[-1]


def grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """Key -> its values; keys and values in the order in which they first appear."""
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports the module that holds a name (`homes`) when it is first used: `--help` must not
    wait for torch."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find


class DuplicateNameError(ShmooError):
    """A name was registered twice."""


class Registry(dict[str, T]):
    """Names to entries. Reading an unknown name suggests the nearest; a second registration is refused.

    Args:
        kind: of entry, for error messages ("operator cost", "tiling strategy").
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that adds one entry under one or more names, as `add` does."""

        def decorate(entry: T) -> T:
            for name in names:
                self.add(name, entry)
            return entry

        return decorate

    def add(self, name: str, entry: T) -> None:
        """Add `entry` under `name`; `DuplicateNameError` if the name is in use."""
        if name in self:
            raise DuplicateNameError(f"{self.kind} {name!r} is registered twice (first as {self[name]!r}); choose another name")
        self[name] = entry

    def __missing__(self, name: str) -> T:
        raise unknown(self.kind, name, self)
