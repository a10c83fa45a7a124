"""`shmoo characterize`: doctor, measure, calibrate, estimate, report, in one run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.estimators.profile import ArchitectureProfile
    from shmoo.runs.records import CaseSpec, Machine
    from shmoo.runs.store import Run

COMPILED = ("mobilenet_v3_large", "regnet_y_400mf", "vit_b_16")
"""Networks that are also measured compiled: a depthwise, a grouped-convolution and a transformer network, each of which Inductor
compiles in about a minute or less on two cores."""
SHARE_OF_NETWORKS = 0.36
"""Part of the time budget that is kept for the networks."""
MARGIN_S = 90.0
"""Time kept for importing, calibrating and reporting."""
EXAMPLES = """\b
Examples:
  shmoo characterize
  shmoo characterize --quick --out my-machine
  shmoo characterize --out my-machine --resume
"""


@click.command(epilog=EXAMPLES, short_help="Measure, calibrate, predict, report: all of it.")
@click.option("--quick", is_flag=True, help="Few operators and networks, one pass: a first look in a few minutes.")
@click.option(
    "--budget", type=click.FloatRange(min=2), default=14.0, show_default=True, metavar="MINUTES", help="Time to stay within."
)
@options.threads
@click.option("--name", default="cpu_local", show_default=True, help="Name of the profile.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the fit.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory. Default: a new one under ./shmoo-runs.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--force", is_flag=True, help="Replace your profile of that name; otherwise a number is added to the name.")
@options.as_json
def characterize(
    quick: bool,
    budget: float,
    threads: int | None,
    name: str,
    seed: int,
    out: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Measure this machine, calibrate a model of it, predict real networks on it and on three other architectures, and show the
    error. Everything lands in one run directory; the profile also becomes yours to use by name.

    The profile is calibrated on operators and synthetic models only; the networks test it.
    """
    import time

    from shmoo.estimators.errors import InputError
    from shmoo.harness.cli.doctor import show_doctor
    from shmoo.harness.cli.report import TARGETS, report_record, show_report, write
    from shmoo.harness.machine import doctor, probe_machine
    from shmoo.harness.paths import new_run_directory

    if resume and out is None:
        raise InputError("--resume needs --out: which run to go on with")
    begin = time.monotonic()
    if not as_json:
        show_doctor(doctor())
        output.result("")
    machine = probe_machine(threads)
    target = out if out is not None else new_run_directory("characterize")
    run = measure_all(target, machine, quick, resume, begin + 60 * budget)
    profile = calibrated(run, name, seed, force)
    output.message(f"estimating the networks on {profile.name}, {', '.join(TARGETS)}")
    made, estimates = write(run, profile, target / "report", TARGETS)
    output.message(f"took {(time.monotonic() - begin) / 60:.1f} minutes; open {target / 'report' / 'report.html'}")
    if as_json:
        output.json_document({"run": str(target), **report_record(made), "estimates": estimates})
    else:
        output.result("")
        show_report(made, estimates)


def plan(machine: Machine, quick: bool) -> tuple[tuple[CaseSpec, ...], tuple[CaseSpec, ...], tuple[CaseSpec, ...]]:
    """Cases to calibrate on, networks in eager, and what is measured compiled: the suite that tells the fit about Inductor, and a
    few networks."""
    import msgspec

    from shmoo.harness.workloads.suites import plan_suite

    calibration, networks = plan_suite("quick" if quick else "micro", machine), plan_suite("nets", machine)
    few = tuple(case for case in networks if case.workload in COMPILED)
    if quick:
        return calibration, few, ()
    compiled = plan_suite("compiled", machine, runtimes=("inductor",))
    return calibration, networks, (*compiled, *(msgspec.structs.replace(case, runtime="inductor") for case in few))


def measure_all(out: Path, machine: Machine, quick: bool, resume: bool, deadline: float) -> Run:
    """Three campaigns into one run: what calibrates, networks twice (for their own spread), some of them compiled."""
    import time

    from shmoo.harness.cli.measure import campaign, in_telling_order

    calibration, networks, compiled = plan(machine, quick)
    again = [case.workload for case in compiled if case.kind == "network"]
    output.message(
        f"plan: {len(calibration)} operators and synthetic models, {len(networks)} networks in eager"
        + (f"; in Inductor too: {', '.join(again)} and {len(compiled) - len(again)} of these" if compiled else "")
    )
    left = deadline - MARGIN_S - time.monotonic()
    suite = "characterize"
    if not quick:
        # Where time runs out, what is left unmeasured tells least.
        calibration = in_telling_order(calibration, machine, "cpu")
    share = max(30.0, (1 - SHARE_OF_NETWORKS) * left)
    campaign(calibration, out, suite, machine, resume=resume, budget_s=share, shuffle=False)
    left = deadline - MARGIN_S - time.monotonic()
    run = campaign(networks, out, suite, machine, resume=True, passes=1 if quick else 2, budget_s=max(30.0, left))
    left = deadline - MARGIN_S - time.monotonic()
    if compiled and left > 0:
        run = campaign(compiled, out, suite, machine, resume=True, budget_s=left)
    for row in run.rows:
        if row.status == "failed":
            output.message(f"failed: {row.case.label}: {'; '.join(row.reasons)}")
    return run


def calibrated(run: Run, name: str, seed: int, force: bool) -> ArchitectureProfile:
    """The fitted profile, written into the run and among the user's own under a free name (or the same, with force)."""
    from shmoo.harness.cli.calibrate import fit, profile_path

    target, count = profile_path(name), 2
    while target.exists() and not force:
        target, count = profile_path(f"{name}-{count}"), count + 1
    made = fit((run.path,), None, target.stem, seed)
    for note in made.notes:
        output.message(note)
    data = made.profile.to_json()
    output.writing(target).write_bytes(data)
    # A run that is characterised again keeps its older profiles.
    beside, count = run.path / "profile.json", 2
    while beside.exists():
        beside, count = run.path / f"profile-{count}.json", count + 1
    beside.write_bytes(data)
    output.message(f"wrote {target}; use it with --arch {target.stem}")
    return made.profile
