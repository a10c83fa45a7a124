"""What the pytest plug-in does once `--benchmark` is given: time, write the row, and show it through pytest-benchmark."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from shmoo.estimators.records import Graph
from shmoo.harness.allocation import settle_heap
from shmoo.harness.corewatch import CoreWatch, core_watch
from shmoo.harness.machine import probe_machine, version_of
from shmoo.harness.paths import new_run_directory
from shmoo.harness.timing import TimingSettings, time_callable
from shmoo.harness.undisturbed import time_undisturbed
from shmoo.runs.records import AxisValue, CaseSpec, Measurement, RunManifest, Timing
from shmoo.runs.statistics import iqr, mad, median
from shmoo.runs.store import RunWriter

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from shmoo.harness.measure import Measurer, MeasureSettings

T = TypeVar("T")


class ReplayClock:
    """A clock for pytest-benchmark that tells durations already measured: it is read before and after each round."""

    __name__ = "ReplayClock"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, durations_s: Sequence[float]) -> None:
        """The next two readings are `durations_s[0]` apart, the two after them `durations_s[1]`, and so on."""
        self._readings = itertools.chain.from_iterable((0.0, duration) for duration in durations_s)

    def __call__(self) -> float:
        # pytest-benchmark also reads the clock to learn its precision, when nothing is loaded.
        return next(self._readings, 0.0) or 0.0


class BenchmarkRun:
    """The run directory of one pytest session; made when the first row arrives.

    Args:
        out: directory; a new one under ./shmoo-runs for `None`.
        max_s: longest timing window of a benchmark; the engine's own for `None`.
    """

    def __init__(self, out: str | None, max_s: float | None = None) -> None:
        self.path = Path(out) if out else new_run_directory("pytest")
        self.rows = 0
        self._max_s = max_s
        self.timing = TimingSettings() if max_s is None else TimingSettings(min_s=min(max_s, 0.2), max_s=max_s)
        self.machine = probe_machine()
        self._writer: RunWriter | None = None
        # Functions of one's own are timed without a measurer, which would do this.
        settle_heap()

    @cached_property
    def settings(self) -> MeasureSettings:
        """How cases and modules are measured; the engine's own unless a longest window was given."""
        from shmoo.harness.measure import MeasureSettings

        return MeasureSettings() if self._max_s is None else MeasureSettings(operator=self.timing, network=self.timing)

    @cached_property
    def cores(self) -> CoreWatch | None:
        """Shared by all functions that are timed."""
        return core_watch()

    @cached_property
    def measurer(self) -> Measurer:
        """Shared by all cases of the session; torch is imported when the first asks for it."""
        from shmoo.harness.measure import Measurer

        return Measurer(self.settings)

    def append(self, row: Measurement, graphs: Sequence[Graph] = ()) -> None:
        """Write one row; it is on disk when this returns.

        Raises:
            InputError: the directory holds a run already.
        """
        if self._writer is None:
            versions = {name: version_of(name) for name in ("shmoo", "torch", "pytest", "pytest-benchmark")}
            manifest = RunManifest(self.machine, "pytest", versions, started_at=_utc_now())
            self._writer = RunWriter(self.path, manifest)
        self._writer.append(row, graphs)
        self.rows += 1

    def __enter__(self) -> BenchmarkRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()


