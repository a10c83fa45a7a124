"""DNNModule: a named workload with declared axes, and the registry of workloads. torch is imported when a workload is built."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shmoo.estimators.costs.quantize import Scheme
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import canonical_dtype
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.registry import Registry
from shmoo.runs.store.records import AxisValue

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["operator", "synthetic", "network"]
STORAGE_DTYPES = {name: name for name in ("float64", "float32", "bfloat16", "float16")} | {"tf32": "float32"}
"""Element type of a workload -> type of its tensors (tf32 is a way to multiply float32)."""
REPEATED = 1 << 20
"""Random numbers drawn for a tensor; a larger tensor repeats them."""
_LARGEST = 2**63 - 1
"""Largest extent: torch uses 64-bit numbers."""
_LARGE = 1 << 24
"""Elements from which any tensor counts as a weight and stays on the meta device, so that memory always suffices."""
SEED = 20250
"""Seed of every build, so that two builds of one case have the same values."""


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter of a workload.

    Attributes:
        default: value unless set; its type is the axis's type.
        low, high: inclusive range of a number, if limited.
        choices: all allowed values, if they can be listed.
        meaning: a description, with the unit.
    """

    name: str
    default: AxisValue
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[AxisValue, ...] = ()

    def check(self, value: AxisValue, where: str) -> AxisValue:
        """`value` in the axis's type; `InputError` for another type, or a value outside the range or the choices."""
        expected = type(self.default)
        if expected is float and type(value) is int:
            value = float(value)
        axis = f"axis {self.name!r} of {where}"
        if type(value) is not expected:
            raise InputError(f"{axis} takes {expected.__name__}, got {value!r} ({type(value).__name__})")
        if self.choices and value not in self.choices:
            if isinstance(value, str):
                raise unknown(f"{self.name} of {where}", value, [str(choice) for choice in self.choices])
            raise InputError(f"{axis} is one of {list(self.choices)}, got {value!r}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                raise InputError(f"{axis} is at least {self.low:g}, got {value!r}")
            if isinstance(value, int) and value > _LARGEST:
                raise InputError(f"{axis} is at most {_LARGEST}, which no tensor exceeds; got {value!r}")
            if self.high is not None and value > self.high:
                raise InputError(f"{axis} is at most {self.high:g}, got {value!r}")
        return value


def dim(name: str, default: int, meaning: str, low: int = 1) -> Axis:
    """An axis that counts something: an integer of at least `low`."""
    return Axis(name, default, meaning, low=low)


class Built(msgspec.Struct, frozen=True):
    """A workload ready to be called: `model(*args, **kwargs)`.

    Attributes:
        traced: capture it by running its Python on fake tensors, which suits large models and those whose sizes depend on data.
        notes: assumptions for the reader, such as the limits assumed for sizes that depend on data.
        alternatives: inputs by name to try instead of, or in addition to, inputs that the model refuses.
        optional: inputs that may be omitted where the model refuses them: (description for a note, names).
        fixed: names of inputs whose values do not depend on data, such as the sizes of images.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    traced: bool = False
    notes: tuple[str, ...] = ()
    alternatives: tuple[Mapping[str, Any], ...] = ()
    optional: tuple[tuple[str, tuple[str, ...]], ...] = ()
    fixed: tuple[str, ...] = ()

    def __call__(self) -> Any:
        """Run the model on its inputs."""
        return self.model(*self.args, **self.kwargs)


class Maker(msgspec.Struct, frozen=True):
    """Makes operands of one dtype on one device. Values are random, never constant: a multiplication by zeros draws less power,
    and a normalization by equal statistics may be simplified away.

    Attributes:
        own_types: no dtype was requested, so a model that comes with element types keeps them.
    """

    dtype: str
    device: str
    own_types: bool = False

    @property
    def torch(self) -> ModuleType:
        """The torch package, which is imported only here so that listing workloads stays fast."""
        import torch

        return torch

    @property
    def torch_dtype(self) -> Any:
        """The `torch.dtype` of the tensors."""
        return getattr(self.torch, STORAGE_DTYPES[self.dtype])

    def tensor(self, *shape: int) -> Tensor:
        """A tensor of the dtype, normally distributed; a large one repeats a million numbers, since drawing takes long."""
        count = math.prod(shape)
        if count <= REPEATED or self.device == "meta":
            return self.torch.randn(*shape, dtype=self.torch_dtype, device=self.device)
        drawn = self.torch.randn(REPEATED, dtype=self.torch_dtype, device=self.device)
        values = self.torch.empty(count, dtype=self.torch_dtype, device=self.device)
        whole_blocks = count // REPEATED * REPEATED
        values[:whole_blocks].view(-1, REPEATED).copy_(drawn)
        values[whole_blocks:].copy_(drawn[: count - whole_blocks])
        return values.view(shape)

    def positive(self, *shape: int) -> Tensor:
        """A tensor of the dtype, uniform in 0.5..1.5: safe to divide by."""
        return self.torch.rand(*shape, dtype=self.torch_dtype, device=self.device) + 0.5

    def indices(self, high: int, *shape: int) -> Tensor:
        """An int64 tensor, uniform in 0..high-1."""
        return self.torch.randint(high, shape, device=self.device)

    def building(self) -> AbstractContextManager[Any]:
        """While active, modules are created on the device; on the meta device only their weights are, and `to` must move the
        rest."""
        return weights_on_meta() if self.device == "meta" else self.torch.device(self.device)

    def module(self, make: Callable[[], nn.Module]) -> nn.Module:
        """The module that `make` returns, on the device, in evaluation mode and of the dtype; one-dimensional weights and
        statistics are random in 0.5..1.5 instead of all ones or zeros."""
        with self.building():
            module = make().to(self.device)
        with self.torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point() and tensor.dim() == 1 and not tensor.is_meta:
                    tensor.uniform_(0.5, 1.5)
        return module.to(self.torch_dtype).eval().requires_grad_(False)


@contextmanager
def weights_on_meta() -> Iterator[None]:
    """While active, parameters and buffers that modules register are on the meta device, and so are large tensors.

    All other tensors stay real: models compute sizes, schedules and anchors with tensors while they are built, which the meta
    device cannot do. Memory that is allocated for a weight and not written to costs nothing.
    """
    import torch
    from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook
    from torch.nn.parameter import UninitializedTensorMixin
    from torch.overrides import TorchFunctionMode
    from torch.utils.weak import WeakIdKeyDictionary

    makers = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
    moved = WeakIdKeyDictionary()

    class LargeOnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in makers and kwargs.get("device") is None:
                on_meta = func(*args, **{**kwargs, "device": "meta"})
                if on_meta.numel() >= _LARGE:
                    return on_meta
            return func(*args, **kwargs)

    def move(module: torch.nn.Module, name: str, tensor: Any) -> Any:
        if tensor is None or tensor.is_meta or isinstance(tensor, UninitializedTensorMixin):
            return None
        if tensor not in moved:
            on_meta = tensor.detach().to("meta")
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            moved[tensor] = torch.nn.Parameter(on_meta, tensor.requires_grad) if is_parameter else on_meta
        return moved[tensor]

    handles = (register_module_parameter_registration_hook(move), register_module_buffer_registration_hook(move))
    try:
        with LargeOnMeta(), warnings.catch_warnings():
            # Loading a checkpoint has no effect on the meta device, and its values are not needed.
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            yield
    finally:
        for handle in handles:
            handle.remove()


Method = Literal["record", "export", "compile", "trace", "joint"]


class Capture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's graphs, in the order they ran.

    Attributes:
        graphs: one, or one for each of Dynamo's pieces and for each run of operators between pieces. The first also has the
            weights that no call reads.
        break_reasons: why torch.compile splits the model into pieces, and the operators that it leaves to eager execution.
        method: "record" (operators recorded while the model runs on meta tensors), "export" (torch.export's single graph),
            "compile" (torch.compile's pieces), "trace" (the model's Python run on fake tensors) or "joint" (AOTAutograd's graphs
            of a forward and a backward pass).
        note: how the graphs were obtained, if not simply by running the model at these sizes: from a capture with symbolic sizes,
            or why that failed.
        batch: samples per call, if the model was captured by name.
        compute_dtype: type that contractions compute in, if it differs from their tensors' type (tf32).
        name: name of the model to show, if given.
        recaptured: whether the capture with symbolic sizes did not apply at these sizes, so the model was captured again.
    """

    graphs: tuple[Graph, ...]
    break_reasons: tuple[str, ...] = ()
    method: Method = "compile"
    note: str = ""
    batch: int = 1
    compute_dtype: str | None = None
    name: str = ""
    recaptured: bool = False


Factory = Callable[..., Built]
"""Called as `factory(maker, **axes)`."""


class DNNModule(msgspec.Struct, frozen=True):
    """A named workload: how to build it, and its axes.

    Attributes:
        kind: operators and synthetic models calibrate, networks test.
        quantization: schemes in which the config stores the model's weights, applied in order.
        notes: remarks that accompany every number of the model.
        without_memory: whether a capture must build the model without memory for its weights, which the machine may lack.
    """

    name: str
    kind: Kind
    axes: tuple[Axis, ...]
    factory: Factory
    quantization: tuple[Scheme, ...] = ()
    notes: tuple[str, ...] = ()
    without_memory: bool = False

    def resolve(self, axes: Mapping[str, AxisValue] | None = None) -> dict[str, AxisValue]:
        """The value of every axis: given values, checked, and defaults for the others. `InputError` where an axis is unknown
        (with the nearest) or its value is not allowed."""
        axis_values = axes or {}
        names = [axis.name for axis in self.axes]
        for name in axis_values:
            if name not in names:
                raise unknown(f"axis of {self.name!r}", name, names)
        return {axis.name: axis.check(axis_values.get(axis.name, axis.default), repr(self.name)) for axis in self.axes}

    def build(self, axes: Mapping[str, AxisValue] | None = None, dtype: str | None = "float32", device: str = "cpu") -> Built:
        """Build the model and its operands, always the same for the same arguments; the process's random state is unchanged.

        Args:
            axes: values of declared axes.
            dtype: one of `STORAGE_DTYPES`, or an alias; `None` for float32, except for models that come with their own types.
            device: "cpu", "cuda", or "meta" for shapes without memory or values.

        Raises:
            InputError: an axis, its value or the dtype cannot be used, or the model does not take its inputs.
        """
        import torch

        values = self.resolve(axes)
        canonical = canonical_dtype(dtype or "float32")
        if canonical not in STORAGE_DTYPES:
            raise InputError(f"{self.name!r} cannot be built in {dtype!r}; allowed: {', '.join(STORAGE_DTYPES)}")
        cuda = [torch.cuda.current_device()] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(SEED)
            try:
                built = self.factory(Maker(canonical, device, dtype is None), **values)
            except (ValueError, RuntimeError) as error:
                values_text = " with " * bool(values) + " ".join(f"{name}={value}" for name, value in values.items())
                raise InputError(f"cannot build {self.name!r}{values_text}: {error}") from error
        _check_call(built, self.name)
        return built


def _check_call(built: Built, name: str) -> None:
    """`InputError` where a model's signature refuses its inputs. Not checked for models with hooks, which may change the inputs,
    and for models with alternative inputs, which are tried in turn."""
    if built.alternatives or built.optional or getattr(built.model, "_forward_pre_hooks", None):
        return
    try:
        signature = inspect.signature(getattr(built.model, "forward", built.model))
    except (TypeError, ValueError):
        return  # written in another language
    try:
        signature.bind(*built.args, **built.kwargs)
    except TypeError as error:
        positional = len(built.args)
        given_inputs = f"{positional} input{'s' * (positional != 1)}" + "".join(f", {key}" for key in built.kwargs)
        taken_inputs = ", ".join(signature.parameters) or "nothing"
        raise InputError(
            f"{name!r} is called with {given_inputs}, but its forward takes {taken_inputs}: {error}; let the factory return "
            "(model, (x, mask), {'name': value}) with every input (--input-shape makes a single one)"
        ) from None


WORKLOADS: Registry[DNNModule] = Registry("workload")


def workload(name: str, *, kind: Kind, axes: Sequence[Axis]) -> Callable[[Factory], Factory]:
    """Decorator that registers a factory as a workload; `TypeError` where its keyword arguments are not the declared axes."""

    def decorate(factory: Factory) -> Factory:
        parameters = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
        declared = [axis.name for axis in axes]
        if parameters != declared:
            raise TypeError(f"workload {name!r} declares axes {declared} but its factory takes {parameters}")
        WORKLOADS.add(name, DNNModule(name, kind, tuple(axes), factory))
        return factory

    return decorate


def exported_program(value: Any) -> Any:
    """The value where it is a program of torch.export, otherwise `None`; it does not import torch.export."""
    module = sys.modules.get("torch.export.exported_program")
    return value if module is not None and isinstance(value, module.ExportedProgram) else None
