"""`shmoo advise`: what to change about a model on an architecture, or about the architecture for a model."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import click

from shmoo.estimators.columns import Column
from shmoo.estimators.units import amount, yes_or_no
from shmoo.harness.cli import captures, options, output
from shmoo.harness.defaults import LOCAL

if TYPE_CHECKING:
    from shmoo.estimators.present.advice import Advice, Aim, Sensitivity

EXAMPLES = """\b
Examples:
  shmoo advise resnet50 --arch gpu_t4 --runtime eager
  shmoo advise llama3_8b --arch gpu_h100 --phase decode --by energy
  shmoo advise resnet50 --arch kpu_t256 --machine
"""


@click.command(epilog=EXAMPLES, short_help="What to change, ranked, with intervals.")
@click.argument("model")
@options.archs(options.ONE_ARCHITECTURE)
@click.option("--machine", "of_machine", is_flag=True, help="Change the architecture in place of the way the model is run.")
@click.option(
    "--by", "aim", type=click.Choice(["time", "energy"]), default="time", show_default=True, help="What to rank changes by."
)
@options.top("8", 8)
@options.wide
@options.runtimes(options.ONE_RUNTIME)
@options.threads
@options.host
@captures.asked(*captures.SIZES, *captures.MODE)
@options.as_json
def advise(
    model: str,
    arch: tuple[str, ...],
    of_machine: bool,
    aim: Aim,
    top: int,
    wide: bool,
    runtime: tuple[str, ...],
    threads: int | None,
    host: str | None,
    asked: captures.ModelOptions,
    as_json: bool,
) -> None:
    """Where the time and the energy of MODEL go on an architecture, how far its kernels are from their roofs, and what each
    change would bring: batch, types, quantization, runtime, order of images. All numbers are estimates, compared by paired draws:
    a change counts only where it is larger than its uncertainty."""
    from shmoo.estimators.present.advice import advise as advice_on
    from shmoo.estimators.present.advice import sensitivity
    from shmoo.estimators.present.sentences import advice_record, sensitivity_record
    from shmoo.estimators.variants import with_threads
    from shmoo.harness.machine.architectures import choose_targets
    from shmoo.harness.models.setups import ModelSetups

    ((profile, chosen),) = choose_targets(
        [options.only_one(arch, "--arch") or LOCAL], runtime if options.only_one(runtime, "--runtime") else (), threads, host
    )
    machine = profile if threads is None else with_threads(profile, threads)
    command = _command(model, profile.name, asked, threads, host)
    with output.only_results_on_stdout():
        setups = ModelSetups(asked.request(model, asked.dtype), asked.batch, asked.source)
        base = setups.base(chosen or machine.default_runtime)
        found = setups.found(base)
        advice = None if of_machine else advice_on(machine, base, setups.graphs, model, aim=aim, top=top)
        levers = sensitivity(machine, base, setups.graphs, model, aim=aim) if of_machine else None
    captures.tell_about(model, found, () if advice is None else (advice.estimate,))
    if advice is not None:
        output.json_document(advice_record(advice, command)) if as_json else _show(advice, command, output.View(wide))
    if levers is not None:
        output.json_document(sensitivity_record(levers)) if as_json else _show_levers(levers, output.View(wide))


def _command(model: str, arch: str, asked: captures.ModelOptions, threads: int | None, host: str | None) -> str:
    """The command that estimates the model as it is asked for, without what a setup says."""
    given = {
        "--phase": asked.mode.phase,
        "--autocast": asked.mode.autocast,
        "--seq-len": asked.seq_len,
        "--input-shape": asked.input_shape and "x".join(map(str, asked.input_shape)),
        "--threads": threads,
        "--host": host,
    }
    parts = [f"{flag} {value}" for flag, value in given.items() if value is not None]
    return " ".join(["shmoo estimate", model, "--arch", arch, *parts, *["--training"] * asked.mode.training])


def _show(advice: Advice, command: str, view: output.View) -> None:
    from shmoo.estimators.present.sentences import advice_sentences, headline

    output.result(headline(advice))
    for what, shares in (("bound by", advice.bounds), ("module", advice.modules)):
        name = Column(what, lambda share: share.name or "(the model itself)")
        output.table([name, *SHARES], shares, left=2, view=view)
    output.table(
        GAPS,
        advice.kernels,
        title="kernels, most time first, against the peak of the units and the bandwidth of main memory",
        drop=("roof energy", "energy", "roof", "count", "roof time"),
        view=view,
    )
    output.table(
        [
            Column("what if", attrgetter("change.name")),
            *_effect(advice.aim),
            Column("a call", attrgetter("effect.latency_s.value"), "s"),
            Column("energy", lambda w: w.effect.energy_j and w.effect.energy_j.value, "J"),
            Column("memory", attrgetter("memory.needed_bytes"), "iB"),
            Column("fits", lambda w: yes_or_no(w.memory.fits)),
        ],
        advice.what_ifs,
        title="changes, by sample, with 90 % intervals",
        drop=("memory", "energy", "a call", _other_ratio(advice.aim)),
        view=view,
    )
    for number, sentence in enumerate(advice_sentences(advice, command), 1):
        output.result(f"{number}. {sentence}")


def _other_ratio(aim: Aim) -> str:
    """The column that a narrow terminal does without: the ratio that nothing is ranked by."""
    return "times the energy" if aim == "time" else "times as fast"


def _effect(aim: Aim) -> list[Column]:
    from shmoo.estimators.present.sentences import times

    return [
        Column("times as fast", lambda one: times(one.effect.speedup)),
        Column("times the energy", lambda one: times(one.effect.energy_ratio)),
        Column("verdict", lambda one: one.effect.verdict(aim)),
    ]


SHARES = (
    Column("", lambda share: f"x {share.calls}" if share.calls > 1 else ""),
    Column("time", attrgetter("time_s"), "s"),
    Column("share", attrgetter("time_share"), "%"),
    Column("energy", attrgetter("energy_j"), "J"),
    Column("share", attrgetter("energy_share"), "%"),
)
GAPS = (
    Column("kernels", lambda gap: f"{gap.name} ({gap.module or 'model'})"),
    Column("count", attrgetter("count"), "#"),
    Column("time", attrgetter("time_s"), "s"),
    Column("roof time", attrgetter("roof_s"), "s"),
    Column("reached", lambda gap: gap.roof_s / gap.time_s if gap.time_s else None, "0%"),
    Column("roof", attrgetter("roof")),
    Column("energy", attrgetter("energy_j"), "J"),
    Column("roof energy", attrgetter("roof_j"), "J"),
    Column("what keeps it", attrgetter("why")),
)


def _show_levers(levers: Sensitivity, view: output.View) -> None:
    from shmoo.estimators.present.sentences import added_silicon, sensitivity_sentences

    output.table(
        [
            Column("part", attrgetter("change.name")),
            Column("from, to", lambda lever: f"{amount(lever.before, lever.unit)} to {amount(lever.after, lever.unit)}"),
            *_effect(levers.aim),
            Column("power", attrgetter("effect.average_power_w"), "W"),
            Column("cap", attrgetter("power_cap_w"), "W"),
            Column("area", lambda lever: added_silicon(lever.area_m2)),
            Column("left out", attrgetter("note")),
        ],
        levers.levers,
        title=f"{levers.model} on {levers.arch}: each part changed alone, with 90 % intervals",
        drop=("left out", "cap", "power", "area", "from, to", _other_ratio(levers.aim)),
        view=view,
    )
    for number, sentence in enumerate(sensitivity_sentences(levers), 1):
        output.result(f"{number}. {sentence}")
