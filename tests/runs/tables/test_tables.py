"""Operator tables: what a row becomes, and what a wrong one is told."""

import math
from pathlib import Path

import pytest

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import FormatError, InputError
from shmoo.runs.tables.operators import TABLE_OPERATORS, ShapedOperator
from shmoo.runs.tables.reading import read_table
from tests.measured_rows import measured_rows, written_table

REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference"
HEADER = "op,dtype,b,m,n,k,conv_n,conv_c_in,conv_c_out,conv_kernel,conv_size,conv_stride,conv_padding,rows,cols,latency_s,kernel"


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def only(tmp_path: Path, *lines: str, **options):
    (row,) = read_table(write(tmp_path, *lines), **options)
    return row


def test_linear_row_is_a_linear_call_with_weight_and_bias(tmp_path):
    """(b, m, k) by (n, k): the weight and the bias are parameters, the leading 1 is left out."""
    row = only(tmp_path, HEADER, "linear,float32,1,126,115,72,,,,,,,,,,5.7e-05,sgemm_32x32")
    graph = row.graph()
    (call,) = graph.calls
    assert call.op == "aten.linear"
    assert [spec.shape for spec in call.inputs] == [(126, 72), (115, 72), (115,)]
    assert call.outputs[0].shape == (126, 115)
    assert graph.params == 115 * 72 + 115
    assert (row.latency_s, row.energy_j, row.kernel, row.line) == (5.7e-05, None, "sgemm_32x32", 2)


def test_matmul_shape_is_m_n_k(tmp_path):
    """ "64x512x16384" multiplies (64, 16384) by (16384, 512)."""
    row = only(tmp_path, "op,shape,latency_s,energy_j", "matmul,64x512x16384,0.0085,0.79")
    assert [spec.shape for spec in row.graph().calls[0].inputs] == [(64, 16384), (16384, 512)]
    assert row.energy_j == 0.79
    assert row.dtype == "float32"


def test_convolution_extents(tmp_path):
    """(56 + 2 x 1 - 3) // 2 + 1 = 28 output rows; convolutions have no bias."""
    row = only(tmp_path, HEADER, "conv,float32,,,,,8,64,128,3,56,2,1,,,1e-3,")
    call = row.graph().calls[0]
    assert call.operands == ("input", "weight")
    assert call.inputs[1].shape == (128, 64, 3, 3)
    assert call.outputs[0].shape == (8, 128, 28, 28)
    assert call.attributes["groups"] == 1


def test_rows_and_cols_are_a_shape(tmp_path):
    """Both ways to write a shape give the same case, and so the same identity and split."""
    columns = only(tmp_path, "op,rows,cols,latency_s", "softmax,128,512,1e-5")
    shape = only(tmp_path, "op,shape,latency_s", "softmax,128x512,1e-5")
    assert columns.case.identity == shape.case.identity
    assert columns.case.split == shape.case.split


def test_device_and_runtime_are_part_of_the_identity(tmp_path):
    """The same shape on another device is another case."""
    lines = ("op,shape,latency_s", "relu,128x512,1e-5")
    assert only(tmp_path, *lines).case.identity != only(tmp_path, *lines, device="cuda").case.identity


def test_table_to_estimate_needs_no_latency(tmp_path):
    """With `measured=False` a row may leave its latency empty."""
    assert only(tmp_path, "op,shape", "relu,64", measured=False).latency_s is None


def test_further_columns_and_blank_lines_are_ignored(tmp_path):
    """Columns nobody asked for, even two of one name, and empty lines do no harm."""
    path = write(tmp_path, "note,op,shape,latency_s,note", "a,relu,64,1e-6,x", "", "b,vector_add,64,2e-6,")
    assert [row.op for row in read_table(path)] == ["relu", "add"]


