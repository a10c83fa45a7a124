"""A duel: two sides measured in one campaign. Each visit to a case happens on both sides, in random order, so that neighbours,
clocks and drift affect both alike. Both processes are replaced for each part of the pairs, since two processes of equal code
differ, too; each row stores its pair of processes (docs/gate.md has the sources). `compare_runs(..., paired=True)` compares the
parts."""

from __future__ import annotations

import random
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.progress import Progress
from shmoo.harness.campaign.campaign import CampaignSettings, manifest_of, run_campaign, storing
from shmoo.harness.campaign.sides import Description, Side
from shmoo.harness.campaign.worker import CaseMeasurer, Worker
from shmoo.runs.store.records import AxisValue, CaseSpec, Measurement
from shmoo.runs.store.store import MANIFEST, Run, RunWriter, holds_run, read_manifest

BASE, NEW = "base", "new"
DUEL = "duel"
"""Setting that the runs of one duel share."""
PARTS = 10
"""Number of parts of the pairs; two new processes measure each part."""


class Replaceable(CaseMeasurer, Protocol):
    """A measurer in a process: a `Worker`, or a stand-in."""

    def close(self) -> None:
        """End the process; the next visit starts another one."""


class Duet:
    """Visits a case on both sides. The base's rows belong to the campaign; the new side's rows go to a separate run, `rows`.

    Args:
        part_of: visit number -> part of the duel, from 0.
        before: lines of the new side's run when resuming. A pair with only this half is measured again, and the later line of a
            visit counts.
    """

    def __init__(
        self,
        base: Replaceable,
        new: Replaceable,
        rows: RunWriter,
        part_of: Callable[[int], int],
        seed: int = 0,
        before: Sequence[Measurement] = (),
    ) -> None:
        self._sides = {BASE: base, NEW: new}
        self._rows = rows
        self._part_of = part_of
        self._part = -1
        self._process = max((-1 if line.process is None else line.process for line in before), default=-1)
        self._random = random.Random(seed + len(before))
        self._failed = {line.case.identity for line in before if line.status == "failed"}

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """Visit both sides; returns the base's row and graphs. A case that failed on the new side is not visited there again."""
        part = self._part_of(visit)
        if part > self._part:
            self._part = part
            self._process += 1
            for side in self._sides.values():
                side.close()
        roles = [BASE] if case.identity in self._failed else [BASE, NEW]
        # The new process that starts first may get the better core.
        self._random.shuffle(roles)
        visited = {}
        for role in roles:
            row, graphs = self._sides[role].measure(case, visit, details)
            visited[role] = msgspec.structs.replace(row, process=self._process), graphs
        if NEW in visited:
            with storing(self._rows):
                self._rows.append(*visited[NEW])
            if visited[NEW][0].status == "failed":
                self._failed.add(case.identity)
        return visited[BASE]


def run_duel(
    cases: Sequence[CaseSpec],
    out: Path,
    sides: tuple[Side, Side],
    described: tuple[Description, Description],
    *,
    suite: str,
    settings: CampaignSettings,
    resume: bool = False,
    progress: Progress | None = None,
    measurers: tuple[Replaceable, Replaceable] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Run, Run]:
    """Measure `cases` on both sides into `out`/base and `out`/new. Errors as for `run_campaign`; finished pairs are kept.

    Args:
        described: description of each side's interpreter, for the manifests.
        settings: `visits` is the number of pairs per case; both processes are replaced after each tenth of them, and after each
            tenth of the budget.
        resume: continue the duel at `out`, whose sides must be unchanged.
        measurers: measurers of both sides instead of workers; the caller closes them.
    """
    base, new = described
    token = (_resumed(out, sides, described) if resume else None) or secrets.token_hex(8)
    measure, begin = settings.measure, clock()

    def part_of(visit: int) -> int:
        parts = [visit * PARTS // settings.visits]
        if settings.budget_s:
            parts.append(int((clock() - begin) * PARTS / settings.budget_s))
        return min(max(parts), PARTS - 1)

    if measure.threads is None:
        measure = msgspec.structs.replace(measure, threads=base.machine.threads)
    with ExitStack() as stack:
        manifest = manifest_of(settings, suite, new.machine, _facts(token, NEW, sides[1]), new.versions)
        begun = holds_run(out / NEW, resume)
        rows = stack.enter_context(RunWriter(out / NEW, manifest, resume=resume))
        before = Run.open(out / NEW).lines if resume else ()
        if measurers is None:
            encoded = msgspec.json.encode(measure)
            first, second = (stack.enter_context(Worker(encoded, settings.case_timeout_s, side=side)) for side in sides)
            measurers = first, second
        try:
            run_campaign(
                cases,
                out / BASE,
                suite=suite,
                machine=base.machine,
                settings=settings,
                resume=resume,
                progress=progress,
                measurer=Duet(*measurers, rows, part_of, settings.seed, before),
                facts=_facts(token, BASE, sides[0]),
                versions=base.versions,
                clock=clock,
            )
        except InputError:
            if not begun and not Run.open(out / NEW).lines:
                shutil.rmtree(out / NEW)  # refused before anything was measured; remove the empty run for the next attempt
            raise
    return Run.open(out / BASE), Run.open(out / NEW)


def _facts(token: AxisValue | None, role: str, side: Side) -> dict[str, AxisValue | None]:
    return {DUEL: token, "duel.side": role, "duel.name": side.name, "commit": side.state or None}


def _resumed(out: Path, sides: tuple[Side, Side], described: tuple[Description, Description]) -> AxisValue | None:
    """The token shared by the runs of the duel at `out`, `None` if none was started; `InputError` where a side has another name,
    other code, or other software than before."""
    token: AxisValue | None = None
    for role, side, description in zip((BASE, NEW), sides, described, strict=True):
        if not (out / role / MANIFEST).exists():
            continue
        manifest = read_manifest(out / role)
        token = manifest.settings.get(DUEL)
        facts = _facts(token, role, side)
        recorded, current = {**manifest.settings, **manifest.versions}, {**facts, **description.versions}
        names = (*facts, *sorted(manifest.versions.keys() | description.versions.keys()))
        changed = [
            f"{name} was {recorded.get(name)!r}, is {current.get(name)!r}"
            for name in names
            if recorded.get(name) != current.get(name)
        ]
        if changed:
            raise InputError(f"cannot resume {out}: {role} is another side ({'; '.join(changed)}); start anew with another --out")
    return token


def is_duel(runs: Sequence[Run]) -> bool:
    """Whether these are the two runs of one duel, base first."""
    sides = [(run.manifest.settings.get(DUEL), run.manifest.settings.get("duel.side")) for run in runs]
    token = sides[0][0] if sides else None
    return token is not None and sides == [(token, BASE), (token, NEW)]
