"""Estimates of a few small graphs against recorded ones: what changes a number by more than 0.1 % explains itself.

`golden/estimates.json` is written anew by `python -m tests.test_golden`, which is for changes that mean to change estimates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import RUNTIMES, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from tests.build import GraphBuilder

RECORD = Path(__file__).parent / "golden" / "estimates.json"
TOLERANCE = 1e-3
EVERY_RUNTIME = ("cpu_server_generic", "gpu_a100_40g")
FIELDS = ("flops", "bytes", "peak_memory_bytes", "kernels", "tiles")
INTERVALS = ("latency_s", "energy_j")


def convnet() -> Graph:
    """A residual block of an image network, pooled and classified."""
    b = GraphBuilder()
    x = b.relu(b.batch_norm(b.conv(b.tensor((8, 3, 64, 64)), 64)))
    y = b.relu(b.batch_norm(b.conv(x, 64)))
    y = b.relu(b.add(b.batch_norm(b.conv(y, 64, kernel=1)), x))
    pooled = b.call("mean", {"self": y}, (8, 64), dim=[2, 3], keepdim=False)
    return b.graph(b.linear(pooled, 1000), name="convnet")


def transformer(dtype: str) -> Graph:
    """A block of 128 tokens, 768 wide: norm, products with a softmax between them, two layers with a GELU."""
    b = GraphBuilder(dtype)
    x = b.tensor((128, 768))
    query, key, value = (b.view(b.linear(b.layer_norm(x), 768), (12, 128, 64)) for _ in range(3))
    scores = b.call("bmm", {"self": query, "mat2": b.view(key, (12, 64, 128))}, (12, 128, 128))
    weights = b.call("softmax", {"self": scores}, (12, 128, 128), dim=-1)
    mixed = b.view(b.call("bmm", {"self": weights, "mat2": value}, (12, 128, 64)), (128, 768))
    x = b.add(x, b.linear(mixed, 768))
    wide = b.linear(b.layer_norm(x), 3072)
    return b.graph(b.add(x, b.linear(b.call("gelu", {"self": wide}, (128, 3072), approximate="none"), 768)), name="transformer")


GRAPHS = {
    "convnet": convnet(),
    "transformer float32": transformer("float32"),
    "transformer bfloat16": transformer("bfloat16"),
}


def estimates(arch: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Case -> numbers of its estimate on one machine."""
    profile = load_profile(arch)
    director = AnalysisDirector(profile)
    for runtime in RUNTIMES[profile.family] if arch in EVERY_RUNTIME else (profile.default_runtime,):
        for name, graph in GRAPHS.items():
            estimate = director.estimate(graph, runtime=runtime)
            numbers = {field: float(getattr(estimate, field)) for field in FIELDS}
            for field in INTERVALS:
                interval = getattr(estimate, field)
                if interval is not None:
                    numbers |= {f"{field}.{end}": getattr(interval, end) for end in ("value", "low", "high")}
            slowest = max(estimate.breakdown, key=lambda kernel: kernel.elapsed_s)
            numbers |= {"slowest.elapsed_s": slowest.elapsed_s, "slowest.tiles": slowest.tiles}
            yield f"{name} {runtime}", numbers


@pytest.mark.parametrize("arch", builtin_names())
def test_estimates_are_the_recorded_ones(arch: str) -> None:
    """Work, time, energy and memory, with the ends of their intervals, within 0.1 %."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[arch]
    found = dict(estimates(arch))
    assert found.keys() == recorded.keys()
    for case, numbers in found.items():
        assert numbers == pytest.approx(recorded[case], rel=TOLERANCE), case


def test_the_record_has_every_built_in_architecture() -> None:
    """One that is added is recorded, one that is gone is forgotten."""
    assert sorted(json.loads(RECORD.read_text(encoding="utf-8"))) == builtin_names()


if __name__ == "__main__":
    RECORD.parent.mkdir(exist_ok=True)
    record = {
        arch: {case: {field: float(f"{x:.7g}") for field, x in numbers.items()} for case, numbers in estimates(arch)}
        for arch in builtin_names()
    }
    RECORD.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
