"""A duel: two sides measured in one campaign on one machine, each visit to a case on both, one right after the other.

    case, visit -> base, new    or, as often, new, base -> a row of each side's run, with the same number of visit

Neighbours, clocks and drift fall on both visits of a pair alike, so that the difference of a pair holds little of them (duet
benchmarking: Bulej et al., Duet benchmarking: improving measurement accuracy in the cloud, ICPE 2020; there both run at the same
time on cores of their own, here alternately, as a model uses all cores). Which side comes first is drawn anew for each pair.
`compare_runs(..., paired=True)` judges by the differences of the pairs.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.progress import Progress
from shmoo.harness.campaign.campaign import CampaignSettings, manifest_of, run_campaign
from shmoo.harness.campaign.sides import Description, Side
from shmoo.harness.campaign.worker import CaseMeasurer, Worker
from shmoo.runs.store.records import AxisValue, CaseSpec, Measurement
from shmoo.runs.store.store import Run, RunWriter

BASE, NEW = "base", "new"
"""Directories of the two runs."""
DUEL = "duel"
"""Setting that the runs of one duel share."""


class Duet:
    """Visits a case on both sides. The base's rows are the campaign's; the other side's go to a run of their own.

    Args:
        base, new: measure on their sides.
        rows: run of the new side.
        seed: of which side comes first.
    """

    def __init__(self, base: CaseMeasurer, new: CaseMeasurer, rows: RunWriter, seed: int = 0) -> None:
        self._base = base
        self._new = new
        self._rows = rows
        self._random = random.Random(seed)
        self._failed: set[str] = set()

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """Visit both sides; the base's row and graphs. A case that failed on the new side is left alone there, as it would only
        fail again."""
        if case.identity in self._failed:
            return self._base.measure(case, visit, details)
        if self._random.random() < 0.5:
            row, graphs = self._base.measure(case, visit, details)
            other, others = self._new.measure(case, visit, details)
        else:
            other, others = self._new.measure(case, visit, details)
            row, graphs = self._base.measure(case, visit, details)
        self._rows.append(other, others)
        if other.status == "failed":
            self._failed.add(case.identity)
        return row, graphs


def run_duel(
    cases: Sequence[CaseSpec],
    out: Path,
    sides: tuple[Side, Side],
    described: tuple[Description, Description],
    *,
    suite: str,
    settings: CampaignSettings,
    progress: Progress | None = None,
    measurers: tuple[CaseMeasurer, CaseMeasurer] | None = None,
) -> tuple[Run, Run]:
    """Measure `cases` on both sides into `out`/base and `out`/new.

    Args:
        described: what each side's interpreter says of itself, for the manifests.
        settings: `visits` is the number of pairs of each case.
        measurers: of both sides in place of workers; the caller closes them.

    Raises:
        InputError, ShmooError, KeyboardInterrupt: as `run_campaign`; finished pairs are kept.
    """
    token = secrets.token_hex(8)
    facts: list[dict[str, AxisValue | None]] = [
        {DUEL: token, "duel.side": role, "duel.name": side.name} for role, side in zip((BASE, NEW), sides, strict=True)
    ]
    base, new = described
    measure = settings.measure
    if measure.threads is None:
        measure = msgspec.structs.replace(measure, threads=base.machine.threads)
    with ExitStack() as stack:
        manifest = manifest_of(settings, suite, new.machine, facts[1], new.versions)
        rows = stack.enter_context(RunWriter(out / NEW, manifest))
        if measurers is None:
            encoded = msgspec.json.encode(measure)
            first, second = (stack.enter_context(Worker(encoded, settings.case_timeout_s, side=side)) for side in sides)
            measurers = first, second
        run_campaign(
            cases,
            out / BASE,
            suite=suite,
            machine=base.machine,
            settings=settings,
            progress=progress,
            measurer=Duet(*measurers, rows, settings.seed),
            facts=facts[0],
            versions=base.versions,
        )
    return Run.open(out / BASE), Run.open(out / NEW)


def is_duel(runs: Sequence[Run]) -> bool:
    """Whether these are the two runs of one duel, base first."""
    settings = [run.manifest.settings for run in runs]
    return (
        len(settings) == 2
        and settings[0].get(DUEL) is not None
        and settings[0].get(DUEL) == settings[1].get(DUEL)
        and [one.get("duel.side") for one in settings] == [BASE, NEW]
    )
