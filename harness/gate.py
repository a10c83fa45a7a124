"""The gate on estimates: a model's footprints on architectures, written to a baseline or compared with one. Needs no hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from shmoo.estimators.errors import InputError
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.gate import Baseline, Footprint, GateResult, check, footprint
from shmoo.harness.question import Architectures, Options, Question, ask
from shmoo.runs.store.files import read_regular, replace_file


def footprints_of(model: str, question: Question) -> list[Footprint]:
    """Footprints of a model, one per architecture, named after the model and its mode; `InputError` where no architecture is
    named, or for a setting that an estimate refuses."""
    if not question.arch:
        raise InputError("a gate needs architectures: name one or several, such as gpu_h100,kpu_t256")
    machines, captured = question.machines(), question.capture(model)
    name = ":".join((model, *question.mode.parts))
    return [
        footprint(
            AnalysisDirector(profile),
            captured.graphs,
            name,
            runtime=runtime,
            compute_dtype=captured.compute_dtype,
            batch=captured.batch,
        )
        for profile, runtime in machines
    ]


def read_baseline(path: str | Path) -> Baseline:
    """A baseline file; `InputError` where there is none, `FormatError` where it is damaged or newer."""
    try:
        return Baseline.from_json(read_regular(Path(path)), str(path))
    except FileNotFoundError:
        raise InputError(f"no baseline at {path}; write one with --write from the commit to compare with") from None


def write_baseline(path: str | Path, footprints: Sequence[Footprint]) -> Baseline:
    """Write footprints into a baseline file; they replace those of the same model, architecture, batch, type and runtime."""
    target = Path(path)
    before = read_baseline(target) if target.exists() else Baseline(())
    baseline = before.replacing(footprints)
    replace_file(target, baseline.to_json())
    return baseline


def gate(
    model: str,
    arch: Architectures,
    against: str | Path,
    *,
    allowed: Mapping[str, float] | None = None,
    **options: Unpack[Options],
) -> GateResult:
    """Quantities that grew by more than allowed against a baseline, and the module responsible; as `shmoo gate` without its
    cache.

    Args:
        model: as on the command line.
        arch: one architecture or several.
        against: a baseline file from `shmoo gate --write`.
        allowed: quantity ("flops", "bytes", "peak_memory_bytes", "kernels", "latency_s", "energy_j") -> allowed
            growth; by default 1 %, and no additional kernel.
        options: as in `Options`, each with one value.

    Raises:
        InputError: an unknown name, or a baseline that lacks the model or was written with another profile.
        CaptureError: torch cannot capture the model.
    """
    return check(read_baseline(against), footprints_of(model, ask(arch, **options)), allowed or {})
