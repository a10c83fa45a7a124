"""The records that pass between modules: graphs of operator calls, costs, coefficients, intervals.

All are frozen and slotted. Values are in SI units, with the unit in the field's name. An unknown value is `None`, never 0 or NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import msgspec

from shmoo.estimators.errors import FormatError, NewerFormatError
from shmoo.estimators.graph.dtypes import bytes_of, operand_dtype
from shmoo.estimators.graph.validation import first_problem
from shmoo.estimators.registry import name_of

GRAPH_FORMAT = 1
"""Version of the JSON of `Graph`. 1: first."""

Scalar = None | bool | int | float | str
Attribute = Scalar | list[Scalar | list[Scalar]]
ValueKind = Literal["input", "parameter", "buffer", "constant", "activation"]
Source = Literal["fitted", "at bound", "prior", "datasheet", "literature", "simulated", "transferred", "fallback"]
"""The origin of a value. A fit writes three of them: "fitted"; "at bound", where it stopped at the end of its search range, so
that the value describes the range and not the machine; "prior", where measurements hardly determine the value."""


class TensorSpec(msgspec.Struct, frozen=True):
    """Shape and element type of a tensor (dtype: see `dtypes.BITS`)."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> float:
        """Bytes of its elements, packed where they are narrower than a byte."""
        return bytes_of(self.dtype, math.prod(self.shape))


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor of a graph. `storage` is the index of the value whose memory this one shares (a view, or the result of an
    in-place operator), `None` when it owns its memory. Weights are the kinds "parameter", "buffer" and "constant"."""

    spec: TensorSpec
    kind: ValueKind = "activation"
    name: str = ""
    storage: int | None = None

    @property
    def is_weight(self) -> bool:
        """True for parameters, buffers and constants."""
        return self.kind in ("parameter", "buffer", "constant")


_SCALED_PRODUCTS = frozenset(
    f"aten.{name}" for name in ("_scaled_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "_grouped_mm")
)


OTHER_LIBRARY = "other_library"
"""Attribute of a call that runs in another library than the one whose kernels machines were measured with."""


class OpCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of one ATen operator, normalized.

    Attributes:
        op: ATen name without overload or in-place underscore: "aten.linear", "aten.relu".
        inputs, outputs: specs of the tensor operands and results, flattened in schema order.
        operands: schema name of each input: "input", "weight"; elements of a tensor list are "tensors.0", "tensors.1".
        attributes: every non-tensor argument by schema name, schema defaults filled in.
        reads, writes: index into `Graph.values` of each input and output.
        overload: overload name ("default", "Tensor", "Scalar").
        inplace: whether the operator wrote into its first operand.
        module, source: module path in the model ("layer1.0.conv1") and "file.py:line", where known.
    """

    op: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operands: tuple[str, ...] = ()
    attributes: dict[str, Attribute] = {}
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    overload: str = "default"
    inplace: bool = False
    module: str = ""
    source: str = ""

    @property
    def computes_in(self) -> str:
        """The type of the arithmetic, see `operand_dtype`. Scalars beside tensors are ignored, and so are the scales, zero points
        and the bias of a scaled product."""
        operands: Sequence[TensorSpec] = self.inputs
        if self.op in _SCALED_PRODUCTS:
            operands = [spec for name, spec in zip(self.operands, self.inputs, strict=True) if name in ("self", "mat2")]
        operands = operands or self.outputs
        return operand_dtype(frozenset([spec.dtype for spec in operands if spec.shape] or [spec.dtype for spec in operands]))

    def operand(self, name: str) -> TensorSpec | None:
        """The spec of the tensor passed as `name`, or `None` when it was not passed."""
        return self.inputs[self.operands.index(name)] if name in self.operands else None


