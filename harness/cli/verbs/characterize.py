"""`shmoo characterize`: doctor, measure, calibrate, estimate, report, in one run directory."""

from __future__ import annotations

import errno
import random
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from shmoo.calibrate.fit.base import base_profile
from shmoo.estimators.errors import InputError, NothingMeasuredError, StorageError
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.campaign.cases import check_device, measure_cases, usable_device
from shmoo.harness.cli import options, output
from shmoo.harness.cli.hurry import Hurry, Previews, resumed
from shmoo.harness.cli.layout import View
from shmoo.harness.cli.progress import Display
from shmoo.harness.cli.verbs import calibrate, doctor
from shmoo.harness.cli.verbs.measure import campaign_progress, tell_failed
from shmoo.harness.cli.verbs.report import TARGETS, judged, report_record, show_report, write
from shmoo.harness.defaults import LOCAL, LOCAL_GPU, free_path, run_directory
from shmoo.harness.machine.doctor import doctor as examine
from shmoo.harness.machine.doctor import probe_machine
from shmoo.harness.measuring.watch.corewatch import watch_neighbours
from shmoo.harness.workloads.suites import plan_suite
from shmoo.runs.store.files import own_folder, replace_file
from shmoo.runs.store.records import CaseSpec, Machine
from shmoo.runs.store.store import MANIFEST, Run, holds_run

COMPILED = ("mobilenet_v3_large", "regnet_y_400mf", "vit_b_16")
"""Networks that are also measured compiled: a depthwise, a grouped-convolution and a transformer network. Inductor compiles each
in about a minute or less on two cores."""
PREVIEW = "resnet18"
"""The network of the first preview."""
PREVIEW_OPERATORS = 2
"""Cases of each operator and synthetic model that are measured before the first preview."""
VISITS = 2
"""Visits to every case; the remaining time goes to the most uncertain cases."""
REPORTING_SHARE = 0.4
"""Share of that time for the report."""
LEAST_BUDGET = 0.5
"""Minutes needed to examine the machine, visit some cases, fit quickly and report."""
ENOUGH_MEASURED, ENOUGH_USABLE = 0.95, 0.9
"""Shares of the plan that a good campaign reaches, and of those that it can use."""
GPU_DTYPES = ("float32", "bfloat16")
"""Types of cases on a GPU: networks use both, operators and synthetic models alternate."""
GPU_BATCHES = (1, 16)
"""Batch sizes of networks on a GPU; at 1 most of them wait for the host."""
BUDGET = 10.0
"""Default budget in minutes."""
OVER = 1.05
"""Factor over the budget from which the command reports that it took longer."""
SHORTEST_S = 10.0
"""Shortest time of a campaign."""
WEAK = 1
"""Exit code where everything ran but the result is weak."""
EXAMPLES = """\b
Examples:
  shmoo characterize
  shmoo characterize --quick --out my-machine
  shmoo characterize --device cuda
  shmoo characterize --out my-machine --resume
"""


@click.command(epilog=EXAMPLES)
@click.option("--quick", is_flag=True, help="Few operators and networks, one pass: a first look in a few minutes.")
@click.option("--device", help="cpu or cuda. Default: cuda where torch can use a GPU, else cpu.")
@options.budget(f"{BUDGET:g}")
@options.threads(f"{options.MEASURED_THREADS}; takes one")
@options.profile_name(f"{LOCAL}, on a GPU {LOCAL_GPU}")
@options.seed
@options.out(options.NEW_RUN)
@options.resume
@options.force("add a number to the name")
@options.as_json
@options.wide
def characterize(
    quick: bool,
    device: str | None,
    budget: float | None,
    threads: int | None,
    name: str | None,
    seed: int,
    out: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
    wide: bool,
) -> None:
    """Measure this machine's CPU or GPU, calibrate a model of it, predict real networks on it and on three other architectures,
    and show the error. Everything is in one run directory; the profile is also added to your profiles.

    The profile is calibrated on operators and synthetic models only; the networks test it.
    """
    budget_s = 60 * (budget or BUDGET)
    if budget_s < 60 * LEAST_BUDGET:
        raise InputError(
            f"--budget {budget:g} is too short to measure, calibrate and report; give at least {LEAST_BUDGET:g} minutes"
        )
    target = run_directory(out, resume, "characterize")
    holds_run(target, resume)
    for folder in (calibrate.profile_path(name or LOCAL, force).parent, target):
        output.check_folder(folder)
    begin = time.monotonic()
    machine = probe_machine(threads)
    device = usable_device(machine) if device is None else device
    check_device(device, machine)
    name = name or (LOCAL if device == "cpu" else LOCAL_GPU)
    calibrate.profile_path(name, force)  # refuses a name before anything is measured
    if not as_json:
        doctor.show_doctor(examine())
        doctor.show_neighbours(watch_neighbours())
        output.result("")
    previews = Previews(target, begin, budget_s)
    with Display() as display:
        planned = plan(machine, quick, device, display)
    run, weak, interrupted = measure_all(target, machine, planned, resume, begin + budget_s, previews)
    if not any(row.timed for row in run.rows):
        raise NothingMeasuredError(f"nothing could be timed here; `shmoo check {run.path}` gives the reason")
    with Hurry(begin + budget_s - REPORTING_SHARE * previews.finishing_s, interrupted) as hurry:
        profile, unfitted = calibrated(run, device, name, seed, force, hurry)
        unkept = _unkept(lambda: keep(profile, run, force))
        with Display() as display:
            display(Standing("reporting", now=f"estimating the networks on {profile.name}, {', '.join(TARGETS)}"))
            error_report, estimates = judged(run, profile, TARGETS)
            unkept = _unkept(lambda: write(run, error_report, estimates, own_folder(target / "report"))) or unkept
    if hurry.interrupted and not weak:
        weak = f"interrupted while calibrating or reporting; `{_full_fit(run, profile.name)}` fits in full"
    taken_s = time.monotonic() - begin
    output.message(f"took {taken_s / 60:.1f} minutes" + ("" if unkept else f"; open {target / 'report' / 'report.html'}"))
    if taken_s > OVER * budget_s:
        output.message(
            f"that is more than the budget of {budget_s / 60:g} min: the running visit, a short fit and the report are always "
            "finished, and they take longer on a busy machine"
        )
    if as_json:
        output.json_document({"run": str(target), **report_record(error_report), "estimates": estimates})
    else:
        output.result("")
        show_report(error_report, estimates, View(wide=wide))
    if unkept:
        fit, report = _full_fit(run, profile.name), f"shmoo report {run.path}"
        unkept = f"not everything was written ({unkept}): make room, then `{fit}` and `{report}`"
    if sentences := [*filter(None, (weak or unfitted, unkept))]:
        for sentence in sentences:
            output.message(sentence)
        raise click.exceptions.Exit(WEAK)


class Plan(NamedTuple):
    """The cases to measure: cases for the calibration, networks in eager, and compiled cases (a suite that shows Inductor's
    effects to the fit, and a few networks). Every case gets at least `visits` visits."""

    calibration: tuple[CaseSpec, ...]
    networks: tuple[CaseSpec, ...]
    compiled: tuple[CaseSpec, ...]
    visits: int = VISITS


def plan(machine: Machine, quick: bool, device: str = "cpu", progress: Progress = silent) -> Plan:
    """The plan for a device, "cpu" or "cuda"; a quick one has few cases, one visit to each, and compiles nothing."""
    replace = msgspec.structs.replace
    calibration = plan_suite("quick" if quick else "micro", machine, device=device, progress=progress)
    networks = plan_suite("nets", machine, device=device)
    compiled = () if quick else plan_suite("compiled", machine, device=device, runtimes=("inductor",))
    if device == "cuda":
        calibration, compiled = _in_turn(calibration), _in_turn(compiled)
        networks = tuple(
            replace(case, axes={"batch": batch}, dtype=dtype)
            for case in networks
            for batch in GPU_BATCHES
            for dtype in GPU_DTYPES
        )
    compiled_networks = tuple(case for case in networks if case.workload in COMPILED)
    if quick:
        return Plan(calibration, compiled_networks, (), visits=1)
    return Plan(calibration, networks, (*compiled, *(replace(case, runtime="inductor") for case in compiled_networks)))


def _in_turn(cases: Sequence[CaseSpec]) -> tuple[CaseSpec, ...]:
    """The cases, in random order, with the types of a GPU in turn."""
    return tuple(msgspec.structs.replace(case, dtype=GPU_DTYPES[i % len(GPU_DTYPES)]) for i, case in enumerate(cases))


def in_order(eager: Sequence[CaseSpec]) -> list[CaseSpec]:
    """The order of first visits: enough of everything for a preview, one network, then the other cases at random."""
    shuffled = random.Random(0).sample(list(eager), len(eager))
    counts: dict[str, int] = {}
    first: list[CaseSpec] = []
    later: list[CaseSpec] = []
    for case in shuffled:
        counts[case.workload] = counts.get(case.workload, 0) + 1
        enough = counts[case.workload] > PREVIEW_OPERATORS if case.kind != "network" else case.workload != PREVIEW
        (later if enough else first).append(case)
    return [*sorted(first, key=lambda case: case.kind == "network"), *later]


def measure_all(
    out: Path, machine: Machine, planned: Plan, resume: bool, end: float, previews: Previews
) -> tuple[Run, str, bool]:
    """Measure into one run: cases for the calibration and networks in eager, then compiled cases.

    Args:
        end: of the command's budget on `time.monotonic`'s clock; `previews` has the part of it reserved for later.

    Returns:
        The run, a sentence on its weakness or "", and whether it was interrupted.
    """
    # Single operators compile fastest and networks slowest.
    compiled = sorted(planned.compiled, key=lambda case: ("operator", "synthetic", "network").index(case.kind))
    compiled_names = dict.fromkeys(case.workload for case in compiled if case.kind == "network")
    parts = sum(case.kind != "network" for case in compiled)
    output.message(
        f"plan: {len(planned.calibration)} operators and synthetic models, {len(planned.networks)} networks in eager"
        + (f"; in Inductor too: {parts} of these and {', '.join(compiled_names)}" if compiled else "")
    )
    deadline = end - previews.finishing_s
    cases = [*in_order((*planned.calibration, *planned.networks)), *compiled]
    weak, interrupted = "", False
    try:
        with campaign_progress(len(cases), out, "characterize", previews) as progress:
            measure_cases(
                cases,
                out,
                "characterize",
                machine,
                resume=resume,
                visits=planned.visits,
                budget_s=max(deadline - time.monotonic(), SHORTEST_S),
                shuffle=False,
                progress=progress,
                reserved_s=previews.grown_s,
            )
    except KeyboardInterrupt:
        if not (out / MANIFEST).exists() or not Run.open(out).rows:
            raise
        weak, interrupted = f"interrupted: the result uses the measurements so far; `{resumed(out)}` continues", True
        output.message("interrupted: calibrating and reporting with the measurements so far (Ctrl-C again to stop)")
    except StorageError as error:
        if not Run.open(out).rows:
            raise
        weak = f"{error}: `{resumed(out)}`"
        output.message("the disk is full: calibrating and reporting with the measurements so far")
    run = Run.open(out)
    tell_failed(run)
    return run, weak or weakness(run, len(cases), resumed(out)), interrupted


def weakness(run: Run, planned: int, resumed: str) -> str:
    """A sentence on the weakness of a run and the remedy, or "". `resumed` is the command that resumes the run."""
    measured, usable = len(run.rows), sum(row.timed for row in run.rows)
    if measured < ENOUGH_MEASURED * planned:
        reached = f"only {measured} of {planned} cases were reached, so some operators are estimated from others"
        return f"{reached}; continue with `{resumed}`"
    if usable < ENOUGH_USABLE * measured:
        return f"only {usable} of {measured} cases can be used; `shmoo check {run.path}` gives reasons and remedies"
    return ""


def _full_fit(run: Run, name: str) -> str:
    """The command for a full fit of a run."""
    return shlex.join(["shmoo", "calibrate", str(run.path), "--name", name, "--force"])


def calibrated(run: Run, device: str, name: str, seed: int, force: bool, hurry: Hurry) -> tuple[ArchitectureProfile, str]:
    """The fitted profile, under a free name among the user's profiles (with force, the given name). If too little was measured,
    the profile is the machine's description, and a sentence says so."""
    target, unfitted = calibrate.profile_path(name, force), ""
    if not force:
        target = free_path(target)
    try:
        calibration = calibrate.fit((run.path,), None, target.stem, seed, hurry=hurry)
        profile = calibration.profile
        if calibration.hurried:
            output.message(f"the fit was cut short; `{_full_fit(run, target.stem)}` fits in full")
        for note in calibration.notes if output.verbose() else ():
            output.message(note)
    except (InputError, NothingMeasuredError) as error:
        profile = msgspec.structs.replace(base_profile(run.manifest.machine, device), name=target.stem)
        unfitted = (
            f"too little was measured to fit a model ({error}), so the profile is the machine's description; continue with "
            f"`{resumed(run.path)}`"
        )
    return profile, unfitted


def keep(profile: ArchitectureProfile, run: Run, force: bool) -> None:
    """Write a profile to the user's profiles and beside the rows of its run, which keeps its earlier profiles."""
    data = profile.to_json()
    replace_file(free_path(run.path / "profile.json"), data)
    target = calibrate.profile_path(profile.name, force)
    output.write(target, data)
    output.message(f"wrote {target}; use it with --arch {target.stem}")


def _unkept(write: Callable[[], object]) -> str:
    """Write results; returns the system's reason for refusing them, or ""."""
    try:
        write()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        return error.strerror or str(error)
    return ""
