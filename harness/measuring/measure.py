"""Visits to cases in this process. A model is built, compiled and timed; its graph is captured after the first blocks, and on one
later visit its energy, peak memory and child times are measured. A case that fails gives a row with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import msgspec
import torch

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.units import shape_of
from shmoo.harness.capture.capture import capture
from shmoo.harness.capture.workload import capture_operator
from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import load_nvml, visible_gpus
from shmoo.harness.energy.probe import Probe
from shmoo.harness.energy.sampler import EnergyMeter
from shmoo.harness.machine.doctor import last_level_bytes
from shmoo.harness.measuring.allocation import FreshPages, faulted_bytes, fill_holes, mapped_apart, settle_heap
from shmoo.harness.measuring.cachestate import prepare
from shmoo.harness.measuring.memory import Session, WaitingCases, freeze, peak_cpu_bytes, peak_cuda_bytes, resident_bytes
from shmoo.harness.measuring.replay import GraphReplay, ReplayError, child_times, time_operators
from shmoo.harness.measuring.timing import CudaTimer, HostTimer, MeasureSettings, TimingSettings, time_callable
from shmoo.harness.measuring.watch.corewatch import CoreWatch, core_watch
from shmoo.harness.measuring.watch.gpuwatch import GpuWatch, gpu_doubts
from shmoo.harness.measuring.watch.hostwatch import Host, observed, status_of
from shmoo.harness.module import Built
from shmoo.harness.runtimes.backends import TORCH_RUNTIMES, compilations, compile_model, compile_seconds
from shmoo.harness.workloads.loading import INPUT_SHAPE, resolve_model
from shmoo.runs.store.records import (
    CANONICAL_STATE,
    CaseSpec,
    ChildTime,
    EnergyReading,
    Measurement,
    OperatorTime,
    Reason,
    Timing,
    utc_now,
)
from shmoo.runs.store.statistics import median

Builder = Callable[[CaseSpec], Built]
BETWEEN_CALLS = 4.0
"""Factor by which a window is longer when a flush or other work runs before each call."""


def build_case(case: CaseSpec) -> Built:
    """Build the workload of a case; `InputError` as for `resolve_model`. Files that can run code are trusted here, since planning
    the case required that decision."""
    axes = dict(case.axes)
    # A factory's own parameter of that name is a number.
    shape = axes.get(INPUT_SHAPE)
    if not isinstance(shape, str):
        return resolve_model(case.workload, trust=True).build(axes, case.dtype, case.device)
    del axes[INPUT_SHAPE]
    module = resolve_model(case.workload, input_shape=shape_of(shape, INPUT_SHAPE), trust=True)
    return module.build(axes, case.dtype, case.device)


class Measurer:
    """Visits cases in this process. Visits share built cases, energy counters, idle power and captured graphs.

    Args:
        build: builds the model and operands of a case.
        probes: result of `available_probes`, by default called when first needed, as is the watch over the cores for CPU cases.
    """

    def __init__(
        self,
        settings: MeasureSettings | None = None,
        build: Builder = build_case,
        probes: tuple[tuple[Probe, ...], dict[str, str]] | None = None,
        cores: CoreWatch | None = None,
    ) -> None:
        self._settings = settings or MeasureSettings()
        self._build = build
        self._given_probes, self._given_cores = probes, cores
        self._graphs: dict[bytes, tuple[Graph, ...]] = {}
        self._waiting = WaitingCases(self._settings.kept_share)
        self._fresh: dict[str, int] = {}
        settle_heap()

    @classmethod
    def from_settings(cls, settings: bytes) -> Measurer:
        """A measurer from the JSON of its settings ("null" for the defaults), which a worker process receives."""
        return cls(msgspec.json.decode(settings, type=MeasureSettings | None))

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple[Graph, ...]]:
        """Visit a case; returns its row and the graphs that the row names, which are captured on the first visit and on the one
        with details (energy, peak memory, times inside the case). Errors are stored in the row; only interruptions are raised."""
        measured_at = utc_now()
        try:
            row, graphs = self._visit(case, visit, details)
        except Exception as error:
            self._waiting.drop(case)
            row, graphs = Measurement(case, "failed", (failure(error),)), ()
        return msgspec.structs.replace(row, visit=visit, measured_at=measured_at), graphs

    def prepare(self, case: CaseSpec) -> Measurement:
        """Build and compile a case for its first visit. The row has no samples, only the time that this took, or why it
        failed."""
        try:
            with self._conditions(case):
                session = self._begin(case)
            self._keep(session)
        except Exception as error:
            return Measurement(case, "failed", (failure(error),))
        return Measurement(case, "ok", timing=Timing((), first_call_s=session.first_call_s, compile_s=session.compile_s))

    @contextmanager
    def _conditions(self, case: CaseSpec) -> Iterator[None]:
        """Threads as the case asks; while active, no gradients and the precision of its products."""
        threads = case.threads or self._settings.threads
        if threads:
            torch.set_num_threads(threads)
        with torch.no_grad(), matmul_precision(case):
            yield

    def _visit(self, case: CaseSpec, visit: int, details: bool) -> tuple[Measurement, tuple[Graph, ...]]:
        with self._conditions(case):
            session = self._waiting.get(case) or self._begin(case)
            timing, host, reasons = self._time(session)
            session.call_blocks = timing.block_calls
            row = Measurement(case=case, status="ok", timing=timing, host=host)
            graphs: tuple[Graph, ...] = ()
            if visit == 0 or details:
                graphs, uncaptured = self._capture(case, session.built)
                reasons += uncaptured
                row = msgspec.structs.replace(
                    row,
                    timing=msgspec.structs.replace(timing, first_call_s=session.first_call_s, compile_s=session.compile_s),
                    graph_hashes=tuple(graph.content_hash for graph in graphs),
                )
            if details:
                energy = self._energy(session, median(timing.samples_s))
                peak, peak_reason = self._peak_memory(session)
                children, untimed = self._children(session, graphs)
                reasons += untimed
                row = msgspec.structs.replace(
                    row,
                    energy=energy,
                    children=children,
                    operators=self._operators(case, graphs),
                    peak_memory_bytes=peak,
                    peak_memory_reason=peak_reason,
                )
        self._keep(session)
        return msgspec.structs.replace(row, status=status_of(reasons), reasons=reasons), graphs

    def _begin(self, case: CaseSpec) -> Session:
        start = time.perf_counter()
        compiled = TORCH_RUNTIMES[case.runtime].compiled
        with mapped_apart():
            built = self._build(case)
            forward = compile_model(built.model, case.runtime, case.device)
            prepared = prepare(case.cache_state, built, forward, case.device, _cache_bytes(case), copies_allowed=not compiled)
        before = compile_seconds() if compiled else 0.0
        begin = time.perf_counter()
        prepared.call()
        if _is_cuda(case):
            torch.cuda.synchronize()
        elapsed_s = time.perf_counter() - begin
        freeze()
        return Session(
            case=case,
            built=built,
            prepared=prepared,
            first_call_s=elapsed_s,
            compile_s=compile_seconds() - before if compiled else None,
            call_blocks=prepared.block_calls,
            kept_bytes=resident_bytes(built),
            begin_s=time.perf_counter() - start,
            fresh_bytes=self._fresh_bytes(case, prepared.call),
        )

    def _fresh_bytes(self, case: CaseSpec, call: Callable[[], object]) -> int:
        """New memory that a call touches, measured once, since a call can take long."""
        if _is_cuda(case):
            return 0
        if case.identity not in self._fresh:
            self._fresh[case.identity] = faulted_bytes(call)
        return self._fresh[case.identity]

    def _keep(self, session: Session) -> None:
        """Keep a case for its next visit, unless it runs on a GPU or with copies of its operands, which take too much memory."""
        if not _is_cuda(session.case) and session.case.cache_state == CANONICAL_STATE:
            self._waiting.keep(session)

    def _time(self, session: Session) -> tuple[Timing, Host, tuple[Reason, ...]]:
        """The blocks of one visit, observations of the host meanwhile, and disturbances."""
        case, prepared, cuda = session.case, session.prepared, _is_cuda(session.case)
        settings = self._timing(case)
        if prepared.before is not None:
            # Most of the window is spent on the work between the calls.
            settings = msgspec.structs.replace(settings, max_s=BETWEEN_CALLS * settings.max_s)
        timer = CudaTimer(torch.cuda, before=prepared.before) if cuda else HostTimer(before=prepared.before)
        card, compiled = self._card if cuda else None, _compilations(case)
        fill_holes()
        self._pages.warm(session.fresh_bytes)

        def window() -> Timing:
            watch = None if cuda else self._cores
            return time_callable(prepared.call, settings=settings, timer=timer, block_calls=session.call_blocks, watch=watch)

        def further() -> tuple[Host, tuple[Reason, ...]]:
            host = dict(prepared.facts)
            if card is not None:
                host |= card.observe()
            if isinstance(timer, CudaTimer):
                host["launch_s"] = timer.host_s
            new_compilations = _compilations(case) - compiled
            recompiled = (
                (Reason("recompiled", f"{new_compilations} compilations while it was timed"),) if new_compilations else ()
            )
            return host, gpu_doubts(host) + recompiled

        return observed(window, torch.get_num_threads(), further, device_time=cuda)

    def _timing(self, case: CaseSpec) -> TimingSettings:
        if _is_cuda(case):
            return self._settings.gpu_network if case.kind == "network" else self._settings.gpu
        return self._settings.network if case.kind == "network" else self._settings.operator

    @cached_property
    def _pages(self) -> FreshPages:
        return FreshPages()

    @cached_property
    def _cores(self) -> CoreWatch | None:
        return self._given_cores or core_watch()

    @cached_property
    def _card(self) -> GpuWatch | None:
        """A watch on the first visible card, on which cases run; `None` where NVML does not answer."""
        try:
            nvml = load_nvml()
            return GpuWatch(nvml, visible_gpus(nvml)[0].uuid)
        except OSError:
            return None

    @cached_property
    def _meter(self) -> EnergyMeter:
        probes, missing_reasons = self._given_probes or available_probes()
        return EnergyMeter(probes, missing_reasons, self._settings.energy)

    def _energy(self, session: Session, call_s: float) -> tuple[EnergyReading, ...]:
        """A reading for each domain; its energy is unknown if something was compiled inside its windows."""
        case, prepared = session.case, session.prepared
        if prepared.before is not None:
            reason = f"not measured {case.cache_state}: the work between the calls draws power, too"
            return self._meter.unknown(reason, case.device)
        compiled = _compilations(case)
        wait = torch.cuda.synchronize if _is_cuda(case) else None
        readings = self._meter.measure(prepared.call, call_s, case.device, wait)
        new_compilations = _compilations(case) - compiled
        return tuple(_without_compilation(reading, new_compilations) for reading in readings)

    def _peak_memory(self, session: Session) -> tuple[float | None, str]:
        case, call, built = session.case, session.prepared.call, session.built
        if not self._settings.memory:
            return None, "not asked for"
        if _is_cuda(case):
            return peak_cuda_bytes(call, case.device)
        if case.kind == "operator":
            return None, "not measured for single operators on CPU, where it follows from the shapes"
        return peak_cpu_bytes(call, resident_bytes(built))

    def _capture(self, case: CaseSpec, built: Built) -> tuple[tuple[Graph, ...], tuple[Reason, ...]]:
        key = msgspec.json.encode([case.workload, case.axes, case.dtype, case.device], order="deterministic")
        if key not in self._graphs:
            try:
                if case.kind == "operator":
                    self._graphs[key] = capture_operator(built, case.workload).graphs
                else:
                    self._graphs[key] = capture(built.model, built.args, built.kwargs, name=case.workload).graphs
            except ShmooError as error:
                return (), (Reason("not captured", str(error)),)
        return self._graphs[key], ()

    def _children(self, session: Session, graphs: tuple[Graph, ...]) -> tuple[tuple[ChildTime, ...], tuple[Reason, ...]]:
        """Times of the calls of all graphs in order; `ChildTime.call` is numbered on from graph to graph."""
        case, built = session.case, session.built
        applies = case.kind == "network" and case.runtime == "eager" and case.cache_state == "warm"
        if not applies or self._settings.children_s <= 0 or not graphs:
            return (), ()
        model = built.model
        weights = dict(model.named_parameters()) | dict(model.named_buffers()) if isinstance(model, torch.nn.Module) else {}
        inputs = [value for value in (*built.args, *built.kwargs.values()) if isinstance(value, torch.Tensor)]
        try:
            replays = [GraphReplay(graph, weights, inputs, case.device) for graph in graphs]
            times = child_times(replays, self._settings.children_s, device=case.device)
        except ReplayError as error:
            return (), (Reason("no child times", str(error)),)
        calls = [call for graph in graphs for call in graph.calls]
        timed = zip(calls, times, strict=True)
        return tuple(ChildTime(i, call.op, seconds, "interpreter") for i, (call, seconds) in enumerate(timed)), ()

    def _operators(self, case: CaseSpec, graphs: tuple[Graph, ...]) -> tuple[OperatorTime, ...]:
        """Times of the distinct operators alone, if requested, for networks and synthetic models in eager."""
        settings = self._settings.operators
        if settings is None or case.kind == "operator" or case.runtime != "eager" or case.cache_state != "warm":
            return ()
        return time_operators(graphs, case.device, settings)


def failure(error: BaseException) -> Reason:
    """An error as a reason: its type, unless it is one of Shmoo's errors, and its first non-empty line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return Reason("error", text) if isinstance(error, ShmooError) else Reason(type(error).__name__, text)


