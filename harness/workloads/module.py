"""DNNModule: a named workload with declared axes, and the registry that workloads file themselves in.

Nothing here imports torch until a workload is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shmoo.estimators.dtypes import bytes_of, canonical_dtype
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.registry import Registry
from shmoo.harness.workloads.meta import weights_on_meta
from shmoo.runs.records import AxisValue

if TYPE_CHECKING:
    import torch

Kind = Literal["operator", "synthetic", "network"]
STORAGE_DTYPES = {
    "float64": "float64",
    "float32": "float32",
    "tf32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
"""Element types a workload can be built in, and the type its tensors then have (tf32 is a way to multiply float32)."""
_LARGEST = 2**63 - 1
"""Extents are 64-bit numbers in torch."""
SEED = 20250
"""Seed of every build, so that two builds of one case hold the same values."""


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter of a workload.

    Attributes:
        default: its value where none is given; its type is the axis's type.
        low, high: inclusive range of a number, where it has one.
        choices: every allowed value, where they can be listed.
        meaning: what it is, with its unit.
    """

    name: str
    default: AxisValue
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[AxisValue, ...] = ()

    def check(self, value: AxisValue, where: str) -> AxisValue:
        """`value` in the axis's type.

        Raises:
            InputError: it is of another type, or outside the range or the choices.
        """
        wanted = type(self.default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise InputError(f"axis {self.name!r} of {where} takes {wanted.__name__}, got {value!r} ({type(value).__name__})")
        if self.choices and value not in self.choices:
            if isinstance(value, str):
                raise unknown(f"{self.name} of {where}", value, [str(choice) for choice in self.choices])
            raise InputError(f"axis {self.name!r} of {where} is one of {list(self.choices)}, got {value!r}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                raise InputError(f"axis {self.name!r} of {where} is at least {self.low:g}, got {value!r}")
            if isinstance(value, int) and value > _LARGEST:
                raise InputError(f"axis {self.name!r} of {where} is at most {_LARGEST}, which no tensor exceeds; got {value!r}")
            if self.high is not None and value > self.high:
                raise InputError(f"axis {self.name!r} of {where} is at most {self.high:g}, got {value!r}")
        return value


def dim(name: str, default: int, meaning: str, low: int = 1, high: int | None = None) -> Axis:
    """An axis that counts something: an integer of at least `low`."""
    return Axis(name, default, meaning, low=low, high=high)


class Size(msgspec.Struct, frozen=True):
    """What a workload touches and computes, for planning: elements of operands, weights and results; flops (multiply-add = 2)."""

    elements: float
    flops: float


class Built(msgspec.Struct, frozen=True):
    """A workload ready to be called: `model(*args, **kwargs)`.

    Attributes:
        traced: whether it is captured by running its Python on fake tensors, which suits models whose sizes depend on data and
            large ones.
        notes: what the reader of its numbers must know, such as the limits at which sizes that depend on data are taken.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    traced: bool = False
    notes: tuple[str, ...] = ()

    def __call__(self) -> Any:
        return self.model(*self.args, **self.kwargs)


class Maker(msgspec.Struct, frozen=True):
    """Makes operands of one dtype on one device. Values are random, never constant: a multiplication by zeros draws less power,
    and a normalisation by equal statistics may be simplified away."""

    dtype: str
    device: str

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, STORAGE_DTYPES[self.dtype])

    def tensor(self, *shape: int) -> torch.Tensor:
        """A tensor of the dtype, normally distributed."""
        import torch

        return torch.randn(*shape, dtype=self.torch_dtype, device=self.device)

    def positive(self, *shape: int) -> torch.Tensor:
        """A tensor of the dtype, uniform in 0.5..1.5: safe to divide by."""
        import torch

        return torch.rand(*shape, dtype=self.torch_dtype, device=self.device) + 0.5

    def indices(self, high: int, *shape: int) -> torch.Tensor:
        """An int64 tensor, uniform in 0..high-1."""
        import torch

        return torch.randint(high, shape, device=self.device)

    def building(self) -> AbstractContextManager[Any]:
        """While active, modules are made on the device; on the meta device their parameters are, and `to` must move the rest."""
        if self.device == "meta":
            return weights_on_meta()
        import torch

        return torch.device(self.device)

    def module(self, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """What `make` returns, made on the device, in evaluation mode and of the dtype, one-dimensional weights and statistics
        random in 0.5..1.5 instead of all ones or zeros."""
        import torch

        with self.building():
            module = make().to(self.device)
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point() and tensor.dim() == 1:
                    tensor.uniform_(0.5, 1.5)
        return module.to(self.torch_dtype).eval().requires_grad_(False)


Factory = Callable[..., Built]
"""Called as `factory(maker, **axes)`."""


class DNNModule(msgspec.Struct, frozen=True):
    """A named workload: how to build it, and its axes.

    Attributes:
        kind: operators and synthetic models calibrate, networks test.
        size: `size(**axes)` says what it touches and computes, where that is cheap to say.
    """

    name: str
    kind: Kind
    axes: tuple[Axis, ...]
    factory: Factory
    meaning: str = ""
    size: Callable[..., Size] | None = None

    def resolve(self, axes: Mapping[str, AxisValue] | None = None) -> dict[str, AxisValue]:
        """The value of every axis: the given ones checked, defaults for the rest.

        Raises:
            InputError: an axis is unknown (the nearest are named) or its value is not allowed.
        """
        given = dict(axes or {})
        names = [axis.name for axis in self.axes]
        for name in given:
            if name not in names:
                raise unknown(f"axis of {self.name!r}", name, names)
        return {axis.name: axis.check(given.get(axis.name, axis.default), repr(self.name)) for axis in self.axes}

    def build(self, axes: Mapping[str, AxisValue] | None = None, dtype: str = "float32", device: str = "cpu") -> Built:
        """Make the model and its operands, always the same for the same arguments; the process's random state is left as it was.

        Args:
            axes: values of declared axes.
            dtype: one of `STORAGE_DTYPES`, or an alias.
            device: "cpu", "cuda", or "meta" to have shapes without memory or values.

        Raises:
            InputError: an axis, its value or the dtype cannot be used.
        """
        import torch

        values = self.resolve(axes)
        canonical = canonical_dtype(dtype)
        if canonical not in STORAGE_DTYPES:
            raise InputError(f"{self.name!r} cannot be built in {dtype!r}; allowed: {', '.join(STORAGE_DTYPES)}")
        cuda = [torch.cuda.current_device()] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(SEED)
            try:
                return self.factory(Maker(canonical, device), **values)
            except (ValueError, RuntimeError) as error:
                shown = " with " * bool(values) + " ".join(f"{name}={value}" for name, value in values.items())
                raise InputError(f"cannot build {self.name!r}{shown}: {error}") from error

    def footprint_bytes(self, axes: Mapping[str, AxisValue] | None = None, dtype: str = "float32") -> float | None:
        """Bytes of all operands, weights and results; `None` for a workload that does not say."""
        if self.size is None:
            return None
        return bytes_of(STORAGE_DTYPES[canonical_dtype(dtype)], self.size(**self.resolve(axes)).elements)

    def flops(self, axes: Mapping[str, AxisValue] | None = None) -> float | None:
        """Flops of one call, for planning; `None` for a workload that does not say."""
        return None if self.size is None else self.size(**self.resolve(axes)).flops


WORKLOADS: Registry[DNNModule] = Registry("workload")


def workload(
    *names: str, kind: Kind, axes: Sequence[Axis], size: Callable[..., Size] | None = None
) -> Callable[[Factory], Factory]:
    """Decorator that files a factory as a workload; its keyword arguments are the axes, its docstring the meaning.

    Raises:
        TypeError: the factory's keyword arguments are not the declared axes.
    """

    def decorate(factory: Factory) -> Factory:
        taken = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if taken != [axis.name for axis in axes]:
            raise TypeError(f"workload {names[0]!r} declares axes {[axis.name for axis in axes]} but its factory takes {taken}")
        for name in names:
            WORKLOADS.add(name, DNNModule(name, kind, tuple(axes), factory, inspect.getdoc(factory) or "", size))
        return factory

    return decorate
