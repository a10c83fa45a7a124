"""`shmoo profiles`: which architectures there are, their coefficients, and how two differ."""

from __future__ import annotations

import json
from operator import attrgetter, itemgetter
from typing import Any

import click

from shmoo.estimators.columns import Cell, Column, quantity
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, load_profile
from shmoo.estimators.units import si, span
from shmoo.harness.cli import options, output
from shmoo.harness.cli.layout import View

EXAMPLES = """\b
Examples:
  shmoo profiles list
  shmoo profiles show gpu_h100
  shmoo profiles diff cpu_server_generic cpu_local
"""


@click.group(invoke_without_command=True, epilog=EXAMPLES, short_help="Architecture profiles: every coefficient and its source.")
@options.as_json
@click.pass_context
def profiles(ctx: click.Context, as_json: bool) -> None:
    """Architecture profiles: coefficients with unit, source and uncertainty. Without a sub-command, list them."""
    if options.alone(ctx, as_json):
        ctx.invoke(list_profiles, as_json=as_json)


@profiles.command("list", epilog="Example: shmoo profiles list --json", short_help="Built-in profiles and your own.")
@options.as_json
@options.view("by name")
def list_profiles(as_json: bool, view: View) -> None:
    """Every profile: built-in ones, and your own: in the current directory and in your data directory."""
    from shmoo.harness.machine.architectures import default_names, load_architecture, own_profiles

    found, own = [], own_profiles()
    for name in sorted({*default_names(), *own}):
        try:
            profile = load_profile(own[name]) if name in own else load_architecture(name)
        except InputError as error:
            output.message(str(error))
            continue
        found.append((str(own.get(name, "built in")), profile))
    rows: list[dict[str, Any]] = [
        {
            "name": profile.name,
            "family": profile.family,
            "default_runtime": profile.default_runtime,
            "levels": list(profile.levels),
            "fitted": sum(c.source == "fitted" for c in profile.coefficients.values()),
            "coefficients": len(profile.coefficients),
            "illustrative": profile.illustrative,
            "description": profile.description,
            "where": where,
        }
        for where, profile in found
    ]
    if as_json:
        output.json_document(rows)
        return
    columns = [
        Column(name, itemgetter(field)) for name, field in (("name",) * 2, ("family",) * 2, ("runtime", "default_runtime"))
    ]
    columns += [
        Column("fitted", lambda r: f"{r['fitted']} of {r['coefficients']}"),
        Column("description", itemgetter("description")),
    ]
    output.table(columns, rows, left=5, drop=("runtime", "fitted"), view=view)


@profiles.command("show", epilog="Example: shmoo profiles show kpu_t256")
@click.argument("name")
@options.as_json
@options.view("by name")
def show_profile(name: str, as_json: bool, view: View) -> None:
    """Coefficients of one profile."""
    from shmoo.harness.machine.architectures import load_architecture

    profile = load_architecture(name)
    if as_json:
        output.json_document(json.loads(profile.to_json()))
        return
    output.result(f"{profile.name}: {profile.description}")
    output.result(f"family {profile.family}, levels {' > '.join(profile.levels)}, tiling {profile.tiling.strategy}")
    output.table(COEFFICIENTS, sorted(profile.coefficients.items()), left=2, drop=("reference", "90 % range"), view=view)
    if profile.residual:
        output.table(RESIDUALS, profile.residual, left=3, drop=("features", "trees", "runtime"), view=View(wide=view.wide))
    show_errors(profile, view.wide)


def show_errors(profile: ArchitectureProfile, wide: bool) -> None:
    """Errors on held-out cases, a table for each way they were held out."""
    for split, groups in profile.error_card.items():
        columns = [Column(f"error: {split}", itemgetter(0)), *ERRORS]
        output.table(columns, groups.items(), drop=("physics alone", "p90", "noise floor", "bias"), view=View(wide=wide))


@profiles.command("diff", epilog="Example: shmoo profiles diff gpu_a100_40g gpu_h100")
@click.argument("first")
@click.argument("second")
@options.as_json
@options.view("by name")
def diff_profiles(first: str, second: str, as_json: bool, view: View) -> None:
    """Coefficients in which two profiles differ."""
    from shmoo.estimators.predict.tabular import or_reason
    from shmoo.harness.machine.architectures import load_architecture

    a, b = load_architecture(first), load_architecture(second)
    rows = []
    for key in sorted({*a.coefficients, *b.coefficients}):
        old, new = a.get(key), b.get(key)
        if old is not None and new is not None and (old.value, old.unit, old.source) == (new.value, new.unit, new.source):
            continue
        ratio = new.value / old.value if old is not None and new is not None and old.value else None
        rows.append(
            {
                "coefficient": key,
                **or_reason("first", _plain(old), f"{a.name} has no such coefficient"),
                **or_reason("second", _plain(new), f"{b.name} has no such coefficient"),
                **or_reason("ratio", ratio, "takes two values, the first not 0"),
            }
        )
    if as_json:
        output.json_document({"format": 1, "first": a.name, "second": b.name, "differences": rows})
        return
    columns = [Column("coefficient", itemgetter("coefficient"))]
    columns += [Column(name, lambda r, s=side: _side(r[s])) for name, side in ((a.name, "first"), (b.name, "second"))]
    columns += [Column("ratio", lambda r: Cell("" if r["ratio"] is None else f"{r['ratio']:.3g}", r["ratio"]))]
    output.table(columns, rows, drop=("ratio",), view=view)


def coefficient_range(c: Coefficient) -> str:
    """The 90 % range as text, "" for a value without one."""
    low, high = c.bounds
    return "" if low == high else span(low, high, c.unit, "-")


def _plain(c: Coefficient | None) -> dict[str, object] | None:
    return None if c is None else {"value": c.value, "unit": c.unit, "source": c.source}


def _side(plain: dict | None) -> str:
    return "" if plain is None else f"{si(plain['value'], plain['unit'])} ({plain['source']})"


COEFFICIENTS = (
    Column("coefficient", itemgetter(0)),
    Column("source", lambda item: item[1].source),
    Column("value", lambda item: quantity(item[1].value, item[1].unit)),
    Column("90 % range", lambda item: coefficient_range(item[1])),
    Column("reference", lambda item: item[1].reference),
)
RESIDUALS = (
    Column("residual of", attrgetter("group")),
    Column("dtype", attrgetter("dtype")),
    Column("runtime", attrgetter("runtime")),
    Column("trees", lambda g: len(g.trees), "#"),
    Column("cases", attrgetter("cases"), "#"),
    Column("spread", attrgetter("spread"), "%", ""),
    Column("features", lambda g: ", ".join(g.features)),
)
ERRORS = (
    Column("n", lambda item: item[1].n, "#"),
    Column("mean", lambda item: item[1].mean, "%", ""),
    Column("physics alone", lambda item: item[1].physics, "%", ""),
    Column("median", lambda item: item[1].median, "%", ""),
    Column("p90", lambda item: item[1].p90, "%", ""),
    Column("bias", lambda item: f"{item[1].bias * 100:+.1f} %"),
    Column("in 90 % interval", lambda item: item[1].coverage, "%", ""),
    Column("noise floor", lambda item: item[1].noise, "%", ""),
)
"""Of a group's name with its errors."""
