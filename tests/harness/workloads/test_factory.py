"""Models from somebody's own code: what a factory may return, do, and hold."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.harness.capture import CaptureError
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.models.request import Mode

SOURCE = '''
from collections import namedtuple
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(8, width)

    def forward(self, input, mask=None):
        return self.layer(input if mask is None else input * mask)

class Batch:
    def __init__(self, x):
        self.x = x

instance = Net()
x = torch.randn(2, 8)

class Scaled(Net):
    def forward(self, input, *, scale):
        return super().forward(input * scale)

def two_needed(): return Scaled(), (x,), {"scale": x}
def too_many(): return Net(), (x, x, x)
def misnamed(): return Net(), (x,), {"masc": x}
def tensor(): return Net(), x
def listed(): return [Net(), [x]]
def named(): return Net(), {"input": x}
def both(): return Net(), (x,), {"mask": x}
def tensor_and_named(): return Net(), x, {"mask": x}
def three(): return Net(), x, x
def four(): return Net(), x, x, 1
def an_object(): return Net(), Batch(x)
def alone(): return (Net(),)
def nothing(): return None

class Probing(nn.Module):
    """Finds the size of its head by a run while it is built."""
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6), nn.Flatten())
        self.head = nn.Linear(self.body(torch.zeros(1, 8)).shape[1], 4)
    def forward(self, x):
        return self.head(self.body(x))

def probing(): return Probing(), x

def reading():
    model = nn.Linear(8, 4)
    assert float(model.weight.norm()) > 0
    model.weight.detach().numpy()
    return model.cuda() if torch.cuda.is_available() else model, x

def moved(): return nn.Linear(8, 4).to("cuda"), x.to("cuda")

def failing():
    raise KeyError("no such entry")

def half(): return nn.Linear(8, 4).to(torch.bfloat16), x.to(torch.bfloat16)
def half_alone(): return nn.Linear(8, 4).to(torch.bfloat16)

class Kinds(nn.Module):
    """Weights of several types, some of which no request converts."""
    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(8, 4, bias=False)
        self.small = nn.Parameter(torch.randn(4, 8).to(torch.float8_e4m3fn), requires_grad=False)
        self.twisted = nn.Parameter(torch.randn(4, 8, dtype=torch.cfloat))
    def forward(self, x):
        small = nn.functional.linear(x, self.small.to(x.dtype))
        return self.plain(x) + small + (x.to(torch.cfloat) @ self.twisted.T).real.to(x.dtype)

def kinds(): return Kinds(), x

def scripted(): return torch.jit.script(nn.Linear(8, 4)), x
def packed(): return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear}, torch.qint8), x

class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", torch.eye(2).to_sparse())
    def forward(self, x):
        return torch.sparse.mm(self.adjacency, x)

def sparse(): return Graph(), x
def stored_small(): return Net(), (torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),)
def program(): return torch.export.export(Net().eval(), (x,))
def program_and_inputs(): return torch.export.export(Net().eval(), (x,)), (x,)
def program_s_module(): return torch.export.export(Net().eval(), (x,)).module(), (x,)
def nested(): return Net(), (torch.nested.nested_tensor([x[0:1], x]),)
def tokens(): return nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4))
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The name of a module of somebody's own, in the current directory."""
    (tmp_path / "their_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "their_models"
    sys.modules.pop("their_models", None)


def graphs_of(text: str, **options):
    return model_graphs(text, **options).graphs


def macs_of(text: str, **options) -> float:
    return sum(graph_cost(graph).macs for graph in graphs_of(text, **options))


@pytest.mark.parametrize(
    "form",
    ["tensor", "listed", "named", "both", "tensor_and_named", "program", "program_and_inputs", "program_s_module"],
)
def test_inputs_come_in_several_forms(theirs, form):
    """A model of 2 x 8 x 4 with its inputs as a tensor, a list, by name, or both; an exported program brings its inputs."""
    assert macs_of(f"{theirs}:{form}") == 2 * 8 * 4


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("three", "Net, Tensor, Tensor"),
        ("four", "int"),
        ("an_object", "Net, Batch"),
        ("nothing", "NoneType"),
        ("alone", "--input-shape"),
    ],
)
def test_other_forms_are_refused_with_the_right_one(theirs, form, said):
    """The message names what came and what is wanted."""
    with pytest.raises(InputError, match=r"\(model, \(x, mask\)\)") as refused:
        graphs_of(f"{theirs}:{form}")
    assert said in str(refused.value)


