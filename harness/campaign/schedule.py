"""The order of visits: chooses the case to visit next."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shmoo.runs.store.records import CaseSpec, Measurement, Status, Timing
from shmoo.runs.store.statistics import HARDLY_KNOWN, latency, median
from shmoo.runs.store.visits import NOISY, for_latency, merge_visits

if TYPE_CHECKING:
    from shmoo.harness.campaign.campaign import CampaignSettings

FAILURES = 1
"""Failed visits after which a case is not visited again, since a crash would repeat."""
FROM_OUTSIDE, LOST = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"), 2
"""Signals with which others kill a worker, through no fault of the case, and number of such lost visits until the case is given
up."""
ROUND_SHARE = 0.1
"""Share of the cases in a round after the first: cases due for another visit, then the most uncertain ones."""
NETWORK_SHARE, NETWORK_LIMIT = 2, 6
"""Factors for the further visits and for the most visits of a network, relative to other cases. A noisy network is visited in
every round: networks are few and test everything else, so their errors must be small."""
COMPILING_SHARE, COMPILING_SHARE_WHEN_ROUGH, ROUGH = 0.6, 0.45, 0.1
"""Share of the remaining time for first visits to compiled cases, and the share if the median error of visited cases is above the
third number, because second visits are then worth more. The remaining first visits come last."""
JUDGED_EVERY = 50
"""Visits after which all cases are judged again, so that counts match those of a reader of the run."""
USELESS = 3
"""Successive suspect visits after which a case is not visited again."""


class _Case:
    """One case with the results of its visits."""

    def __init__(self, spec: CaseSpec) -> None:
        self.spec = spec
        self.lines: list[Measurement] = []
        """Its visits, reduced to the fields that determine a row's time and status."""
        self.timings: list[Timing] = []  # of its usable visits
        self.count: Counter[str] = Counter()  # visits by status, or "lost"
        self.seconds: list[float] = []  # durations of its visits in this campaign
        self.compiled = False  # ahead of its first visit
        self.number = 0  # of the next visit
        self.deviation: float | None = None
        self.error = float("inf")
        """Relative standard error; infinite before the first usable visit."""
        self.status: Status = "suspect"
        self.judged = False
        """Whether error and status come from the visits to all cases."""

    @property
    def visits(self) -> int:
        """Number of visits that were not lost."""
        return len(self.lines) - self.count["lost"]

    @property
    def given_up(self) -> bool:
        useless = self.count["suspect"] >= USELESS and not self.timings
        return self.count["failed"] >= FAILURES or self.count["lost"] >= LOST or useless

    @property
    def to_compile(self) -> bool:
        """Whether the next visit starts with a compilation."""
        return not self.visits and not self.compiled and self.spec.runtime != "eager"

    def look(self) -> None:
        """Update its standard error from its own visits, and its status until it is judged."""
        if not self.timings:
            self.status = "failed" if self.count["failed"] or self.count["lost"] else "suspect"
            return
        self.error = min(self.error, latency([timing.samples_s for timing in self.timings], self.deviation).relative_se)
        if not self.judged:
            self.status = "ok" if self.error <= NOISY else "noisy"


