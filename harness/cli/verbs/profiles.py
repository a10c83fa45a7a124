"""`shmoo profiles`: the architectures, their coefficients, and the differences between two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, load_profile
from shmoo.estimators.predict.estimate_records import or_reason
from shmoo.estimators.shown_columns import Cell, quantity
from shmoo.estimators.units import percent, si, span
from shmoo.harness.cli import options, output
from shmoo.harness.cli.layout import View
from shmoo.harness.machine.architectures import default_names, load_architecture, own_profiles

EXAMPLES = """\b
Examples:
  shmoo profiles list
  shmoo profiles show gpu_h100
  shmoo profiles diff cpu_server_generic cpu_local
"""
NETWORKS, KERNELS = "networks of others", "kernels of others"
"""Splits of error cards from third-party measurements: networks not used by any fit, and kernels used to fit tensor cores."""
TESTS = {"networks": (NETWORKS,), "operators": (KERNELS, "test", "from published numbers")}
"""Kind of case in the list -> splits of error cards with its error; the first one in a profile is used."""


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@options.as_json
@click.pass_context
def profiles(ctx: click.Context, as_json: bool) -> None:
    """Architecture profiles: coefficients with unit, source and uncertainty. Without a sub-command, list them."""
    if options.without_subcommand(ctx, as_json):
        ctx.invoke(list_profiles, as_json=as_json)


@profiles.command("list", epilog="Example: shmoo profiles list --json", short_help="Built-in profiles and your own.")
@options.as_json
@options.view("by name")
def list_profiles(as_json: bool, view: View) -> None:
    """Every profile: built-in ones, and yours in the current directory and in your data directory."""
    listed, own_files = [], own_profiles()
    for name in sorted({*default_names(), *own_files}):
        try:
            profile = load_profile(own_files[name]) if name in own_files else load_architecture(name)
        except InputError as error:
            output.message(str(error))
            continue
        listed.append((str(own_files.get(name, "built in")), profile))
    rows: list[dict[str, Any]] = [
        {
            "name": profile.name,
            "family": profile.family,
            "default_runtime": profile.default_runtime,
            "levels": list(profile.levels),
            "fitted": sum(c.source == "fitted" for c in profile.coefficients.values()),
            "coefficients": len(profile.coefficients),
            "tested": tested(profile),
            "illustrative": profile.illustrative,
            "description": profile.description,
            "where": place,
        }
        for place, profile in listed
    ]
    if as_json:
        output.json_document(rows)
        return
    headings = ("name", "family", "runtime", "fitted", "tested error", "description")
    fitted = "{fitted} of {coefficients}"
    lines = [
        [r["name"], r["family"], r["default_runtime"], fitted.format_map(r), _tested(r["tested"]), r["description"]] for r in rows
    ]
    output.table(headings, lines, left=6, drop=("runtime", "fitted", "tested error"), view=view)


def tested(profile: ArchitectureProfile) -> dict[str, dict[str, float]]:
    """Kind of case -> number of cases and mean error, from a profile's error card."""
    kinds = {}
    for kind, splits in TESTS.items():
        groups = next((profile.error_card[split] for split in splits if split in profile.error_card), {})
        entries = [entry for entry in groups.values() if entry.n]
        if cases := sum(entry.n for entry in entries):
            kinds[kind] = {"n": cases, "mean": sum(entry.n * entry.mean for entry in entries) / cases}
    return kinds


def _tested(kinds: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{kind} {percent(of['mean'], digits=0)}" for kind, of in kinds.items()) or "none"


@profiles.command("show", epilog="Example: shmoo profiles show kpu_t256")
@click.argument("name")
@options.as_json
@options.view("by name")
def show_profile(name: str, as_json: bool, view: View) -> None:
    """Coefficients of one profile."""
    profile = load_architecture(name)
    if as_json:
        output.json_document(json.loads(profile.to_json()))
        return
    output.result(f"{profile.name}: {profile.description}")
    output.result(f"family {profile.family}, levels {' > '.join(profile.levels)}, tiling {profile.tiling.strategy}")
    headings = ["coefficient", "source", "value", "90 % range", "reference"]
    coefficients = sorted(profile.coefficients.items())
    lines = [[name, c.source, quantity(c.value, c.unit), _range(c), c.reference] for name, c in coefficients]
    output.table(headings, lines, left=2, drop=("reference", "90 % range"), view=view)
    if profile.residual:
        headings = ["residual of", "dtype", "runtime", "trees", "cases", "spread", "features"]
        fits = profile.residual
        lines = [[g.group, g.dtype, g.runtime, len(g.trees), g.cases, _share(g.spread), ", ".join(g.features)] for g in fits]
        output.table(headings, lines, left=3, drop=("features", "trees", "runtime"), view=View(wide=view.wide))
    show_errors(profile, view.wide)


def show_errors(profile: ArchitectureProfile, wide: bool) -> None:
    """Show errors on held-out cases, one table per kind of split."""
    for split, groups in profile.error_card.items():
        headings = (f"error: {split}", "n", "mean", "physics alone", "median", "p90", "bias", "in 90 % interval", "noise floor")
        lines = []
        for group, e in groups.items():
            mean, physics, middle, p90, coverage, noise = map(_share, (e.mean, e.physics, e.median, e.p90, e.coverage, e.noise))
            lines.append([group, e.n, mean, physics, middle, p90, f"{e.bias * 100:+.1f} %", coverage, noise])
        output.table(headings, lines, drop=("physics alone", "p90", "noise floor", "bias"), view=View(wide=wide))


@profiles.command("diff", epilog="Example: shmoo profiles diff gpu_a100_40g gpu_h100")
@click.argument("first")
@click.argument("second")
@options.as_json
@options.view("by name")
def diff_profiles(first: str, second: str, as_json: bool, view: View) -> None:
    """Coefficients in which two profiles differ."""
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
    ratios = (Cell("" if r["ratio"] is None else f"{r['ratio']:.3g}", r["ratio"]) for r in rows)
    lines = [[r["coefficient"], _side(r["first"]), _side(r["second"]), ratio] for r, ratio in zip(rows, ratios, strict=True)]
    output.table(["coefficient", a.name, b.name, "ratio"], lines, drop=("ratio",), view=view)


def _share(value: float | None) -> Cell:
    return quantity(value, "%", unknown="")


def _range(c: Coefficient) -> str:
    low, high = c.bounds
    return "" if low == high else span(low, high, c.unit, "-")


def _plain(c: Coefficient | None) -> dict[str, object] | None:
    return None if c is None else {"value": c.value, "unit": c.unit, "source": c.source}


def _side(plain: dict | None) -> str:
    return "" if plain is None else f"{si(plain['value'], plain['unit'])} ({plain['source']})"
