"""A question about models and machines, from Python or the command line, with the architectures and captured graphs that it
needs. Importing this module imports neither torch nor pandas."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from shmoo.harness.module import STORAGE_DTYPES, Capture, DNNModule, exported_program
from shmoo.runs.store.records import AxisValue

F = TypeVar("F", bound=Callable[..., Any])
Graphs = Graph | Sequence[Graph]
Model = str | Graphs | Capture | Callable[..., Any]
"""A model's name as on the command line, its graphs, what `capture` and `model_graphs` return, a module or function, or a program
of torch.export."""
Architecture = str | ArchitectureProfile
"""A name from `shmoo profiles list`, the path of a profile file, or a profile."""


PLAIN = Mode()
"""One plain call."""


class Options(TypedDict, total=False):
    """Keyword arguments for how and where a model runs, with the meaning of the command line's options of these names. Other
    names are refused.

    Attributes:
        args, kwargs: arguments that a module or function is captured with; a single tensor may stand for `args`. A program of
            torch.export brings its own.
        batch: samples per call; by default the model's batch. For a model that is not given by name it only scales throughput.
        dtype: element type, by name or as a type of torch or numpy; by default a user's model keeps its types, and named models
            are float32.
        input_shape: extents, or their text as on the command line ("1x3x224x224").
        input_shape, seq_len, trust, phase, training, autocast, channels_last: apply to a model given by name.
        quantize: scheme for the weights of linear layers, such as "int4-weight".
        runtime: by default each architecture's default runtime.
        threads: threads on the CPUs among the architectures.
        host: host that launches the kernels of the GPUs among them.
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
    """A question, apart from the model.

    Attributes:
        arch, runtime, batches, dtypes: as given; empty for the defaults.
        threads, host, input_shape, seq_len, trust, args, kwargs: as in `Options`.
        mode: how the model is run.
        open_source: makes the source of a model's graphs.
        tell: called with each capture of a model by name.
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
    tell: Callable[[str, Capture], None] = lambda model, captured: None

    @property
    def batch(self) -> int | None:
        """The batch size, if given; `InputError` for several."""
        return only_one(self.batches, "--batch")

    @property
    def dtype(self) -> str | None:
        """The element type, if given; `InputError` for several."""
        return only_one(self.dtypes, "--dtype")

    def usually(self, *archs: str) -> Question:
        """The same question with these architectures if none is named."""
        return self if self.arch else replace(self, arch=archs)

    def targets(self, unnamed: Sequence[str] = ()) -> list[tuple[ArchitectureProfile, str | None]]:
        """The architectures with their runtimes, from `choose_targets`."""
        return choose_targets(self.arch, self.runtime, self.threads, self.host, unnamed)

    def machines(self) -> list[tuple[ArchitectureProfile, str]]:
        """The architectures with the requested threads, each in the requested runtime or its default; errors as for
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
        """The requested architecture, by default this machine; `InputError` for several."""
        only_one(self.arch, "--arch")
        (machine,) = self.usually(LOCAL).machines()
        return machine

    def request(self, model: str, dtype: str | None, points: Sequence[Point] = ()) -> ModelRequest:
        """The request for a model by name, in one type, with all points to come; `InputError` where inputs are given, too."""
        if self.args or self.kwargs:
            raise InputError(f"{model!r} brings its own inputs; leave args and kwargs out, or pass the model itself")
        return ModelRequest(model, dtype, self.input_shape, self.seq_len, self.trust, self.mode, tuple(points))

    def points(self, settings: Mapping[str, AxisValue] = {}) -> tuple[Point, ...]:
        """`settings` of a model's axes with each requested batch size; `InputError` where they name a batch, too."""
        self.check_axes(settings)
        return tuple({**settings, **point} for point in at_batches(self.batches or (None,)))

    def check_axes(self, axis_names: Collection[str]) -> None:
        """`InputError` where "batch" is among the named axes although batch sizes are given."""
        if self.batches and "batch" in axis_names:
            raise InputError("axis 'batch' is given to --batch and as an axis of its own; give it once")

    def captures(self, workload: Model, settings: Mapping[str, AxisValue] = {}) -> Iterator[Capture]:
        """The model in each batch size and type, at `settings` of its other axes.

        Raises:
            InputError: an argument that the kind of workload does not take, or another kind of workload.
            CaptureError: torch cannot capture the model.
        """
        if not isinstance(workload, str):
            yield self._captured(workload)
            return
        points = self.points(settings)
        wanted_dtypes: Sequence[str | None] = self.dtypes or (None,)
        sources = [self.open_source(self.request(workload, dtype, points)) for dtype in wanted_dtypes]
        for point, source in itertools.product(points, sources):
            captured = msgspec.structs.replace(source.at(point), name=workload)
            self.tell(workload, captured)
            yield captured

    def capture(self, workload: Model, settings: Mapping[str, AxisValue] = {}) -> Capture:
        """The model in the requested batch size and type; errors as for `captures`."""
        only_one(self.batches, "--batch")
        only_one(self.dtypes, "--dtype")
        return next(self.captures(workload, settings))

    def module(self, model: str) -> DNNModule:
        """A model by name that torch can build and run as requested; `InputError` where it cannot."""
        from shmoo.harness.workloads.loading import resolve_model

        if self.dtype is not None and (self.dtype not in STORAGE_DTYPES or self.dtype == "tf32"):
            allowed = ", ".join(name for name in STORAGE_DTYPES if name != "tf32")
            raise InputError(f"torch cannot run a model in {self.dtype} directly; allowed: {allowed}")
        if self.mode != PLAIN:
            raise InputError(f"torch cannot run a model in the mode {', '.join(self.mode.parts)} directly; leave it out")
        return resolve_model(model, input_shape=self.input_shape, seq_len=self.seq_len, trust=self.trust)

    def _captured(self, workload: Graphs | Capture | Callable[..., Any]) -> Capture:
        """The capture of a workload that is not a model by name."""
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
            program = exported_program(workload)
            model = workload if program is None else program.module()
            inputs = self.args, self.kwargs
            if program is not None and not (self.args or self.kwargs):
                inputs = program.example_inputs or inputs
            captured = capture(model, *inputs, name=name)
        else:
            captured = workload if isinstance(workload, Capture) else Capture(as_tuple(workload))
            if self.args or self.kwargs:
                raise InputError("args and kwargs are those of a module or function; these graphs are captured already")
            if not captured.graphs or not all(isinstance(graph, Graph) for graph in captured.graphs):
                raise InputError(
                    f"cannot estimate a {type(workload).__name__}; give a model's name, a module, or captured graphs"
                )
            name = next((graph.name for graph in captured.graphs if graph.name), "model")
        graphs, arithmetic = captured.graphs, None if dtype is None else matrix_dtype(dtype)
        if dtype is not None and arithmetic is None:
            graphs = tuple(with_dtype(graph, dtype) for graph in graphs)
        if self.mode.quantize is not None:
            graphs = quantized(graphs, self.mode.quantize)
        batch = captured.batch if batch is None else batch
        return msgspec.structs.replace(captured, graphs=graphs, batch=batch, compute_dtype=arithmetic, name=name)


