"""What a gate finds on this machine as it is: equal runs and duels, 5 % over a suite, 15 % in one case.

    python -m tests.evaluation gates FOLDER [--pairs 100]

Cases are chains of 20 equal calls; a side that is slower by 5 % calls 21 times, one that is slower by 15 % calls 23 times. All is
measured by `run_campaign` and `run_duel` and judged by `compare_runs`, as the commands do it, in this process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.units import percent
from shmoo.harness.campaign.campaign import CampaignSettings, run_campaign
from shmoo.harness.campaign.duel import run_duel
from shmoo.harness.campaign.sides import Description, Side
from shmoo.harness.cli.verbs.duel import PAIRS
from shmoo.harness.machine.doctor import own_versions, probe_machine
from shmoo.harness.measuring.measure import Measurer
from shmoo.harness.measuring.timing import MeasureSettings
from shmoo.harness.module import Built
from shmoo.runs.analysis.compare import Comparison, compare_runs
from shmoo.runs.analysis.compare_text import growth_text
from shmoo.runs.analysis.compare_verdict import CERTAIN
from shmoo.runs.store.records import CaseSpec, Machine, Measurement
from shmoo.runs.store.statistics import median
from shmoo.runs.store.store import Run, RunWriter

LINKS, FIVE, FIFTEEN = 20, 21, 23
"""Calls in a chain: of a base, of 5 and of 15 % more."""
EQUAL_RUNS, RUN_VISITS = 20, 4
PARTS = 20
"""Duels that a long equal duel is cut into."""
STEPS: Mapping[str, Callable[[int], torch.nn.Module]] = {
    "linear": lambda size: torch.nn.Linear(size, size),
    "layer_norm": torch.nn.LayerNorm,
    "softmax": lambda size: torch.nn.Softmax(-1),
    "gelu": lambda size: torch.nn.GELU(),
}
CASES = tuple(
    CaseSpec(step, "operator", {"n": size}) for step in STEPS for size in ((64, 128) if step == "linear" else (96, 160))
)


class Chain(torch.nn.Module):
    """Equal calls, each on what the one before it gives."""

    def __init__(self, step: torch.nn.Module, links: int) -> None:
        super().__init__()
        self.step, self.links = step, links

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The last link's result."""
        for _ in range(self.links):
            x = self.step(x)
        return x


class Bare(Measurer):
    """Visits without energy, memory and times inside, of which nothing here is judged."""

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """As of `Measurer`."""
        return super().measure(case, visit, False)


def side(threads: int, links: Callable[[CaseSpec], int]) -> Bare:
    """A measurer whose chains have as many links as `links` says."""

    def build(case: CaseSpec) -> Built:
        size = int(case.axes["n"])
        return Built(Chain(STEPS[case.workload](size), links(case)), (torch.randn(64, size),))

    return Bare(MeasureSettings(threads=threads), build=build)


def slower(links: int, only: CaseSpec | None = None) -> Callable[[CaseSpec], int]:
    """Chains of this many links, or one case of them alone."""
    return lambda case: links if only in (None, case) else LINKS


def evaluate(folder: Path, pairs: int, tell: Callable[[str], object]) -> None:
    """Measure everything into `folder`, and tell what the gates answer."""
    machine = probe_machine(1)
    settings = CampaignSettings(MeasureSettings(threads=machine.threads), visits=RUN_VISITS, most_visits=RUN_VISITS)
    base = side(machine.threads, slower(LINKS))
    runs = []
    for number in range(2 * EQUAL_RUNS):
        path = run_campaign(CASES, folder / f"run-{number}", suite="gates", machine=machine, settings=settings, measurer=base)
        runs.append(Run.open(path))
    _equal("runs", [compare_runs(a, b) for a, b in zip(runs[::2], runs[1::2], strict=True)], tell)
    equal = _duel(folder / "equal", pairs, machine, (base, side(machine.threads, slower(LINKS))))
    _told("equal sides", equal, tell)
    short = _parts(folder / "short", equal, pairs // PARTS)
    _equal(f"duels of {pairs // PARTS} pairs", [compare_runs(*part, paired=True) for part in short], tell)
    for words, links in (("5 % in every case", slower(FIVE)), ("15 % in one case", slower(FIFTEEN, CASES[0]))):
        seeded = _duel(folder / words.split()[0], pairs, machine, (base, side(machine.threads, links)))
        _told(words, seeded, tell)
    usual = _parts(folder / "usual", equal, min(PAIRS, pairs))
    for how, paired in (("by pairs", True), ("as two runs", False)):
        resolved = [_resolution(compare_runs(*part, paired=paired)) for part in usual]
        tell(f"duels of {min(PAIRS, pairs)} pairs, {how}: resolve {percent(median(resolved))} (median of {len(usual)})")


def _duel(out: Path, pairs: int, machine: Machine, measurers: tuple[Measurer, Measurer]) -> tuple[Run, Run]:
    here, described = Side("here", "", "", ()), Description(machine, own_versions())
    settings = CampaignSettings(MeasureSettings(threads=machine.threads), visits=pairs, most_visits=pairs)
    return run_duel(CASES, out, (here, here), (described, described), suite="gates", settings=settings, measurers=measurers)


def _parts(folder: Path, runs: tuple[Run, Run], size: int) -> list[list[Run]]:
    """A long duel cut into consecutive ones of `size` pairs."""
    parts = []
    for part in range((max(line.visit for line in runs[0].lines) + 1) // size):
        cut = []
        for run in runs:
            path = folder / f"part-{part}-{run.path.name}"
            with ExitStack() as stack:
                writer = stack.enter_context(RunWriter(path, run.manifest))
                for line in run.lines:
                    if part * size <= line.visit < (part + 1) * size:
                        writer.append(line)
            cut.append(Run.open(path))
        parts.append(cut)
    return parts


def _equal(what: str, comparisons: Sequence[Comparison], tell: Callable[[str], object]) -> None:
    for question in ("slower", "faster"):
        verdicts = [found.answer(question) for found in comparisons]
        counts = {answer: sum(verdict.answer == answer for verdict in verdicts) for answer in ("yes", "no", "too noisy")}
        suites = {answer: sum(verdict.suite == answer for verdict in verdicts) for answer in ("yes", "no", "too noisy")}
        tell(f"{len(comparisons)} pairs of equal {what}, {question}? {counts}; geometric mean: {suites}")


def _told(words: str, runs: tuple[Run, Run], tell: Callable[[str], object]) -> None:
    for how, paired in (("by pairs", True), ("as two runs", False)):
        found = compare_runs(*runs, paired=paired)
        verdict = found.answer("slower")
        error = median([case.time.standard_error for case in found.cases])
        tell(
            f"duel with {words}, {how}: {verdict.answer}; geometric mean {growth_text(verdict.growth)}: {verdict.suite}, "
            f"resolves {percent(_resolution(found))}; cases: {verdict.yes or 'none'}, too noisy: {len(verdict.noisy)}, "
            f"median standard error {percent(error)}"
        )


def _resolution(found: Comparison) -> float:
    """The least growth of the geometric mean that counts as certain."""
    return math.expm1(CERTAIN * found.suite["time"].standard_error)
