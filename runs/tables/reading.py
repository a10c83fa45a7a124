"""Operator tables: CSV files of single operators with their measured latency and energy (columns: docs/formats.md)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar, get_args

import msgspec

from shmoo.estimators.costs.quantize import SMALL_TYPES, STANDARD, Scheme, quantized
from shmoo.estimators.errors import FormatError, InputError, unknown
from shmoo.estimators.graph.dtypes import COMPLEX_DTYPES, operator_dtype, resolve_alias, shown_dtype
from shmoo.estimators.graph.records import OTHER_LIBRARY, Graph, single_call_graph
from shmoo.estimators.machine.profile import Reduction
from shmoo.runs.store import records
from shmoo.runs.tables.operators import CONV, GEMM, TABLE_OPERATORS, ShapedOperator, SizedOperator, transposed_side

ALIASES = MappingProxyType({"conv2d": "conv", "vector_add": "add", "clone": "copy"})
"""Operator names of published tables -> names in `TABLE_OPERATORS`."""

State = Literal["warm", "cold_weights"]
Library = Literal["measured", "other"]
W = TypeVar("W", bound=str)
HEADS = ("heads", "kv_heads", "causal")
TIMES: tuple[records.Time, ...] = get_args(records.Time)
STATES: tuple[State, ...] = get_args(State)
LIBRARIES: tuple[Library, ...] = get_args(Library)
_BY_ROW = Scheme("float8-dynamic", "float8", (1, 0), "float32")
WEIGHTS = MappingProxyType(
    {"int8": STANDARD["int8-weight"], "int4": STANDARD["int4-weight"], "float8": _BY_ROW, "float4": STANDARD["float4-dynamic"]}
)
"""Type of a weight -> scheme that quantizes a layer. Float8 has one scale per row, as vendors' matrix kernels expect."""
COLUMNS = frozenset(
    {"op", "dtype", *GEMM, *CONV, *HEADS, "rows", "cols", "shape", "kernel"}
    | {"latency_s", "energy_j", "power_w", "time", "state", "weights", "library"}
)
"""Columns that `read_table` reads."""

PRODUCTS = ("linear", "bmm", "matmul")
"""Operators with their reduction extent in column k, or in n in some published tables."""
CONTRACTIONS = (*PRODUCTS, "conv", "conv_transpose", "attention")
"""Operators that run on matrix units."""

LARGEST = 2**40
"""Largest extent and number of elements; more is a typing error, since no machine holds such a tensor."""
AGREE = 0.1
"""Relative difference up to which the energy and the power of a row agree: power meters average over more than the calls."""

_DEFAULTS = MappingProxyType({"b": 1, "conv_stride": 1, "conv_padding": 0, "conv_groups": 1})


class TableRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of an operator table.

    Attributes:
        line: line of the file, the header being 1.
        op: operator name, a key of `TABLE_OPERATORS`.
        axes: the operator's extents by column name; `shape` as text for those that take a shape.
        latency_s, energy_j: measured per call, `None` where the table has none.
        time, state, weights, library: values of these columns; `weights` is "" for weights stored in `dtype`.
        kernel: main kernel that ran, "" if unknown.
        device, runtime, reduction: as passed to `read_table`.
    """

    line: int
    op: str
    axes: dict[str, records.AxisValue]
    dtype: str = "float32"
    latency_s: float | None = None
    energy_j: float | None = None
    kernel: str = ""
    device: str = "cpu"
    runtime: str = "eager"
    reduction: Reduction = "k"
    time: records.Time = "call"
    state: State = "warm"
    weights: str = ""
    library: Library = "measured"

    @property
    def case(self) -> records.CaseSpec:
        """The row's case, whose identity decides its split."""
        axes = self.axes | ({"weights": self.weights} if self.weights else {})
        axes |= {"library": self.library} if self.library != "measured" else {}
        state: records.CacheState = "cold" if self.cold_weights else "warm"
        return records.CaseSpec(self.op, "operator", axes, self.dtype, self.runtime, self.device, cache_state=state)

    @property
    def cold_weights(self) -> bool:
        """Whether calls with other weights ran between two calls."""
        return self.state == "cold_weights"

    @property
    def plain(self) -> bool:
        """Whether it is a warm float32 call, as in tables without the columns that say otherwise."""
        return (self.dtype, self.time, self.state, self.weights) == ("float32", "call", "warm", "")

    def graph(self) -> Graph:
        """The row as a graph of one operator call."""
        operator = TABLE_OPERATORS[self.op]
        if isinstance(operator, ShapedOperator):
            call, weights = operator.build(tuple(int(extent) for extent in str(self.axes["shape"]).split("x")), self.dtype)
        else:
            extents = {name: int(extent) for name, extent in self.axes.items()}
            if self.op in PRODUCTS and self.reduction == "n":
                extents["n"], extents["k"] = extents["k"], extents["n"]
            # A quantized layer is measured without its bias, which would be a separate kernel.
            call, weights = operator.build(extents | ({"bias": 0} if self.weights else {}), self.dtype)
        if self.library == "other":
            call = msgspec.structs.replace(call, attributes={**call.attributes, OTHER_LIBRARY: True})
        graph = single_call_graph(call, weights, name=self.op)
        return quantized([graph], WEIGHTS[self.weights])[0] if self.weights else graph