Architectures = Architecture | Sequence[Architecture] | Question | None
"""One architecture or several, `None` for the defaults; or a whole question, as the command line passes it."""


def ask(arch: Architectures, **options: Unpack[Options]) -> Question:
    """The question from keyword arguments; `InputError` for an unknown element type, `TypeError` for an unknown argument."""
    if isinstance(arch, Question):
        return arch
    arguments: dict[str, Any] = {**options}
    if strange := arguments.keys() - Options.__annotations__.keys():
        raise TypeError(str(unknown("argument", min(strange), Options.__annotations__)))
    mode = Mode(**{name: arguments.pop(name) for name in Mode.__struct_fields__ if name in arguments})
    batches, runtime = as_tuple(arguments.pop("batch", None)), as_tuple(arguments.pop("runtime", None))
    dtypes = dtype_names(arguments.pop("dtype", None))
    arguments["input_shape"] = sizes_of(arguments.get("input_shape"), "input_shape")
    if hasattr(arguments.get("args"), "dtype"):
        arguments["args"] = (arguments["args"],)  # a single tensor
    for name in ("threads", "seq_len"):
        arguments[name] = only_one(whole_numbers(arguments.get(name), name), name)
    return Question(arch=as_tuple(arch), runtime=runtime, batches=batches, dtypes=dtypes, mode=mode, **arguments)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple, with numbers of numpy and torch as Python numbers; empty for `None`."""
    value = as_plain(value)
    if value is None:
        return ()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return tuple(map(as_plain, value))
    return (value,)


def as_plain(value: Any) -> Any:
    """A number or an array of numpy or torch as Python numbers; anything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def whole_numbers(value: Any, name: str) -> tuple[int, ...]:
    """One whole number or several as a tuple; empty for `None`. `InputError` names the argument for anything else."""
    numbers = as_tuple(value)
    for number in numbers:
        if type(number) is not int:
            raise InputError(f"{name} takes whole numbers, got {number!r} ({type(number).__name__})")
    return numbers


def sizes_of(shape: Any, name: str) -> tuple[int, ...] | None:
    """The sizes of a shape, which may be text ("1x3x224x224"); `None` for `None`. `InputError` for anything else."""
    if shape is None:
        return None
    return shape_of(shape, name) if isinstance(shape, str) else whole_numbers(shape, name)


def dtype_names(dtypes: Any) -> tuple[str, ...]:
    """Names of element types, each once, also from torch's and numpy's types; `InputError` for an unknown one."""
    names = (value if isinstance(value, str) else getattr(value, "__name__", str(value)) for value in as_tuple(dtypes))
    return tuple(dict.fromkeys(map(compute_dtype, names)))


def renamed(**names: str) -> Callable[[F], F]:
    """Decorator that accepts keyword arguments under older names, with a `DeprecationWarning`: older name = present name."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_old(*args: Any, **keywords: Any) -> Any:
            for old in names.keys() & keywords.keys():
                warnings.warn(f"{old}= of {function.__name__} is now {names[old]}=", DeprecationWarning, stacklevel=2)
                keywords[names[old]] = keywords.pop(old)
            return function(*args, **keywords)

        return cast(F, with_old)

    return decorate