class ShmooBenchmark:
    """The fixture `shmoo_benchmark` of one test.

    Args:
        node: the test.
        benchmark: pytest-benchmark's fixture of the same test.
        run: where rows go.
    """

    def __init__(self, node: pytest.Item, benchmark: BenchmarkFixture, run: BenchmarkRun) -> None:
        self._node = node
        self._benchmark = benchmark
        self._run = run

    def __call__(self, target: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Time `target(*args, **kwargs)` and return its result; what it raises fails the test, after a failed row is written.

        A `torch.nn.Module` is measured as a network is: its graph, memory, energy and per-operator times are in the row too.
        """
        case = CaseSpec(self._node.nodeid, "network", self._parameters(), threads=self._run.machine.threads)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(target, torch.nn.Module):
            self._module(case, target, args, kwargs)
            return target(*args, **kwargs)
        try:
            begin = time.perf_counter()
            result = target(*args, **kwargs)
            first_call_s = time.perf_counter() - begin

            def window() -> Timing:
                return time_callable(
                    lambda: target(*args, **kwargs),
                    synchronize=_synchronize(),
                    settings=self._run.timing,
                    beside=cores.beside if cores is not None else None,
                )

            cores = self._run.cores
            timing, host, reasons = time_undisturbed(window, self._run.machine.threads, cores=cores)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._run.append(Measurement(case, "failed", (reason,), measured_at=_utc_now()))
            raise
        row = Measurement(
            case=case,
            status="suspect" if reasons else "ok",
            reasons=reasons,
            timing=msgspec.structs.replace(timing, first_call_s=first_call_s),
            host=host,
            peak_memory_reason="not measured for a plain callable",
            measured_at=_utc_now(),
        )
        self._keep(row)
        return result

    def case(self, case: CaseSpec) -> Measurement:
        """Measure a case of a registered workload and return its row; the test fails with the reason when the case does."""
        row, graphs = self._run.measurer.measure(case)
        self._keep(row, graphs)
        return row

    def _module(self, case: CaseSpec, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from shmoo.harness.measure import Measurer
        from shmoo.harness.workloads import Built

        device = next((tensor.device.type for tensor in module.parameters()), "cpu")
        asked = msgspec.structs.replace(case, device=device)
        measurer = Measurer(self._run.settings, build=lambda _: Built(module, args, kwargs))
        self._keep(*measurer.measure(asked))

    def _parameters(self) -> dict[str, AxisValue]:
        """The test's parameters that are plain values; a tensor's numbers belong into no file."""
        callspec = getattr(self._node, "callspec", None)
        parameters = {} if callspec is None else callspec.params
        return {name: value for name, value in parameters.items() if isinstance(value, bool | int | float | str)}

    def _keep(self, row: Measurement, graphs: Sequence[Graph] = ()) -> None:
        """Write a row, then hand its samples to pytest-benchmark as rounds of its own, and our figures as extra information."""
        self._run.append(row, graphs)
        if row.timing is None:
            pytest.fail("; ".join(row.reasons) or f"{row.status}, without a reason", pytrace=False)
        samples, calls = row.timing.samples_s, row.timing.block_calls
        self._clock().load([sample * calls for sample in samples])
        self._benchmark.pedantic(_nothing, rounds=len(samples), iterations=calls)
        self._benchmark.extra_info.update(figures(row, row.timing))

    def _clock(self) -> ReplayClock:
        marker = next(m for m in self._node.iter_markers("benchmark") if isinstance(m.kwargs.get("timer"), ReplayClock))
        return marker.kwargs["timer"]


def figures(row: Measurement, timing: Timing) -> dict[str, object]:
    """What pytest-benchmark's JSON carries beside its own statistics, in SI units."""
    samples = timing.samples_s
    info: dict[str, object] = {
        "case": row.case.label,
        "identity": row.case.identity,
        "dtype": row.case.dtype,
        "runtime": row.case.runtime,
        "device": row.case.device,
        "threads": row.case.threads,
        "cache_state": row.case.cache_state,
        "status": row.status,
        "reasons": list(row.reasons),
        "latency_s": median(samples),
        "latency_mad_s": mad(samples),
        "latency_iqr_s": iqr(samples),
        "samples": len(samples),
        "block_calls": timing.block_calls,
        "stop_reason": timing.stop_reason,
        "first_call_s": timing.first_call_s,
        "compile_s": timing.compile_s,
        "peak_memory_bytes": row.peak_memory_bytes,
        "graph_hashes": list(row.graph_hashes),
    }
    for reading in row.energy:
        info[f"energy_{reading.domain}_j"] = reading.energy_j
        if reading.energy_j is None:
            info[f"energy_{reading.domain}_j_reason"] = reading.reason
    return info


def _nothing() -> None:
    """What pytest-benchmark calls: the work was timed before."""


def _synchronize() -> Callable[[], None] | None:
    """Waits for the GPU where the test's process uses one; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.synchronize
    return None


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
