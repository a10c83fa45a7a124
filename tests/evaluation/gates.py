"""What a gate finds on this machine as it is: equal runs and duels, 5 % over a suite, 15 % in one case.

    python -m tests.evaluation gates FOLDER [--duels 20] [--pairs 100]

Cases are chains of 20 equal calls; a side that is slower by 5 % calls 21 times, one that is slower by 15 % calls 23 times. All is
measured by `run_campaign` and `run_duel` in processes of their own and judged by `compare_runs`, as the commands do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import torch

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.units import percent
from shmoo.harness.campaign.campaign import CampaignSettings, run_campaign
from shmoo.harness.campaign.duel import Replaceable, run_duel
from shmoo.harness.campaign.sides import Description, Side
from shmoo.harness.campaign.worker import Worker
from shmoo.harness.machine.doctor import own_versions, probe_machine
from shmoo.harness.measuring.measure import Measurer
from shmoo.harness.measuring.timing import MeasureSettings
from shmoo.harness.module import Built
from shmoo.runs.analysis.compare import Comparison, compare_runs
from shmoo.runs.analysis.compare_text import growth_text
from shmoo.runs.analysis.compare_verdict import least_certain
from shmoo.runs.store.records import CaseSpec, Machine, Measurement
from shmoo.runs.store.statistics import median
from shmoo.runs.store.store import Run

LINKS, FIVE, FIFTEEN = 20, 21, 23
"""Calls in a chain: of a base, of 5 and of 15 % more."""
EQUAL_RUNS, RUN_VISITS = 20, 4
EQUAL_PAIRS = 10
"""Pairs of an equal duel, which are many: two of each pair of processes."""
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


class Chains(msgspec.Struct, frozen=True):
    """A side: its threads, and the links of its chains, of all of them or of one case alone."""

    threads: int
    links: int = LINKS
    only: CaseSpec | None = None

    def build(self, case: CaseSpec) -> Built:
        """The chain of a case with its operand."""
        size = int(case.axes["n"])
        links = self.links if self.only in (None, case) else LINKS
        return Built(Chain(STEPS[case.workload](size), links), (torch.randn(64, size),))


class Bare(Measurer):
    """Visits without energy, memory and times inside, of which nothing here is judged."""

    @classmethod
    def from_settings(cls, settings: bytes) -> Bare:
        """Of a side's JSON, as a worker process gets it."""
        chains = msgspec.json.decode(settings, type=Chains)
        return cls(MeasureSettings(threads=chains.threads), build=chains.build)

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """As of `Measurer`."""
        return super().measure(case, visit, False)


def side(chains: Chains) -> Replaceable:
    """A process that measures chains."""
    return Worker(msgspec.json.encode(chains), entry="tests.evaluation.gates:Bare")


def evaluate(folder: Path, duels: int, pairs: int, tell: Callable[[str], object]) -> None:
    """Measure everything into `folder`, and tell what the gates answer.

    Args:
        duels: how many equal duels. pairs: of each duel with a slower side.
    """
    machine = probe_machine(1)
    settings = CampaignSettings(MeasureSettings(threads=machine.threads), visits=RUN_VISITS, most_visits=RUN_VISITS)
    equal = Chains(machine.threads)
    with closing(side(equal)) as base:
        runs = [
            Run.open(
                run_campaign(CASES, folder / f"run-{number}", suite="gates", machine=machine, settings=settings, measurer=base)
            )
            for number in range(2 * EQUAL_RUNS)
        ]
    _equal("runs", [compare_runs(a, b) for a, b in zip(runs[::2], runs[1::2], strict=True)], tell)
    for words, chains in (
        ("5 % in every case", Chains(machine.threads, FIVE)),
        ("15 % in one case", Chains(machine.threads, FIFTEEN, CASES[0])),
    ):
        _told(words, _duel(folder / words.split()[0], pairs, machine, (equal, chains)), tell)
    short = [_duel(folder / f"equal-{number}", EQUAL_PAIRS, machine, (equal, equal)) for number in range(duels)]
    _equal(f"duels of {EQUAL_PAIRS} pairs", [compare_runs(*duel, paired=True) for duel in short], tell)
    for how, paired in (("by pairs", True), ("as two runs", False)):
        resolved = [_resolution(compare_runs(*duel, paired=paired)) for duel in short]
        tell(f"duels of {EQUAL_PAIRS} pairs, {how}: resolve {percent(median(resolved))} (median of {duels})")


def _duel(out: Path, pairs: int, machine: Machine, sides: tuple[Chains, Chains]) -> tuple[Run, Run]:
    here, described = Side("here", "", "", ()), Description(machine, own_versions())
    settings = CampaignSettings(MeasureSettings(threads=machine.threads), visits=pairs, most_visits=pairs)
    with closing(side(sides[0])) as base, closing(side(sides[1])) as new:
        return run_duel(CASES, out, (here, here), (described, described), suite="gates", settings=settings, measurers=(base, new))


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
    return math.expm1(least_certain(found.suite["time"], 1))