@pytest.mark.parametrize(
    ("header", "line", "error", "words"),
    [
        ("op,shape,latency_s", "sofmax,64,1", InputError, ["table.csv:3", "'sofmax'", "'softmax'"]),
        ("op,shape,dtype,latency_s", "relu,64,flaot32,1", InputError, ["table.csv:3", "'flaot32'", "'float32'"]),
        ("op,shape", "relu,64", FormatError, ["table.csv:1", "'latency_s'", "op, shape"]),
        ("shape,latency_s", "64,1", FormatError, ["table.csv:1", "'op'"]),
        ("op,shape,latency_s", "relu,64,fast", FormatError, ["table.csv:3", "'latency_s'", "'fast'"]),
        ("op,shape,latency_s", "relu,64,-1e-6", FormatError, ["table.csv:3", "'latency_s'", "positive", "'-1e-6'"]),
        ("op,shape,latency_s", "relu,64,nan", FormatError, ["table.csv:3", "'latency_s'", "'nan'"]),
        ("op,shape,latency_s", "relu,64,", FormatError, ["table.csv:3", "'latency_s'", "empty"]),
        ("op,shape,latency_s,energy_j", "relu,64,1,0", FormatError, ["table.csv:3", "'energy_j'", "leave unknown values empty"]),
        ("op,shape,latency_s", "relu,64x1.5,1", FormatError, ["table.csv:3", "'shape'", "'1.5'"]),
        ("op,shape,latency_s", "relu,64", FormatError, ["table.csv:3", "2 cells", "3"]),
        ("op,m,k,latency_s", "linear,4,4,1", FormatError, ["table.csv:3", "'linear'", "'n'"]),
        ("op,shape,latency_s", "batch_norm,64,1", FormatError, ["table.csv:3", "2 or more axes"]),
        ("op,shape,shape,latency_s", "relu,64,64,1", FormatError, ["table.csv:1", "'shape'", "twice"]),
        ("op,m,n,k,latency_s", "linear,4,4e300,4,1", FormatError, ["table.csv:3", "'n'", "at most 1.1e+12"]),
        ("op,shape,latency_s", "relu,9000000x9000000,1", FormatError, ["table.csv:3", "elements", "9000000x9000000"]),
        (HEADER, "conv_transpose,float32,,,,,1,3,8,2,1,2,3,,,1e-3,", FormatError, ["table.csv:3", "'conv_padding'", "-4"]),
        ("op,shape,latency_s", f"relu,{200_000 * '6'},1", FormatError, ["table.csv:3", "field larger"]),
        (HEADER, "conv,float32,,,,,1,3,8,7,4,1,1,,,1e-3,", FormatError, ["table.csv:3", "'conv_kernel'", "7", "6"]),
    ],
)
def test_a_wrong_row_is_named_by_line_and_column(tmp_path, header, line, error, words):
    """Every refusal says which line and column, the value seen and what would do."""
    with pytest.raises(error) as caught:
        read_table(write(tmp_path, header, "", line))
    for word in words:
        assert word in str(caught.value)


def test_missing_file_says_so(tmp_path):
    """A path that is not there is bad input, not a traceback."""
    with pytest.raises(InputError, match="give an existing CSV file"):
        read_table(tmp_path / "none.csv")


EXTENTS = {"b": 2, "m": 6, "n": 8, "k": 4, "conv_n": 2, "conv_c_in": 4, "conv_c_out": 8, "conv_kernel": 3, "conv_size": 9,
           "conv_stride": 2, "conv_padding": 1, "conv_groups": 2}  # fmt: skip


@pytest.mark.parametrize("name", TABLE_OPERATORS)
def test_calls_follow_torch_schemas(name):
    """torch accepts every call by its operand and attribute names and gives the same output; schema defaults are filled in."""
    torch = pytest.importorskip("torch")
    operator = TABLE_OPERATORS[name]
    if isinstance(operator, ShapedOperator):
        call, _ = operator.build((2, 8, 6, 4), "float32")
    else:
        call, _ = operator.build({column: EXTENTS[column] for column in operator.columns}, "float32")
    overload = getattr(getattr(torch.ops.aten, call.op.removeprefix("aten.")), call.overload)
    tensors = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta") for spec in call.inputs]
    arguments = {name: tensor for name, tensor in zip(call.operands, tensors, strict=True) if "." not in name}
    if "tensors.0" in call.operands:
        arguments["tensors"] = tensors
    output = overload(**arguments, **call.attributes)
    assert tuple(output.shape) == call.outputs[0].shape
    assert str(output.dtype) == f"torch.{call.outputs[0].dtype}"
    optional_tensors = {"bias", "attn_mask"}
    assert {argument.name for argument in overload._schema.arguments} - optional_tensors <= {*arguments, *call.attributes}


@pytest.mark.parametrize(("name", "reduction"), [("gpu_v100.csv", "n"), ("tpu_v4.csv", "k")])
def test_rows_of_published_tables_are_the_calls_that_their_columns_say(tmp_path, name, reduction):
    """Multiply-adds follow from the text of each row: b m n k, or a result's pixels times a window; latencies are kept."""
    rows = read_table(written_table(name, tmp_path / name), reduction=reduction)
    texts = measured_rows(name)
    assert [row.latency_s for row in rows] == [float(text["latency_s"]) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        expected = 0
        if row.op in ("linear", "bmm"):
            expected = math.prod(int(text[column]) for column in "bmnk")
        elif row.op == "conv":
            window, stride, padding = (int(text[f"conv_{name}"]) for name in ("kernel", "stride", "padding"))
            side = (int(text["conv_size"]) + 2 * padding - window) // stride + 1
            images, c_in, c_out = (int(text[f"conv_{name}"]) for name in ("n", "c_in", "c_out"))
            expected = images * side**2 * c_out * window**2 * c_in
        assert graph_cost(row.graph()).macs == expected, text


@pytest.mark.parametrize("name", ["gpu_ops/v100.csv", "tpu/tpu_v4_ops.csv", "energy_ops_i7_12700k.csv"])
def test_published_tables_read_whole(name):
    """Every row of the reference tables becomes a graph of one call with positive extents."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"reference table {name} is not beside this checkout")
    rows = read_table(path)
    assert len(rows) == sum(1 for line in path.read_text().splitlines() if line) - 1
    for row in rows:
        graph = row.graph()
        assert len(graph.calls) == 1
        assert min(min(value.spec.shape) for value in graph.values) >= 1
