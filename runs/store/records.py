"""The records of a run: the case, the machine and the measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, get_args

import msgspec

from shmoo.estimators.graph.records import NORMAL_90
from shmoo.runs.store.statistics import Latency, latency, latency_alone

RUN_FORMAT = 2
"""Version of run.json and of a row. 1: a row was one pass over its case, and any disturbance made it suspect. 2: a line is one
visit to its case, rows of one case are merged when a run is read, reasons have a code, and a noisy row can be used."""

Status = Literal["ok", "noisy", "suspect", "failed"]
CaseKind = Literal["operator", "synthetic", "network"]
Split = Literal["fit", "validation", "test"]
CacheState = Literal["warm", "cold", "interleaved"]
CACHE_STATES: tuple[str, ...] = get_args(CacheState)
CANONICAL_STATE = "warm"
"""The cache state that calibration uses and that networks are judged in: calls back to back."""
Time = Literal["call", "device"]
"""What a latency covers: a whole call, or its kernels alone as in a replayed graph, without host time and graph launch."""
AxisValue = int | float | str | bool
SHORTEST_S, LONGEST_S = 1e-12, 1e7
"""Bounds of a plausible time: a picosecond and four months."""
LEAST_ENERGY_J, MOST_ENERGY_J = 1e-15, 1e12
"""Bounds of a plausible energy: less than one flop takes, and more than a power station gives in an hour."""
LEAST_POWER_W, MOST_POWER_W = 1e-6, 1e9
"""Bounds of a plausible power: a wristwatch and a power station."""


def utc_now() -> str:
    """The current time in ISO 8601 and UTC, to the second, as records store it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class CaseSpec(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """The case to measure, apart from the result.

    Attributes:
        workload: registered name: operator ("linear"), synthetic model ("mlp") or network ("resnet18").
        axes: values of the workload's declared axes, such as {"m": 64, "n": 512, "k": 512}; networks have "batch" at least.
        kind: operators and synthetic models calibrate, networks only test.
    """

    workload: str
    kind: CaseKind
    axes: dict[str, AxisValue] = {}
    dtype: str = "float32"
    runtime: str = "eager"
    device: str = "cpu"
    threads: int | None = None
    cache_state: CacheState = "warm"

    @cached_property
    def identity(self) -> str:
        """Stable 16-hex-digit identity over every field that differs from its default."""
        fields = {"workload": self.workload, "kind": self.kind} | {
            name: value for name, usual in _DEFAULTS.items() if (value := getattr(self, name)) != usual
        }
        if self.axes:
            fields["axes"] = dict(sorted(self.axes.items()))
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:16]

    @property
    def split(self) -> Split:
        """Fit / validation / test, 70 / 15 / 15, by the hash of the identity; networks are always test."""
        if self.kind == "network":
            return "test"
        draw = int(hashlib.sha256(self.identity.encode()).hexdigest()[:8], 16) % 100
        return "fit" if draw < 70 else "validation" if draw < 85 else "test"

    @property
    def label(self) -> str:
        """Workload, axes, type and runtime as one text, with the cache state unless warm and the threads if set."""
        axes = " ".join(f"{name}={value}" for name, value in self.axes.items())
        state = "" if self.cache_state == "warm" else f" {self.cache_state}"
        threads = "" if self.threads is None else f" threads={self.threads}"
        return f"{self.workload}{f'[{axes}]' if axes else ''} {self.dtype} {self.runtime}{state}{threads}"


_DEFAULTS = {
    field.name: field.default for field in msgspec.structs.fields(CaseSpec) if field.name not in ("workload", "kind")
} | {"axes": {}}
"""Field of a case -> its default value, which does not enter the identity."""


