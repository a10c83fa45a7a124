"""`shmoo sweep`: a workload or a machine over one or two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.estimators.profile import ArchitectureProfile
    from shmoo.estimators.tabular import Record

EXAMPLES = """\b
Examples:
  shmoo sweep linear --axis n=64..8192 --arch cpu_server_generic,gpu_h100 --plot linear.html
  shmoo sweep resnet18 --axis batch=1..64 --csv resnet18.csv
  shmoo sweep resnet18 --profile-axis bandwidth.dram=25e9..400e9:9 --arch cpu_server_generic
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", metavar="WORKLOAD_OR_MODEL")
@click.option("--axis", "axes", multiple=True, metavar="NAME=64..8192[:n]", help="Workload axis: a log-spaced range or a list.")
@click.option(
    "--profile-axis", "profile_axes", multiple=True, metavar="NAME=...", help="Coefficient of the architecture, likewise."
)
@click.option("--set", "fixed", multiple=True, metavar="NAME=VALUE", help="Another workload axis, kept at one value.")
@options.archs
@click.option("--dtype", help="Element type. Default: float32.")
@click.option("--runtime", help="Runtime. Default: the architecture's own.")
@options.threads
@options.trust
@options.as_json
@click.option("--csv", "csv_path", type=click.Path(), help="Write the rows as CSV.")
@click.option("--plot", "plot_path", type=click.Path(), help="Draw the sweep into one self-contained .html file.")
def sweep(
    model: str,
    axes: tuple[str, ...],
    profile_axes: tuple[str, ...],
    fixed: tuple[str, ...],
    arch: tuple[str, ...],
    dtype: str | None,
    runtime: str | None,
    threads: int | None,
    trust: bool,
    as_json: bool,
    csv_path: str | None,
    plot_path: str | None,
) -> None:
    """Estimate a workload over one or two axes: of the workload (its sizes, batch) or of the architecture (memory, fabric,
    bandwidth). `shmoo profiles show ARCH` lists the coefficients."""
    workload_axes = _axes(axes, whole=True)
    machine_axes = _axes(profile_axes, whole=False)
    count = len(workload_axes) + len(machine_axes)
    if not 1 <= count <= 2:
        raise InputError(f"a sweep takes one or two axes, got {count}; such as --axis batch=1..64")
    if plot_path and Path(plot_path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--plot writes .html, got {plot_path!r}; name a file such as sweep.html, or use --csv for the numbers")
    profiles = _profiles(arch, runtime, machine_axes)
    rows = _rows(model, profiles, workload_axes, machine_axes, _settings(fixed), dtype, runtime, threads, trust)
    if csv_path:
        output.write_csv(csv_path, rows)
        output.message(f"wrote {len(rows)} rows to {csv_path}")
    if plot_path:
        from shmoo.runs.sweep_plot import sweep_figure

        figure = sweep_figure(rows, [*workload_axes, *machine_axes])
        figure.write_html(output.writing(plot_path), include_plotlyjs=True)
        output.message(f"drew {plot_path}")
    if as_json:
        output.json_document(rows)
    else:
        _show(rows, [*workload_axes, *machine_axes])


def _axes(texts: Sequence[str], *, whole: bool) -> dict[str, tuple]:
    axes = {}
    for text in texts:
        name, values = options.parse_axis(text, whole=whole)
        if name in axes:
            raise InputError(f"axis {name!r} is given twice; give it once")
        axes[name] = values
    return axes


def _settings(texts: Sequence[str]) -> dict[str, int | float | str]:
    settings = {}
    for name, values in _axes(texts, whole=True).items():
        if len(values) != 1:
            raise InputError(f"--set {name} takes one value, got {len(values)}; use --axis to sweep it")
        settings[name] = values[0]
    return settings


def _profiles(arch: Sequence[str], runtime: str | None, machine_axes: Mapping[str, Sequence]) -> list[ArchitectureProfile]:
    """The architectures of the sweep. Where none is named, the built-in ones that have the runtime and the coefficients swept."""
    from shmoo.harness.cli.estimate import choose_targets

    profiles = [profile for profile, _ in choose_targets(arch, (runtime,) if runtime else (), None)]
    if arch:
        return profiles
    fitting = [profile for profile in profiles if all(name in profile.coefficients for name in machine_axes)]
    if not fitting:
        known = {name for profile in profiles for name in profile.coefficients}
        missing = next(name for name in machine_axes if name not in known) if set(machine_axes) - known else None
        if missing is None:
            raise InputError(f"no architecture has all of {', '.join(machine_axes)}; sweep one of them at a time")
        raise unknown("coefficient", missing, known, "see `shmoo profiles show ARCH`")
    return fitting


def _rows(
    model: str,
    profiles: Sequence[ArchitectureProfile],
    axes: Mapping[str, Sequence],
    machine_axes: Mapping[str, Sequence[float]],
    settings: Mapping[str, int | float | str],
    dtype: str | None,
    runtime: str | None,
    threads: int | None,
    trust: bool,
) -> list[Record]:
    from shmoo.estimators.dtypes import compute_dtype
    from shmoo.estimators.sweep import SweepController
    from shmoo.harness.cli.progress import track
    from shmoo.harness.models import workload_source

    wanted = compute_dtype(dtype or "float32")
    with output.only_results_on_stdout():
        source, defaults = workload_source(model, dtype=wanted, trust=trust, asked={*axes, *settings})
        fixed = {name: value for name, value in {**defaults, **settings}.items() if name not in axes}
        controller = SweepController(model, source, profiles, axes, machine_axes, fixed)
        rows = controller.rows(runtime=runtime, dtype="tf32" if wanted == "tf32" else None, threads=threads)
        return list(track(rows, len(controller), "estimating"))


def _show(rows: Sequence[Record], axes: Sequence[str]) -> None:
    from shmoo.estimators.present import si, size

    lines = []
    for r in rows:
        values = [f"{r[name]:g}" if isinstance(r[name], float) else str(r[name]) for name in axes]
        interval = f"{si(r['latency_s_low'], 's')} - {si(r['latency_s_high'], 's')}"
        energy, rate = si(r["energy_j"], "J"), si(r["flops"] / r["latency_s"], "flop/s")
        lines.append(
            [
                str(r["arch"]),
                *values,
                si(r["latency_s"], "s"),
                interval,
                rate,
                energy,
                size(r["peak_memory_bytes"]),
                si(r["tiles"], ""),
            ]
        )
    output.table(["arch", *axes, "latency", "90 % interval", "achieved", "energy", "memory", "tiles"], lines)