def read_table(
    path: str | Path, *, device: str = "cpu", runtime: str = "eager", measured: bool = True, reduction: Reduction = "k"
) -> tuple[TableRow, ...]:
    """The rows of an operator table, in the order of the file. `InputError` for an unreadable file or an unknown name,
    `FormatError` for a missing column or an invalid value; both name the line.

    Args:
        device, runtime: device and runtime of the measurements; part of each row's identity.
        measured: whether every row needs a latency, as for calibration.
        reduction: column with the reduction extent of `PRODUCTS`.
    """
    path = Path(path)
    try:
        if path.is_fifo() and not str(path).startswith(("/dev/", "/proc/")):
            raise InputError(f"operator table {str(path)!r} is a pipe, which may never end; name a file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read operator table {str(path)!r}: {error.strerror}; give an existing CSV file") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"operator table {str(path)!r} is not UTF-8 text: {error}; save it as CSV in UTF-8") from None
    except ValueError as error:
        raise InputError(f"cannot read operator table {str(path)!r}: {error}") from None
    lines = _lines(text, path)
    header = next(lines, (1, []))[1]
    for required in ("op", "latency_s") if measured else ("op",):
        if required not in header:
            raise FormatError(f"{path}:1: no column {required!r}; the header has {', '.join(header) or 'nothing'}")
    if twice := sorted(name for name in COLUMNS if header.count(name) > 1):
        raise FormatError(f"{path}:1: column {twice[0]!r} appears twice; rename one of them")
    rows = []
    for number, cells in lines:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise FormatError(f"{where}: {len(cells)} cells, the header has {len(header)}; the row is damaged or cut off")
        rows.append(_row(dict(zip(header, cells, strict=True)), where, number, device, runtime, measured, reduction))
    return tuple(rows)


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and stripped cells of each line that is not empty; `FormatError` where the text is not CSV."""
    reader = csv.reader(text.splitlines())
    try:
        for cells in reader:
            if any(cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise FormatError(f"{path}:{reader.line_num}: {error}; the line is not CSV") from None


def _row(
    cells: dict[str, str], where: str, line: int, device: str, runtime: str, measured: bool, reduction: Reduction
) -> TableRow:
    op = ALIASES.get(cells["op"], cells["op"])
    if op not in TABLE_OPERATORS:
        raise InputError(f"{where}: {unknown('operator', cells['op'], {*TABLE_OPERATORS, *ALIASES})}")
    try:
        dtype = operator_dtype(cells.get("dtype") or "float32")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    latency = _amount(cells, "latency_s", where, records.SHORTEST_S, records.LONGEST_S, required=measured)
    energy = _energy(cells, latency, where)
    operator = TABLE_OPERATORS[op]
    axes = _shape(cells, operator, where) if isinstance(operator, ShapedOperator) else _extents(cells, operator, where)
    if op == "attention" and any(cells.get(column) for column in HEADS):
        axes = axes | _heads(cells, axes, where)
    time, state = _one_of(cells, "time", TIMES, where), _one_of(cells, "state", STATES, where)
    weights = _weights(cells, op, dtype, where)
    kernel = cells.get("kernel", "")
    library = _one_of(cells, "library", LIBRARIES, where)
    return TableRow(line, op, axes, dtype, latency, energy, kernel, device, runtime, reduction, time, state, weights, library)


def _energy(cells: dict[str, str], latency: float | None, where: str) -> float | None:
    energy = _amount(cells, "energy_j", where, records.LEAST_ENERGY_J, records.MOST_ENERGY_J)
    power = _amount(cells, "power_w", where, records.LEAST_POWER_W, records.MOST_POWER_W)
    if power is None:
        return energy
    if latency is None:
        if energy is not None:
            return energy
        raise FormatError(f"{where}: column 'power_w' gives an energy only beside a latency_s, which is empty")
    if energy is not None and not math.isclose(energy, power * latency, rel_tol=AGREE):
        raise FormatError(
            f"{where}: column 'energy_j' is {energy:g}, but power_w x latency_s is {power * latency:g}; leave the wrong one empty"
        )
    return power * latency if energy is None else energy


def _one_of(cells: dict[str, str], column: str, allowed: tuple[W, ...], where: str) -> W:
    """The value of a cell that must be one of a few words; an empty or absent cell means the first of them."""
    text = cells.get(column)
    if not text:
        return allowed[0]
    chosen = next((word for word in allowed if word == text), None)
    if chosen is None:
        raise InputError(f"{where}: {unknown(column, text, allowed)}")
    return chosen


def _weights(cells: dict[str, str], op: str, dtype: str, where: str) -> str:
    """The type of a layer's weight; "" where it is the row's type."""
    text = cells.get("weights")
    name = resolve_alias(text) if text else dtype
    if name == dtype:
        return ""
    if op != "linear":
        raise FormatError(f"{where}: column 'weights' is {text!r}, but {op!r} has no weight to quantize; only linear has")
    if name not in WEIGHTS:
        raise InputError(f"{where}: {unknown('type of weights', str(text), map(shown_dtype, WEIGHTS))}")
    if dtype in SMALL_TYPES or dtype in COMPLEX_DTYPES:
        raise FormatError(
            f"{where}: column 'weights' is {text!r}, which needs floating-point activations of 16 bits or more, "
            f"not {shown_dtype(dtype)!r}"
        )
    return name


def _heads(cells: dict[str, str], axes: Mapping[str, records.AxisValue], where: str) -> dict[str, records.AxisValue]:
    if not cells.get("heads"):
        column = next(column for column in HEADS if cells.get(column))
        raise FormatError(f"{where}: column {column!r} needs column 'heads', which is empty or absent")
    heads = _whole_number(cells["heads"], "heads", where)
    kv_heads = _whole_number(cells.get("kv_heads") or cells["heads"], "kv_heads", where)
    if heads % kv_heads:
        raise FormatError(f"{where}: column 'kv_heads' is {kv_heads}, which must divide the {heads} heads")
    causal = _one_of(cells, "causal", ("", "0", "1"), where) or int(axes["m"]) > 1
    return {"heads": heads, "kv_heads": kv_heads, "causal": int(causal)}


def _amount(cells: dict[str, str], column: str, where: str, least: float, most: float, required: bool = False) -> float | None:
    text = cells.get(column)
    if not text:
        if required:
            raise FormatError(f"{where}: column {column!r} is empty; a row to calibrate on needs a measured latency")
        return None
    try:
        value = float(text)
    except ValueError:
        raise FormatError(f"{where}: column {column!r} must be a number, got {text!r}") from None
    if not (math.isfinite(value) and value > 0):
        raise FormatError(f"{where}: column {column!r} must be positive and finite, got {text!r}; leave unknown values empty")
    if not least <= value <= most:
        raise FormatError(f"{where}: column {column!r} is {text!r}; allowed: {least:g} to {most:g}, in SI units")
    return value


def _extent(cells: dict[str, str], column: str, where: str) -> int:
    text = cells.get(column)
    if text:
        return _whole_number(text, column, where, least=0 if column == "conv_padding" else 1)
    if column not in _DEFAULTS:
        raise FormatError(f"{where}: operator {cells['op']!r} needs column {column!r}, which is empty or absent")
    return _DEFAULTS[column]


def _whole_number(text: str, column: str, where: str, least: int = 1) -> int:
    try:
        number = float(text)
    except ValueError:
        raise FormatError(f"{where}: column {column!r} must be a whole number, got {text!r}") from None
    if number != number // 1 or number < least or math.isinf(number):
        raise FormatError(f"{where}: column {column!r} must be a whole number of at least {least}, got {text!r}")
    if number > LARGEST:
        raise FormatError(f"{where}: column {column!r} must be at most {LARGEST:.3g}, got {text!r}")
    return int(number)


def _split_shape(text: str, where: str) -> list[int]:
    return [_whole_number(part, "shape", where) for part in text.lower().replace("×", "x").split("x")]


def _extents(cells: dict[str, str], operator: SizedOperator, where: str) -> dict[str, records.AxisValue]:
    shape = cells.get("shape")
    if operator.form == "gemm" and shape and not cells.get("m"):
        sides = _split_shape(shape, where)
        if len(sides) not in (3, 4):
            raise FormatError(f"{where}: column 'shape' of {cells['op']!r} must be m x n x k or b x m x n x k, got {shape!r}")
        return dict(zip(GEMM, [1, *sides] if len(sides) == 3 else sides, strict=True))
    extents = {column: _extent(cells, column, where) for column in operator.columns}
    if operator.form == "window":
        _check_window(cells["op"], extents, where)
    return {**extents}


def _shape(cells: dict[str, str], operator: ShapedOperator, where: str) -> dict[str, records.AxisValue]:
    text = cells.get("shape")
    sides = _split_shape(text, where) if text else [_extent(cells, column, where) for column in ("rows", "cols")]
    if len(sides) < operator.rank:
        raise FormatError(f"{where}: {cells['op']!r} needs a shape of {operator.rank} or more axes, got {text!r}")
    if math.prod(sides) > LARGEST:
        raise FormatError(f"{where}: a tensor may have at most {LARGEST:.3g} elements, got shape {text or sides!r}")
    return {"shape": "x".join(map(str, sides))}


def _check_window(op: str, x: dict[str, int], where: str) -> None:
    padded = x["conv_size"] + 2 * x["conv_padding"]
    if op == "conv_transpose":
        if (side := transposed_side(x)) < 1:
            raise FormatError(f"{where}: column 'conv_padding' is {x['conv_padding']}, which leaves a result of side {side}")
    elif x["conv_kernel"] > padded:
        raise FormatError(f"{where}: column 'conv_kernel' is {x['conv_kernel']}, larger than the padded input of side {padded}")
    groups = x.get("conv_groups", 1)
    if x["conv_c_in"] % groups or x.get("conv_c_out", groups) % groups:
        raise FormatError(f"{where}: column 'conv_groups' is {groups}, which must divide conv_c_in and conv_c_out")
