"""Delays the import of torch's compiler until it is used.

Importing Dynamo takes nearly as long as importing torch. torch's Python shape functions import it only to exempt themselves from
tracing, and torchvision only to ask later whether it can compile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def dynamo_put_off() -> Iterator[None]:
    """While active, imports of Dynamo return stand-ins with the answers that are known without it; any other use, from any
    thread, imports the real one."""
    if _DYNAMO in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.give_way()


class _Finder(MetaPathFinder):
    """An import finder that returns stand-ins for modules of Dynamo that are not imported yet."""

    def __init__(self) -> None:
        self._left_alone: list[Callable[..., Any]] = []
        self._answers: Mapping[str, Mapping[str, Callable[..., Any]]] = {
            _DYNAMO: {"disable": self._disable},
            _UTILS: {"is_compile_supported": self._is_compile_supported},
        }

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A stand-in for the module; for any other module of the package, the real package is imported."""
        if name in self._answers:
            stand_in = _StandIn(name, self._answers[name], self.give_way)
            return ModuleSpec(name, _Loaded(stand_in), is_package=name == _DYNAMO)
        if not name.startswith(f"{_DYNAMO}."):
            return None
        self.give_way()
        part = import_module(name)
        # The pending import executes the module in sys.modules a second time.
        del sys.modules[name]
        return ModuleSpec(name, _Loaded(part))

    def give_way(self) -> None:
        """Let the next import find the real modules; functions that were exempted meanwhile ask Dynamo again."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in self._answers:
            if isinstance(sys.modules.get(name), _StandIn):
                sys.modules.pop(name, None)
        if isinstance(vars(torch).get("_dynamo"), _StandIn):
            vars(torch).pop("_dynamo", None)
        functions, self._left_alone = self._left_alone, []
        for function in functions:
            # Where `torch._compile._disable_dynamo` keeps the answer.
            vars(function).pop("__dynamo_disable", None)

    def _disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function unchanged, since nothing traces it here."""
        self._left_alone.append(function)
        return function

    def _is_compile_supported(self, device_type: Any) -> Any:
        self.give_way()
        return import_module(_UTILS).is_compile_supported(device_type)


class _StandIn(ModuleType):
    """A stand-in module with a few attributes; access to any other attribute imports the real module."""

    def __init__(self, name: str, answers: Mapping[str, Callable[..., Any]], give_way: Callable[[], None]) -> None:
        super().__init__(name)
        self._answers = answers
        self._give_way = give_way

    def __getattr__(self, name: str) -> Any:
        if name in self._answers and sys.modules.get(self.__name__) is self:
            return self._answers[name]
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)  # attributes that Python looks up on every module, such as its file
        self._give_way()
        return getattr(import_module(self.__name__), name)


class _Loaded(Loader):
    """Loads a module object that exists already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        if self._spec is not None:
            # A module of settings accepts only its own names, so bypass its __setattr__.
            vars(module)["__spec__"] = self._spec
