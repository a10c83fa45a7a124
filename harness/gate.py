"""The gate on estimates: a model's footprints on architectures, written to a baseline or held against one. Needs no hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import compute_dtype, matrix_dtype
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.gate import Baseline, Footprint, GateResult, check, footprint
from shmoo.harness.machine.architectures import choose_targets
from shmoo.harness.module import Capture
from shmoo.runs.store.files import read_regular, replace_file


def gate_targets(arch: Sequence[str], runtime: str | None) -> list[tuple[ArchitectureProfile, str | None]]:
    """The architectures of a gate with the runtime on each; `InputError` for none, an unknown one, or a runtime one lacks."""
    if not arch:
        raise InputError("a gate needs architectures: name one or several, such as gpu_h100,kpu_t256")
    return choose_targets(arch, () if runtime is None else (runtime,), None)


def footprints_of(
    model: str, targets: Sequence[tuple[ArchitectureProfile, str | None]], found: Capture, dtype: str | None
) -> list[Footprint]:
    """Footprints of a captured model in a type, one a target."""
    arithmetic = matrix_dtype(dtype)
    return [
        footprint(AnalysisDirector(profile), found.graphs, model, runtime=chosen, compute_dtype=arithmetic, batch=found.batch)
        for profile, chosen in targets
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
    arch: str | Sequence[str],
    against: str | Path,
    *,
    allowed: Mapping[str, float] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
) -> GateResult:
    """What grew by more than allowed against a baseline, and which module did it; as `shmoo gate` without its cache.

    Args:
        model: as on the command line.
        arch: one architecture or several.
        against: the baseline file, as `shmoo gate --write` makes it.
        allowed: quantity ("flops", "bytes", "peak_memory_bytes", "kernels", "latency_s", "energy_j") -> growth that passes;
            1 % for those not named, no kernel more.
        batch, dtype, runtime, input_shape, seq_len, trust: as for `estimate`.

    Raises:
        InputError: an unknown name, or a baseline that lacks the model or was written with another profile.
        CaptureError: torch cannot capture the model.
    """
    from shmoo.harness.models.model_graphs import model_graphs

    targets = gate_targets((arch,) if isinstance(arch, str) else arch, runtime)
    wanted = None if dtype is None else compute_dtype(dtype)
    found = model_graphs(model, batch=batch, dtype=wanted, input_shape=input_shape, seq_len=seq_len, trust=trust)
    return check(read_baseline(against), footprints_of(model, targets, found, wanted), allowed or {})
