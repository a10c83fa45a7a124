"""Published rates of matrix products on tensor cores beside predicted ones.

None of the built-in profiles was fitted to a type that tensor cores multiply, so these are predictions of machines that were not
measured. The numbers are of users' loops over the vendor's library on random operands: boards differ, and so do their coolers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.table import KernelTable
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values

USERS = "zzc0721/torch-performance-test-data, issue {}, 2025-26"
"""PyTorch's `mm` of square matrices of normal random numbers, 30 times in a row after 6 (their `test.py`)."""
RUNTIME = "cudagraphs"
"""Launches follow so closely that the device does not wait, as in these loops from 2048 on."""

REPLAYED = 30
"""Times that a call is repeated in the tables that `throttle.time` is fitted to or declared for, 25 to 54: a row of products here
is a whole such loop."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What somebody measured.

    Attributes:
        arch: profile; changed: coefficients in which the board differs from it.
        dtype, m, n, k: of the product.
        tflops: 10^12 flop/s. times: products in a row.
        source: who published it.
    """

    arch: str
    dtype: str
    m: int
    n: int
    k: int
    tflops: float
    source: str
    times: int = 30
    changed: Mapping[str, float] = field(default_factory=dict)


def _squares(arch: str, dtype: str, issue: int, *tflops: float, **changed: float) -> list[Rate]:
    """Rates at 2048, 4096, 8192 and 10240."""
    values = {name.replace("_", "."): value for name, value in changed.items()}
    sizes = (2048, 4096, 8192, 10240)
    found = zip(sizes, tflops, strict=True)
    return [Rate(arch, dtype, size, size, size, rate, USERS.format(issue), changed=values) for size, rate in found]


_SXM2 = {"power_tdp": 300.0, "peak_matrix_float16": 125e12, "clock": 1.53e9}
PUBLISHED: tuple[Rate, ...] = (
    *_squares("gpu_p100", "float16", 164, 7.21, 7.89, 7.20, 7.24),
    *_squares("gpu_v100", "float16", 140, 78.23, 95.73, 97.36, 89.37, **_SXM2),
    Rate("gpu_t4", "float16", 4096, 4096, 4096, 24.0, "NVIDIA developer forum, About GPU peak performance, 2023", times=100),
    *_squares("gpu_a100_40g", "float16", 108, 214.73, 241.49, 197.51, 205.66),
    *_squares("gpu_a100_40g", "bfloat16", 108, 138.46, 234.14, 215.26, 211.72),
    *_squares("gpu_a100_40g", "tf32", 108, 90.82, 108.32, 97.32, 102.05),
    Rate(
        "gpu_a100_80g", "bfloat16", 8192, 8192, 8192, 257.0,
        "He, Strangely, matrix multiplications on GPUs run faster when given predictable data, 2024; board of 400 W", times=100,
        changed={"power.tdp": 400.0, "bandwidth.dram": 2.039e12},
    ),
    *_squares("gpu_l4", "float16", 120, 68.83, 53.02, 53.80, 52.47),
    *_squares("gpu_l4", "bfloat16", 120, 70.89, 54.91, 59.40, 56.90),
    *_squares("gpu_l4", "tf32", 120, 31.88, 24.00, 25.69, 26.17),
    *_squares("gpu_h100", "float16", 79, 645.12, 760.04, 736.19, 668.42),
    *_squares("gpu_h100", "bfloat16", 79, 676.59, 788.72, 797.51, 719.72),
    *_squares("gpu_h100", "tf32", 79, 334.99, 402.15, 372.05, 376.66),
    Rate("gpu_h100", "bfloat16", 4224, 2048, 8192, 780.2, "Chillee, H100 peak matmul FLOPS, gist, 2025", times=5000),
    Rate("gpu_h100", "float16", 1, 8192, 8192, 2.30, "inclusionAI/humming, pull request 2, 2026", times=100),
)  # fmt: skip


def predicted(rate: Rate) -> Interval:
    """flop/s of the device over the whole row of products, with the 90 % interval, by the physics alone."""
    profile = load_profile(rate.arch)
    board = {"throttle.time": REPLAYED * profile.value("throttle.time"), **rate.changed}
    director = AnalysisDirector(with_values(profile, board))
    graph = TableRow(0, "linear", {"b": 1, "m": rate.m, "n": rate.n, "k": rate.k}, rate.dtype).graph()
    one, _ = director.tabulate((graph,), RUNTIME, matrix_dtype(rate.dtype))
    row = KernelTable.concat([one] * rate.times)
    # Some dozens of products end long before a cool board is warm.
    row = replace(row, segment=np.zeros(len(row), dtype=np.int64), warm=np.zeros(len(row)))
    ((latency, _),) = director.price(row, RUNTIME, seed=0).intervals()
    flops = float(row.matrix_flops.sum())
    return Interval(flops / latency.value, flops / latency.high, flops / latency.low)


def table(rates: Sequence[Rate] = PUBLISHED) -> str:
    """Published and predicted rates as aligned text, one line each, and the mean error."""
    lines = [
        f"{'machine':13} {'type':9} {'m x n x k':>17}  {'published':>9}  {'predicted':>9}  {'90 % interval':>15}  error  source"
    ]
    errors, inside = [], 0
    for rate in rates:
        found = predicted(rate)
        value, low, high = (bound / 1e12 for bound in (found.value, found.low, found.high))
        # Time is what is predicted, so an error is of the time.
        errors.append(rate.tflops / value - 1.0)
        inside += low <= rate.tflops <= high
        lines.append(
            f"{rate.arch:13} {rate.dtype:9} {f'{rate.m} x {rate.n} x {rate.k}':>17}  {rate.tflops:>9.1f}  {value:>9.1f}"
            f"  {f'{low:.1f} - {high:.1f}':>15}  {errors[-1]:>+5.0%}  {rate.source}"
        )
    mean = float(np.mean(np.abs(errors)))
    lines.append(f"mean absolute error of the time {mean:.1%}; {inside} of {len(errors)} inside their 90 % intervals")
    return "\n".join(lines)
