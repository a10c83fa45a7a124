"""Runs a captured graph call by call on real tensors, to time each call inside its network, with the caches, views and releases
of eager execution, or each operator alone, back to back on its operands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.graph.distinct import DistinctOperator, distinct_operators
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec
from shmoo.harness.measuring.timing import ALONE, BlockTimer, CudaTimer, HostTimer, TimingSettings, time_callable
from shmoo.harness.measuring.watch.hostwatch import observed
from shmoo.runs.store.records import OperatorTime
from shmoo.runs.store.statistics import mad, median

_DTYPES = {"float8": torch.float8_e4m3fn, "int4": torch.int8, "float4": torch.int8}
"""Type of the vocabulary -> torch dtype, where the names differ; torch has no 4-bit tensors, so int8 replaces them."""


MOST_PASSES = 50


class ReplayError(ShmooError):
    """A graph cannot be run from its record: an operator has no callable of its name, or refused its arguments."""


class _Slot(NamedTuple):
    """Stands for a tensor among the arguments of a call: the index of its value."""

    value: int


class _Step:
    """One resolved call: the callable, and its arguments with slots for the tensors of each run."""

    def __init__(self, call: OpCall, device: str) -> None:
        self.call = call
        self.function = _function(call)
        self.release: tuple[int, ...] = ()
        operands = dict(zip(call.operands, call.reads, strict=True))
        arguments = self.function._schema.arguments
        self.written = [operands[argument.name] for argument in arguments if argument.is_write and argument.name in operands]
        values = {argument.name: self._argument(argument, operands, device) for argument in arguments}
        self._positional = [values[argument.name] for argument in arguments if not argument.kwarg_only]
        self._named = {argument.name: values[argument.name] for argument in arguments if argument.kwarg_only}

    def _argument(self, argument: Any, operands: Mapping[str, int], device: str) -> Any:
        """The argument's constant value, or a slot, or a list of slots, where tensors go."""
        name, kind = argument.name, str(argument.type)
        if name in operands:
            return _Slot(operands[name])
        members = {
            int(operand.rpartition(".")[2]): index for operand, index in operands.items() if operand.rpartition(".")[0] == name
        }
        if members:
            return [_Slot(members[i]) if i in members else None for i in range(max(members) + 1)]
        if "Device" in kind:
            # A conversion may name its device in addition to its operand; other operators run on their operands' device.
            return None if operands and kind.startswith("Optional") else torch.device(device)
        if name in self.call.attributes:
            return _decode(self.call.attributes[name], argument)
        return argument.default_value if argument.has_default_value() else None

    def filled(self, environment: Mapping[int, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a run, by position and by name."""

        def fill(value: Any) -> Any:
            if isinstance(value, _Slot):
                return environment[value.value]
            return [fill(element) for element in value] if isinstance(value, list) else value

        return [fill(value) for value in self._positional], {name: fill(value) for name, value in self._named.items()}


class GraphReplay:
    """A graph prepared to run.

    Args:
        weights: tensors of parameters and buffers by their qualified name.
        inputs: tensors for the graph's inputs; each input takes the first unused one of its shape and dtype. Missing values
            are random numbers, or zeros for integers, which may be indices.
        device: device of new tensors.

    Raises:
        ReplayError: an operator of the graph cannot be called by its name; also raised during a run, when one refuses its
            arguments.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor] = (), device: str = "cpu"
    ) -> None:
        self.graph = graph
        self._device = device
        self._steps = [_Step(call, device) for call in graph.calls]
        self._sources = dict(self._source_tensors(weights, list(inputs)))
        last_use: dict[int, int] = {}
        for position, call in enumerate(graph.calls):
            last_use.update(dict.fromkeys((*call.reads, *call.writes), position))
        for index, position in last_use.items():
            if index not in self._sources and index not in graph.outputs:
                self._steps[position].release += (index,)

    def _source_tensors(
        self, weights: Mapping[str, torch.Tensor], inputs: list[torch.Tensor]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Tensors for the values that no call produces; removes used ones from `inputs`."""
        produced = {index for call in self.graph.calls for index in call.writes}
        read_values = {place for call in self.graph.calls for index in call.reads for place in (index, self.graph.root(index))}
        for index, value in enumerate(self.graph.values):
            if index in produced or (value.kind == "activation" and value.storage is not None):
                continue
            if value.is_weight and index not in read_values:
                continue
            tensor = weights.get(value.name) if value.is_weight else None
            if tensor is None and value.kind == "input":
                position = next((i for i, candidate in enumerate(inputs) if _matches(candidate, value.spec)), None)
                tensor = None if position is None else inputs.pop(position)
            yield index, tensor if tensor is not None and _matches(tensor, value.spec) else self._made_up(value.spec)

    def _made_up(self, spec: TensorSpec) -> torch.Tensor:
        dtype = torch_dtype(spec.dtype)
        if dtype.is_floating_point:
            return torch.randn(spec.shape, device=self._device).to(dtype)
        return torch.zeros(spec.shape, dtype=dtype, device=self._device)

    def run(self, stamp: Callable[[], Any]) -> list[tuple[Any, Any]]:
        """Run every call once; returns pairs of `stamp()` right before and right after each."""
        environment = dict(self._sources)
        return [self._advance(step, environment, stamp) for step in self._steps]

    def last_call(self) -> Callable[[], object]:
        """Run every call once, and return the last as a function that can be called again on the same operands."""
        environment = dict(self._sources)
        for step in self._steps[:-1]:
            self._advance(step, environment, lambda: None)
        last = self._steps[-1]
        arguments, keywords = self._operands(last, environment)
        call = partial(last.function, *arguments, **keywords)
        with self._replay_errors(last):
            call()
        return call

    def _advance(self, step: _Step, environment: dict[int, torch.Tensor], stamp: Callable[[], Any]) -> tuple[Any, Any]:
        """Run one call and store its results in the environment; returns the stamps right before and after it."""
        arguments, keywords = self._operands(step, environment)
        with self._replay_errors(step):
            before = stamp()
            result = step.function(*arguments, **keywords)
            after = stamp()
        results = [tensor for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        returned = {id(tensor) for tensor in results}
        results += [environment[i] for i in step.written if id(environment[i]) not in returned]
        environment.update(zip(step.call.writes, results, strict=False))
        for index in step.release:
            environment.pop(index, None)
        return before, after

    def _operands(self, step: _Step, environment: dict[int, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        for index in step.call.reads:
            if index not in environment:
                environment[index] = self._alias(index, environment)
        return step.filled(environment)

    @contextmanager
    def _replay_errors(self, step: _Step) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise ReplayError(f"{step.call.op} of graph {self.graph.name!r} cannot be replayed: {error}") from error

    def _alias(self, index: int, environment: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """A value that no call produces: another view of memory that a call wrote."""
        spec = self.graph.values[index].spec
        storage = self.graph.values[index].storage
        base = None if storage is None else environment.get(storage)
        if base is not None and base.numel() == spec.numel and base.dtype == torch_dtype(spec.dtype):
            return base.view(spec.shape)
        return self._made_up(spec)


def child_times(replays: Sequence[GraphReplay], max_s: float = 1.0, min_passes: int = 5, device: str = "cpu") -> list[float]:
    """Median seconds of each call, over the graphs in order; errors as for `GraphReplay`. The first pass only warms up."""
    stamp, seconds, wait = _stamps(device)
    begin = time.perf_counter()
    passes: list[list[float]] = []
    with torch.no_grad():
        for replay in replays:
            replay.run(stamp)
        wait()
        while len(passes) < MOST_PASSES and (len(passes) < min_passes or time.perf_counter() - begin < max_s):
            stamps = [pair for replay in replays for pair in replay.run(stamp)]
            wait()
            passes.append([seconds(before, after) for before, after in stamps])
    return [median(times) for times in zip(*passes, strict=True)]


def _stamps(device: str) -> tuple[Callable[[], Any], Callable[[Any, Any], float], Callable[[], None]]:
    """Functions that take a time stamp, give the seconds between two stamps, and wait until stamps can be read."""
    if device.startswith("cuda"):

        def event() -> torch.cuda.Event:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            return mark

        return event, lambda a, b: a.elapsed_time(b) / 1e3, torch.cuda.synchronize
    return time.perf_counter, lambda a, b: b - a, lambda: None


def time_operators(graphs: Sequence[Graph], device: str = "cpu", settings: TimingSettings = ALONE) -> tuple[OperatorTime, ...]:
    """Time each distinct operator of some graphs alone, as the baseline for estimates that sum operators. An operator that cannot
    run from its record has a reason instead of a time; a disturbed one has both."""
    with torch.no_grad():
        return tuple(_time_operator(operator, device, settings) for operator in distinct_operators(graphs))


def _time_operator(operator: DistinctOperator, device: str, settings: TimingSettings) -> OperatorTime:
    name = operator.call.op
    try:
        call = GraphReplay(operator.graph, {}, device=device).last_call()
    except ReplayError as error:
        return OperatorTime(name, operator.calls, reason=str(error))
    cuda = device.startswith("cuda")
    timer: BlockTimer = CudaTimer(torch.cuda) if cuda else HostTimer()
    timing, _, reasons = observed(
        lambda: time_callable(call, settings=settings, timer=timer), torch.get_num_threads(), device_time=cuda
    )
    samples = timing.samples_s
    return OperatorTime(name, operator.calls, median(samples), mad(samples), "; ".join(map(str, reasons)))


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype that holds elements of a vocabulary type."""
    return _DTYPES.get(name) or getattr(torch, name)


def _matches(tensor: torch.Tensor, spec: TensorSpec) -> bool:
    return tuple(tensor.shape) == spec.shape and tensor.dtype == torch_dtype(spec.dtype)


def _function(call: OpCall) -> Any:
    namespace, _, name = call.op.partition(".")
    for candidate in (f"{name}_", name) if call.inplace else (name,):
        packet = getattr(getattr(torch.ops, namespace, None), candidate, None)
        function = getattr(packet, call.overload, None)
        if function is not None and hasattr(function, "_schema"):
            return function
    raise ReplayError(f"{call.op} (overload {call.overload!r}) is not an operator that can be called by its name")


def _decode(value: Any, argument: Any) -> Any:
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