def test_a_class_and_a_model_itself_are_taken(theirs):
    """Both need a shape; the user's own model is left as it is."""
    assert macs_of(f"{theirs}:Net", input_shape=(2, 8)) == 2 * 8 * 4
    assert macs_of(f"{theirs}:instance", input_shape=(2, 8)) == 2 * 8 * 4
    assert not next(sys.modules[theirs].instance.parameters()).is_meta


def test_a_path_is_answered_with_the_name_to_write(theirs):
    with pytest.raises(InputError, match="write its name as a module: their_models:Net"):
        graphs_of("./their_models.py:Net", input_shape=(2, 8))
    with pytest.raises(InputError, match="in '/home/me', write its name as a module: their_models:Net"):
        graphs_of("/home/me/their_models.py:Net", input_shape=(2, 8))
    with pytest.raises(InputError, match=r"write its name as a module: nets\.their_models:factory"):
        graphs_of("nets/their_models.py")


def test_a_reason_that_several_captures_give_is_said_once(theirs):
    with pytest.raises(CaptureError) as refused:
        graphs_of(f"{theirs}:Net", input_shape=(2, 9))
    assert str(refused.value).count("same reduction dim") == 1


@pytest.mark.parametrize(("form", "macs"), [("probing", 2 * (8 * 6 + 6 * 4)), ("reading", 2 * 8 * 4), ("moved", 2 * 8 * 4)])
def test_a_factory_may_run_read_and_move_its_model(theirs, form, macs):
    """Built on the CPU where tensors without memory fail."""
    assert macs_of(f"{theirs}:{form}") == macs


def test_an_error_of_the_factory_names_its_line(theirs):
    with pytest.raises(InputError, match=r"KeyError.*\(their_models.py:\d+\)"):
        graphs_of(f"{theirs}:failing")


def test_a_model_keeps_its_types_unless_another_is_asked_for(theirs):
    """bfloat16 is 2 bytes a number; an asked-for float32 is 4, and input made by shape is of the model's type."""
    numbers = 8 * 4 + 4
    assert sum(g.weight_bytes for g in graphs_of(f"{theirs}:half", dtype=None)) == 2 * numbers
    assert sum(g.weight_bytes for g in graphs_of(f"{theirs}:half_alone", dtype=None, input_shape=(2, 8))) == 2 * numbers
    assert sum(g.weight_bytes for g in graphs_of(f"{theirs}:half", dtype="float32")) == 4 * numbers


@pytest.mark.parametrize(("dtype", "plain"), [(None, 4), ("bfloat16", 2)])
def test_an_asked_for_type_leaves_complex_and_8_bit_weights(theirs, dtype, plain):
    """32 numbers each: plain ones are converted, float8 ones stay 1 byte, complex ones 8."""
    graphs = graphs_of(f"{theirs}:kinds", dtype=dtype)
    assert sum(graph.weight_bytes for graph in graphs) == 32 * (plain + 1 + 8)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("scripted", "TorchScript"),
        ("packed", "packed"),
        ("sparse", "sparse_coo"),
        ("nested", "nested"),
        ("stored_small", "qint8"),
    ],
)
def test_weights_that_cannot_be_counted_are_refused(theirs, form, said):
    """With a reason, and never as no work at all."""
    with pytest.raises(InputError, match=said):
        graphs_of(f"{theirs}:{form}")


def test_an_exported_program_has_no_training_step(theirs):
    with pytest.raises(CaptureError, match="the export fixed its mode; give the model"):
        graphs_of(f"{theirs}:program", mode=Mode(training=True))


def test_a_shape_for_a_model_of_tokens_is_explained(theirs):
    with pytest.raises(InputError, match=r"floating-point tensor.*\(model, \(tokens,\)\)"):
        graphs_of(f"{theirs}:tokens", input_shape=(2, 8))


@pytest.mark.parametrize(
    ("form", "shape", "said"),
    [
        ("two_needed", (2, 8), "with 1 input, but its forward takes input, scale: missing a required argument: 'scale'"),
        ("too_many", None, "with 3 inputs, but its forward takes input, mask: too many positional arguments"),
        ("misnamed", None, "with 1 input, masc, but its forward takes input, mask: got an unexpected keyword argument 'masc'"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused_with_its_parameters(theirs, form, shape, said):
    """One sentence instead of a traceback: given by shape, too many, and with a misspelled name."""
    with pytest.raises(InputError, match=re.escape(said)):
        graphs_of(f"{theirs}:{form}", input_shape=shape)
