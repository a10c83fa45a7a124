"""Held-out ranges of size: which cases are large, and that each half is judged by a fit to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.intervals import HeldOut, held_out
from shmoo.estimators.machine.profile import load_profile
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.sizes import Estimates, extrapolated, larger_half, work_of

H100 = load_profile("gpu_h100")


def case(side: int, latency_s: float) -> MeasuredCase:
    row = TableRow(
        0, "linear", {"b": 1, "m": side, "n": side, "k": side}, "bfloat16", latency_s, device="cuda", runtime="cudagraphs"
    )
    return MeasuredCase(row.case, (row.graph(),), latency_s, time="device")


def test_a_case_is_large_beside_its_group() -> None:
    """The middle of each group parts it."""
    cases = [case(side, 1e-4) for side in (64, 128, 256, 512)]
    work = work_of(cases, H100)
    assert work[1] > 7.9 * work[0]
    assert larger_half(work, np.asarray(["a"] * 4)).tolist() == [False, False, True, True]
    assert larger_half(work, np.asarray(["a", "b", "a", "b"])).tolist() == [False, False, True, True]


def test_each_half_is_judged_by_a_fit_without_it() -> None:
    """Neither half is ever among the cases that its estimates were made from."""
    taught: list[list[MeasuredCase]] = []

    def fit(cases: Sequence[MeasuredCase]) -> Estimates:
        own = list(cases)
        taught.append(own)

        def estimates(others: Sequence[MeasuredCase]) -> HeldOut:
            assert not {id(one) for one in others} & {id(one) for one in own}
            found = held_out(blocks(list(others), H100), H100)
            return replace(found, measured=found.estimated * len(own))

        return estimates

    cases = [case(64 * (i + 1), 1e-4) for i in range(40)]
    results = extrapolated("gpu_h100", cases, np.asarray(["products"] * 40), fit, H100)
    assert [result.what.rsplit(", ")[-1] for result in results] == [
        "larger half from the smaller", "random rows", "smaller half from the larger",
    ]  # fmt: skip
    assert [result.cases for result in results][::2] == [20, 20]
    assert sorted(map(len, taught))[0] == 20
