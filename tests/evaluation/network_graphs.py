"""Graphs of the networks that others measured, captured once and kept in a folder.

A network's name is one of torchvision's, a well-known config of the package ("bert_large": the bare model of the config,
attention as separate products and softmax, as eager transformers ran it), or a config's encoder on hidden states as PyTorch 1
ran it ("bert_base:encoder_in_torch_1").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import platformdirs

from shmoo.estimators.graph.records import Graph
from shmoo.harness.module import Built

KEPT_FORMAT = 1
"""Version of the kept graphs; a capture that would give other graphs takes the next."""
ENCODER = ":encoder_in_torch_1"
"""Suffix of a config's name for its encoder alone, on hidden states, with biases in kernels of their own: until
1.12 PyTorch made a product and an addition of a linear layer of three dimensions (pytorch/pytorch, pull request 72728)."""


def kept_graphs() -> Path:
    """The folder that keeps captured graphs where no other is named."""
    return platformdirs.user_cache_path("shmoo", appauthor=False) / "network-graphs"


class Asked(msgspec.Struct, frozen=True):
    """What a network's graphs depend on.

    Attributes:
        dtype: of its tensors. autocast: type that torch.autocast computes in; "" without.
        tokens: length of a sequence; 0 for images. pixels: height and width of an image; 0 for sequences.
    """

    network: str
    dtype: str
    batch: int
    tokens: int = 0
    pixels: int = 0
    autocast: str = ""
    channels_last: bool = False


def graphs_of(asked: Asked, kept: Path) -> tuple[Graph, ...]:
    """The graphs of a network, from the folder `kept` where they are there already.

    Raises:
        CaptureError: torch cannot capture the network.
    """
    key = hashlib.sha256(msgspec.json.encode((KEPT_FORMAT, asked))).hexdigest()[:16]
    path = kept / f"{asked.network.replace(':', '-')}-{key}.json"
    if path.is_file():
        return tuple(msgspec.json.decode(path.read_bytes(), type=list[Graph]))
    graphs = tuple(_capture(asked))
    kept.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(graphs))
    return graphs


def _capture(asked: Asked) -> Sequence[Graph]:
    from shmoo.harness.capture.traced import capture_traced
    from shmoo.harness.models.model_graphs import model_graphs
    from shmoo.harness.models.request import Mode

    if asked.tokens:
        built = _transformer(asked)
        return capture_traced(built.model, built.args, built.kwargs, name=asked.network).graphs
    mode = Mode(autocast=asked.autocast or None, channels_last=asked.channels_last)
    shape = (asked.batch, 3, asked.pixels, asked.pixels)
    return model_graphs(asked.network, batch=asked.batch, dtype=asked.dtype, input_shape=shape, mode=mode).graphs


def _transformer(asked: Asked) -> Built:
    """A transformer of the package's configs, on the meta device: it has shapes and no weights."""
    from shmoo.harness.workloads.configs import config_models, config_workload
    from tests.evaluation.torch_1 import with_biases_after

    name = asked.network.removesuffix(ENCODER)
    settings = {**config_models()[name].config, "architectures": None, "attn_implementation": "eager"}
    built = config_workload(name, settings).build({"batch": asked.batch, "seq_len": asked.tokens}, asked.dtype, "meta")
    tokens = built.kwargs["input_ids"]
    mask = tokens.new_ones(tokens.shape)
    if asked.network == name:
        return Built(built.model, (), {**built.kwargs, "attention_mask": mask})
    model = with_biases_after(built.model)
    weights = next(model.parameters())
    hidden = weights.new_empty((asked.batch, asked.tokens, model.config.hidden_size))
    padding = weights.new_empty((asked.batch, 1, asked.tokens, asked.tokens))
    return Built(model.encoder, (hidden,), {"attention_mask": padding})
