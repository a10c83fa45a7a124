"""The work of the pytest plug-in under `--benchmark`: times targets, writes rows, and shows them through pytest-benchmark."""

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
"""Numbers of visits, as in `shmoo measure`."""
AGAIN = 5
"""Further visits to a case whose visits were all suspect, if requested."""
ONE_VISIT = Reason("one visit", "timed only within its test, so the state of the machine at other times is unknown")


class _Shown(NamedTuple):
    """A test that pytest-benchmark shows: the identity of its case, its name, and pytest-benchmark's fixture, whose statistics
    and extra information are updated."""

    identity: str
    name: str
    fixture: Any


class BenchmarkRun:
    """The run of one pytest session: its directory, created with the first row, and the means to visit its cases again.

    Args:
        out: directory; a new one under ./shmoo-runs for `None`.
        max_s: longest timing of one visit to a benchmark; by default the engine's limit.
        own_visits: visits to a function or module of a test, all within its test.
        again: whether suspect visits are repeated, up to `AGAIN` times per case.
        tell: called with a message while waiting for another campaign.
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
        """Timing settings of a test's own target."""
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
            # A session has other tests too, so it continues and reports this at its end.
            self._not_alone = str(error)
        # A test's functions are timed without a measurer, which would do this.
        settle_heap()

    @cached_property
    def cores(self) -> CoreWatch | None:
        """The watch over the cores, shared by all timings."""
        return core_watch()

    @cached_property
    def measurer(self) -> Measurer:
        """The measurer of all cases of the session; torch is imported on first use."""
        from shmoo.harness.measuring.measure import Measurer

        settings = MeasureSettings()
        if self._max_s is not None:
            kinds = ("operator", "network", "gpu", "gpu_network")
            shorter = {kind: _within(getattr(settings, kind), self._max_s) for kind in kinds}
            settings = msgspec.structs.replace(settings, **shorter)
        return Measurer(settings, cores=self.cores)

    def module_measurer(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Measurer:
        """A measurer of a test's own module."""
        from shmoo.harness.measuring.measure import Measurer
        from shmoo.harness.module import Built

        settings = MeasureSettings(network=self.own)
        if self._max_s is not None:
            settings = msgspec.structs.replace(settings, gpu_network=_within(settings.gpu_network, self._max_s))
        return Measurer(settings, build=lambda _: Built(module, args, kwargs), cores=self.cores)

    def visit(self, case: CaseSpec) -> Measurement:
        """Visit a case of a workload and store the row; further visits follow after all tests."""
        self._cases[case.identity] = case
        number = sum(line.case.identity == case.identity for line in self._lines)
        row, graphs = self.measurer.measure(case, number, details=number == 0)
        self.append(row, graphs)
        return row

    def append(self, row: Measurement, graphs: Sequence[Graph] = ()) -> None:
        """Store one visit; it is on disk when this returns. `InputError` where the directory holds a run already."""
        if self._writer is None:
            versions = {name: version_of(name) for name in ("shmoo", "torch", "pytest", "pytest-benchmark")}
            manifest = RunManifest(self.machine, "pytest", versions, started_at=utc_now())
            self._writer = RunWriter(self.path, manifest)
        self._writer.append(row, graphs)
        self._lines.append(row)

    def show(self, row: Measurement, name: str, benchmark: BenchmarkFixture) -> None:
        """Let pytest-benchmark show a row, later merged with further visits to its case."""
        self._shown.append(_Shown(row.case.identity, name, benchmark))

    def visit_again(self, tell: Callable[[str], object]) -> None:
        """Visit all cases of workloads again until each is precise enough or has its most visits."""
        schedule = Schedule(tuple(self._cases.values()), CAMPAIGN)
        for line in self._lines:
            schedule.add(line)
        announced = False
        while (case := schedule.next()) is not None:
            if not announced:
                tell(f"\nshmoo: visiting {len(self._cases)} cases again, each at least {CAMPAIGN.visits} times in all")
                announced = True
            schedule.add(self.visit(case))
        for case in self._cases.values() if self.again else ():
            for _ in range(AGAIN):
                if any(line.case == case and line.status != "suspect" for line in self._lines):
                    break
                self.visit(case)

    def show_merged(self) -> None:
        """Update pytest-benchmark's statistics and our figures beside them."""
        rows = {row.case.identity: row for row in self.rows}
        for test in self._shown:
            row, metadata = rows[test.identity], test.fixture.stats
            if row.timing is None:
                continue
            test.fixture.extra_info.update(figures(row, row.timing))
            if metadata is not None:
                metadata.stats = type(metadata.stats)()
                for sample in row.timing.samples_s:
                    metadata.update(sample * metadata.iterations)

    @property
    def rows(self) -> tuple[Measurement, ...]:
        """One row per case, with its visits merged."""
        return merge_visits(self._lines)

    def summary(self) -> list[str]:
        """Lines for the terminal summary: each time with its standard error, and the path of the rows."""
        if not self._lines:
            return []
        rows = {row.case.identity: row for row in self.rows}
        cells: list[tuple[str, ...]] = [("Noise", "time", "std. error", "alone", "visits", "status")]
        for test in self._shown:
            row = rows[test.identity]
            if row.timed:
                latency, alone_text = row.latency, "-" if row.alone is None else si(row.alone.value_s, "s")
                figures_texts = (si(latency.value_s, "s"), percent(latency.relative_se), alone_text, str(latency.visits))
                cells.append((test.name, *figures_texts, row.status))
            else:
                cells.append((test.name, "-", "-", "-", str(len(row.visits)), f"{row.status}: {row.why}"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        counts = Counter(row.status for row in rows.values())
        lines = []
        for name, *numbers, status in cells if len(cells) > 1 else []:
            columns = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True))
            lines.append(f"{name:{widths[0]}}  {'  '.join(columns)}  {status}")
        if self._not_alone:
            lines.append(f"shmoo: not measured alone: {self._not_alone}")
        counts_text = ", ".join(f"{count} {status}" for status, count in counts.items())
        visits = counted(len(self._lines), "visit")
        lines.append(f"shmoo: {counted(len(rows), 'row')} in {self.path} ({counts_text}; {visits}); see `shmoo show {self.path}`")
        return lines

    def close(self) -> None:
        """Close the run's file and release the machine's lock."""
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
        """Time `target(*args, **kwargs)` in several windows spread over a second, and return its result. An exception fails the
        test, after a failed row is written. A coroutine is awaited and a generator exhausted on every call; the result is then
        its return value, or the list of yielded values.

        A `torch.nn.Module` is measured like a network: its row also has its graph, memory, energy and per-operator times.
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

            usable_row = self._visits(visit)
        except Exception as error:
            reason = Reason(type(error).__name__, str(error))
            self._run.append(Measurement(case, "failed", (reason,), measured_at=utc_now()))
            raise
        finally:
            loop.close()
        self._show(usable_row)
        return result

    def case(self, case: CaseSpec) -> Measurement:
        """Visit a case of a registered workload and return the visit's row; if the case fails, the test fails with the reason."""
        row = self._run.visit(case)
        self._show(row)
        return row

    def _parameters(self) -> dict[str, AxisValue]:
        """The test's parameters that are plain values; tensors are left out."""
        callspec = getattr(self._node, "callspec", None)
        parameters = {} if callspec is None else callspec.params
        return {name: _storable(value) for name, value in parameters.items() if isinstance(value, bool | int | float | str)}

    def _visits(self, visit: Callable[[int], tuple[Measurement, Sequence[Graph]]]) -> Measurement:
        """Visit a test's own target, which exists only during the test, and store the rows; returns the first usable row, or the
        last one."""
        visit_count = self._run.own_visits
        usable: list[Measurement] = []
        for number in range(visit_count + (AGAIN if self._run.again else 0)):
            row, graphs = visit(number)
            if row.timing is not None and visit_count == 1:
                row = msgspec.structs.replace(row, reasons=(*row.reasons, ONE_VISIT))
            self._run.append(row, graphs)
            if row.status == "failed":
                return row
            if row.timed:
                usable.append(row)
            if len(usable) == visit_count:
                break
        return usable[0] if usable else row

    def _show(self, row: Measurement) -> None:
        """Pass a row's samples to pytest-benchmark as rounds, and our figures as extra information."""
        if row.timing is None:
            pytest.fail(row.why or f"{row.status}, without a reason", pytrace=False)
        samples, calls = row.timing.samples_s, row.timing.block_calls
        marker = next(m for m in self._node.iter_markers("benchmark") if isinstance(m.kwargs.get("timer"), ReplayClock))
        marker.kwargs["timer"].load([sample * calls for sample in samples])
        # The work is timed already.
        self._benchmark.pedantic(lambda: None, rounds=len(samples), iterations=calls)
        self._benchmark.extra_info.update(figures(row, row.timing))
        self._run.show(row, self._node.name, self._benchmark)


def _within(settings: TimingSettings, max_s: float) -> TimingSettings:
    """The settings with windows of at most this length, and with pauses and warm-up scaled in proportion."""
    share = min(1.0, max_s / settings.max_s)
    return msgspec.structs.replace(
        settings,
        min_s=min(settings.min_s, max_s),
        max_s=max_s,
        max_warmup_s=max(share * settings.max_warmup_s, settings.warmup_s),
        gap_s=share * settings.gap_s,
    )


def _storable(value: AxisValue) -> AxisValue:
    """A parameter in a form that a row can store: as text if JSON lacks the number or character."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    holds = -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)
    return value if holds else str(value)


def _finished(result: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The final result of a call: the return value of a coroutine, the list of values of a generator, otherwise the result
    itself."""

    async def collected(items: AsyncGenerator[Any, None]) -> list[Any]:
        return [item async for item in items]

    if isinstance(result, Generator | map | filter | zip):
        return list(result)
    if isinstance(result, AsyncGenerator):
        return loop.run_until_complete(collected(result))
    return loop.run_until_complete(result) if isinstance(result, Awaitable) else result


def _synchronize() -> Callable[[], None] | None:
    """A function that waits for the GPU, if the test's process uses one; does not import torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.synchronize
    return None
