"""The residual: a small correction of the physics by measurements, kept apart and removable.

For a group of kernels that a machine was measured on, boosted trees (Friedman, "Greedy function approximation: a gradient
boosting machine", Annals of Statistics 29(5), 2001) give log(measured / physical) from features of a kernel and its tiles:

    t = physical t x exp(support x sum over trees of tree(features))
    support = exp(-|b|^2 / 2),  b = doublings / FALLOFF by which each feature lies outside the range that was measured

A library's choice among kernels jumps with the shape, which trees follow and smooth functions do not. Outside the measured range
`support` falls to 0 and the physics stands; features that all measured kernels share (a window of 3 x 3) have a range of one
value. Support also weights the held-out errors with and without the correction in a kernel's interval. The trees are symmetric:
all nodes of a level ask the same question (Prokhorenkova et al., "CatBoost", NeurIPS 2018), so that many trees and kernels are a
few array operations.

A GPU multiplies float16 and bfloat16 in the same kernels at the same rate, so the first correction of either type holds for both.
A correction of the other type, such as from rows measured with another release of the library, adds to it within its own range.

Fitting is in `shmoo.calibrate.fit.residual`. Only the measured machine has a residual; it does not transfer to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from shmoo.estimators.errors import unknown
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.machine.coefficients import FAMILY_OF, Coefficients, batched_product, unpacks_weights
from shmoo.estimators.machine.profile import ArchitectureProfile, ResidualGroup
from shmoo.estimators.predict.model import Prediction, predict
from shmoo.estimators.table import Floats, KernelTable, Masks
from shmoo.estimators.tiling.base import Tiling

Feature = Callable[[KernelTable, Tiling], Floats]


def _useful_share(extent: Floats, tile: int) -> Floats:
    """Useful share of the tiles that cover an extent."""
    extent_of_tiles: Floats = np.ceil(extent / tile) * tile
    return extent / extent_of_tiles


def _column(name: str) -> Feature:
    return lambda table, tiling: getattr(table, name)


FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        **{name: _column(name) for name in ("batch", "m", "n", "k", "window", "stride", "dilation", "images")},
        "channels": lambda table, tiling: table.channels_in,
        "points": lambda table, tiling: table.m / table.images,
        "group": lambda table, tiling: np.asarray(np.maximum(table.group, 1.0), dtype=np.float64),
        "causal": lambda table, tiling: 1.0 + table.causal.astype(np.float64),
        "flops": lambda table, tiling: table.matrix_flops,
        "bytes": lambda table, tiling: table.bytes,
        "waves": lambda table, tiling: tiling.waves,
        "utilisation": lambda table, tiling: tiling.utilisation,
        "tile_m": lambda table, tiling: tiling.shape.m,
        "tile_n": lambda table, tiling: tiling.shape.n,
        "tile_k": lambda table, tiling: tiling.shape.k,
        # Output channels come in tiles of 64 and 128, output points of an image in squares of 2 and 4 (Winograd), whose share
        # along a side is the mean of both sides.
        "filled_n.64": lambda table, tiling: _useful_share(table.n, 64),
        "filled_n.128": lambda table, tiling: _useful_share(table.n, 128),
        "filled_points.2": lambda table, tiling: np.sqrt(_useful_share(table.height, 2) * _useful_share(table.width, 2)),
        "filled_points.4": lambda table, tiling: np.sqrt(_useful_share(table.height, 4) * _useful_share(table.width, 4)),
    }
)
"""Name -> positive (K,) quantity of each kernel; trees ask about its base-2 logarithm."""

_SIZE = ("flops", "bytes", "waves", "utilisation", "tile_m", "tile_n", "tile_k")
PRODUCT = ("batch", "m", "n", "k", *_SIZE)
CONVOLUTION = (
    "batch", "images", "points", "channels", "n", "window", "stride", "dilation", *_SIZE, "filled_n.64", "filled_n.128",
    "filled_points.2", "filled_points.4",
)  # fmt: skip
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gemm": PRODUCT,
        "gemm_batched": PRODUCT,
        "conv": CONVOLUTION,
        "depthwise": CONVOLUTION,
        "conv_transpose": CONVOLUTION,
        "attention": (*PRODUCT, "group", "causal"),
    }
)
"""Group of kernels with a correction -> its features. Families are groups; products that run in the kernels for batches
(`coefficients.batched_product`) are a group of their own. Loops without a contraction have no correction, because their
coefficients leave small errors."""

FALLOFF = 0.25
"""Doublings outside the measured range of a feature at which support falls to exp(-1/2); at one doubling it is 3e-4."""
ANY_RUNTIME = frozenset({"gpu"})
"""Architecture families whose contractions come from the same library in every runtime. In another runtime than the measured one,
or beside another host, the device's time is corrected by its share in the measured time. On other families a correction applies
to the measured runtime only."""
SAME_KERNELS = ("bfloat16", "float16")
"""Types that a GPU multiplies in the same kernels."""
_ROWS_AT_ONCE = 512
"""Rows evaluated together, so that arrays of rows x trees fit a core's caches."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Arrays of shape (K,).

    Attributes:
        log_factor: log of corrected over physical time on the device (CPUs: all of it); 0 where no correction applies.
        log_launch: the same for the launch.
        support: 1 among measured kernels, falling to 0 away from them.
        spread: standard deviation of the log error of held-out cases with the correction.
    """

    log_factor: Floats
    log_launch: Floats
    support: Floats
    spread: Floats

    def applied(self, prediction: Prediction) -> Prediction:
        """The prediction with its times corrected; energies of flops and bytes stay."""
        if not self.log_factor.any():
            return prediction
        factor = np.exp(self.log_factor)
        return replace(
            prediction,
            compute_s=prediction.compute_s * factor,
            memory_s=prediction.memory_s * factor,
            launch_s=prediction.launch_s * np.exp(self.log_launch),
            device_s=prediction.device_s * factor,
            early_s=None if prediction.early_s is None else prediction.early_s * factor,
        )

    def each(self, change: Callable[[Floats], Floats]) -> Correction:
        """The correction with every array changed."""
        return Correction(*map(change, (self.log_factor, self.log_launch, self.support, self.spread)))

    def spread_beside(self, physical: Floats) -> Floats:
        """(K,) standard deviation of the log error, from that of the physical model alone."""
        return np.sqrt(self.support * self.spread**2 + (1.0 - self.support) * physical**2)


def correction(table: KernelTable, tiling: Tiling, profile: ArchitectureProfile, runtime: str) -> Correction:
    """The correction of every kernel; `InputError` where the profile names a feature or a group that does not exist."""
    log_factor, log_launch, support, spread = np.zeros((4, len(table)))
    device_share: dict[str, np.ndarray | float] = {} if profile.host else {runtime: 1.0}
    for place, group in enumerate(profile.residual):
        as_measured = group.runtime == runtime and not profile.host
        if not as_measured and profile.family not in ANY_RUNTIME:
            continue
        if group.runtime not in device_share:
            reference = predict(table, tiling, Coefficients(profile.replacing(host="")), group.runtime)
            device_share[group.runtime] = reference.device_s / reference.latency_s
        earlier_groups = profile.residual[:place]
        rows = np.flatnonzero(in_group(table, group.group, types_of(group, earlier_groups, profile.family), profile.family))
        if len(rows):
            logs = log_features(group.features, table, tiling, rows)
            group_support = support_of(group, logs)
            keeps_earlier = float(stacks_on_earlier(group, earlier_groups, profile.family))
            log_ratio = group_support * tree_sum(group, logs)
            of_device = np.broadcast_to(device_share[group.runtime], len(table))[rows]
            log_factor[rows] = keeps_earlier * log_factor[rows] + log_ratio * of_device
            log_launch[rows] = keeps_earlier * log_launch[rows] + log_ratio * as_measured
            other_support = keeps_earlier * (1.0 - group_support) * support[rows]
            variance = group_support * group.spread**2 + other_support * spread[rows] ** 2
            support[rows] = group_support + other_support
            spread[rows] = np.sqrt(variance / np.maximum(support[rows], 1e-30))
    return Correction(log_factor, log_launch, support, spread)


def stacks_on_earlier(group: ResidualGroup, earlier_groups: Sequence[ResidualGroup], family: str) -> bool:
    """True where a correction adds to an earlier one for the same kernels in another type of `SAME_KERNELS`."""
    kernels = (group.group, group.runtime)
    earlier_dtypes = {earlier.dtype for earlier in earlier_groups if (earlier.group, earlier.runtime) == kernels}
    return family == "gpu" and group.dtype in SAME_KERNELS and not earlier_dtypes.isdisjoint(SAME_KERNELS)


def types_of(group: ResidualGroup, earlier_groups: Sequence[ResidualGroup], family: str) -> tuple[str, ...]:
    """Types that a correction applies to: all of `SAME_KERNELS` for the first correction in one of them, else its own."""
    is_first = family == "gpu" and group.dtype in SAME_KERNELS and not stacks_on_earlier(group, earlier_groups, family)
    return SAME_KERNELS if is_first else (group.dtype,)


def in_group(table: KernelTable, group: str, dtypes: Sequence[str], family: str) -> np.ndarray:
    """(K,) kernels of one operator call that belong to a group and compute in one of these types, on an architecture family."""
    if group not in GROUPS:
        raise unknown("group of kernels of a residual", group, GROUPS)
    mask: Masks = table.is_family(FAMILY_OF.get(group, group)) & (table.calls == 1) & (table.matrix_flops > 0)
    mask = mask & np.isin(table.dtype, [COMPUTE_DTYPES.index(dtype) for dtype in dtypes])
    if group in ("gemm", "gemm_batched"):
        mask = mask & (batched_product(table, family) == (group == "gemm_batched")) & ~unpacks_weights(table) & (table.group <= 1)
    return mask


def log_features(names: Sequence[str], table: KernelTable, tiling: Tiling, rows: np.ndarray) -> np.ndarray:
    """(R, d) base-2 logarithms of these features of R rows, in float32."""
    for name in names:
        if name not in FEATURES:
            raise unknown("feature of a residual", name, FEATURES, "refit the profile with this version")
    columns: Floats = np.stack([FEATURES[name](table, tiling)[rows] for name in names], axis=1)
    return np.log2(columns).astype(np.float32)


def support_of(group: ResidualGroup, logs: Floats) -> Floats:
    """(R,) support in [0, 1] of kernels with (R, d) features: 1 inside the measured ranges."""
    distance = np.maximum(np.asarray(group.low) - logs, logs - np.asarray(group.high)).clip(min=0.0) / FALLOFF
    squares: Floats = (distance**2).sum(axis=1)
    return np.exp(-0.5 * squares)


def tree_sum(group: ResidualGroup, logs: Floats) -> Floats:
    """(R,) sums of the trees' results for (R, d) features."""
    features = np.asarray([tree.features for tree in group.trees])
    thresholds = np.asarray([tree.thresholds for tree in group.trees], dtype=np.float32)
    values = np.asarray([tree.values for tree in group.trees], dtype=np.float32)
    columns = np.ascontiguousarray(logs.T)
    result = np.empty(len(logs))
    for start in range(0, len(logs), _ROWS_AT_ONCE):
        columns_part = columns[:, start : start + _ROWS_AT_ONCE]
        leaf = np.zeros((len(features), columns_part.shape[1]), dtype=np.intp)
        for level in range(features.shape[1]):
            leaf = 2 * leaf + (columns_part[features[:, level]] > thresholds[:, level, None])
        result[start : start + _ROWS_AT_ONCE] = np.take_along_axis(values, leaf, axis=1).sum(axis=0)
    return result
