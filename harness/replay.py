"""Runs a captured graph call by call on real tensors, so that each call of a network can be timed where it stands.

Values flow as in the model: a call reads what the calls before it left in the caches, views share memory, and a tensor is
released after its last use, so that the allocator behaves as it does in eager.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.records import Graph, OpCall, TensorSpec
from shmoo.runs.statistics import median

_DTYPES = {"float8": torch.float8_e4m3fn, "int4": torch.int8}
"""Vocabulary names that are no torch dtype, and a type that stands for them (int4 has no tensor of its own)."""


class ReplayError(ShmooError):
    """A graph cannot be run from its record: an operator has no callable of its name, or refused its arguments."""


class _Step:
    """One call, resolved once: the callable and which arguments to fill from the environment before each run."""

    def __init__(self, call: OpCall, device: str) -> None:
        self.call = call
        self.function = _function(call)
        self.release: tuple[int, ...] = ()
        self._positional: list[Any] = []
        self._named: dict[str, Any] = {}
        self._slots: list[tuple[Any, Any, int]] = []  # (container, key, value index)
        operands = dict(zip(call.operands, call.reads, strict=True))
        self.written = [
            index
            for argument in self.function._schema.arguments
            if argument.is_write
            for index in [operands.get(argument.name)]
            if index is not None
        ]
        for argument in self.function._schema.arguments:
            container, key = (self._named, argument.name) if argument.kwarg_only else (self._positional, len(self._positional))
            value = self._argument(argument, operands, container, key, device)
            if argument.kwarg_only:
                self._named[argument.name] = value
            else:
                self._positional.append(value)

    def _argument(self, argument: Any, operands: Mapping[str, int], container: Any, key: Any, device: str) -> Any:
        """The argument's constant value; where a tensor goes, a slot to fill."""
        name, kind = argument.name, str(argument.type)
        if name in operands:
            self._slots.append((container, key, operands[name]))
            return None
        members = {
            int(operand.rpartition(".")[2]): index for operand, index in operands.items() if operand.rpartition(".")[0] == name
        }
        if members:
            listed: list[Any] = [None] * (max(members) + 1)
            self._slots.extend((listed, position, index) for position, index in members.items())
            return listed
        if "Device" in kind:
            # A conversion may name its device beside its operand; whatever else has operands follows them.
            return None if operands and kind.startswith("Optional") else torch.device(device)
        if name in self.call.attributes:
            return _decode(self.call.attributes[name], argument)
        return argument.default_value if argument.has_default_value() else None

    def fill(self, environment: Mapping[int, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        for container, key, index in self._slots:
            container[key] = environment[index]
        return self._positional, self._named

    def clear(self) -> None:
        """Let go of the tensors, which the model would not hold either."""
        for container, key, _ in self._slots:
            container[key] = None


class GraphReplay:
    """A graph made ready to run.

    Args:
        graph: as captured.
        weights: tensors of parameters and buffers by their qualified name.
        inputs: tensors for the graph's inputs; each input takes the first of its shape and dtype that is left. What is in
            neither is made up: random numbers, and zeros for integers, which may be indices.
        device: where made-up tensors and new ones live.

    Raises:
        ReplayError: an operator of the graph cannot be called by its name.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor] = (), device: str = "cpu"
    ) -> None:
        self.graph = graph
        self._device = device
        self._steps = [_Step(call, device) for call in graph.calls]
        self._fixed = dict(self._sources(weights, list(inputs)))
        last_use: dict[int, int] = {}
        for position, call in enumerate(graph.calls):
            last_use.update(dict.fromkeys((*call.reads, *call.writes), position))
        for index in graph.outputs:
            last_use.pop(index, None)
        for index, position in last_use.items():
            if index not in self._fixed:
                self._steps[position].release += (index,)

    def _sources(self, weights: Mapping[str, torch.Tensor], inputs: list[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
        produced = {index for call in self.graph.calls for index in call.writes}
        for index, value in enumerate(self.graph.values):
            if index in produced or (value.kind == "activation" and value.storage is not None):
                continue
            known = weights.get(value.name) if value.is_weight else None
            if known is None and value.kind == "input":
                known = next((tensor for tensor in inputs if _matches(tensor, value.spec)), None)
                if known is not None:
                    inputs[:] = [tensor for tensor in inputs if tensor is not known]
            yield index, known if known is not None and _matches(known, value.spec) else self._made_up(value.spec)

    def _made_up(self, spec: TensorSpec) -> torch.Tensor:
        dtype = torch_dtype(spec.dtype)
        if dtype.is_floating_point:
            return torch.randn(spec.shape, device=self._device).to(dtype)
        return torch.zeros(spec.shape, dtype=dtype, device=self._device)

    def run(self, stamp: Callable[[], Any]) -> list[tuple[Any, Any]]:
        """Run every call once; `stamp` is called right before and right after each, and the pairs are returned.

        Raises:
            ReplayError: an operator refused its arguments.
        """
        environment = dict(self._fixed)
        return [self._advance(step, environment, stamp) for step in self._steps]

    def last_call(self) -> Callable[[], object]:
        """Run every call but the last once, and give the last as a function that can be called again on the same operands.

        Raises:
            ReplayError: an operator refused its arguments; the last one is tried as well.
        """
        environment = dict(self._fixed)
        for step in self._steps[:-1]:
            self._advance(step, environment, lambda: None)
        last = self._steps[-1]
        function = last.function
        arguments, named = self._operands(last, environment)

        def call() -> object:
            return function(*arguments, **named)

        self._attempt(last, call)
        return call

    def _advance(self, step: _Step, environment: dict[int, torch.Tensor], stamp: Callable[[], Any]) -> tuple[Any, Any]:
        """Run one call and keep what it made; the marks right before and after it."""
        arguments, named = self._operands(step, environment)

        def call() -> tuple[Any, Any, Any]:
            before = stamp()
            made = step.function(*arguments, **named)
            return before, made, stamp()

        before, result, after = self._attempt(step, call)
        results = [tensor for tensor in _leaves(result) if isinstance(tensor, torch.Tensor)]
        kept = {id(tensor) for tensor in results}
        results += [environment[i] for i in step.written if id(environment[i]) not in kept]
        environment.update(zip(step.call.writes, results, strict=False))
        step.clear()
        for index in step.release:
            environment.pop(index, None)
        return before, after

    def _operands(self, step: _Step, environment: dict[int, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        for index in step.call.reads:
            if index not in environment:
                environment[index] = self._alias(index, environment)
        return step.fill(environment)

    def _attempt(self, step: _Step, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise ReplayError(f"{step.call.op} of graph {self.graph.name!r} cannot be replayed: {error}") from error

    def _alias(self, index: int, environment: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """A value that no call made: another look at memory that a later call wrote into."""
        spec = self.graph.values[index].spec
        base = environment.get(self.graph.values[index].storage)
        return (
            base.view(spec.shape)
            if base is not None and _matches(base.reshape(-1), TensorSpec((spec.numel,), spec.dtype))
            else self._made_up(spec)
        )


def child_times(
    replays: Sequence[GraphReplay], max_s: float = 1.0, min_passes: int = 5, max_passes: int = 50, device: str = "cpu"
) -> list[float]:
    """Median seconds of each call, over the graphs in order. The first pass only warms up.

    Raises:
        ReplayError: see `GraphReplay`.
    """
    stamp, seconds, wait = _stamps(device)
    begin = time.perf_counter()
    passes: list[list[float]] = []
    with torch.no_grad():
        for replay in replays:
            replay.run(stamp)
        wait()
        while len(passes) < max_passes and (len(passes) < min_passes or time.perf_counter() - begin < max_s):
            stamps = [pair for replay in replays for pair in replay.run(stamp)]
            wait()
            passes.append([seconds(before, after) for before, after in stamps])
    return [median(times) for times in zip(*passes, strict=True)]


def _stamps(device: str) -> tuple[Callable[[], Any], Callable[[Any, Any], float], Callable[[], None]]:
    """How to mark a moment, the seconds between two marks, and how to wait until they can be read."""
    if device.startswith("cuda"):

        def event() -> torch.cuda.Event:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            return mark

        return event, lambda a, b: a.elapsed_time(b) / 1e3, torch.cuda.synchronize
    return time.perf_counter, lambda a, b: b - a, lambda: None


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype that holds elements of a vocabulary type."""
    return _DTYPES.get(name) or getattr(torch, name)


def _matches(tensor: torch.Tensor, spec: TensorSpec) -> bool:
    return tuple(tensor.shape) == spec.shape and tensor.dtype == torch_dtype(spec.dtype)


def _function(call: OpCall) -> Any:
    namespace, _, name = call.op.partition(".")
    names = (f"{name}_", name) if call.inplace else (name,)
    for candidate in names:
        packet = getattr(getattr(torch.ops, namespace, None), candidate, None)
        function = getattr(packet, call.overload, None)
        if function is not None and hasattr(function, "_schema"):
            return function
    raise ReplayError(f"{call.op} (overload {call.overload!r}) is no operator that can be called by its name")


def _decode(value: Any, argument: Any) -> Any:
    """An attribute as the record holds it, as the operator takes it."""
    if not isinstance(value, str):
        return value
    kind = str(argument.real_type if hasattr(argument, "real_type") else argument.type)
    if "str" in kind:
        return value
    if "ScalarType" in kind:
        return torch_dtype(value)
    if "MemoryFormat" in kind or "Layout" in kind:
        return getattr(torch, value)
    try:
        return float(value)  # infinities and NaN, which JSON lacks
    except ValueError:
        return complex(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _leaves(element)
    else:
        yield value
