"""torch's compiler, put off until somebody uses it.

Importing Dynamo takes nearly as long as importing torch. torch's shape functions in Python import it only to say that it is not
to trace them, and torchvision to ask it later whether it could compile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def dynamo_put_off() -> Iterator[None]:
    """While active, modules stand in for Dynamo as far as its answer is known without it; any other use imports the real one."""
    if _DYNAMO in sys.modules:
        yield
        return
    stand_ins = _StandIns()
    try:
        yield
    finally:
        stand_ins.give_way()


class _StandIns:
    """Modules in the place of those that are not imported yet."""

    def __init__(self) -> None:
        self._left_alone: list[Callable[..., Any]] = []
        self._modules = {
            _DYNAMO: _Module(_DYNAMO, {"disable": self._disable}, self.give_way),
            _UTILS: _Module(_UTILS, {"is_compile_supported": _is_compile_supported}, self.give_way),
        }
        sys.modules.update(self._modules)
        torch._dynamo = self._modules[_DYNAMO]

    def _disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function as it is: nothing traces it here."""
        self._left_alone.append(function)
        return function

    def give_way(self) -> None:
        """Let the next import find the real modules; functions that were to be left alone ask again."""
        for name, module in self._modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
                if name == _DYNAMO:
                    del torch._dynamo
        while self._left_alone:
            # Where `torch._compile._disable_dynamo` keeps the answer.
            vars(self._left_alone.pop()).pop("__dynamo_disable", None)


class _Module(ModuleType):
    """A module that has some answers while it stands in, and gives way to the real one for anything else."""

    def __init__(self, name: str, answers: Mapping[str, Any], give_way: Callable[[], None]) -> None:
        super().__init__(name)
        self._answers = answers
        self._give_way = give_way

    def __getattr__(self, name: str) -> Any:
        if name in self._answers and sys.modules.get(self.__name__) is self:
            return self._answers[name]
        # Whoever looks for the source of a frame asks every module for its file; importing a name asks whether this is a package.
        if name == "__file__" or (name == "__path__" and self.__name__ == _UTILS):
            raise AttributeError(name)
        self._give_way()
        return getattr(import_module(self.__name__), name)


def _is_compile_supported(device_type: Any) -> Any:
    return import_module(_UTILS).is_compile_supported(device_type)