class Graph(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """One captured graph: values, calls in execution order, which values the graph returns, and notes for readers of its numbers,
    such as the limits assumed for sizes that depend on data. Files of older versions have `unread_weight_bytes` of weights that
    no graph of the capture reads; now they are values."""

    values: tuple[Value, ...]
    calls: tuple[OpCall, ...]
    outputs: tuple[int, ...] = ()
    name: str = ""
    notes: tuple[str, ...] = ()
    unread_weight_bytes: float = 0.0
    # A factory, because omit_defaults would leave a plain default out of the file.
    format: int = msgspec.field(default_factory=lambda: GRAPH_FORMAT)

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """For each value, the value that owns its memory."""
        owners = []
        for index in range(len(self.values)):
            while (storage := self.values[index].storage) is not None:
                index = storage
            owners.append(index)
        return tuple(owners)

    @property
    def cache(self) -> dict[str, Any]:
        """Results computed from this graph, by name. They stay valid because a graph never changes."""
        return self.__dict__

    def root(self, index: int) -> int:
        """The value that owns the memory of value `index`."""
        return self.roots[index]

    def operators(self, calls: Sequence[int]) -> str:
        """Operators of some calls as text: "conv2d + relu"."""
        return " + ".join(name_of(self.calls[index].op) for index in calls)

    @property
    def params(self) -> int:
        """Number of elements of all parameters; a shared parameter counts once."""
        return sum(v.spec.numel for v in self.values if v.kind == "parameter" and v.storage is None)

    @property
    def weight_bytes(self) -> float:
        """Bytes of parameters, buffers and constants; a shared one counts once."""
        return sum(v.spec.nbytes for v in self.values if v.is_weight and v.storage is None) + self.unread_weight_bytes

    @property
    def content_hash(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def to_json(self) -> bytes:
        """The graph as JSON, the same bytes for equal graphs."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "") -> Graph:
        """Read the output of `to_json`; messages name the file `where`. `FormatError` where the data is no graph, its format is
        newer, or its parts do not fit together (`validation`)."""
        graph = decode_versioned(data, cls, GRAPH_FORMAT, "graph", where)
        problem = first_problem(graph)
        if problem is not None:
            raise FormatError(f"cannot use graph {where or graph.name!r}: {problem}")
        return graph


class Geometry(msgspec.Struct, frozen=True):
    """The images of a convolution: channels of one group, extents of the points that m counts (of the result; of the input where
    the convolution is transposed), the last two extents of the window, and elements of one input image, all channels."""

    channels_in: int = 1
    channels_out: int = 1
    height: int = 1
    width: int = 1
    window_height: int = 1
    window_width: int = 1
    image_elements: int = 1


class Cost(msgspec.Struct, frozen=True, omit_defaults=True):
    """The minimal work of one call, on any machine. A multiply-add is 2 flops.

    Attributes:
        family: algorithm family, one of `FAMILIES`.
        matrix_flops: multiply-adds of contractions x 2.
        vector_flops: additions, multiplications, comparisons and the like.
        special_flops: evaluations of exp, tanh, erf, sqrt, division and the like, one each.
        read_bytes, write_bytes: bytes of each input and each output, touched once, in the call's order. Of an operand that is
            only partly read (a gather) the part counts.
        batch, m, n, k: iteration space. Contractions: batch (a convolution's groups) x (m, k) by (k, n). Reductions: m rows of
            length n. Pointwise: m elements. Pooling and gathers: m outputs, n window or row length.
        window, stride, dilation: of convolutions and pooling: product of the kernel's extents, largest stride and dilation.
        images: samples of a convolution's batch; planes of a pooling or an interpolation, whose points m counts together;
            sequences of attention. geometry: a convolution's images.
        group: attention: query heads that share a head of keys; products of scaled operands: elements of a row that share a
            scale, 1 where all do. causal: attention: queries see no later keys, so that kernels may skip about half of the
            scores that `matrix_flops` counts.
    """

    family: str
    read_bytes: tuple[float, ...]
    write_bytes: tuple[float, ...]
    matrix_flops: float = 0.0
    vector_flops: float = 0.0
    special_flops: float = 0.0
    batch: int = 1
    m: int = 1
    n: int = 1
    k: int = 1
    window: int = 1
    stride: int = 1
    dilation: int = 1
    images: int = 1
    geometry: Geometry = Geometry()
    group: int = 1
    causal: bool = False

    @property
    def flops(self) -> float:
        """Flops of all units."""
        return self.matrix_flops + self.vector_flops + self.special_flops

    @property
    def macs(self) -> float:
        """Multiply-adds of contractions."""
        return self.matrix_flops / 2

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return sum(self.read_bytes) + sum(self.write_bytes)


CONVOLUTIONS = ("conv", "depthwise", "conv_transpose")
CHANNELS_LAST = "channels_last"
"""Attribute `memory_format` of a convolution whose images are stored so; without it they are stored channel by channel."""
_LOOPS = ("pointwise", "normalization", "softmax", "pooling", "gather", "copy")
FAMILIES = ("gemm", *CONVOLUTIONS, "attention", *_LOOPS, "linalg", "unknown")
"""Algorithm families: calls of one family share coefficients. `conv` is any convolution with more than one input channel per
group; `depthwise` has one; `copy` moves data without arithmetic (cat, contiguous, pad); `unknown` is for calls without a cost."""
CONTRACTIONS = ("gemm", *CONVOLUTIONS, "attention", "linalg")
"""Families whose multiply-adds run on matrix units, in a library's kernels; all others are loops over elements or rows."""
RUNTIMES = {
    "cpu": ("eager", "inductor", "inductor-freezing", "cudagraphs"),
    "gpu": ("eager", "inductor", "inductor-freezing", "cudagraphs"),
    "tpu": ("xla",),
    "kpu": ("domainflow",),
}
"""Architecture family -> the runtimes that launch its kernels."""
EVERY_RUNTIME = tuple(dict.fromkeys(name for names in RUNTIMES.values() for name in names))
NORMAL_90 = 1.645
"""Standard deviations from the mean to either end of a normal distribution's 90 % interval."""


class Coefficient(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number of a machine with its uncertainty, `stderr` (fitted) or a 90 % range; `reference` is a citation or names the run.
    A coefficient at its bound has a `stderr` where measurements pushed it there, and none where it followed others."""

    value: float
    unit: str
    source: Source
    reference: str = ""
    stderr: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """90 % range: `low`..`high` where given, else value ± `NORMAL_90` standard errors, else the value itself."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        spread = 0.0 if self.stderr is None else NORMAL_90 * self.stderr
        return self.value - spread, self.value + spread

    @property
    def from_fit(self) -> bool:
        """True where a fit to measurements of this machine wrote it, even if they do not determine it."""
        return self.source in ("fitted", "at bound", "prior")

    @property
    def assumed(self) -> bool:
        """True where neither measurements nor a publication support it."""
        return self.source in ("fallback", "prior") or (self.source == "at bound" and self.stderr is None)

    def scaled(self, factor: float) -> Coefficient:
        """The coefficient and its uncertainty times `factor`."""
        value, stderr, low, high = (None if x is None else x * factor for x in (self.value, self.stderr, self.low, self.high))
        return msgspec.structs.replace(self, value=value, stderr=stderr, low=low, high=high)


class Interval(msgspec.Struct, frozen=True):
    """A value with its 90 % interval, in SI units."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"interval must satisfy low <= value <= high, got {self.low}, {self.value}, {self.high}")

    def scaled(self, factor: float) -> Interval:
        """Value and ends times a positive factor."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def dividing(self, number: float) -> Interval:
        """A positive number divided by value and ends."""
        return Interval(number / self.value, number / self.high, number / self.low)


T = TypeVar("T")
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""Errors of decoding data that is no JSON, nested too deeply, or no UTF-8."""


def decode_versioned(data: bytes | str, kind: type[T], newest: int, what: str, where: str = "") -> T:
    """Decode JSON into `kind`. `FormatError`, with file and line (`where`), for invalid JSON, a wrong or missing field (named),
    and a `format` newer than `newest` (both named)."""
    place = f" {where}" if where else ""
    try:
        version = msgspec.json.decode(data, type=Version).format
    except UNREADABLE as error:
        raise FormatError(f"cannot read {what}{place}: {error}; it is damaged, or shmoo did not write it") from None
    if version < 1:
        raise FormatError(f"{what}{place} has format {version}; there are 1 to {newest}, and shmoo did not write it")
    if version > newest:
        raise NewerFormatError(f"{what}{place} has format {version}, this shmoo reads up to {newest}; upgrade shmoo")
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise FormatError(f"cannot read {what}{place} of format {version}: {error}") from None


class Version(msgspec.Struct):
    """The one field that files of all versions have."""

    format: int


def single_call_graph(call: OpCall, weights: Sequence[int] = (), name: str = "") -> Graph:
    """A graph of a single call, for a row of an operator table or an operator benchmark; its `reads` and `writes` are set anew.
    `weights` are the positions of inputs that are parameters."""
    kinds: list[ValueKind] = ["parameter" if i in weights else "input" for i in range(len(call.inputs))]
    values = [Value(*parts) for parts in zip(call.inputs, kinds, call.operands, strict=True)]
    values += map(Value, call.outputs)
    places = tuple(range(len(values)))
    reads, writes = places[: len(kinds)], places[len(kinds) :]
    return Graph(tuple(values), (msgspec.structs.replace(call, reads=reads, writes=writes),), outputs=writes, name=name)


def weights_of(graphs: Sequence[Graph]) -> tuple[Value, ...]:
    """The weights of a model's graphs, those that several graphs read once."""
    weights: list[Value] = []
    names: set[tuple[str, str]] = set()
    for graph in graphs:
        weights_of_graph = [value for value in graph.values if value.is_weight and value.storage is None]
        weights += [value for value in weights_of_graph if (value.kind, value.name) not in names]
        names.update((value.kind, value.name) for value in weights_of_graph if value.name)
    return tuple(weights)


def notes_of(graphs: Sequence[Graph]) -> tuple[str, ...]:
    """The notes of a model's graphs, each once."""
    return tuple(dict.fromkeys(note for graph in graphs for note in graph.notes))


class Kernel(msgspec.Struct, frozen=True):
    """The calls that one launch executes: indices into `Graph.calls` in order, and the fusion rule that grouped them. `direct`
    are the concatenation operands (call, value) among them that their producer writes in place."""

    calls: tuple[int, ...]
    pattern: str = ""
    direct: frozenset[tuple[int, int]] = frozenset()