def _without_compilation(reading: EnergyReading, compilations_beside: int) -> EnergyReading:
    """The reading, with unknown energy if a compilation ran meanwhile, whose energy would be counted as the model's."""
    if reading.energy_j is None or not compilations_beside:
        return reading
    reason = f"{compilations_beside} compilations while it was measured"
    return msgspec.structs.replace(reading, energy_j=None, low_j=None, high_j=None, reason=reason)


def _cache_bytes(case: CaseSpec) -> int | None:
    """Capacity of the last cache before memory, `None` where the device does not report it."""
    if _is_cuda(case):
        return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size or None
    return last_level_bytes()


def _compilations(case: CaseSpec) -> int:
    """Number of compilations in this process so far; 0 for a case without compilation."""
    return compilations() if TORCH_RUNTIMES[case.runtime].compiled else 0


def _is_cuda(case: CaseSpec) -> bool:
    return case.device.startswith("cuda")


@contextmanager
def matmul_precision(case: CaseSpec) -> Iterator[None]:
    """While active, TF32 is on exactly if it is the case's type."""
    if case.dtype == "tf32" and not _is_cuda(case):
        raise InputError("dtype 'tf32' exists on CUDA devices only; allowed on a CPU: float32, bfloat16, float16")
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if case.dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = case.dtype == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn
