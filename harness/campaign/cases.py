"""The cases to measure, from suites and networks by name, and a campaign over them with the defaults of `shmoo measure`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import STORED_AS, compute_dtype, shown_dtype
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.campaign.campaign import CampaignSettings, run_campaign
from shmoo.harness.defaults import MOST_VISITS, VISITS
from shmoo.harness.machine.doctor import commit_here, probe_machine
from shmoo.harness.measuring.allocation import buffer_costs
from shmoo.harness.measuring.timing import ALONE, MeasureSettings
from shmoo.harness.module import STORAGE_DTYPES
from shmoo.harness.runtimes.backends import TORCH_RUNTIMES, runtimes_on
from shmoo.harness.workloads.loading import INPUT_SHAPE, resolve_model
from shmoo.harness.workloads.suites import PLANNED, captured, plan_suite
from shmoo.runs.store.records import CACHE_STATES, AxisValue, CaseSpec, Machine
from shmoo.runs.store.store import Run

OVERHEAD_S = 0.35
COMPILING_S = 10.0
"""Time to build, capture and store one case, and to compile one synthetic model."""
LEAST_SAMPLES = 10
"""Fewest calls of a case, including its warm-up."""


def check_device(device: str, machine: Machine) -> None:
    """`InputError` for a device that is unknown, missing or unsupported by this torch, and for more threads than cores, which
    would have to share them."""
    if (machine.threads or 1) > machine.cores_logical:
        raise InputError(
            f"{machine.threads} threads cannot run at once on this machine; allowed are 1 to {machine.cores_logical}, "
            "by --threads or OMP_NUM_THREADS"
        )
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))
    if device == "cuda" and machine.gpu_model is None:
        raise InputError("--device cuda: no GPU is visible here; `shmoo doctor` gives the reason")
    if device == "cuda" and usable_device(machine) != "cuda":
        raise InputError(
            f"--device cuda: torch {machine.torch} finds no CUDA device, though this machine has one ({machine.gpu_model}); "
            "install a build of torch for CUDA (pytorch.org/get-started), or check that its CUDA version suits the driver"
        )


def usable_device(machine: Machine) -> str:
    """The default device to measure: "cuda" if torch can use a GPU of this machine, otherwise "cpu"."""
    if machine.gpu_model is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, slots=True)
class Selection:
    """The cases to measure. Each field is the option of `shmoo measure` of its name.

    Attributes:
        model: networks by name. input_shape, seq_len, trust: of these networks, as for `resolve_model`.
        threads: with several numbers each case is measured with each; a single one is in the machine's fingerprint.
        cache_state: by default warm.
    """

    suite: str | None = None
    model: Sequence[str] = ()
    device: str = "cpu"
    runtime: Sequence[str] = ()
    dtype: Sequence[str] = ()
    batch: Sequence[int] = ()
    threads: Sequence[int] = ()
    cache_state: Sequence[str] = ()
    input_shape: Sequence[int] | None = None
    seq_len: int | None = None
    trust: bool = False

    @property
    def label(self) -> str:
        """Name of the cases in the run."""
        return self.suite or ("models" if self.model else "quick")

    def machine(self) -> Machine:
        """This machine with these threads; errors as for `check_device`."""
        machine = probe_machine(max(self.threads, default=None))
        check_device(self.device, machine)
        return machine

    def cases(self, machine: Machine, progress: Progress = silent) -> tuple[CaseSpec, ...]:
        """The cases of the suite, of the networks, or of both; `progress` is called while a suite is planned. `InputError` for an
        unknown suite, model, runtime, dtype or cache state, a runtime or dtype that the device lacks, a model that cannot be
        loaded, or a batch, an input shape or a sequence length without a network."""
        for option, value in (("--input-shape", self.input_shape), ("--seq-len", self.seq_len)):
            if value is not None and not self.model:
                raise InputError(f"{option} applies to models by name, and none is measured; name one with --model")
        runtimes, dtypes = self._runtimes(), self._dtypes()
        sizes = tuple(self.batch) or (1 if self.input_shape is None else self.input_shape[0],)
        cases: list[CaseSpec] = []
        if self.suite is not None or not self.model:
            name = "micro" if self.suite == PLANNED else self.suite or "quick"
            planned = plan_suite(name, machine, device=self.device, dtypes=dtypes, runtimes=runtimes, progress=progress)
            if self.suite == PLANNED:
                planned = most_telling_first(planned, machine, self.device, progress)
            for case in planned:
                of_network = sizes if case.kind == "network" else (None,)
                cases += [
                    case if b is None else msgspec.structs.replace(case, axes={**case.axes, "batch": b}) for b in of_network
                ]
        for text in self.model:
            module = resolve_model(text, input_shape=self.input_shape, seq_len=self.seq_len, trust=self.trust)
            batched = any(axis.name == "batch" for axis in module.axes)
            for size in sizes if batched else (None,):
                axes: dict[str, AxisValue] = {} if size is None else {"batch": size}
                axes |= {} if self.seq_len is None else {"seq_len": self.seq_len}
                module.resolve(axes)
                if self.input_shape is not None:
                    axes[INPUT_SHAPE] = "x".join(map(str, (size, *self.input_shape[1:])))
                cases += [CaseSpec(text, module.kind, axes, t, runtime, self.device) for t in dtypes for runtime in runtimes]
        if self.batch and not any("batch" in case.axes and case.kind == "network" for case in cases):
            raise InputError("--batch applies to networks, and none is measured; name one with --model, or leave --batch out")
        for state in self.cache_state:
            if state not in CACHE_STATES:
                raise unknown("cache state", state, CACHE_STATES)
        threads = self.threads if len(self.threads) > 1 else (None,)
        in_states = [msgspec.structs.replace(case, cache_state=s) for s in self.cache_state or ("warm",) for case in cases]
        return tuple(msgspec.structs.replace(case, threads=count) for count in threads for case in in_states)

    def _runtimes(self) -> Sequence[str]:
        for runtime in self.runtime:
            if self.device not in TORCH_RUNTIMES[runtime].devices:
                allowed = ", ".join(runtimes_on(self.device))
                raise InputError(f"runtime {runtime!r} does not run on {self.device!r}; allowed there: {allowed}")
        return self.runtime or (("inductor",) if self.suite == "compiled" else ("eager",))

    def _dtypes(self) -> Sequence[str]:
        dtypes = tuple(dict.fromkeys(compute_dtype(name) for name in self.dtype)) or ("float32",)
        allowed = [name for name in STORAGE_DTYPES if self.device == "cuda" or name not in STORED_AS]
        if strange := [name for name in dtypes if name not in allowed]:
            raise InputError(
                f"dtype {shown_dtype(strange[0])!r} cannot be measured on {self.device!r}; allowed there: {', '.join(allowed)}"
            )
        return dtypes


def measure_cases(
    cases: Sequence[CaseSpec],
    out: Path,
    suite: str,
    machine: Machine,
    *,
    resume: bool = False,
    visits: int = VISITS,
    budget_s: float | None = None,
    operators: bool = False,
    shuffle: bool = True,
    progress: Progress | None = None,
    reserved_s: Callable[[], float] = lambda: 0.0,
) -> Run:
    """Measure cases into the run at `out`, and read it back; errors as for `run_campaign`.

    Args:
        suite: name of the cases in the run.
        visits: visits to every case; with more than one, cases that stay uncertain are visited up to `MOST_VISITS` times.
        operators: also time the distinct operators of networks alone.
        shuffle: first visits in random order, otherwise in the order given.
        resume, reserved_s: as for `run_campaign`.
    """
    settings = CampaignSettings(
        MeasureSettings(operators=ALONE if operators else None),
        visits=visits,
        most_visits=max(visits, MOST_VISITS if visits > 1 else 1),
        budget_s=budget_s,
        shuffle=shuffle,
    )
    facts = {} if resume else {**buffer_costs(), "commit": commit_here()}
    run_campaign(
        cases,
        out,
        suite=suite,
        machine=machine,
        settings=settings,
        resume=resume,
        progress=progress,
        facts=facts,
        reserved_s=reserved_s,
    )
    return Run.open(out)


def most_telling_first(
    cases: Sequence[CaseSpec], machine: Machine, device: str = "cpu", progress: Progress = silent
) -> tuple[CaseSpec, ...]:
    """All cases, ordered by information per time; `progress` is called with the number examined. Nothing is measured: shapes come
    from the meta device, and each case's information from the model of a machine of this description. `InputError` for a GPU
    without a built-in profile."""
    from shmoo.calibrate.design.planning import plan
    from shmoo.calibrate.fit.base import base_profile
    from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
    from shmoo.calibrate.fit.fit import predicted_latency
    from shmoo.estimators.machine.coefficients import Coefficients

    base = base_profile(machine, device)
    planned = []
    for position, case in enumerate(cases):
        planned.append(MeasuredCase(case, (captured(case.workload, tuple(case.axes.items()), case.dtype),), 1.0))
        progress(Standing("planning", position + 1, len(cases)))
    latencies = np.zeros(len(cases))
    for block in blocks(planned, base):
        latencies[[case.runtime == block.runtime for case in cases]] = predicted_latency([block], Coefficients(base))
    costs = [_measuring_s(case, call_s) for case, call_s in zip(cases, latencies.tolist(), strict=True)]
    return tuple(cases[i] for i in plan(planned, base, costs))


def _measuring_s(case: CaseSpec, call_s: float) -> float:
    settings = MeasureSettings()
    window = settings.operator.warmup_s + settings.operator.max_s
    seconds = OVERHEAD_S + max(window, LEAST_SAMPLES * call_s)
    if case.runtime != "eager":
        return seconds + COMPILING_S
    return seconds if case.kind == "operator" else seconds + settings.children_s
