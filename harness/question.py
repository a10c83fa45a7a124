"""One question about models and machines, whether it comes from Python or the command line, and the architectures and captured
graphs that answer it. Importing this module imports neither torch nor pandas."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar, Unpack, cast

import msgspec

from shmoo.estimators.costs.quantize import quantized, with_dtype
from shmoo.estimators.errors import InputError, only_one, unknown
from shmoo.estimators.graph.dtypes import compute_dtype, matrix_dtype
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.units import shape_of
from shmoo.estimators.variants import with_threads
from shmoo.harness.defaults import LOCAL
from shmoo.harness.machine.architectures import choose_targets
from shmoo.harness.models.capture_cache import ModelSource
from shmoo.harness.models.request import Mode, ModelRequest, Point, at_batches
from shmoo.harness.module import STORAGE_DTYPES, Capture, DNNModule
from shmoo.runs.store.records import AxisValue

F = TypeVar("F", bound=Callable[..., Any])
Graphs = Graph | Sequence[Graph]
Model = str | Graphs | Capture | Callable[..., Any]
"""A model's name as on the command line, its graphs, what `capture` and `model_graphs` return, or a module or function."""
Architecture = str | ArchitectureProfile
"""A name as `shmoo profiles list` gives it, the path of a profile file, or a profile."""


PLAIN = Mode()
"""One plain call."""


class Options(TypedDict, total=False):
    """Keyword arguments that say how a model is run and on what, with the meaning of the command line's options of these names. A
    name that is not among them is refused.

    Attributes:
        args, kwargs: arguments that a module or function is captured with.
        batch: samples a call processes; the model's own for `None`. Of what is no model by name it only scales throughput.
        dtype: element type; for `None` a user's own model keeps its types, and named ones are float32.
        input_shape: extents, or their text as on the command line ("1x3x224x224").
        input_shape, seq_len, trust, phase, training, autocast, channels_last: of a model by name.
        quantize: scheme for the weights of linear layers, such as "int4-weight".
        runtime: each architecture's own for `None`.
        threads: of the CPUs among the architectures.
        host: that launches the kernels of the GPUs among them.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None
    batch: int | Sequence[int] | None
    dtype: str | Sequence[str] | None
    input_shape: tuple[int, ...] | str | None
    seq_len: int | None
    trust: bool
    phase: str | None
    training: bool
    autocast: str | None
    quantize: str | None
    channels_last: bool
    runtime: str | Sequence[str] | None
    threads: int | None
    host: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, apart from the model.

    Attributes:
        arch, runtime, batches, dtypes: as given; empty for what is usual.
        threads, host, input_shape, seq_len, trust, args, kwargs: as in `Options`.
        mode: how the model is run.
        open_source: makes the source of a model's graphs.
        tell: told of each capture of a model by name.
    """

    arch: tuple[Architecture, ...] = ()
    runtime: tuple[str, ...] = ()
    threads: int | None = None
    host: str | None = None
    batches: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    seq_len: int | None = None
    trust: bool = False
    mode: Mode = PLAIN
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    open_source: Callable[[ModelRequest], ModelSource] = ModelSource
    tell: Callable[[str, Capture], None] = lambda model, found: None

    @property
    def batch(self) -> int | None:
        """The batch size, where one is taken; `InputError` for several."""
        return only_one(self.batches, "--batch")

    @property
    def dtype(self) -> str | None:
        """The element type, where one is taken; `InputError` for several."""
        return only_one(self.dtypes, "--dtype")

    def usually(self, *archs: str) -> Question:
        """The same of these architectures where none is named."""
        return self if self.arch else replace(self, arch=archs)

    def targets(self, unnamed: Sequence[str] = ()) -> list[tuple[ArchitectureProfile, str | None]]:
        """The architectures with their runtimes, as `choose_targets` gives them."""
        return choose_targets(self.arch, self.runtime, self.threads, self.host, unnamed)

    def machines(self) -> list[tuple[ArchitectureProfile, str]]:
        """The architectures at the threads asked for, each in the one runtime asked for or its own; errors as of
        `choose_targets`, and `InputError` for several runtimes."""
        only_one(self.runtime, "--runtime")
        return [
            (
                profile if self.threads is None or profile.family != "cpu" else with_threads(profile, self.threads),
                runtime or profile.default_runtime,
            )
            for profile, runtime in self.targets()
        ]

    def machine(self) -> tuple[ArchitectureProfile, str]:
        """The one architecture asked for, this machine where none is named; `InputError` for several."""
        only_one(self.arch, "--arch")
        (machine,) = self.usually(LOCAL).machines()
        return machine

    def request(self, model: str, dtype: str | None, points: Sequence[Point] = ()) -> ModelRequest:
        """What is asked of a model by name, in one type and at the points to come; `InputError` where inputs are given, too."""
        if self.args or self.kwargs:
            raise InputError(f"{model!r} brings its own inputs; leave args and kwargs out, or pass the model itself")
        return ModelRequest(model, dtype, self.input_shape, self.seq_len, self.trust, self.mode, tuple(points))

    def points(self, settings: Mapping[str, AxisValue] = {}) -> tuple[Point, ...]:
        """`settings` of a model's axes with each batch size asked for; `InputError` where they name one, too."""
        self.check_axes(settings)
        return tuple({**settings, **point} for point in at_batches(self.batches or (None,)))

    def check_axes(self, named: Collection[str]) -> None:
        """`InputError` where "batch" is named among axes although batch sizes are asked for."""
        if self.batches and "batch" in named:
            raise InputError("axis 'batch' is given to --batch and as an axis of its own; give it once")

    def captures(self, workload: Model, settings: Mapping[str, AxisValue] = {}) -> Iterator[Capture]:
        """The model in each batch size and type, at `settings` of its other axes.

        Raises:
            InputError: an argument that the kind of workload does not take, or none of the kinds.
            CaptureError: torch cannot capture the model.
        """
        if not isinstance(workload, str):
            yield self._captured(workload)
            return
        points = self.points(settings)
        wanted: Sequence[str | None] = self.dtypes or (None,)
        sources = [self.open_source(self.request(workload, dtype, points)) for dtype in wanted]
        for point, source in itertools.product(points, sources):
            found = msgspec.structs.replace(source.at(point), name=workload)
            self.tell(workload, found)
            yield found

    def capture(self, workload: Model, settings: Mapping[str, AxisValue] = {}) -> Capture:
        """The model in the one batch size and type asked for; errors as of `captures`."""
        only_one(self.batches, "--batch")
        only_one(self.dtypes, "--dtype")
        return next(self.captures(workload, settings))

    def module(self, model: str) -> DNNModule:
        """A model by name that torch can build and run as it is asked for; `InputError` where it cannot."""
        from shmoo.harness.workloads.loading import resolve_model

        if self.dtype is not None and (self.dtype not in STORAGE_DTYPES or self.dtype == "tf32"):
            raise InputError(f"torch runs no model in {self.dtype} as it stands")
        if self.mode != PLAIN:
            raise InputError(f"torch runs no model in the mode {', '.join(self.mode.parts)} as it stands")
        return resolve_model(model, input_shape=self.input_shape, seq_len=self.seq_len, trust=self.trust)

    def _captured(self, workload: Graphs | Capture | Callable[..., Any]) -> Capture:
        """What is no model by name, once captured."""
        if self.input_shape is not None or self.seq_len is not None or self.trust:
            raise InputError(
                "input_shape, seq_len and trust apply to a model by name; capture this one at the shapes to estimate"
            )
        if self.mode != Mode(quantize=self.mode.quantize):
            raise InputError(
                "phase, training, autocast and channels_last apply to a model by name; capture this one as it is to be run"
            )
        dtype, batch = self.dtype, self.batch
        self.mode.check(dtype or "float32")
        if callable(workload):
            from shmoo.harness.capture import capture

            name = getattr(workload, "__name__", type(workload).__name__)
            found = capture(workload, self.args, self.kwargs, name=name)
        else:
            found = workload if isinstance(workload, Capture) else Capture(listed(workload))
            if self.args or self.kwargs:
                raise InputError("args and kwargs are those of a module or function; these graphs are captured already")
            if not found.graphs or not all(isinstance(graph, Graph) for graph in found.graphs):
                raise InputError(
                    f"cannot estimate a {type(workload).__name__}; give a model's name, a module, or captured graphs"
                )
            name = next((graph.name for graph in found.graphs if graph.name), "model")
        graphs, arithmetic = found.graphs, None if dtype is None else matrix_dtype(dtype)
        if dtype is not None and arithmetic is None:
            graphs = tuple(with_dtype(graph, dtype) for graph in graphs)
        if self.mode.quantize is not None:
            graphs = quantized(graphs, self.mode.quantize)
        batch = found.batch if batch is None else batch
        return msgspec.structs.replace(found, graphs=graphs, batch=batch, compute_dtype=arithmetic, name=name)


