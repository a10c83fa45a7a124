"""Workloads: axes, building, footprints, and models named in other ways."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod

import pytest
import torch
from torch.utils._pytree import tree_leaves

from shmoo.estimators.errors import InputError
from shmoo.estimators.registry import DuplicateNameError
from shmoo.harness.capture import CaptureFamily, capture_workload
from shmoo.harness.module import REPEATED, Axis, Built, Maker, dim, workload
from shmoo.harness.workloads import WORKLOADS, find_workload, resolve_model

OPERATORS = """linear bmm conv conv_transpose add add_scalar sub mul div relu leaky_relu elu gelu silu sigmoid tanh hardswish
softmax layer_norm rms_norm group_norm batch_norm max_pool avg_pool embedding attention cat copy"""


def tensors_of(built: Built) -> list[torch.Tensor]:
    """Operands and weights."""
    leaves = torch.utils._pytree.tree_leaves((built.args, built.kwargs))
    weights = list(built.model.state_dict().values()) if isinstance(built.model, torch.nn.Module) else []
    return [leaf for leaf in (*leaves, *weights) if isinstance(leaf, torch.Tensor)]


def test_every_operator_of_the_vocabulary_is_there() -> None:
    """The operators that tables may name are workloads, and so are the synthetic models."""
    assert set(OPERATORS.split()) <= {name for name, found in WORKLOADS.items() if found.kind == "operator"}
    synthetic = {name for name, found in WORKLOADS.items() if found.kind == "synthetic"}
    assert synthetic == {"mlp", "conv_stack", "resnet_block", "depthwise_separable_block", "transformer_block", "convnet"}


def test_importing_workloads_does_not_import_torch() -> None:
    """Registering workloads leaves torch alone, so that commands start quickly."""
    code = "import sys, shmoo.harness.workloads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_workload_runs_with_random_operands(name: str) -> None:
    """Built small with its defaults it runs, and no operand or weight is constant."""
    small = {
        axis.name: {"batch": 2, "m": 8, "n": 8, "k": 8, "rows": 8, "cols": 16, "size": 14}.get(axis.name, axis.default)
        for axis in WORKLOADS[name].axes
    }
    built = WORKLOADS[name].build(small)
    assert all(tensor.unique().numel() > 1 for tensor in tensors_of(built) if tensor.numel() > 1)
    with torch.no_grad():
        assert all(torch.isfinite(result).all() for result in tree_leaves(built()))


def test_linear_is_m_by_k_times_k_by_n() -> None:
    """(m, k) by (k, n), and a batch in front where there is one."""
    found = find_workload("linear")
    assert found.build({"m": 2, "n": 3, "k": 4}, device="meta")().shape == (2, 3)
    assert found.build({"b": 5, "m": 2, "n": 3, "k": 4}, device="meta")().shape == (5, 2, 3)


def test_one_conv_is_every_conv() -> None:
    """Stride, padding, dilation, groups and depthwise are axes."""
    conv = find_workload("conv")
    shape = {"n": 2, "c_in": 8, "c_out": 8, "size": 9}
    assert conv.build({**shape, "stride": 2}, device="meta")().shape == (2, 8, 5, 5)
    assert conv.build({**shape, "dilation": 2, "padding": 0}, device="meta")().shape == (2, 8, 5, 5)
    assert conv.build({**shape, "groups": 8}, device="meta").model.weight.shape == (8, 1, 3, 3)
    assert conv.build({**shape, "kernel": 1, "padding": 0}, device="meta").model.weight.shape == (8, 8, 1, 1)


def test_one_conv1d_is_every_convolution_of_a_sequence() -> None:
    """Stride, dilation, kernel and groups are axes."""
    conv = find_workload("conv1d")
    shape = {"n": 2, "c_in": 8, "c_out": 8, "length": 21}
    assert conv.build(shape, device="meta")().shape == (2, 8, 21)
    assert conv.build({**shape, "stride": 2}, device="meta")().shape == (2, 8, 11)
    assert conv.build({**shape, "dilation": 4, "kernel": 5, "padding": 0}, device="meta")().shape == (2, 8, 5)
    assert conv.build({**shape, "groups": 8}, device="meta").model.weight.shape == (8, 1, 3)


def test_the_residual_block_of_the_example() -> None:
    """32 x 64 x 56 x 56 through 3 x 3 convolutions to 128 channels."""
    built = find_workload("resnet_block").build(device="meta")
    assert built.args[0].shape == (32, 64, 56, 56)
    assert built().shape == (32, 128, 56, 56)


def test_building_twice_gives_the_same_values_and_keeps_the_random_state() -> None:
    """Two builds of one case are equal, and other users of torch's generator do not notice."""
    state = torch.get_rng_state()
    first, second = (find_workload("linear").build({"m": 2}) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(first), tensors_of(second), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_dtypes_are_those_that_torch_computes_in() -> None:
    """tf32 is float32 in memory; int8 is refused with what is allowed."""
    assert find_workload("relu").build(dtype="tf32", device="meta").args[0].dtype == torch.float32
    assert find_workload("relu").build(dtype="fp16", device="meta").args[0].dtype == torch.float16
    with pytest.raises(InputError, match="cannot be built in 'int8'; allowed: float64, float32"):
        find_workload("relu").build(dtype="int8")


@pytest.mark.parametrize(
    ("name", "axes", "said"),
    [
        ("linear", {"mm": 3}, "unknown axis of 'linear' 'mm': did you mean 'm'"),
        ("linear", {"m": 0}, "'m' of 'linear' is at least 1, got 0"),
        ("linear", {"m": 2.5}, "takes int, got 2.5"),
        ("linear", {"m": True}, "takes int, got True"),
        ("mlp", {"activation": "rleu"}, "did you mean 'relu'"),
        ("conv", {"c_in": 3, "groups": 2}, "cannot build 'conv' with n=1 c_in=3 .*divisible by groups"),
    ],
)
def test_a_wrong_axis_says_what_is_allowed(name: str, axes: dict, said: str) -> None:
    """Unknown axes name the nearest; values out of range, of another type or impossible together are refused."""
    with pytest.raises(InputError, match=said):
        find_workload(name).build(axes, device="meta")


def test_an_unknown_workload_suggests_the_nearest() -> None:
    """Operators and networks are suggested alike."""
    with pytest.raises(InputError, match="'linear'"):
        find_workload("liner")
    with pytest.raises(InputError, match="'resnet18'"):
        resolve_model("resnet19")


def test_a_workload_is_one_decorated_factory() -> None:
    """Declared axes must be the factory's keyword arguments, and a name can be taken once."""
    with pytest.raises(TypeError, match=r"declares axes \['m'\] but its factory takes \['n'\]"):

        @workload("shmootest", kind="operator", axes=(dim("m", 1, "rows"),))
        def other(make: Maker, *, n: int) -> Built:
            return Built(torch.relu, (make.tensor(n),))

    with pytest.raises(DuplicateNameError, match="'relu' is registered twice"):

        @workload("relu", kind="operator", axes=())
        def relu(make: Maker) -> Built:
            return Built(torch.relu, (make.tensor(1),))


def test_axes_take_integers_for_numbers() -> None:
    """An axis of a fractional number takes a whole one."""
    assert Axis("ratio", 0.5, "share", low=0, high=1).check(1, "'x'") == 1.0
    with pytest.raises(InputError, match="is at most 9223372036854775807"):
        dim("batch", 1, "images").check(2**63, "'x'")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module of one's own in the current directory."""
    (tmp_path / "own_models.py").write_text(
        "import torch\n"
        "def bare(): return torch.nn.Linear(4, 8)\n"
        "def full(): return torch.nn.Linear(4, 8), (torch.randn(3, 4),)\n"
        "def batched(batch=2): return torch.nn.Linear(4, 8), (), {'input': torch.randn(batch, 4)}\n"
        "def exits(): raise SystemExit(0)\n"
        "def needs(width): return torch.nn.Linear(width, 4)\n"
        "def nothing(): pass\n"
        "class Scaled(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 8)\n"
        "        self.load_state_dict({'weight': torch.ones(8, 4), 'bias': torch.ones(8)})\n"
        "        self.scale = float(self.weight.max())\n"
        "def scaled(batch=2): return Scaled(), (torch.randn(batch, 4),)\n"
        "number = 3\n"
    )
    (tmp_path / "broken.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_models", None)


def test_a_factory_of_ones_own(models) -> None:
    """A model alone takes the given shape and batch; with its inputs it takes those; one with a batch is given it."""
    bare = resolve_model("own_models:bare", input_shape=(5, 4))
    assert bare.build(device="meta")().shape == (5, 8)
    assert bare.build({"batch": 7}, "bf16", "meta")().dtype == torch.bfloat16
    assert resolve_model("own_models:full").build()().shape == (3, 8)
    batched = resolve_model("own_models:batched")
    assert (batched.build()().shape, batched.build({"batch": 9})().shape) == ((2, 8), (9, 8))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("own_models:bare", "without inputs; give --input-shape"),
        ("own_models:bear", "did you mean 'bare'"),
        ("own_models:number", "is of type int, not a function"),
        ("own_models:exits", r"'own_models:exits' failed: SystemExit: 0 \(own_models\.py:5\)"),
        ("own_models:needs", "failed: TypeError: needs"),
        ("own_models:nothing", "returned NoneType; return a model"),
        ("broken:build", r"SyntaxError: .*broken\.py"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        ("hf:none.json", "no config at 'none.json'"),
        ("none.pt2", "add --trust"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(models, text: str, said: str) -> None:
    """Every way of naming a model fails with what to do."""
    with pytest.raises(InputError, match=said):
        resolve_model(text).build()


def test_a_model_that_reads_its_weights_while_it_is_made_is_captured(models) -> None:
    """Without memory it has none to read, so it is made on the CPU; one capture may serve several batches all the same."""
    module = resolve_model("own_models:scaled")
    assert capture_workload(module, {"batch": 5}).graphs[0].calls[0].inputs[0].shape == (5, 4)
    family = CaptureFamily(module, [{"batch": 3}, {"batch": 7}])
    found = [family.at({"batch": size}).graphs[0] for size in (3, 7)]
    assert [graph.params for graph in found] == [40, 40]
    assert [graph.calls[0].inputs[0].shape for graph in found] == [(3, 4), (7, 4)]


def test_an_exported_program_needs_trust(models) -> None:
    """A .pt2 file is loaded only on request, with the inputs it was exported with."""
    program = torch.export.export(torch.nn.Linear(4, 8), (torch.randn(3, 4),))
    torch.export.save(program, models / "layer.pt2")
    with pytest.raises(InputError, match="can run code"):
        resolve_model("layer.pt2")
    found = resolve_model("layer.pt2", trust=True)
    assert found.build()().shape == (3, 8)
    assert [call.op for graph in capture_workload(found).graphs for call in graph.calls] == ["aten.linear"]
    (models / "broken.pt2").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot load 'broken\.pt2'"):
        resolve_model("broken.pt2", trust=True).build()


def test_another_input_shape_replaces_the_declared_one() -> None:
    """The first size is the batch; a workload of several inputs or without a batch refuses."""
    found = resolve_model("mlp", input_shape=(6, 784))
    assert found.build(device="meta")().shape == (6, 10)
    with pytest.raises(InputError, match="has no axis 'batch'"):
        resolve_model("linear", input_shape=(1, 3))
    with pytest.raises(InputError, match="positive sizes, batch first"):
        resolve_model("mlp", input_shape=(0, 784))
    with pytest.raises(InputError, match="takes images"):
        resolve_model("resnet18", input_shape=(224,))
    with pytest.raises(InputError, match="has no axis 'seq_len'"):
        resolve_model("mlp", seq_len=8)
    assert resolve_model("transformer_block", seq_len=8).build(device="meta")().shape == (1, 8, 384)


def test_a_transformers_config(models) -> None:
    """A config gives its architecture with random weights, at the batch and length asked for."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    settings = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 1,
        "n_embd": 32,
        "n_head": 2,
        "vocab_size": 99,
    }
    (models / "tiny.json").write_text(json.dumps(settings))
    found = resolve_model("hf:tiny.json", seq_len=7)
    graphs = capture_workload(found, {"batch": 3}).graphs
    assert graphs[-1].calls[-1].outputs[0].shape == (3, 7, 99)
    block = 32 * 96 + 96 + 32 * 32 + 32 + 32 * 128 + 128 + 128 * 32 + 32 + 4 * 32
    assert sum(graph.params for graph in graphs) == 99 * 32 + 1024 * 32 + block + 2 * 32
    (models / "odd.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(InputError, match="transformers cannot use the config"):
        resolve_model("hf:odd.json").build()
    (models / "typeless.json").write_text("{}")
    with pytest.raises(InputError, match="no 'model_type'"):
        resolve_model("hf:typeless.json")


def test_an_image_config_takes_pixels(models) -> None:
    """A vision config gives pixels of the size it declares."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    settings = {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": 32,
        "patch_size": 16,
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    (models / "vit.json").write_text(json.dumps(settings))
    (graph,) = capture_workload(resolve_model("hf:vit.json"), {"batch": 2}).graphs
    assert next(value for value in graph.values if value.kind == "input").spec.shape == (2, 3, 32, 32)
    assert prod(graph.calls[-1].outputs[0].shape) == 2 * 2


@pytest.mark.parametrize("shape", [(3, 5), (2, REPEATED), (7, 300_001)])
def test_large_tensors_repeat_numbers_that_are_normally_distributed(shape):
    """Of the shape and dtype asked for, mean 0 and variance 1 within five standard errors; every element is written."""
    torch.manual_seed(0)
    values = Maker("float32", "cpu").tensor(*shape)
    assert values.shape == shape
    assert values.dtype == torch.float32
    count = min(values.numel(), REPEATED)
    assert abs(values.mean().item()) < 5 / count**0.5
    assert abs(values.var().item() - 1) < 5 * (2 / count) ** 0.5 + (values.numel() < 100)
    if values.numel() > REPEATED:
        flat = values.flatten()
        assert torch.equal(flat[REPEATED : 2 * REPEATED], flat[: min(REPEATED, values.numel() - REPEATED)])
