"""torch.compile back-ends `kpu` and `tpu`: a model runs eagerly, and the cost of the call on the modelled machine is recorded.

    compiled = torch.compile(model, backend="kpu", options={"profile": "kpu_t64"})
    with recording() as call:
        output = compiled(x)
    call.latency_s, call.energy_j, call.schedule

The pieces between graph breaks belong to one call; the Python code between them is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx

from shmoo.estimators.errors import InputError, NothingMeasuredError, unknown
from shmoo.estimators.graph.records import Graph, Interval
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.predict.timeline import KernelSpan, schedule
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin, source_of
from shmoo.harness.machine.architectures import load_architecture

DEFAULT_PROFILES = {"kpu": "kpu_t256", "tpu": "tpu_v4"}
"""Back-end -> architecture that it models by default."""


@dataclass
class ModelledCall:
    """The call that ran inside `recording()`, modelled on one machine. Read it after the block."""

    _pieces: list[tuple[ArchitectureProfile, Graph]] = field(default_factory=list)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The pieces that ran, in order."""
        return tuple(graph for _, graph in self._pieces)

    @cached_property
    def _director(self) -> AnalysisDirector:
        if not self._pieces:
            raise NothingMeasuredError(
                "no piece of a model compiled with backend 'kpu' or 'tpu' ran; call the compiled model inside recording()"
            )
        names = {profile.name for profile, _ in self._pieces}
        if len(names) > 1:
            raise InputError(f"pieces modelled on {', '.join(sorted(names))} ran in one recording(); use one for each call")
        return AnalysisDirector(self._pieces[0][0])

    @cached_property
    def estimate(self) -> Estimate:
        """The complete estimate: intervals, breakdown, basis. `NothingMeasuredError` where nothing compiled with these back-ends
        ran; `InputError` where pieces of different machines ran."""
        return self._director.estimate(self.graphs)

    @property
    def latency_s(self) -> Interval:
        """Seconds the call would take, with the 90 % interval."""
        return self.estimate.latency_s

    @property
    def energy_j(self) -> Interval | None:
        """Joules the call would take; `None` where the profile has no energy coefficients."""
        return self.estimate.energy_j

    @property
    def schedule(self) -> tuple[KernelSpan, ...]:
        """Every kernel in order, from the entry of the call; errors as for `estimate`."""
        return schedule(self._director, self.graphs)[1]


_ACTIVE: ContextVar[ModelledCall | None] = ContextVar("shmoo_modelled_call", default=None)


@contextmanager
def recording() -> Iterator[ModelledCall]:
    """Model the calls of compiled models inside the block, in this thread or task."""
    call = ModelledCall()
    token = _ACTIVE.set(call)
    try:
        yield call
    finally:
        _ACTIVE.reset(token)


def kpu(module: fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Back-end `kpu`: the Stillwater KPU; Dynamo calls it. Its option `profile` is the name of an architecture, the path of a
    profile, or an `ArchitectureProfile`; `InputError` for an unknown option or profile, or a profile of another family."""
    return _Piece(module, _profile("kpu", options)).run


def tpu(module: fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Back-end `tpu`: a Google TPU; arguments and errors as of `kpu`."""
    return _Piece(module, _profile("tpu", options)).run


def _profile(family: str, options: Mapping[str, Any] | None) -> ArchitectureProfile:
    for name in options or {}:
        if name != "profile":
            raise unknown(f"option of torch.compile back-end {family!r}", name, ("profile",))
    choice = (options or {}).get("profile", DEFAULT_PROFILES[family])
    profile = choice if isinstance(choice, ArchitectureProfile) else load_architecture(choice)
    if profile.family != family:
        raise InputError(f"back-end {family!r} models a {family}, profile {profile.name!r} is a {profile.family}")
    return profile


class _Piece:
    """One of Dynamo's graphs with its machine. Shapes come from each call, so graphs with symbolic sizes are modelled too."""

    def __init__(self, module: fx.GraphModule, profile: ArchitectureProfile) -> None:
        self._module = module
        self._profile = profile
        self._sources = [source_of(node) for node in module.graph.find_nodes(op="placeholder")]
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def run(self, *arguments: Any) -> Any:
        call = _ACTIVE.get()
        if call is not None:
            call._pieces.append((self._profile, self._graph(arguments)))
        return self._module.forward(*arguments)

    def _graph(self, arguments: Sequence[Any]) -> Graph:
        key = tuple((tuple(a.shape), a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments)
        if key not in self._graphs:
            origins = [_origin(value, source) for value, source in zip(arguments, self._sources, strict=True)]
            self._graphs[key] = FXGraphWalker().walk(self._module, arguments, origins=origins)
        return self._graphs[key]


def _origin(value: Any, source: str) -> Origin:
    """The origin of a placeholder's value, from its type and Dynamo's name of its source."""
    if isinstance(value, torch.nn.Parameter) or "_parameters[" in source:
        return Origin("parameter", source)
    return Origin("buffer" if "_buffers[" in source else "input", source)
