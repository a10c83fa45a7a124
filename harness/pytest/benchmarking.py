"""What the pytest plug-in does once `--benchmark` is given: time, write the row, and show it through pytest-benchmark."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.units import counted, percent, si
from shmoo.harness.campaign.campaign import CampaignSettings, machine_lock
from shmoo.harness.campaign.schedule import Schedule
from shmoo.harness.defaults import new_run_directory
from shmoo.harness.machine.doctor import probe_machine, version_of
from shmoo.harness.measuring.allocation import settle_heap
from shmoo.harness.measuring.timing import SPACED, MeasureSettings, TimingSettings, time_callable
from shmoo.harness.measuring.watch.corewatch import CoreWatch, core_watch
from shmoo.harness.measuring.watch.hostwatch import observed, status_of
from shmoo.harness.pytest.showing import ReplayClock, figures
from shmoo.runs.store.records import AxisValue, CaseSpec, Measurement, Reason, RunManifest, Timing, utc_now
from shmoo.runs.store.store import RunWriter
from shmoo.runs.store.visits import merge_visits

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from shmoo.harness.measuring.measure import Measurer

T = TypeVar("T")


CAMPAIGN = CampaignSettings()
"""How often cases are visited: as often as by `shmoo measure`."""
AGAIN = 5
"""Further visits to a case whose visits were all suspect, where they are asked for."""
ONE_VISIT = Reason("one visit", "timed within its test only, so that what the machine did at other times is not known")


class _Shown(NamedTuple):
    """What pytest-benchmark shows of one test: the identity of its case, its name, and pytest-benchmark's own fixture, whose
    statistics and extra information are brought up to date."""

    identity: str
    name: str
    fixture: Any


class BenchmarkRun:
    """The run directory of one pytest session, made when the first row arrives, and what it takes to visit its cases again.

    Args:
        out: directory; a new one under ./shmoo-runs for `None`.
        max_s: longest timing of one visit to a benchmark; the engine's own for `None`.
        own_visits: visits to a target of a test's own, all of them within its test.
        again: suspect visits are repeated, up to `AGAIN` times a case.
        tell: is given a line for the person while another campaign is waited for.
    """

    def __init__(
        self,
        out: str | None,
        max_s: float | None = None,
        own_visits: int = 1,
        again: bool = False,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.own_visits = own_visits
        self.again = again
        self.path = Path(out) if out else new_run_directory("pytest")
        self.own = SPACED if max_s is None else _within(SPACED, max_s / SPACED.windows)
        """How a target of a test's own is timed."""
        self._max_s = max_s
        self.machine = probe_machine()
        self._writer: RunWriter | None = None
        self._lines: list[Measurement] = []
        self._cases: dict[str, CaseSpec] = {}
        self._shown: list[_Shown] = []
        self._lock = ExitStack()
        self._not_alone = ""
        try:
            self._lock.enter_context(machine_lock(CAMPAIGN, lambda text: tell(f"\nshmoo: {text}")))
        except InputError as error:
            # A session has other tests too, so it goes on and says so at its end.
            self._not_alone = str(error)
        # Functions of one's own are timed without a measurer, which would do this.
        settle_heap()

    @cached_property
    def cores(self) -> CoreWatch | None:
        """Shared by all that is timed."""
        return core_watch()

    @cached_property
    def measurer(self) -> Measurer:
        """Shared by all cases of the session; torch is imported when the first asks for it."""
        from shmoo.harness.measuring.measure import Measurer

        settings = MeasureSettings()
        if self._max_s is not None:
            kinds = ("operator", "network", "gpu", "gpu_network")
            shorter = {kind: _within(getattr(settings, kind), self._max_s) for kind in kinds}
            settings = msgspec.structs.replace(settings, **shorter)
        return Measurer(settings, cores=self.cores)

    def module_measurer(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Measurer:
        """Measures a module of a test's own."""
        from shmoo.harness.measuring.measure import Measurer
        from shmoo.harness.module import Built

        settings = MeasureSettings(network=self.own)
        if self._max_s is not None:
            settings = msgspec.structs.replace(settings, gpu_network=_within(settings.gpu_network, self._max_s))
        return Measurer(settings, build=lambda _: Built(module, args, kwargs), cores=self.cores)

    def visit(self, case: CaseSpec) -> Measurement:
        """One visit to a case of a workload, written down; further ones follow when all tests have run."""
        self._cases[case.identity] = case
        number = sum(line.case.identity == case.identity for line in self._lines)
        row, graphs = self.measurer.measure(case, number, details=number == 0)
        self.append(row, graphs)
        return row

    def append(self, row: Measurement, graphs: Sequence[Graph] = ()) -> None:
        """Write one visit; it is on disk when this returns. `InputError` where the directory holds a run already."""
        if self._writer is None:
            versions = {name: version_of(name) for name in ("shmoo", "torch", "pytest", "pytest-benchmark")}
            manifest = RunManifest(self.machine, "pytest", versions, started_at=utc_now())
            self._writer = RunWriter(self.path, manifest)
        self._writer.append(row, graphs)
        self._lines.append(row)

    def show(self, row: Measurement, name: str, benchmark: BenchmarkFixture) -> None:
        """Let pytest-benchmark show a row from now on, merged with what further visits to its case will give."""
        self._shown.append(_Shown(row.case.identity, name, benchmark))

    def visit_again(self, tell: Callable[[str], object]) -> None:
        """Further visits to all cases of workloads, until each is known well enough or was visited often enough."""
        schedule = Schedule(tuple(self._cases.values()), CAMPAIGN)
        for line in self._lines:
            schedule.add(line)
        said = False
        while (case := schedule.next()) is not None:
            if not said:
                tell(f"\nshmoo: visiting {len(self._cases)} cases again, each {CAMPAIGN.visits} times at least in all")
                said = True
            schedule.add(self.visit(case))
        for case in self._cases.values() if self.again else ():
            for _ in range(AGAIN):
                if any(line.case == case and line.status != "suspect" for line in self._lines):
                    break
                self.visit(case)

    def show_merged(self) -> None:
        """Bring pytest-benchmark's statistics and our figures beside them up to date."""
        rows = {row.case.identity: row for row in self.rows}
        for shown in self._shown:
            row, metadata = rows[shown.identity], shown.fixture.stats
            if row.timing is None:
                continue
            shown.fixture.extra_info.update(figures(row, row.timing))
            if metadata is not None:
                metadata.stats = type(metadata.stats)()
                for sample in row.timing.samples_s:
                    metadata.update(sample * metadata.iterations)

    @property
    def rows(self) -> tuple[Measurement, ...]:
        """One row a case, its visits merged."""
        return merge_visits(self._lines)

    def summary(self) -> list[str]:
        """Lines for the end of the terminal: how well each time is known, and where the rows are."""
        if not self._lines:
            return []
        rows = {row.case.identity: row for row in self.rows}
        cells: list[tuple[str, ...]] = [("Noise", "time", "std. error", "alone", "visits", "status")]
        for shown in self._shown:
            row = rows[shown.identity]
            if row.timed:
                latency, alone = row.latency, "-" if row.alone is None else si(row.alone.value_s, "s")
                told = (si(latency.value_s, "s"), percent(latency.relative_se), alone, str(latency.visits))
                cells.append((shown.name, *told, row.status))
            else:
                cells.append((shown.name, "-", "-", "-", str(len(row.visits)), f"{row.status}: {row.why}"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        counts = Counter(row.status for row in rows.values())
        lines = []
        for name, *numbers, status in cells if len(cells) > 1 else []:
            columns = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True))
            lines.append(f"{name:{widths[0]}}  {'  '.join(columns)}  {status}")
        if self._not_alone:
            lines.append(f"shmoo: not measured alone: {self._not_alone}")
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        visits = counted(len(self._lines), "visit")
        lines.append(f"shmoo: {counted(len(rows), 'row')} in {self.path} ({said}; {visits}); see `shmoo show {self.path}`")
        return lines

    def close(self) -> None:
        """Close the run's file, and let other campaigns measure."""
        self._lock.close()
        if self._writer is not None:
            self._writer.close()


class ShmooBenchmark:
    """The fixture `shmoo_benchmark` of one test, beside pytest-benchmark's fixture of the same test; rows go to `run`."""

    def __init__(self, node: pytest.Item, benchmark: BenchmarkFixture, run: BenchmarkRun) -> None:
        self._node = node
        self._benchmark = benchmark
        self._run = run

    def __call__(self, target: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Time `target(*args, **kwargs)` in several windows spread over a second, and return its result; what it raises fails the
        test, after a failed row is written. A coroutine is awaited and a generator exhausted, every time: the result is then what
        it returned, or the list of what it yielded.

        A `torch.nn.Module` is measured as a network is: its graph, memory, energy and per-operator times are in the row too.
        """
        case = CaseSpec(self._node.nodeid, "network", self._parameters(), threads=self._run.machine.threads)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(target, torch.nn.Module):
            device = next((tensor.device.type for tensor in target.parameters()), "cpu")
            placed, measurer = msgspec.structs.replace(case, device=device), self._run.module_measurer(target, args, kwargs)
            self._show(self._visits(lambda number: measurer.measure(placed, number)))
            return target(*args, **kwargs)
        loop = asyncio.new_event_loop()
        try:
            begin = time.perf_counter()
            result = _finished(target(*args, **kwargs), loop)
            first_call_s = time.perf_counter() - begin

            def window() -> Timing:
                return time_callable(
                    lambda: _finished(target(*args, **kwargs), loop),
                    synchronize=_synchronize(),
                    settings=self._run.own,
                    watch=self._run.cores,
                )

            def visit(number: int) -> tuple[Measurement, Sequence[Graph]]:
                timing, host, reasons = observed(window, self._run.machine.threads)
                row = Measurement(
                    case=case,
                    status=status_of(reasons),
                    reasons=reasons,
                    timing=msgspec.structs.replace(timing, first_call_s=first_call_s),
                    host=host,
                    peak_memory_reason="not measured for a plain callable",
                    visit=number,
                    measured_at=utc_now(),
                )
                return row, ()

            shown = self._visits(visit)
        except Exception as error:
            reason = Reason(type(error).__name__, str(error))
            self._run.append(Measurement(case, "failed", (reason,), measured_at=utc_now()))
            raise
        finally:
            loop.close()
        self._show(shown)
        return result

    def case(self, case: CaseSpec) -> Measurement:
        """Visit a case of a registered workload and return the visit's row; the test fails with the reason when the case does."""
        row = self._run.visit(case)
        self._show(row)
        return row

    def _parameters(self) -> dict[str, AxisValue]:
        """The test's parameters that are plain values; a tensor's numbers belong into no file."""
        callspec = getattr(self._node, "callspec", None)
        parameters = {} if callspec is None else callspec.params
        return {name: _written(value) for name, value in parameters.items() if isinstance(value, bool | int | float | str)}

    def _visits(self, visit: Callable[[int], tuple[Measurement, Sequence[Graph]]]) -> Measurement:
        """Write the visits to a target of the test's own, which exists only here; the first that can be used, or the last one."""
        wanted = self._run.own_visits
        usable: list[Measurement] = []
        for number in range(wanted + (AGAIN if self._run.again else 0)):
            row, graphs = visit(number)
            if row.timing is not None and wanted == 1:
                row = msgspec.structs.replace(row, reasons=(*row.reasons, ONE_VISIT))
            self._run.append(row, graphs)
            if row.status == "failed":
                return row
            if row.timed:
                usable.append(row)
            if len(usable) == wanted:
                break
        return usable[0] if usable else row

    def _show(self, row: Measurement) -> None:
        """Hand a row's samples to pytest-benchmark as rounds of its own, and our figures as extra information."""
        if row.timing is None:
            pytest.fail(row.why or f"{row.status}, without a reason", pytrace=False)
        samples, calls = row.timing.samples_s, row.timing.block_calls
        marker = next(m for m in self._node.iter_markers("benchmark") if isinstance(m.kwargs.get("timer"), ReplayClock))
        marker.kwargs["timer"].load([sample * calls for sample in samples])
        # The work was timed before.
        self._benchmark.pedantic(lambda: None, rounds=len(samples), iterations=calls)
        self._benchmark.extra_info.update(figures(row, row.timing))
        self._run.show(row, self._node.name, self._benchmark)


def _within(settings: TimingSettings, max_s: float) -> TimingSettings:
    """The settings with windows of at most this length, and pauses and warm-up in proportion."""
    share = min(1.0, max_s / settings.max_s)
    return msgspec.structs.replace(
        settings,
        min_s=min(settings.min_s, max_s),
        max_s=max_s,
        max_warmup_s=max(share * settings.max_warmup_s, settings.warmup_s),
        gap_s=share * settings.gap_s,
    )


def _written(value: AxisValue) -> AxisValue:
    """A parameter as a row can hold it: as text where JSON has no such number or character."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    holds = -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)
    return value if holds else str(value)


def _finished(result: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The result of work that a call only began: of a coroutine what it returns, of a generator the list of what it yields."""

    async def listed(items: AsyncGenerator[Any, None]) -> list[Any]:
        return [item async for item in items]

    if isinstance(result, Generator | map | filter | zip):
        return list(result)
    if isinstance(result, AsyncGenerator):
        return loop.run_until_complete(listed(result))
    return loop.run_until_complete(result) if isinstance(result, Awaitable) else result


def _synchronize() -> Callable[[], None] | None:
    """Waits for the GPU where the test's process uses one; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.synchronize
    return None
