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
from shmoo.harness.machine.architectures import load_architecture

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import Calibration

EXAMPLES = """\b
Examples:
  shmoo calibrate shmoo-runs/20260101T120000Z-micro
  shmoo calibrate a100.csv --base gpu_a100_40g -o my_a100.json
  shmoo calibrate shmoo-runs/20260101T120000Z-micro --curve
  shmoo calibrate october/hosts/*/run --pool --name cpu_of_the_lab
"""


@click.command(epilog=EXAMPLES)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.base("this machine's description; operator tables need one")
@options.out("your own profiles, by name")
@options.profile_name("the file's, else cpu_local, or NAME_calibrated with --base NAME")
@options.seed
@options.no_residual
@options.reduction("the one that explains the measurements")
@click.option("--curve", is_flag=True, help="Show how much measuring is enough: error over cases and minutes. Writes no profile.")
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
    """Fit the coefficients of one machine to its measurements.

    SOURCE: run directories of `shmoo measure`, or operator tables (.csv). Sources of different machines are refused. Sources of
    one machine are fitted together; with --pool each is a separate machine.
    """
    if out is not None and out.suffix != ".json":
        raise InputError(f"-o {str(out)!r} must end in .json, as profiles do")
    refuse_existing(out, force)
    profile = None if base is None else load_architecture(base)
    if curve:
        show_curve(sources, profile, seed, as_json)
        return
    chosen = name or (out.stem if out else None)
    if chosen is None and profile is not None:
        # Never the name of a built-in profile, which it would replace wherever that name is used.
        chosen = f"{profile.name}_calibrated" if profile.name in builtin_names() else profile.name
    expected = out or profile_path(chosen or LOCAL, force)
    output.check_folder(expected.parent)

    def target_of(profile_name: str) -> Path:
        target = out or profile_path(profile_name, force)
        refuse_existing(target, force)
        return target

    # Before the fit, which takes a while.
    if chosen is not None:
        target_of(chosen)
    calibration = fit(sources, profile, chosen, seed, not no_residual, reduction, pool, before=target_of)
    target = target_of(calibration.profile.name)
    output.write(target, calibration.profile.to_json())
    output.message(f"wrote {target}")
    if as_json:
        output.json_document(
            {"format": 1, "path": str(target), "notes": calibration.notes, "profile": json.loads(calibration.profile.to_json())}
        )
    else:
        show_calibration(calibration)


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
    """Calibrate one machine, or several pooled, with progress on stderr; `hurry` as for `calibration.calibrate`, for one machine.
    `before` is called with the name of the profile before the fit, and may refuse it."""
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
        specimens = {
            source_run.rows_hash: source_run for source in sources for source_run in (read_for(source, kind, column)[0],)
        }
        return pool_sources([*specimens.values()], together, kind, name=chosen, seed=seed, residual=residual, progress=display)


def show_curve(sources: tuple[Path, ...], base: ArchitectureProfile | None, seed: int, as_json: bool) -> None:
    """The learning curve of one run; `InputError` for several sources, or a table."""
    from shmoo.calibrate.design.curve import learning_curve

    if len(sources) != 1 or not sources[0].is_dir():
        raise InputError(f"--curve replays one run directory, got {', '.join(map(str, sources))}; name one")
    with Display() as display:
        points = learning_curve(sources[0], base=base, seed=seed, progress=display)
    if as_json:
        output.json_document({"format": 1, "points": msgspec.to_builtins(points)})
        return
    lines = [[p.order, p.cases, f"{p.minutes:.1f}", percent(p.operators), quantity(p.networks, "%", unknown="")] for p in points]
    output.table(["order", "cases", "minutes", "operators and synthetic models", "networks"], lines)


def profile_path(name: str, force: bool) -> Path:
    """The path for a user's profile; `InputError` for an invalid name, or without --force for the name of a built-in profile,
    which it would replace."""
    if name in builtin_names() and not force:
        raise InputError(
            f"{name!r} is a built-in profile, which yours would replace wherever the name is used; "
            f"any other --name is allowed, such as {name}_calibrated, or add --force to replace it"
        )
    return user_profiles() / f"{check_name(name)}.json"


def refuse_existing(path: Path | None, force: bool) -> None:
    """`InputError` where writing `path` would replace a profile without --force."""
    if path is not None and path.exists() and not force:
        raise InputError(f"{path} exists already, and a calibration is never overwritten; name another -o, or add --force")


def show_calibration(calibration: Calibration) -> None:
    """Show the errors of held-out cases, and with -v the fitted coefficients and the fit's notes."""
    verdict = held_out_errors(calibration.profile)
    output.facts(verdict or {"no verdict": "too few cases to hold any out of the fit; measure more"})
    detail = f"`shmoo profiles show {calibration.profile.name}` shows"
    if not output.verbose():
        output.message(f"{detail} the coefficients and the errors of each family of operators, `shmoo -v calibrate` also the fit")
        return
    fitted = [(name, c) for name, c in sorted(calibration.profile.coefficients.items()) if c.source == "fitted"]
    lines = [[name, quantity(c.value, c.unit), span(*c.bounds, c.unit, "-")] for name, c in fitted]
    output.result("")
    output.table(["fitted coefficient", "value", "90 % range"], lines)
    output.result("")
    show_errors(calibration.profile, wide=False)
    for note in calibration.notes:
        output.message(note)


def held_out_errors(profile: ArchitectureProfile) -> dict[str, str]:
    """Kind of case (networks; operators and synthetic models) -> held-out error in words."""
    from shmoo.runs.report import one_sided

    card = profile.error_card.get("test") or profile.error_card.get("validation") or {}
    parts = {
        "networks": [entry for group, entry in card.items() if group == "networks"],
        "operators": [entry for group, entry in card.items() if group != "networks"],
    }
    sentences = {}
    for name, entries in parts.items():
        means = {}
        for field in ("mean", "coverage", "noise"):
            counted_values = [(entry.n, value) for entry in entries if entry.n and (value := getattr(entry, field)) is not None]
            if counted_values:
                means[field] = sum(count * value for count, value in counted_values) / sum(count for count, _ in counted_values)
        if n := sum(entry.n for entry in entries):
            side = one_sided(entries[0]) if len(entries) == 1 else ""
            words = [f"±{percent(means.get('mean'))}{side}", f"{counted(n, 'case')} held out"]
            if "coverage" in means:
                words.append(f"{percent(means['coverage'], digits=0)} inside their 90 % interval")
            if "noise" in means:
                words.append(f"noise floor {percent(means['noise'])}")
            sentences[name] = ", ".join(words)
    return sentences
