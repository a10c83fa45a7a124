"""Fused attention on tensor cores: blocks of queries, splits of the keys, groups of heads, causal masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.model import predict
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import TileShape, Tiling, strategy_for
from shmoo.estimators.tiling.gpu.library import TENSOR_KERNELS
from shmoo.estimators.tiling.gpu.tensor import SPLITS
from shmoo.runs.tables.reading import TableRow
from tests.build import kernel_table


def attention(batch: int, queries: int, keys: int, heads: int = 8, kv_heads: int = 8, causal: int = 0) -> KernelTable:
    axes = {"b": batch, "m": queries, "n": keys, "k": 128, "heads": heads, "kv_heads": kv_heads, "causal": causal}
    graph = TableRow(0, "attention", axes, "bfloat16").graph()
    return kernel_table(graph, fuse(graph))


def tiled(table: KernelTable, profile: ArchitectureProfile) -> Tiling:
    strategy = strategy_for(profile)
    return strategy.apply(table, profile, strategy.choose(table, profile))


def seconds(table: KernelTable, profile: ArchitectureProfile, tiling: Tiling | None = None) -> float:
    cut = tiled(table, profile) if tiling is None else tiling
    return float(predict(table, cut, Coefficients(profile), "cudagraphs").device_s[0])


H100 = load_profile("gpu_h100")


def test_a_single_query_splits_its_keys_over_idle_multiprocessors():
    """Eight heads of 32,768 keys would be eight blocks; 2,048 sequences of 64 keys are enough as they are."""
    few, many = tiled(attention(1, 1, 32768), H100), tiled(attention(2048, 1, 64), H100)
    assert few.blocks is not None
    assert many.blocks is not None
    assert few.blocks.pieces[0] >= 8
    assert few.tiles[0] == 8 * few.blocks.pieces[0]
    assert many.blocks.pieces[0] == 1.0


def test_few_blocks_do_not_get_all_of_the_bandwidth():
    """One head of 2,048 keys is 1 MB: over the whole bandwidth it would take a third of a microsecond."""
    table = attention(1, 1, 2048, heads=1, kv_heads=1)
    assert seconds(table, H100) > seconds(attention(1, 1, 64, heads=1, kv_heads=1), H100) + 3 * table.bytes[0] / 3.35e12


def test_heads_of_a_group_read_their_keys_once():
    """32 query heads over 4 key heads move an eighth of what 32 over 32 do, and take far less time."""
    grouped, alone = attention(32, 1, 8192, 32, 4), attention(32, 1, 8192, 32, 32)
    moved = [tiled(table, H100).level_bytes["l2"][0] for table in (grouped, alone)]
    assert moved[0] == pytest.approx(moved[1] / 8, rel=0.1)
    assert seconds(grouped, H100) < seconds(alone, H100) / 5


def test_blocks_of_a_head_share_reads_of_the_same_keys_from_hopper_on():
    """32 blocks of 128 queries each read the same 4,096 keys: L2 is asked for them 8 times on an H100, 32 times on an A100, and
    shared memory takes in all 32 copies on both."""
    table = attention(1, 4096, 4096)
    keys = 2.0 * 8 * 4096 * 128 * 2
    asked = {}
    for name in ("gpu_h100", "gpu_a100_sxm_80g"):
        cut = tiled(table, load_profile(name))
        assert cut.shape.m[0] == 128.0
        asked[name] = cut.level_bytes["l2"][0], cut.level_bytes["shared"][0]
    (hopper_l2, hopper_shared), (ampere_l2, ampere_shared) = asked["gpu_h100"], asked["gpu_a100_sxm_80g"]
    assert ampere_l2 - hopper_l2 == pytest.approx(24 * keys, rel=0.05)
    assert hopper_shared == pytest.approx(ampere_shared, rel=0.05)


def test_heads_of_a_group_fill_blocks_together_on_hopper():
    """16 queries of 8 heads that share keys are the 128 rows of a block there; an L40S takes a block for each head."""
    table = attention(64, 16, 16, heads=64, kv_heads=8, causal=1)
    assert tiled(table, H100).tiles[0] == 64 * 8
    assert tiled(table, load_profile("gpu_l40s")).tiles[0] == 64 * 64


def test_storing_new_keys_takes_time_by_their_bytes():
    """A table's heads over a cache store the keys and values of all new tokens; attention in a network's graph does not."""
    stored, none = (
        TableRow(0, "attention", {"b": 8, "m": 1024, "n": 1024, "k": 128, **heads}, "bfloat16").graph()
        for heads in ({"heads": 16, "kv_heads": 16, "causal": 0}, {})
    )
    assert [len(graph.calls[0].outputs) for graph in (stored, none)] == [2, 1]
    single = attention(8, 1024, 1024, heads=16, kv_heads=16)
    grouped = attention(8, 1024, 1024, heads=16, kv_heads=2)
    blocks = [tiled(table, H100).blocks for table in (single, grouped)]
    assert [float(of.stored[0]) for of in blocks if of is not None] == [2.0 * 8 * h * 1024 * 128 * 2 for h in (16, 2)]
    added = []
    for table in (single, grouped):
        at_once = Coefficients(H100, {"efficiency.append.attention_tensor": 1e9})
        added.append(seconds(table, H100) - float(predict(table, tiled(table, H100), at_once, "cudagraphs").device_s[0]))
    assert added[0] == pytest.approx(8 * added[1], rel=0.01)


def test_queries_of_several_groups_are_brought_into_their_order():
    """Two kernels each read and write 32 sequences of 32 heads of 128 in bfloat16 on an L40S, none from Hopper on. One group lies
    in this order, several queries do not take a group for a sequence, and a network's attention stores no keys."""
    l40s = load_profile("gpu_l40s")

    def regrouped(table: KernelTable, profile: ArchitectureProfile = l40s) -> float:
        blocks = tiled(table, profile).blocks
        assert blocks is not None
        return float(np.broadcast_to(blocks.regrouped, 1)[0])

    several = attention(32, 1, 512, heads=32, kv_heads=8)
    assert regrouped(several) == 32 * 32 * 128 * 2
    assert regrouped(several, H100) == regrouped(several, load_profile("gpu_b200")) == 0.0
    for other in (attention(32, 1, 512, 32, 1), attention(32, 1, 512, 32, 32), attention(32, 64, 512, 32, 8)):
        assert regrouped(other) == 0.0
    alone = TableRow(0, "attention", {"b": 8, "m": 1, "n": 512, "k": 128}, "bfloat16").graph()
    assert regrouped(kernel_table(alone, fuse(alone))) == 0.0
    c = Coefficients(l40s, {"device_launch.regroup.attention_tensor": 5e-6})
    slow, fast = (
        float(predict(several, tiled(several, l40s), at, "cudagraphs").device_s[0])
        for at in (c, Coefficients(l40s, {"device_launch.regroup.attention_tensor": 1e-6}))
    )
    assert slow - fast == pytest.approx(2 * 4e-6)


