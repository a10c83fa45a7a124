"""The gate on estimates: a model's footprints on architectures, written to a baseline or held against one. Needs no hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from shmoo.estimators.errors import InputError
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.gate import Baseline, Footprint, GateResult, check, footprint
from shmoo.harness.question import Architectures, Options, Question, ask
from shmoo.runs.store.files import read_regular, replace_file


def footprints_of(model: str, asked: Question) -> list[Footprint]:
    """Footprints of a model, one an architecture, under its name and what makes it more than a plain call; `InputError` where no
    architecture is named, or what an estimate refuses."""
    if not asked.arch:
        raise InputError("a gate needs architectures: name one or several, such as gpu_h100,kpu_t256")
    machines, found = asked.machines(), asked.capture(model)
    name = ":".join((model, *asked.mode.parts))
    return [
        footprint(
            AnalysisDirector(profile),
            found.graphs,
            name,
            runtime=runtime,
            compute_dtype=found.compute_dtype,
            batch=found.batch,
        )
        for profile, runtime in machines
    ]


def read_baseline(path: str | Path) -> Baseline:
    """A baseline file; `InputError` where there is none, `FormatError` where it is damaged or newer."""
    try:
        return Baseline.from_json(read_regular(Path(path)), str(path))
    except FileNotFoundError:
        raise InputError(f"no baseline at {path}; write one with --write from the commit to hold others against") from None


def write_baseline(path: str | Path, footprints: Sequence[Footprint]) -> Baseline:
    """Put footprints into a baseline file, in place of those of the same model, architecture, batch, type and runtime."""
    target = Path(path)
    before = read_baseline(target) if target.exists() else Baseline(())
    written = before.replacing(footprints)
    replace_file(target, written.to_json())
    return written


def gate(
    model: str,
    arch: Architectures,
    against: str | Path,
    *,
    allowed: Mapping[str, float] | None = None,
    **options: Unpack[Options],
) -> GateResult:
    """What grew by more than allowed against a baseline, and which module did it; as `shmoo gate` without its cache.

    Args:
        model: as on the command line.
        arch: one architecture or several.
        against: the baseline file, as `shmoo gate --write` makes it.
        allowed: quantity ("flops", "bytes", "peak_memory_bytes", "kernels", "latency_s", "energy_j") -> growth that passes;
            1 % for those not named, no kernel more.
        options: as in `Options`, each of one value.

    Raises:
        InputError: an unknown name, or a baseline that lacks the model or was written with another profile.
        CaptureError: torch cannot capture the model.
    """
    return check(read_baseline(against), footprints_of(model, ask(arch, **options)), allowed or {})
