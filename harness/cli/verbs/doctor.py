"""`shmoo doctor`: this machine, and what can be measured on it."""

from __future__ import annotations

import click
import msgspec

from shmoo.estimators.predict.estimate_records import or_reason
from shmoo.estimators.units import percent, si, size, span
from shmoo.harness.cli import options, output
from shmoo.harness.defaults import VISITS
from shmoo.harness.machine.doctor import DoctorReport
from shmoo.harness.machine.doctor import doctor as examine
from shmoo.harness.machine.host_times import keep_host
from shmoo.harness.measuring.watch.corewatch import Neighbours, watch_neighbours

QUIET_SHARE = 0.1
"""Share of the time in which cores are slow or used by others, from which they have neighbours."""
EXAMPLES = """\b
Examples:
  shmoo doctor
  shmoo doctor --full --json
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--full",
    is_flag=True,
    help="Also list torch's compile back-ends, and time launches for --host local (takes a few seconds).",
)
@options.as_json
def doctor(full: bool, as_json: bool) -> None:
    """This machine: CPU, caches, instruction sets, clock policy, memory, GPUs, and energy counters with their domains, or why
    there are none and how to get them."""
    with output.only_results_on_stdout():
        report = examine(full=full)
    if report.host is not None:
        keep_host(report.host)
    neighbours = watch_neighbours()
    if as_json:
        optional = {name: getattr(report, name) for name in ("backends", "host")}
        backends = {
            key: v for n, value in optional.items() for key, v in or_reason(n, value, "not asked for; add --full").items()
        }
        neighbour_record = neighbours and {**msgspec.to_builtins(neighbours), "expected_error": neighbours.expected_error(VISITS)}
        beside = or_reason("neighbours", neighbour_record, "threads cannot be pinned to cores here")
        output.json_document({"format": 1, **msgspec.to_builtins(report), **backends, **beside})
    else:
        show_doctor(report)
        show_neighbours(neighbours)


def show_neighbours(neighbours: Neighbours | None) -> None:
    """Show the load on the cores while they were watched, and the accuracy to expect."""
    if neighbours is None:
        output.facts({"neighbours": "unknown: threads cannot be pinned to cores here"})
        return
    expected = f"expect times within {percent(neighbours.expected_error(VISITS))} (standard error of {VISITS} visits)"
    sentences = []
    if neighbours.slow_share >= QUIET_SHARE:
        share = percent(neighbours.slow_share, digits=0)
        sentences.append(f"some core slow {share} of the time, typically {neighbours.slowdown:.1f} times")
    if neighbours.cores_used >= QUIET_SHARE:
        sentences.append(f"other programs use {neighbours.cores_used:.1f} cores")
    output.facts({"neighbours": f"{' and '.join(sentences) or 'none seen'}: {expected}"})


def show_doctor(report: DoctorReport) -> None:
    """Show the report for people."""
    machine = report.machine
    caches = ", ".join(
        f"{level} {size(capacity)}"
        + (f" per {machine.cache_shared_by[level]} CPUs" if machine.cache_shared_by.get(level, 1) > 1 else "")
        for level, capacity in machine.cache_bytes.items()
    )
    torch = f"torch {machine.torch}" if machine.torch else "torch not installed"
    facts = {
        "CPU": machine.cpu_model,
        "cores": f"{machine.cores_physical} physical, {machine.cores_logical} logical; threads of an operator: {machine.threads}",
        "caches": caches or "unknown",
        "ISA": " ".join(machine.isa) or "unknown",
        "clock": machine.clock_policy or "not reported by the system",
        "memory": size(machine.memory_bytes),
        "software": ", ".join(filter(None, (machine.os, f"Python {machine.python}", torch, machine.allocator))),
    }
    for gpu in report.gpus:
        memory = "memory unknown" if gpu.memory_bytes is None else size(gpu.memory_bytes)
        facts[f"GPU {gpu.name}"] = f"{memory}, driver {gpu.driver}"
    for counter in report.energy:
        facts[f"energy {counter.name}"] = f"{', '.join(counter.domains)}; updates every {counter.update_period_s * 1e3:.3g} ms"
    if report.backends is not None:
        facts["torch.compile"] = " ".join(report.backends)
    if report.host is not None:
        times = f"{si(report.host.launch_s, 's')} ({span(report.host.low_s, report.host.high_s, 's')})"
        facts["host"] = f"a launch takes {times}: {report.host.source}; kept for --host local"
    output.facts(facts)
    notes = [f"{f.topic}: {f.found}" + (f"; {f.remedy}" if f.remedy else "") for f in report.findings if f.level != "ok"]
    # Each cause is shown once: without its binding a card has neither facts nor a counter.
    notes_text = "\n".join(notes)
    unmentioned = [f"energy {name}: {reason}" for name, reason in report.energy_missing.items() if reason not in notes_text]
    if unmentioned or notes:
        output.result("\nWorth knowing")
        for line in (*unmentioned, *notes):
            output.facts({"-": line})