def test_a_causal_mask_leaves_out_the_scores_behind_the_diagonal():
    """Half of 8,192 x 8,192, and the tiles on the diagonal; nothing of a single query."""
    masked, whole = attention(4, 8192, 8192, 32, 32, causal=1), attention(4, 8192, 8192, 32, 32)
    blocks = tiled(masked, H100).blocks
    assert blocks is not None
    assert 0.48 < blocks.skipped[0] < 0.5
    stored = [tiling.blocks.stored[0] for tiling in (tiled(masked, H100), tiled(whole, H100)) if tiling.blocks is not None]
    assert stored[0] == stored[1] > 0
    free = Coefficients(H100, {"efficiency.append.attention_tensor": 1e9, "tile_overhead.attention_tensor": 1e-12})
    half, full = (float(predict(table, tiled(table, H100), free, "cudagraphs").device_s[0]) for table in (masked, whole))
    assert half == pytest.approx(full / 2, rel=0.1)
    single = tiled(attention(4, 1, 8192, causal=1), H100).blocks
    assert single is not None
    assert single.skipped[0] == 0.0


def test_a_product_takes_the_tile_that_the_model_prices_lowest():
    """No other tile or split of the library is faster than the chosen one when both are priced in full."""
    kernels = TENSOR_KERNELS["hopper"]
    for m, n, k in ((64, 4096, 4096), (16, 512, 16384), (3000, 1000, 777), (4096, 4096, 4096)):
        graph = TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}, "bfloat16").graph()
        table = kernel_table(graph, fuse(graph))
        strategy = strategy_for(H100)
        own = seconds(table, H100)
        for (tile_m, tile_n), split in itertools.product(kernels.tiles, SPLITS):
            if split > 1 and (k / split < 4 * 64 or -(-m // tile_m) * -(-n // tile_n) >= 2 * 132):
                continue
            shape = TileShape(np.full(1, float(tile_m)), np.full(1, float(tile_n)), np.full(1, float(-(-k // split))))
            assert seconds(table, H100, strategy.apply(table, H100, shape)) >= 0.99 * own, (m, n, k, tile_m, tile_n, split)
