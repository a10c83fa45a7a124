"""Names of operators and what is filed under names: registries filled by decorators, package attributes imported on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from shmoo.estimators.errors import ShmooError, unknown

T = TypeVar("T")


def aten(names: str) -> tuple[str, ...]:
    """Full names of ATen operators: ("aten.add", "aten.sub") for "add sub"."""
    return tuple(f"aten.{name}" for name in names.split())


def on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports a module when a name of it is first used: `--help` must not wait for torch.

    Args:
        package: name of the package.
        homes: name -> the module that holds it.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find


class DuplicateNameError(ShmooError):
    """A name was registered twice."""


class Registry(Mapping[str, T], Generic[T]):
    """Names to entries. Reading an unknown name suggests the nearest; a second registration is refused.

    Args:
        kind: of entry, for error messages ("operator cost", "tiling strategy").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that files one entry under one or more names.

        Raises:
            DuplicateNameError: if a name is taken.
        """

        def decorate(entry: T) -> T:
            for name in names:
                self.add(name, entry)
            return entry

        return decorate

    def add(self, name: str, entry: T) -> None:
        """File `entry` under `name`; `DuplicateNameError` if the name is taken."""
        if name in self._entries:
            raise DuplicateNameError(
                f"{self.kind} {name!r} is registered twice (first as {self._entries[name]!r}); choose another name"
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: object, default: Any = None) -> Any:
        """The entry, or `default` for an unknown name, without the search for similar names that `[]` does."""
        return self._entries.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