Architectures = Architecture | Sequence[Architecture] | Question | None
"""One architecture or several, `None` for the usual ones; or all that is asked, as the command line asks it."""


def ask(arch: Architectures, **options: Unpack[Options]) -> Question:
    """The question that arguments ask; `InputError` for an unknown element type, `TypeError` for an unknown argument."""
    if isinstance(arch, Question):
        return arch
    given: dict[str, Any] = {**options}
    if strange := given.keys() - Options.__annotations__.keys():
        raise TypeError(str(unknown("argument", min(strange), Options.__annotations__)))
    mode = Mode(**{name: given.pop(name) for name in Mode.__struct_fields__ if name in given})
    batches, runtime = listed(given.pop("batch", None)), listed(given.pop("runtime", None))
    dtypes = tuple(dict.fromkeys(map(compute_dtype, listed(given.pop("dtype", None)))))
    if isinstance(shape := given.get("input_shape"), str):
        given["input_shape"] = shape_of(shape, "input_shape")
    return Question(arch=listed(arch), runtime=runtime, batches=batches, dtypes=dtypes, mode=mode, **given)


def listed(value: Any) -> tuple[Any, ...]:
    """One or several as a tuple; nothing for `None`."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def renamed(**names: str) -> Callable[[F], F]:
    """Keyword arguments by their older names, each with the present one: they work, with a `DeprecationWarning`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_old(*args: Any, **given: Any) -> Any:
            for old in names.keys() & given.keys():
                warnings.warn(f"{old}= of {function.__name__} is now {names[old]}=", DeprecationWarning, stacklevel=2)
                given[names[old]] = given.pop(old)
            return function(*args, **given)

        return cast(F, with_old)

    return decorate