class WholeCase(CaseSpec, frozen=True, omit_defaults=False):
    """A case whose JSON has every field, as scripts that read rows expect."""


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fingerprint and settings of the machine of a run. Rows of machines that differ in one of `FINGERPRINT_FIELDS` cannot be
    calibrated together."""

    cpu_model: str
    cores_physical: int
    cores_logical: int
    memory_bytes: int
    cache_bytes: dict[str, int] = {}
    """Bytes of each data or unified cache level of one core, a shared level counted in full: {"l1": ..., "l2": ..., "l3":
    ...}."""
    cache_shared_by: dict[str, int] = {}
    """Number of logical cores that share one instance of each level."""
    isa: tuple[str, ...] = ()
    gpu_model: str | None = None
    gpu_memory_bytes: int | None = None
    driver: str | None = None
    os: str = ""
    python: str = ""
    torch: str = ""
    threads: int = 1
    governor: str | None = None
    clock_policy: str | None = None
    allocator: str | None = None
    hypervisor: str | None = None
    settings: dict[str, AxisValue | None] = {}


FINGERPRINT_FIELDS = ("cpu_model", "memory_bytes", "gpu_model", "gpu_memory_bytes", "driver", "torch", "threads", "clock_policy")


class Reason(msgspec.Struct, frozen=True):
    """Why a row is not simply ok, or what is worth knowing about it.

    Attributes:
        code: the kind of reason, such as "steal" or "not captured"; equal kinds have equal codes.
        text: details of this instance, with numbers.
    """

    code: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Samples of one visit to a case, seconds per call. Statistics are derived (`runs.store.statistics`).

    Attributes:
        samples_s: each sample is the mean over one block of calls.
        slowdowns: for each block, the slowdown of the slowest core: the time of a reference kernel over its time on that core
            when nothing else runs, the larger of the probes before and after the block. Empty where cores were not probed.
        quiet_s: time of the reference kernel on each core when nothing else runs, as known on this visit. Merged visits and
            their slowdowns use the lowest time of the run.
        switches: for each block, how often the system took a core away from this process (involuntary context switches). Empty
            where the system does not report it.
        cpu_s: CPU time of this process over all blocks; `None` where it was not read.
        on_core_s: for each block, how long the calling thread had a core, in seconds per call. Empty where it was not read.
        block_calls: calls per block.
        warmup_calls: calls before the first sample.
        stop_reason: "precision", "plateau", "timeout".
        first_call_s: first call including compilation, capture and lazy initialization.
        compile_s: compilation alone, where the back-end reports it.
    """

    samples_s: tuple[float, ...]
    slowdowns: tuple[float, ...] = ()
    quiet_s: tuple[float, ...] = ()
    switches: tuple[int, ...] = ()
    cpu_s: float | None = None
    on_core_s: tuple[float, ...] = ()
    block_calls: int = 1
    warmup_calls: int = 0
    stop_reason: str = ""
    first_call_s: float | None = None
    compile_s: float | None = None


class EnergyReading(msgspec.Struct, frozen=True, omit_defaults=True):
    """Energy of one domain per call, gross; `energy_j` is `None` with a `reason` where it could not be read.

    Attributes:
        low_j, high_j: 90 % interval from the spread of the trials, the counter's update period and its gain error.
        window_s, calls: totals over all trials.
        idle_power_w, idle_power_after_w: gross power before and after, while the case does not run; never subtracted.
        trials_j: energy per call in each trial.
        integrated_j: the same energy from sampled power, where the sensor has both; a check of the counter.
        update_period_s: time between movements of the counter, measured where possible.
    """

    domain: str
    energy_j: float | None = None
    reason: str = ""
    low_j: float | None = None
    high_j: float | None = None
    window_s: float | None = None
    calls: int | None = None
    idle_power_w: float | None = None
    idle_power_after_w: float | None = None
    trials_j: tuple[float, ...] = ()
    integrated_j: float | None = None
    update_period_s: float | None = None

    @property
    def possible(self) -> bool:
        """Whether the values are plausible: a positive energy inside its interval, and a window longer than 0."""
        if self.energy_j is None:
            return True
        low = self.energy_j if self.low_j is None else self.low_j
        high = self.energy_j if self.high_j is None else self.high_j
        windows = (self.window_s is None or self.window_s > 0) and (self.calls is None or self.calls > 0)
        return LEAST_ENERGY_J <= self.energy_j <= MOST_ENERGY_J and 0 <= low <= self.energy_j <= high and windows

    @property
    def pace_s(self) -> float | None:
        """Seconds per call while the energy was read; on a shared machine this differs from the measured time."""
        return self.window_s / self.calls if self.window_s and self.calls else None

    @property
    def sd_j(self) -> float | None:
        """Standard deviation of the normal distribution with this 90 % interval; `None` without an interval."""
        return None if self.low_j is None or self.high_j is None else (self.high_j - self.low_j) / (2 * NORMAL_90)


class ChildTime(msgspec.Struct, frozen=True, omit_defaults=True):
    """Time inside one operator call of a network: index into its graphs' calls, seconds, and the method of timing."""

    call: int
    op: str
    time_s: float
    method: Literal["interpreter", "profiler"]


