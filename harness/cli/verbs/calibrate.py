"""`shmoo calibrate`: measurements in, an architecture profile out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile, Reduction, builtin_names
from shmoo.estimators.machine.validation import check_name
from shmoo.estimators.progress import Standing
from shmoo.estimators.shown_columns import quantity
from shmoo.estimators.units import counted, percent, span
from shmoo.harness.cli import options, output
from shmoo.harness.cli.progress import Display
from shmoo.harness.cli.verbs.profiles import show_errors
from shmoo.harness.defaults import LOCAL, user_profiles

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import Calibration

EXAMPLES = """\b
Examples:
  shmoo calibrate shmoo-runs/20260101T120000Z-micro
  shmoo calibrate a100.csv --base gpu_a100_40g -o my_a100.json
  shmoo calibrate shmoo-runs/20260101T120000Z-micro --curve
  shmoo calibrate october/hosts/*/run --pool --name cpu_of_the_lab
"""


@click.command(epilog=EXAMPLES, short_help="Fit a model of one machine to its measurements.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.base("this machine's description; operator tables need one")
@options.out("your own profiles, by name")
@options.profile_name("the file's, else cpu_local, or NAME_calibrated with --base NAME")
@options.seed
@options.no_residual
@options.reduction("the one that explains the measurements")
@click.option(
    "--curve", is_flag=True, help="Show how much measuring is enough: the error against cases and minutes. Writes no profile."
)
@click.option(
    "--pool",
    is_flag=True,
    help="Each SOURCE is another machine of one kind: a profile of the kind, with their spread in its ranges.",
)
@options.force("refuse")
@options.as_json
def calibrate(
    sources: tuple[Path, ...],
    base: str | None,
    out: Path | None,
    name: str | None,
    seed: int,
    no_residual: bool,
    reduction: Reduction | None,
    curve: bool,
    pool: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Fit the coefficients of one machine to what was measured on it.

    SOURCE: run directories of `shmoo measure`, or operator tables (.csv). Sources of machines that differ are refused. Sources of
    one machine are fitted together; with --pool each is a machine of its own.
    """
    from shmoo.harness.machine.architectures import load_architecture

    if out is not None and out.suffix != ".json":
        raise InputError(f"-o {str(out)!r} must end in .json, as profiles do")
    refuse_existing(out, force)
    profile = None if base is None else load_architecture(base)
    if curve:
        show_curve(sources, profile, seed, as_json)
        return
    chosen = name or (out.stem if out else None)
    if chosen is None and profile is not None:
        # Never the name of a built-in profile, which it would replace wherever that is named.
        chosen = f"{profile.name}_calibrated" if profile.name in builtin_names() else profile.name
    expected = out or profile_path(chosen or LOCAL, force)
    output.check_folder(expected.parent)

    def target_of(named: str) -> Path:
        target = out or profile_path(named, force)
        refuse_existing(target, force)
        return target

    # Before the fit, which takes a while.
    if chosen is not None:
        target_of(chosen)
    made = fit(sources, profile, chosen, seed, not no_residual, reduction, pool, before=target_of)
    target = target_of(made.profile.name)
    output.write(target, made.profile.to_json())
    output.message(f"wrote {target}")
    if as_json:
        output.json_document(
            {"format": 1, "path": str(target), "notes": made.notes, "profile": json.loads(made.profile.to_json())}
        )
    else:
        show_calibration(made)


def fit(
    sources: tuple[Path, ...],
    base: ArchitectureProfile | None,
    name: str | None,
    seed: int,
    residual: bool = True,
    reduction: Reduction | None = None,
    pool: bool = False,
    hurry: Callable[[], bool] | None = None,
    before: Callable[[str], object] = check_name,
) -> Calibration:
    """The calibration, of one machine or pooled over several, with what it does told on stderr; `hurry` as for
    `calibration.calibrate`, for one machine. `before` is told the name of the profile ahead of the fit, and may refuse it."""
    from shmoo.calibrate.calibration import calibrate_cases, read_for, table_reduction
    from shmoo.calibrate.fit.fit import patient
    from shmoo.calibrate.pooling import pool as pool_sources

    if reduction is None and base is not None:
        reduction, why = table_reduction(sources, base)
        if why:
            output.message(f"calibrate: {why}")
    column = reduction or "k"
    with Display() as display:
        display(Standing("calibrating", now="reading sources"))
        together, kind = read_for(sources, base, column)
        chosen = name or kind.name
        before(chosen)
        if not pool:
            return calibrate_cases(
                together, kind, name=chosen, seed=seed, residual=residual, progress=display, hurry=hurry or patient
            )
        specimens = {read.rows_hash: read for source in sources for read in (read_for(source, kind, column)[0],)}
        return pool_sources([*specimens.values()], together, kind, name=chosen, seed=seed, residual=residual, progress=display)


def show_curve(sources: tuple[Path, ...], base: ArchitectureProfile | None, seed: int, as_json: bool) -> None:
    """The learning curve of one run; `InputError` for several sources, or a table."""
    from shmoo.calibrate.design.curve import learning_curve

    if len(sources) != 1 or not sources[0].is_dir():
        raise InputError(f"--curve plays one run directory again, got {', '.join(map(str, sources))}; name one")
    with Display() as display:
        points = learning_curve(sources[0], base=base, seed=seed, progress=display)
    if as_json:
        output.json_document({"format": 1, "points": msgspec.to_builtins(points)})
        return
    lines = [[p.order, p.cases, f"{p.minutes:.1f}", percent(p.operators), quantity(p.networks, "%", unknown="")] for p in points]
    output.table(["order", "cases", "minutes", "operators and synthetic models", "networks"], lines)


def profile_path(name: str, force: bool) -> Path:
    """Where a profile of the user's own goes; `InputError` where `name` is no name, or without --force that of a built-in
    profile, which it would replace wherever it is named."""
    if name in builtin_names() and not force:
        raise InputError(
            f"{name!r} is a built-in profile, which one of yours would replace wherever it is named; "
            f"any other --name is allowed, such as {name}_calibrated, or add --force to replace it"
        )
    return user_profiles() / f"{check_name(name)}.json"


def refuse_existing(path: Path | None, force: bool) -> None:
    """`InputError` where writing `path` would replace a profile without --force."""
    if path is not None and path.exists() and not force:
        raise InputError(f"{path} is there already, and a calibration is never overwritten; name another -o, or add --force")


def show_calibration(made: Calibration) -> None:
    """How far held-out cases are off, and with -v what was fitted and what the fit says about itself."""
    verdict = held_out_errors(made.profile)
    output.facts(verdict or {"no verdict": "too few cases to hold any out of the fit; measure more"})
    detail = f"`shmoo profiles show {made.profile.name}` shows"
    if not output.verbose():
        output.message(f"{detail} the coefficients and the errors of each family of operators, `shmoo -v calibrate` also the fit")
        return
    fitted = [(name, c) for name, c in sorted(made.profile.coefficients.items()) if c.source == "fitted"]
    lines = [[name, quantity(c.value, c.unit), span(*c.bounds, c.unit, "-")] for name, c in fitted]
    output.result("")
    output.table(["fitted coefficient", "value", "90 % range"], lines)
    output.result("")
    show_errors(made.profile, wide=False)
    for note in made.notes:
        output.message(note)


def held_out_errors(profile: ArchitectureProfile) -> dict[str, str]:
    """Networks, and operators with synthetic models -> the error of those held out of the fit, in words."""
    from shmoo.runs.report import one_sided

    card = profile.error_card.get("test") or profile.error_card.get("validation") or {}
    parts = {
        "networks": [entry for group, entry in card.items() if group == "networks"],
        "operators": [entry for group, entry in card.items() if group != "networks"],
    }
    said = {}
    for name, entries in parts.items():
        means = {}
        for field in ("mean", "coverage", "noise"):
            known = [(entry.n, value) for entry in entries if entry.n and (value := getattr(entry, field)) is not None]
            if known:
                means[field] = sum(count * value for count, value in known) / sum(count for count, _ in known)
        if n := sum(entry.n for entry in entries):
            side = one_sided(entries[0]) if len(entries) == 1 else ""
            words = [f"±{percent(means.get('mean'))}{side}", f"{counted(n, 'case')} held out"]
            if "coverage" in means:
                words.append(f"{percent(means['coverage'], digits=0)} inside their 90 % interval")
            if "noise" in means:
                words.append(f"noise floor {percent(means['noise'])}")
            said[name] = ", ".join(words)
    return said
