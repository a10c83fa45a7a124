"""`shmoo doctor`: what this machine is and what can be measured on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.harness.machine import DoctorReport

EXAMPLES = """\b
Examples:
  shmoo doctor
  shmoo doctor --full --json
"""


@click.command(epilog=EXAMPLES, short_help="What this machine is, and what can be measured on it.")
@click.option("--full", is_flag=True, help="Also ask torch for its compile back-ends (takes a few seconds).")
@options.as_json
def doctor(full: bool, as_json: bool) -> None:
    """This machine: CPU, caches, instruction sets, clock policy, memory, GPUs, energy counters with their domains, or why there
    are none and what to do about it."""
    from shmoo.harness.machine import doctor as examine

    with output.only_results_on_stdout():
        report = examine(full=full)
    if as_json:
        import msgspec

        from shmoo.estimators.tabular import or_reason

        backends = or_reason("backends", report.backends, "not asked for; add --full")
        output.json_document({"format": 1, **msgspec.to_builtins(report), **backends})
    else:
        show_doctor(report)


def show_doctor(report: DoctorReport) -> None:
    """The report for people."""
    from shmoo.estimators.present import size

    machine = report.machine
    caches = ", ".join(
        f"{level} {size(capacity)}"
        + (f" per {machine.cache_shared_by[level]} CPUs" if machine.cache_shared_by.get(level, 1) > 1 else "")
        for level, capacity in machine.cache_bytes.items()
    )
    torch = f"torch {machine.torch}" if machine.torch else "torch not installed"
    facts = {
        "CPU": machine.cpu_model,
        "cores": f"{machine.cores_physical} physical, {machine.cores_logical} logical; operators use {machine.threads} threads",
        "caches": caches or "unknown",
        "ISA": " ".join(machine.isa) or "unknown",
        "clock": machine.clock_policy or "the system does not tell",
        "memory": size(machine.memory_bytes),
        "software": ", ".join(filter(None, (machine.os, f"Python {machine.python}", torch, machine.allocator))),
    }
    for gpu in report.gpus:
        facts[f"GPU {gpu.name}"] = f"{size(gpu.memory_bytes)}, driver {gpu.driver}"
    for counter in report.energy:
        facts[f"energy {counter.name}"] = f"{', '.join(counter.domains)}; updates every {counter.update_period_s * 1e3:.3g} ms"
    if report.backends is not None:
        facts["torch.compile"] = " ".join(report.backends)
    width = max(map(len, facts))
    for name, value in facts.items():
        output.result(f"{name.ljust(width)}  {value}")
    missing = [f"energy {name}: {reason}" for name, reason in report.energy_missing.items()]
    notes = [f"{f.topic}: {f.found}" + (f"; {f.remedy}" if f.remedy else "") for f in report.findings if f.level != "ok"]
    if missing or notes:
        output.result("\nWorth knowing")
        for line in (*missing, *notes):
            output.result(f"  {line}")