class OperatorTime(msgspec.Struct, frozen=True, omit_defaults=True):
    """A distinct operator of a network, cut out and timed alone, back to back.

    Attributes:
        calls: the calls of this operator: indices into the calls of all graphs, numbered on from graph to graph.
        time_s: median seconds of one call; `None` with a `reason`. mad_s: median absolute deviation of its samples.
        reason: why there is no time, or a disturbance while it was timed.
    """

    op: str
    calls: tuple[int, ...]
    time_s: float | None = None
    mad_s: float | None = None
    reason: str = ""


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result for one case of a run. In rows.jsonl a line is one visit to the case; `Run` merges the visits.

    Attributes:
        timing: samples of this visit; in a merged row, those of all usable visits.
        visits: the timing of each usable visit of a merged row.
        visit: number of this visit, from 0.
        process: in a duel, the number of the pair of worker processes that made this visit, from 0; otherwise `None`.
        visit_sd: standard deviation of the log of one visit's rate over the cases like this one in the run; `None` while too few
            were visited twice.
        prevailing: in a merged row, the time of a call from its own visits and from those of like calls
        (`runs/store/pooling.py`). measured_at: UTC, ISO 8601; for display, never for arithmetic.
    """

    case: CaseSpec
    status: Status
    reasons: tuple[Reason, ...] = ()
    graph_hashes: tuple[str, ...] = ()
    timing: Timing | None = None
    children: tuple[ChildTime, ...] = ()
    energy: tuple[EnergyReading, ...] = ()
    peak_memory_bytes: float | None = None
    peak_memory_reason: str = ""
    host: dict[str, AxisValue | None] = {}
    visit: int = 0
    process: int | None = None
    visits: tuple[Timing, ...] = ()
    visit_sd: float | None = None
    prevailing: Latency | None = None
    measured_at: str = ""
    operators: tuple[OperatorTime, ...] = ()
    # A factory, because omit_defaults would leave a plain default out of the file.
    format: int = msgspec.field(default_factory=lambda: RUN_FORMAT)

    @property
    def timed(self) -> bool:
        """Whether its time can be used: the row is ok or noisy and has samples."""
        return self.status in ("ok", "noisy") and self.timing is not None and bool(self.timing.samples_s)

    @property
    def estimable(self) -> bool:
        """Whether an estimate can be compared with it: it is timed in the canonical cache state and its graph was stored."""
        return self.timed and self.case.cache_state == CANONICAL_STATE and bool(self.graph_hashes)

    @property
    def latency(self) -> Latency:
        """Time of a call, from all visits; `NothingMeasuredError` without a sample."""
        if self.prevailing is not None:
            return self.prevailing
        visits = self.visits or (() if self.timing is None else (self.timing,))
        return latency([visit.samples_s for visit in visits], self.visit_sd)

    @property
    def alone(self) -> Latency | None:
        """Time of a call while nothing else runs; `None` with too few such blocks."""
        return latency_alone(self.blocks_by_visit)

    @property
    def blocks_by_visit(self) -> list[tuple[Sequence[float], Sequence[float], Sequence[int]]]:
        """Samples, slowdowns and context switches of the blocks of each visit."""
        visits = self.visits or (() if self.timing is None else (self.timing,))
        return [(visit.samples_s, visit.slowdowns, visit.switches) for visit in visits]

    @property
    def why(self) -> str:
        """Its reasons in one line."""
        return "; ".join(map(str, self.reasons))

    @property
    def energy_reading(self) -> EnergyReading | None:
        """The reading that counts as this row's energy: the card's on a GPU, the CPU package's elsewhere. Several cards or
        packages, and the DRAM beside a package, are other readings. `None` where it was not read."""
        domain = "gpu" if self.case.device.startswith("cuda") else "package"
        readings = (r for r in self.energy if r.domain.split("-")[0] == domain and r.energy_j is not None and r.possible)
        return next(readings, None)

    @property
    def children_s(self) -> float | None:
        """Total seconds inside the operators of the network; `None` where they were not timed."""
        return sum(child.time_s for child in self.children) if self.children else None

    @property
    def operators_s(self) -> float | None:
        """Total seconds of the operators timed alone, each times its number of calls; `None` where one is unknown."""
        times = [(operator.time_s, len(operator.calls)) for operator in self.operators]
        seconds_by_operator = [seconds * count for seconds, count in times if seconds is not None]
        return sum(seconds_by_operator) if times and len(seconds_by_operator) == len(times) else None


class RunManifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """run.json."""

    machine: Machine
    suite: str
    versions: dict[str, str] = {}
    settings: dict[str, AxisValue | None] = {}
    started_at: str = ""
    # A factory, because omit_defaults would leave a plain default out of the file.
    format: int = msgspec.field(default_factory=lambda: RUN_FORMAT)