class Schedule:
    """The order of visits: first visits to all cases, second ones to nearly unknown cases, further visits to all in random order,
    a tenth at a time, then the most uncertain cases. Later rounds are always shuffled."""

    def __init__(self, cases: Sequence[CaseSpec], settings: CampaignSettings) -> None:
        self.cases = tuple(cases)
        self._cases = {case.identity: _Case(case) for case in cases}
        self._settings = settings
        self._most = max(settings.most_visits, settings.visits)
        # If all cases get the same number of visits, as in a duel, no case runs ahead of the others.
        self._balanced = self._most == settings.visits
        self._random = random.Random(settings.seed)
        self._round: deque[_Case] = deque()
        self._compiling_s = 0.0
        self._compiling_at_most_s: float | None = None
        """Time for first visits to compiled cases: `None` before the first of them, and unlimited once the other cases are
        done."""
        self.visits_in_all = 0

    def add(self, row: Measurement, seconds: float | None = None) -> None:
        """Record a visit and its duration."""
        case = self._cases.get(row.case.identity)
        if case is None:
            return
        if case.to_compile and seconds is not None:
            self._compiling_s += seconds
        self.visits_in_all += 1
        # A line may have been removed, and no two visits may have the same number.
        case.number = max(case.number, row.visit) + 1
        case.lines.append(for_latency(row, case.spec))
        lost = row.status == "failed" and row.host.get("signal") in FROM_OUTSIDE
        case.count["lost" if lost else row.status] += 1
        if row.timed and row.timing is not None:
            case.timings.append(row.timing)
        case.look()
        if seconds is not None:
            if not lost:
                case.seconds.append(seconds)
            if self.visits_in_all % JUDGED_EVERY == 0:
                self.judge()

    def next(self, left_s: float | None = None) -> CaseSpec | None:
        """The case to visit now, with `left_s` for visits (`None` without a limit); `None` once every case is precise enough or
        has its most visits."""
        while True:
            while self._round:
                case = self._round.popleft()
                if case.to_compile and self._compiling_at_most_s is None and left_s is not None:
                    self.judge()
                    errors = [case.error for case in self._cases.values() if case.timings]
                    rough = bool(errors) and median(errors) > ROUGH
                    self._compiling_at_most_s = (COMPILING_SHARE_WHEN_ROUGH if rough else COMPILING_SHARE) * left_s
                if not case.given_up and not self._waits(case):
                    return case.spec
            self._round.extend(self._next_round())
            if not self._round:
                if self._compiling_at_most_s == math.inf:
                    return None
                # The waiting cases come now.
                self._compiling_at_most_s = math.inf

    def _waits(self, case: _Case) -> bool:
        """Whether the case needs compiling although the time for that is used up."""
        return case.to_compile and self.compiling_left_s() < 0

    def uncompiled(self, case: CaseSpec) -> list[CaseSpec]:
        """If the next case must be compiled for the CPU: all such cases of this round, itself first. Cases that wait for the
        others are compiled visit by visit; cases for a GPU by its compiler's own processes."""
        first = self._cases[case.identity]
        if not first.to_compile or self._compiling_at_most_s == math.inf:
            return []
        waiting = [case for case in (first, *self._round) if case.to_compile and not case.given_up]
        return [case.spec for case in waiting if case.spec.device == "cpu"]

    def put_back(self, case: CaseSpec) -> None:
        """Return a case, to come next again or to wait."""
        self._round.appendleft(self._cases[case.identity])

    def compiling_left_s(self) -> float:
        """Time that compiling may still take."""
        return math.inf if self._compiling_at_most_s is None else self._compiling_at_most_s - self._compiling_s

    def add_compiled(self, cases: Iterable[CaseSpec], seconds: float) -> None:
        """Record cases that were compiled ahead of their first visits, and the seconds for all of them."""
        self._compiling_s += seconds
        for case in cases:
            self._cases[case.identity].compiled = True

    def judge(self) -> None:
        """Judge every case from all visits together, as readers of the run do."""
        for row in merge_visits(line for case in self._cases.values() for line in case.lines):
            case = self._cases[row.case.identity]
            case.status, case.deviation, case.judged = row.status, row.visit_sd, bool(case.timings)
            case.error = float("inf") if row.prevailing is None else row.prevailing.relative_se

    def _next_round(self) -> list[_Case]:
        alive = [case for case in self._cases.values() if not case.given_up and not self._waits(case)]
        fewest = min((case.visits for case in alive), default=self._settings.visits)
        self.judge()
        if not fewest:
            first = [case for case in alive if not case.visits]
            return self._shuffled(first) if self._settings.shuffle else first
        if self._balanced:
            return self._shuffled([case for case in alive if case.visits == fewest < self._settings.visits])
        if fewest < self._settings.visits:
            hardly_known = [case for case in alive if case.error > HARDLY_KNOWN and case.visits < self._limit(case)]
            if hardly_known:
                return self._shuffled(hardly_known)
            due_cases = self._shuffled([case for case in alive if case.visits == fewest and case.spec.kind != "network"])
        else:
            wide = [case for case in alive if case.visits < self._limit(case) and case.error > self._settings.precision]
            due_cases = sorted((case for case in wide if case.spec.kind != "network"), key=lambda case: -case.error)
        networks = [case for case in alive if case.spec.kind == "network" and self._is_due(case, fewest)]
        return self._shuffled(due_cases[: math.ceil(ROUND_SHARE * len(alive))] + networks)

    def _shuffled(self, cases: list[_Case]) -> list[_Case]:
        self._random.shuffle(cases)
        return cases

    def _is_due(self, network: _Case, fewest: int) -> bool:
        """Whether a network is visited in the next round, given the fewest visits to any case."""
        if network.visits >= self._limit(network):
            return False
        if fewest < self._settings.visits:
            return network.error > NOISY or network.visits < 1 + NETWORK_SHARE * fewest
        return network.error > self._settings.precision

    def _limit(self, case: _Case) -> int:
        """Most visits to a case."""
        return self._most * NETWORK_LIMIT if case.spec.kind == "network" and not self._balanced else self._most

    def number_of(self, case: CaseSpec) -> int:
        """The number of the next visit to a case, counting lost ones."""
        return self._cases[case.identity].number

    def visits_of(self, case: CaseSpec) -> int:
        """Visits to a case so far that were not lost."""
        return self._cases[case.identity].visits

    def unvisited(self) -> list[CaseSpec]:
        """Cases without a visit."""
        return [case.spec for case in self._cases.values() if not case.lines]

    def counts(self) -> dict[Status, int]:
        """Visited cases by status."""
        counted: Counter[Status] = Counter(case.status for case in self._cases.values() if case.lines)
        return {status: counted[status] for status in ("ok", "noisy", "suspect", "failed")}

    def left_s(self) -> float | None:
        """Seconds until every case is precise enough or has its most visits, estimated from the visits to cases of the same kind
        and runtime; `None` before the first visit."""
        seconds_by_kind: defaultdict[tuple[str, str, bool], list[float]] = defaultdict(list)
        for case in self._cases.values():
            for number, seconds in enumerate(case.seconds):
                seconds_by_kind[case.spec.kind, case.spec.runtime, number == 0].append(seconds)
        if not seconds_by_kind:
            return None
        means = {key: sum(times) / len(times) for key, times in seconds_by_kind.items()}
        overall = sum(means.values()) / len(means)
        return sum(
            means.get((case.spec.kind, case.spec.runtime, number == 0), overall)
            for case in self._cases.values()
            for number in range(case.visits, self._expected_visits(case))
        )

    def _expected_visits(self, case: _Case) -> int:
        """Expected total visits to a case, since errors fall with the root of their number."""
        if case.given_up:
            return case.visits
        fewest_visits, precision = self._settings.visits, self._settings.precision
        if not case.timings or case.error <= precision:
            return fewest_visits
        return max(fewest_visits, min(self._limit(case), math.ceil(case.visits * (case.error / precision) ** 2)))
