"""One case, measured in this process: built, compiled, timed, its energy and memory read, its graph captured.

    build -> compile, first call -> warm-up and window (again while disturbed) -> energy -> peak memory -> graph -> child times

Nothing is compiled, captured or profiled before or inside the timed window. A case that fails gives a row that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property

import msgspec
import torch

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.records import Graph
from shmoo.harness.allocation import settle_heap
from shmoo.harness.backends import RUNTIMES, compilations, compile_model, compile_seconds
from shmoo.harness.cachestate import Prepared, prepare
from shmoo.harness.capture.capture import capture
from shmoo.harness.corewatch import CoreWatch, core_watch
from shmoo.harness.energy import available_probes
from shmoo.harness.energy.nvml import load_nvml, visible_gpus
from shmoo.harness.energy.probe import Probe
from shmoo.harness.energy.sampler import EnergyMeter
from shmoo.harness.gpuwatch import GpuWatch, gpu_doubts
from shmoo.harness.machine import last_level_bytes
from shmoo.harness.memory import peak_cpu_bytes, peak_cuda_bytes, resident_bytes
from shmoo.harness.operators_alone import time_operators
from shmoo.harness.replay import GraphReplay, ReplayError, child_times
from shmoo.harness.settings import MeasureSettings
from shmoo.harness.timing import CudaTimer, HostTimer, time_callable
from shmoo.harness.undisturbed import time_undisturbed
from shmoo.harness.workloads.module import Built
from shmoo.runs.records import AxisValue, CaseSpec, ChildTime, EnergyReading, Measurement, OperatorTime, Timing
from shmoo.runs.statistics import median

Builder = Callable[[CaseSpec], Built]
ENERGY_TIME_TOLERANCE = 0.25
"""The energy pass must run at the pace of the timing pass, or it measured another state of the machine."""
BETWEEN_CALLS = 4.0
"""How much longer a window may last in which a flush or other work runs before each call."""


def build_case(case: CaseSpec) -> Built:
    """The workload of a case, built; `InputError` as for `resolve_model`. Whoever planned a case of a file that can run code has
    decided to trust it."""
    from shmoo.harness.workloads import resolve_model

    return resolve_model(case.workload, trust=True).build(case.axes, case.dtype, case.device)


class Measurer:
    """Measures cases one after another in this process, keeping what they share: energy counters, idle power, captured graphs.

    Args:
        build: how a case becomes a model with its operands.
        probes, reasons: as `available_probes` gives them; looked for when first needed.
        gpu_watch: watches the card; looked for when a case first runs on one.
    """

    def __init__(
        self,
        settings: MeasureSettings | None = None,
        build: Builder = build_case,
        probes: tuple[tuple[Probe, ...], dict[str, str]] | None = None,
        gpu_watch: GpuWatch | None = None,
    ) -> None:
        self._settings = settings or MeasureSettings()
        self._build = build
        self._probes = probes
        self._gpu_watch = gpu_watch
        self._meter: EnergyMeter | None = None
        self._graphs: dict[bytes, tuple[Graph, ...]] = {}
        settle_heap()

    @classmethod
    def from_settings(cls, settings: bytes) -> Measurer:
        """A measurer from its settings' JSON ("null" for the defaults), as a worker process gets them."""
        return cls(msgspec.json.decode(settings, type=MeasureSettings | None))

    def measure(self, case: CaseSpec, pass_index: int = 0) -> tuple[Measurement, tuple[Graph, ...]]:
        """One row, and the graphs it names. Whatever goes wrong is in the row; only an interruption is raised."""
        measured_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            row, graphs = self._measure(case)
        except Exception as error:
            row, graphs = Measurement(case, "failed", (describe(error),)), ()
        return msgspec.structs.replace(row, pass_index=pass_index, measured_at=measured_at), graphs

    def _measure(self, case: CaseSpec) -> tuple[Measurement, tuple[Graph, ...]]:
        threads = case.threads or self._settings.threads
        if threads:
            torch.set_num_threads(threads)
        built = self._build(case)
        with torch.no_grad(), matmul_precision(case):
            forward = compile_model(built.model, case.runtime, case.device)
            prepared = prepare(
                case.cache_state,
                built,
                forward,
                case.device,
                _cache_bytes(case),
                copies_allowed=not RUNTIMES[case.runtime].compiled,
            )
            wait = torch.cuda.synchronize if _is_cuda(case) else None
            first_call_s, compile_s = _first_call(prepared.call, wait, case.runtime)
            timing, host, reasons = self._time(case, prepared, wait)
            timing = msgspec.structs.replace(timing, first_call_s=first_call_s, compile_s=compile_s)
            energy, energy_reasons = self._energy(case, prepared, wait, median(timing.samples_s))
            peak, peak_reason = self._peak_memory(case, prepared.call, built)
            graphs, graph_reasons = self._capture(case, built)
            children, child_reasons = self._children(case, built, graphs)
            operators = self._operators(case, graphs)
        reasons += energy_reasons + graph_reasons + child_reasons
        row = Measurement(
            case=case,
            status="suspect" if reasons else "ok",
            reasons=reasons,
            graph_hashes=tuple(graph.content_hash for graph in graphs),
            timing=timing,
            children=children,
            operators=operators,
            energy=energy,
            peak_memory_bytes=peak,
            peak_memory_reason=peak_reason,
            host=host,
        )
        return row, graphs

    def _time(
        self, case: CaseSpec, prepared: Prepared, wait: Callable[[], None] | None
    ) -> tuple[Timing, dict[str, AxisValue | None], tuple[str, ...]]:
        """A timing that nothing disturbed, or after the last retry the last one with what disturbed it."""
        settings = self._settings.network if case.kind == "network" else self._settings.operator
        if prepared.before is not None:
            # Most of the window goes into what runs between the calls.
            settings = msgspec.structs.replace(settings, max_s=BETWEEN_CALLS * settings.max_s)
        compiled = RUNTIMES[case.runtime].compiled
        cores = None if _is_cuda(case) else self._cores
        watch = self._watch(case)
        timer = (
            CudaTimer(torch.cuda, before=prepared.before)
            if _is_cuda(case)
            else HostTimer(synchronize=wait, before=prepared.before)
        )
        frames = 0

        def window() -> Timing:
            nonlocal frames
            frames = compilations() if compiled else 0
            return time_callable(
                prepared.call,
                settings=settings,
                timer=timer,
                block_calls=prepared.block_calls,
                beside=cores.beside if cores is not None else None,
            )

        def further() -> tuple[dict[str, AxisValue | None], tuple[str, ...]]:
            host = dict(prepared.facts)
            if watch is not None:
                host |= watch.observe()
            if isinstance(timer, CudaTimer):
                host["launch_s"] = timer.host_s
            again = compilations() - frames if compiled else 0
            recompiled = (f"recompiled: {again} compilations while it was timed",) if again else ()
            return host, gpu_doubts(host) + recompiled

        return time_undisturbed(window, torch.get_num_threads(), retries=self._settings.retries, cores=cores, further=further)

    @cached_property
    def _cores(self) -> CoreWatch | None:
        return core_watch()

    def _watch(self, case: CaseSpec) -> GpuWatch | None:
        """Watches the first visible card, on which cases run; `None` for CPU cases and where NVML does not answer."""
        if self._gpu_watch is None and _is_cuda(case):
            try:
                nvml = load_nvml()
                cards = visible_gpus(nvml)
                self._gpu_watch = GpuWatch(nvml, cards[0].uuid) if cards else None
            except OSError:
                return None  # without NVML nothing is known of the card, and the row's host fields stay absent
        return self._gpu_watch if _is_cuda(case) else None

    def _energy(
        self, case: CaseSpec, prepared: Prepared, wait: Callable[[], None] | None, call_s: float
    ) -> tuple[tuple[EnergyReading, ...], tuple[str, ...]]:
        if self._meter is None:
            probes, missing = self._probes or available_probes()
            self._meter = EnergyMeter(probes, missing, self._settings.energy)
        if prepared.before is not None:
            reason = f"not measured {case.cache_state}: what runs between the calls draws power of its own"
            return self._meter.unknown(reason, case.device), ()
        compiled = RUNTIMES[case.runtime].compiled
        frames = compilations() if compiled else 0
        readings = self._meter.measure(prepared.call, call_s, case.device, wait)
        if compiled and (again := compilations() - frames):
            return readings, (f"recompiled: {again} compilations while its energy was measured",)
        for reading in readings:
            if reading.energy_j is not None and abs(reading.window_s / reading.calls - call_s) > ENERGY_TIME_TOLERANCE * call_s:
                pace = reading.window_s / reading.calls
                return readings, (f"energy pass: {pace:.3g} s a call against {call_s:.3g} s when timed",)
        return readings, ()

    def _peak_memory(self, case: CaseSpec, call: Callable[[], object], built: Built) -> tuple[float | None, str]:
        if not self._settings.memory:
            return None, "not asked for"
        if _is_cuda(case):
            return peak_cuda_bytes(call, case.device)
        if case.kind == "operator":
            return None, "not measured for single operators on CPU, where it follows from the shapes"
        return peak_cpu_bytes(call, resident_bytes(built.model, built.args, built.kwargs))

    def _capture(self, case: CaseSpec, built: Built) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
        key = msgspec.json.encode([case.workload, case.axes, case.dtype, case.device], order="deterministic")
        if key not in self._graphs:
            try:
                self._graphs[key] = capture(built.model, built.args, built.kwargs, name=case.workload).graphs
            except ShmooError as error:
                return (), (f"not captured: {error}",)
        return self._graphs[key], ()

    def _children(self, case: CaseSpec, built: Built, graphs: tuple[Graph, ...]) -> tuple[tuple[ChildTime, ...], tuple[str, ...]]:
        """Times of the calls of all graphs in order; `ChildTime.call` counts on from graph to graph."""
        if (
            case.cache_state != "warm"
            or case.kind == "operator"
            or case.runtime != "eager"
            or self._settings.children_s <= 0
            or not graphs
        ):
            return (), ()
        model = built.model
        weights = dict(model.named_parameters()) | dict(model.named_buffers()) if isinstance(model, torch.nn.Module) else {}
        inputs = [value for value in (*built.args, *built.kwargs.values()) if isinstance(value, torch.Tensor)]
        try:
            replays = [GraphReplay(graph, weights, inputs, case.device) for graph in graphs]
            times = child_times(replays, self._settings.children_s, device=case.device)
        except ReplayError as error:
            return (), (f"no child times: {error}",)
        calls = [call for graph in graphs for call in graph.calls]
        timed = zip(calls, times, strict=True)
        return tuple(ChildTime(i, call.op, seconds, "interpreter") for i, (call, seconds) in enumerate(timed)), ()

    def _operators(self, case: CaseSpec, graphs: tuple[Graph, ...]) -> tuple[OperatorTime, ...]:
        """Times of the distinct operators alone, where they are asked for: of networks and synthetic models in eager."""
        wanted = self._settings.operators
        if wanted is None or case.kind == "operator" or case.runtime != "eager" or case.cache_state != "warm":
            return ()
        return time_operators(graphs, case.device, wanted)


def describe(error: BaseException) -> str:
    """One line about an error: its type, unless it is one of our own, and the first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, ShmooError) else f"{type(error).__name__}: {text}"


def _first_call(call: Callable[[], object], wait: Callable[[], None] | None, runtime: str) -> tuple[float, float | None]:
    """Seconds of the first call, and of compiling in it where something is compiled."""
    begin = time.perf_counter()
    call()
    if wait is not None:
        wait()
    taken = time.perf_counter() - begin
    return taken, compile_seconds() if RUNTIMES[runtime].compiled else None


def _cache_bytes(case: CaseSpec) -> int | None:
    """Capacity of the last cache before memory, `None` where the device does not tell."""
    if _is_cuda(case):
        return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size or None
    return last_level_bytes()


def _is_cuda(case: CaseSpec) -> bool:
    return case.device.startswith("cuda")


@contextmanager
def matmul_precision(case: CaseSpec) -> Iterator[None]:
    """TF32 exactly where the case asks for it."""
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
